/** A reply as it grows: text is put into the conversation every FLUSH_MS or so, not with every token. */
import { signal } from '@preact/signals';
import type { ChatEvent } from '../lib/api';
import { changeMessage, type Message, type ReplyStats } from '../lib/conversation';
import type { ToolCall } from '../lib/tools';
import { conversationById, update } from './chats';
import { spoken } from './notices';
import { contextSize } from './server';
import { t } from './settings';

export interface Run {
  conversationId: string;
  messageId: string;
  phase: 'waiting' | 'queued' | 'loading' | 'thinking' | 'writing' | 'calling';
  /** When the phase began; in the queue and while the model loads, when the next try is. */
  since: number;
  firstTokenAt: number;
  /** Chunks with text, about one per token. */
  chunks: number;
  abort: AbortController;
}

const FLUSH_MS = 50;
// A long reply takes longer to parse, so it is shown less often.
const CHARS_PER_MS = 400;
const PHASES = { reasoning: 'thinking', content: 'writing', call: 'calling' } as const;

export const runs = signal<Record<string, Run>>({});

export function setRun(run: Run): void {
  runs.value = { ...runs.value, [run.conversationId]: { ...run } };
}

export class Draft {
  private content: string;
  private reasoning: string;
  private calls: ToolCall[] = [];
  private thinkingSince = 0;
  private thinkMs: number | undefined;
  private finish: string | undefined;
  private stats: ReplyStats | undefined;
  private timer: ReturnType<typeof setTimeout> | null = null;

  /** `begun` is the message as it was before: an empty one, or one that goes on. */
  constructor(
    private readonly run: Run,
    private readonly begun: Message,
  ) {
    this.content = begun.content;
    this.reasoning = begun.reasoning ?? '';
    this.thinkMs = begun.content ? begun.thinkMs : undefined;
  }

  take(event: ChatEvent): void {
    if (event.kind === 'finish') {
      this.finish = event.reason;
    } else if (event.kind === 'usage') {
      this.stats = this.statsFrom(event);
    } else {
      this.enter(PHASES[event.kind]);
      if (event.kind === 'call') this.takeCall(event);
      else this[event.kind] += event.text;
      this.timer ??= setTimeout(() => this.flush(), FLUSH_MS + this.content.length / CHARS_PER_MS);
    }
  }

  private enter(phase: Run['phase']): void {
    const { run } = this;
    const now = Date.now();
    if (run.chunks === 0) {
      run.firstTokenAt = now;
      spoken.value = t('replyStarted');
    }
    run.chunks += 1;
    if (phase === 'thinking') this.thinkingSince ||= now;
    else this.endThoughts(now);
    if (run.phase !== phase) {
      run.phase = phase;
      run.since = now;
    }
  }

  private endThoughts(now: number): void {
    if (this.thinkingSince) this.thinkMs ??= (this.begun.thinkMs ?? 0) + now - this.thinkingSince;
  }

  private takeCall({ index, id, name, text }: Extract<ChatEvent, { kind: 'call' }>): void {
    const call = this.calls[index] ?? { id: '', name: '', arguments: '' };
    this.calls[index] = { id: call.id || (id ?? ''), name: call.name || (name ?? ''), arguments: call.arguments + text };
  }

  /** Of the whole reply when it is one that goes on; the speed is that of its last part. */
  private statsFrom({ usage, timings }: Extract<ChatEvent, { kind: 'usage' }>): ReplyStats {
    const before = this.begun.stats;
    return {
      promptTokens: before?.promptTokens ?? usage.prompt_tokens,
      cachedTokens: before?.cachedTokens ?? timings?.cache_n ?? 0,
      newTokens: (before?.newTokens ?? 0) + usage.completion_tokens,
      totalTokens: usage.total_tokens,
      tokensPerSecond: timings?.predicted_per_second ?? null,
      contextSize: contextSize.value,
    };
  }

  private change(): Partial<Message> {
    const change: Partial<Message> = { content: this.content };
    if (this.reasoning) change.reasoning = this.reasoning;
    if (this.calls.length) change.calls = Array.from(this.calls, (call) => call ?? { id: '', name: '', arguments: '' });
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
    this.endThoughts(Date.now());
    const conversation = conversationById(this.run.conversationId);
    if (!conversation) return;
    const finish = end.error ? undefined : (end.finish ?? this.finish ?? 'stop');
    const change: Partial<Message> = { ...this.change(), ...(finish ? { finish } : {}) };
    if (end.error) change.error = end.error;
    update(changeMessage({ ...conversation, updated: Date.now() }, this.run.messageId, change));
    spoken.value = end.error || end.finish ? '' : t(finish === 'tool_calls' ? 'callsMade' : 'replyDone');
  }
}
