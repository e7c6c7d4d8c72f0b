/**
 * Writing replies. One run per conversation at most:
 *   waiting → (queued | loading → waiting)* → thinking, writing, calling → done | stopped | failed
 */
import { computed } from '@preact/signals';
import {
  addMessage, fillsContext, isEmpty, newMessage, pathTo, pickMessage, removeMessage, ROOT, visiblePath,
  type Conversation, type Message,
} from '../lib/conversation';
import { ApiError, streamChat, type ChatRequest } from '../lib/api';
import { isWhole, readTools, type ToolResult } from '../lib/tools';
import { wireMessages } from '../lib/wire';
import { busy, conversationById, current, open, update } from './chats';
import { Draft, runs, setRun, type Run } from './draft';
import { ask, showError } from './notices';
import { askForKey, describe, model, props, watchServer } from './server';
import { settings, t } from './settings';

const MAX_TRIES = 20;

export const tools = computed(() => readTools(settings.value.tools));

/** The tools that go with every request: none where the model's template does not know any. */
export const sentTools = computed(() =>
  settings.value.toolUse === 'none' || !canCall() ? [] : (tools.value.tools ?? []),
);

export function stop(conversationId: string): void {
  runs.value[conversationId]?.abort.abort();
}

function requestFor(path: Message[]): ChatRequest {
  const { sampling, thinking, systemPrompt, toolUse } = settings.value;
  const request: ChatRequest = { ...sampling, messages: wireMessages(path, systemPrompt) };
  if (model.value !== null) request.model = model.value;
  if (thinking !== 'default' && canThink()) request.chat_template_kwargs = { enable_thinking: thinking === 'on' };
  if (sentTools.value.length) {
    request.tools = sentTools.value;
    // Once it has its results, a model that must call would never answer.
    if (toolUse === 'required' && path[path.length - 1]?.role === 'user') request.tool_choice = 'required';
  }
  return request;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Streams the reply; waits and asks again while the server says when to. */
async function stream(run: Run, draft: Draft, request: ChatRequest): Promise<void> {
  for (let tries = 1; ; ++tries) {
    try {
      for await (const event of streamChat(request, run.abort.signal)) draft.take(event);
      return;
    } catch (error) {
      const wait = error instanceof ApiError && error.status === 503 ? error.retryAfter : null;
      if (wait === null || run.chunks > 0 || tries >= MAX_TRIES) throw error;
      void watchServer();
      const ms = Math.max(1, wait) * 1000;
      const phase = (error as ApiError).code === 'model_loading' ? 'loading' : 'queued';
      Object.assign(run, { phase, since: Date.now() + ms });
      setRun(run);
      await sleep(ms, run.abort.signal);
      Object.assign(run, { phase: 'waiting', since: Date.now() });
      setRun(run);
    }
  }
}

/** Runs a request whose reply goes into a message of the conversation. `failed` gets the error in plain words. */
async function write(
  conversation: Conversation, message: Message, path: Message[], failed: (draft: Draft, text: string) => () => void,
): Promise<void> {
  const { id } = conversation;
  const run: Run = {
    conversationId: id, messageId: message.id, phase: 'waiting', since: Date.now(), firstTokenAt: 0, chunks: 0,
    abort: new AbortController(),
  };
  busy.set(id, conversation);
  setRun(run);
  update(conversation);
  const draft = new Draft(run, message);
  try {
    await stream(run, draft, requestFor(path));
    draft.close({});
  } catch (error) {
    if (run.abort.signal.aborted) {
      draft.close({ finish: 'stopped' });
    } else {
      const text = describe(error);
      const again = failed(draft, text);
      if (error instanceof ApiError && error.status === 401) askForKey(again);
      else showError(text, again);
      if (error instanceof ApiError && error.status === 0) void watchServer();
    }
  } finally {
    busy.delete(id);
    const { [id]: _ended, ...others } = runs.value;
    runs.value = others;
  }
}

/** Adds a reply below `parent` and writes it. */
async function generate(conversation: Conversation, parent: string): Promise<void> {
  const reply = newMessage('assistant', parent);
  if (model.value !== null) reply.model = model.value;
  await write(addMessage(conversation, reply), reply, pathTo(conversation, parent), (draft, error) => {
    draft.close({ error });
    // The user may have gone to another conversation by then.
    return () => void open(conversation.id).then(() => retry(conversation.id, reply.id));
  });
}

/** A failed reply is written anew: in its place when there is nothing of it, beside it otherwise. */
async function retry(conversationId: string, messageId: string): Promise<void> {
  const conversation = conversationById(conversationId);
  const failed = conversation?.messages[messageId];
  if (!conversation || !failed || runs.value[conversationId]) return;
  await generate(isEmpty(failed) ? removeMessage(conversation, messageId) : conversation, failed.parent);
}

/** Whether a reply ended early and can go on in the same message. */
export function canContinue(message: Message): boolean {
  const { finish, calls } = message;
  return (finish === 'length' || finish === 'stopped') && !calls && !isEmpty(message) && !fillsContext(message);
}

/** Goes on with a reply where it ended. One that fails keeps what came of it. */
export async function continueReply(conversationId: string, messageId: string): Promise<void> {
  const conversation = conversationById(conversationId);
  const message = conversation?.messages[messageId];
  if (!conversation || !message || runs.value[conversationId] || !canContinue(message)) return;
  await write(conversation, message, pathTo(conversation, messageId), (draft) => {
    draft.close({ finish: message.finish });
    return () => void open(conversationId).then(() => continueReply(conversationId, messageId));
  });
}

export const isRunning = (): boolean => current.value.id in runs.value;

export function send(text: string): void {
  if (isRunning() || !text.trim()) return;
  const path = visiblePath(current.value);
  const message = newMessage('user', path[path.length - 1]?.id ?? ROOT, text.trim());
  void generate(addMessage(current.value, message), message.id);
}

export function regenerate(messageId: string): void {
  const message = current.value.messages[messageId];
  if (!message || isRunning()) return;
  if (message.error) void retry(current.value.id, messageId);
  else void generate(current.value, message.parent);
}

/** A new version of a user's message, with a reply to it. */
export function editAndSend(messageId: string, text: string): void {
  const old = current.value.messages[messageId];
  if (!old || isRunning() || !text.trim()) return;
  const message = newMessage('user', old.parent, text.trim());
  void generate(addMessage(current.value, message), message.id);
}

/** Whether a message, when it is the last one, waits for what its calls gave back. */
export function awaitsResults({ finish, calls = [] }: Message): boolean {
  return finish === 'tool_calls' && calls.length > 0 && calls.every(isWhole);
}

/** What the calls of a message gave back, or another version of it; the model goes on with that. */
export function giveResults(messageId: string, results: ToolResult[]): void {
  if (isRunning() || !current.value.messages[messageId]) return;
  const message = { ...newMessage('tool', messageId), results };
  void generate(addMessage(current.value, message), message.id);
}

export function showBranch(messageId: string): void {
  if (!isRunning()) update(pickMessage(current.value, messageId));
}

export async function deleteMessage(messageId: string): Promise<void> {
  const { id } = current.value;
  if (isRunning() || !(await ask(t('deleteMessageQuestion'), t('cannotUndo'), t('delete')))) return;
  const conversation = conversationById(id);
  if (conversation && !(id in runs.value)) update(removeMessage(conversation, messageId));
}

export const canThink = (): boolean => props.value?.capabilities?.thinking !== false;
export const canCall = (): boolean => props.value?.capabilities?.tools !== false;
