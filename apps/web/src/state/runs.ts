/**
 * Writing replies. One run per conversation at most:
 *   waiting → (queued → waiting)* → thinking → writing → done | stopped | failed
 * Text is put into the conversation every FLUSH_MS or so, not with every token.
 */
import { signal } from '@preact/signals';
import {
  addMessage, changeMessage, newMessage, pathTo, pickMessage, removeMessage, ROOT, visiblePath,
  type Conversation, type Message, type ReplyStats,
} from '../lib/conversation';
import { ApiError, streamChat, type ChatEvent, type ChatRequest, type WireMessage } from '../lib/api';
import { busy, conversationById, current, open, update } from './chats';
import { ask, showError, spoken } from './notices';
import { askForKey, contextSize, describe, model, props, watchServer } from './server';
import { settings, t } from './settings';

export interface Run {
  conversationId: string;
  messageId: string;
  phase: 'waiting' | 'queued' | 'thinking' | 'writing';
  /** When the phase began; in the queue, when the next try is. */
  since: number;
  firstTokenAt: number;
  /** Chunks with text, about one per token. */
  chunks: number;
  abort: AbortController;
}

const FLUSH_MS = 50;
// A long reply takes longer to parse, so it is shown less often.
const CHARS_PER_MS = 400;
const MAX_TRIES = 20;

export const runs = signal<Record<string, Run>>({});

function setRun(run: Run): void {
  runs.value = { ...runs.value, [run.conversationId]: { ...run } };
}

export function stop(conversationId: string): void {
  runs.value[conversationId]?.abort.abort();
}

function wireMessages(path: Message[]): WireMessage[] {
  const system = settings.value.systemPrompt.trim();
  const messages: WireMessage[] = system ? [{ role: 'system', content: system }] : [];
  for (const { role, content, reasoning } of path) {
    // Templates that want earlier thoughts get them; the others drop them.
    messages.push(reasoning ? { role, content, reasoning_content: reasoning } : { role, content });
  }
  return messages;
}

function requestFor(path: Message[]): ChatRequest {
  const { sampling, thinking } = settings.value;
  const request: ChatRequest = { ...sampling, messages: wireMessages(path) };
  if (model.value !== null) request.model = model.value;
  if (thinking !== 'default' && canThink()) request.chat_template_kwargs = { enable_thinking: thinking === 'on' };
  return request;
}

/** A reply as it grows. */
class Draft {
  private content = '';
  private reasoning = '';
  private thinkingSince = 0;
  private thinkMs: number | undefined;
  private finish: string | undefined;
  private stats: ReplyStats | undefined;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(private readonly run: Run) {}

  take(event: ChatEvent): void {
    if (event.kind === 'finish') this.finish = event.reason;
    else if (event.kind === 'usage') this.stats = this.statsFrom(event);
    else this.takeText(event.kind, event.text);
  }

  private takeText(kind: 'reasoning' | 'content', text: string): void {
    const { run } = this;
    const now = Date.now();
    if (run.chunks === 0) {
      run.firstTokenAt = now;
      spoken.value = t('replyStarted');
    }
    run.chunks += 1;
    const phase = kind === 'reasoning' ? 'thinking' : 'writing';
    if (phase === 'thinking' && !this.thinkingSince) this.thinkingSince = now;
    if (phase === 'writing' && this.thinkingSince) this.thinkMs ??= now - this.thinkingSince;
    if (run.phase !== phase) {
      run.phase = phase;
      run.since = now;
    }
    this[kind] += text;
    this.timer ??= setTimeout(() => this.flush(), FLUSH_MS + this.content.length / CHARS_PER_MS);
  }

  private statsFrom({ usage, timings }: Extract<ChatEvent, { kind: 'usage' }>): ReplyStats {
    return {
      promptTokens: usage.prompt_tokens,
      cachedTokens: timings?.cache_n ?? 0,
      newTokens: usage.completion_tokens,
      totalTokens: usage.total_tokens,
      tokensPerSecond: timings?.predicted_per_second ?? null,
      contextSize: contextSize.value,
    };
  }

  private change(): Partial<Message> {
    const change: Partial<Message> = { content: this.content };
    if (this.reasoning) change.reasoning = this.reasoning;
    if (this.thinkMs !== undefined) change.thinkMs = this.thinkMs;
    if (this.stats) change.stats = this.stats;
    return change;
  }

  private flush(): void {
    this.timer = null;
    const conversation = conversationById(this.run.conversationId);
    if (!conversation) return;
    update(changeMessage(conversation, this.run.messageId, this.change()), true);
    setRun(this.run);
  }

  /** The last state, with how it ended. */
  close(end: { finish?: string; error?: string }): void {
    if (this.timer !== null) clearTimeout(this.timer);
    if (this.thinkingSince) this.thinkMs ??= Date.now() - this.thinkingSince;
    const conversation = conversationById(this.run.conversationId);
    if (!conversation) return;
    const finish = end.error ? undefined : (end.finish ?? this.finish ?? 'stop');
    const change: Partial<Message> = { ...this.change(), ...(finish ? { finish } : {}) };
    if (end.error) change.error = end.error;
    update(changeMessage({ ...conversation, updated: Date.now() }, this.run.messageId, change));
  }
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
      Object.assign(run, { phase: 'queued', since: Date.now() + ms });
      setRun(run);
      await sleep(ms, run.abort.signal);
      Object.assign(run, { phase: 'waiting', since: Date.now() });
      setRun(run);
    }
  }
}

/** Adds a reply below `parent` and writes it. */
async function generate(conversation: Conversation, parent: string): Promise<void> {
  const reply = newMessage('assistant', parent);
  if (model.value !== null) reply.model = model.value;
  const { id } = conversation;
  const run: Run = {
    conversationId: id, messageId: reply.id, phase: 'waiting', since: Date.now(), firstTokenAt: 0, chunks: 0,
    abort: new AbortController(),
  };
  busy.set(id, conversation);
  setRun(run);
  update(addMessage(conversation, reply));
  const draft = new Draft(run);
  // The user may have gone to another conversation by then.
  const again = (): void => void open(id).then(() => retry(id, reply.id));
  try {
    await stream(run, draft, requestFor(pathTo(conversation, parent)));
    draft.close({});
    spoken.value = t('replyDone');
  } catch (error) {
    if (run.abort.signal.aborted) {
      draft.close({ finish: 'stopped' });
    } else {
      const text = describe(error);
      draft.close({ error: text });
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

/** A failed reply is written anew: in its place when there is nothing of it, beside it otherwise. */
async function retry(conversationId: string, messageId: string): Promise<void> {
  const conversation = conversationById(conversationId);
  const failed = conversation?.messages[messageId];
  if (!conversation || !failed || runs.value[conversationId]) return;
  const empty = !failed.content && !failed.reasoning;
  await generate(empty ? removeMessage(conversation, messageId) : conversation, failed.parent);
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
