/**
 * A conversation is a tree of messages: editing or regenerating adds a sibling, nothing is overwritten.
 * `picked` names, per parent, the child on show; the path from the root along it is what the user sees.
 * All functions return new objects, so that a view can compare by identity.
 */
import type { ToolCall, ToolResult } from './tools';

/** A `tool` message holds the results of all calls of the assistant's message above it. */
export type Role = 'user' | 'assistant' | 'tool';

export interface ReplyStats {
  promptTokens: number;
  cachedTokens: number;
  newTokens: number;
  totalTokens: number;
  tokensPerSecond: number | null;
  contextSize: number | null;
}

export interface Message {
  id: string;
  /** ROOT for the first message. */
  parent: string;
  role: Role;
  content: string;
  created: number;
  reasoning?: string;
  thinkMs?: number;
  calls?: ToolCall[];
  results?: ToolResult[];
  model?: string;
  /** stop, length, tool_calls, … or `stopped` (by the user). Missing while it runs or after a failure. */
  finish?: string;
  error?: string;
  stats?: ReplyStats;
}

/** Whether a reply left no room in the context. */
export const fillsContext = ({ stats }: Message): boolean =>
  stats?.contextSize != null && stats.totalTokens >= stats.contextSize;

/** Whether nothing of a reply came. */
export const isEmpty = ({ content, reasoning, calls }: Message): boolean => !content && !reasoning && !calls;

export interface Summary {
  id: string;
  title: string;
  /** False once the user has named it. */
  autoTitle: boolean;
  created: number;
  updated: number;
}

export interface Conversation extends Summary {
  messages: Record<string, Message>;
  picked: Record<string, string>;
}

export const ROOT = 'root';
const TITLE_LENGTH = 60;

/** crypto.randomUUID needs a secure context, which http://<address of a server> is not. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return 'k' + Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}

export function newConversation(now = Date.now()): Conversation {
  return { id: newId(), title: '', autoTitle: true, created: now, updated: now, messages: {}, picked: {} };
}

export function newMessage(role: Role, parent: string, content = '', now = Date.now()): Message {
  return { id: newId(), parent, role, content, created: now };
}

export function summaryOf({ id, title, autoTitle, created, updated }: Conversation): Summary {
  return { id, title, autoTitle, created, updated };
}

/** Ids of the children of each message, oldest first. */
export function childrenOf(conversation: Conversation): Map<string, string[]> {
  const children = new Map<string, string[]>();
  for (const { id, parent } of Object.values(conversation.messages)) {
    const list = children.get(parent);
    if (list) list.push(id);
    else children.set(parent, [id]);
  }
  return children;
}

/** The messages on show, first to last. */
export function visiblePath(conversation: Conversation): Message[] {
  const children = childrenOf(conversation);
  const path: Message[] = [];
  for (let at = ROOT; ; ) {
    const choices = children.get(at);
    if (!choices) return path;
    const picked = conversation.picked[at];
    const id = picked !== undefined && choices.includes(picked) ? picked : choices[choices.length - 1]!;
    path.push(conversation.messages[id]!);
    at = id;
  }
}

/** The messages from the first to `id`. */
export function pathTo(conversation: Conversation, id: string): Message[] {
  const path: Message[] = [];
  for (let at = id; at !== ROOT; at = conversation.messages[at]!.parent) {
    path.push(conversation.messages[at]!);
  }
  return path.reverse();
}

/** Adds a message and shows it. */
export function addMessage(conversation: Conversation, message: Message): Conversation {
  const updated = {
    ...conversation,
    updated: message.created,
    messages: { ...conversation.messages, [message.id]: message },
    picked: { ...conversation.picked, [message.parent]: message.id },
  };
  if (updated.autoTitle && message.role === 'user' && message.parent === ROOT && !updated.title) {
    updated.title = titleFrom(message.content);
  }
  return updated;
}

export function changeMessage(conversation: Conversation, id: string, change: Partial<Message>): Conversation {
  const message = conversation.messages[id];
  if (!message) return conversation;
  return { ...conversation, messages: { ...conversation.messages, [id]: { ...message, ...change } } };
}

export function pickMessage(conversation: Conversation, id: string): Conversation {
  const message = conversation.messages[id];
  if (!message) return conversation;
  return { ...conversation, picked: { ...conversation.picked, [message.parent]: id } };
}

/** Removes a message with everything below it. */
export function removeMessage(conversation: Conversation, id: string): Conversation {
  const children = childrenOf(conversation);
  const messages = { ...conversation.messages };
  const picked = { ...conversation.picked };
  const doomed = [id];
  while (doomed.length) {
    const at = doomed.pop()!;
    doomed.push(...(children.get(at) ?? []));
    delete picked[at];
    delete messages[at];
  }
  const parent = conversation.messages[id]?.parent;
  if (parent !== undefined && picked[parent] === id) delete picked[parent];
  return { ...conversation, messages, picked };
}

export function rename(conversation: Conversation, title: string): Conversation {
  return { ...conversation, title, autoTitle: false };
}

/** A title from the first line with words in it, without markdown marks. */
export function titleFrom(text: string): string {
  for (const line of text.split('\n')) {
    const plain = line
      .replace(/^\s*(?:[#>*+-]+|\d+[.)]|```\w*)\s*/, '')
      .replace(/[*_`~]+/g, '')
      .replace(/\s+/g, ' ')
      .trim();
    if (!/[\p{L}\p{N}]/u.test(plain)) continue;
    const letters = Array.from(plain);
    if (letters.length <= TITLE_LENGTH) return plain;
    const cut = letters.slice(0, TITLE_LENGTH).join('');
    const space = cut.lastIndexOf(' ');
    return (space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut) + '…';
  }
  return '';
}

const textsOf = ({ content, calls = [], results = [] }: Message): string[] => [
  content,
  ...calls.flatMap((call) => [call.name, call.arguments]),
  ...results.map((result) => result.content),
];

/** True when the title or any message has all words of the query. */
export function matches(conversation: Conversation, query: string): boolean {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = [conversation.title, ...Object.values(conversation.messages).flatMap(textsOf)];
  const haystack = texts.join('\n').toLowerCase();
  return words.every((word) => haystack.includes(word));
}
