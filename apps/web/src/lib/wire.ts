/** What a conversation is on the wire: the messages of a request to the chat API. */
import type { WireMessage } from './api';
import type { Message } from './conversation';

function assistant({ content, reasoning, calls = [] }: Message, answered: boolean): WireMessage {
  // Templates that want earlier thoughts get them; the others drop them.
  const thoughts = reasoning ? { reasoning_content: reasoning } : {};
  if (!answered) return { role: 'assistant', content, ...thoughts };
  const tool_calls = calls.map(({ id, name, arguments: text }) => ({
    id, type: 'function' as const, function: { name, arguments: text },
  }));
  return { role: 'assistant', content, ...thoughts, tool_calls };
}

/** Calls that got no results are left out: no template has words for them. */
export function wireMessages(path: Message[], systemPrompt: string): WireMessage[] {
  const system = systemPrompt.trim();
  const messages: WireMessage[] = system ? [{ role: 'system', content: system }] : [];
  for (const [index, message] of path.entries()) {
    if (message.role === 'user') {
      messages.push({ role: 'user', content: message.content });
    } else if (message.role === 'assistant') {
      messages.push(assistant(message, path[index + 1]?.role === 'tool'));
    } else {
      for (const { id, content } of message.results ?? []) messages.push({ role: 'tool', tool_call_id: id, content });
    }
  }
  return messages;
}
