/** The server's HTTP API as this page uses it. Nothing here touches the document. */
import { sseData } from './sse';
import type { Tool } from './tools';

export class ApiError extends Error {
  constructor(
    message: string,
    /** HTTP status; 0 when there was no answer, 200 when the error came inside a stream. */
    readonly status: number,
    readonly code: string | null = null,
    /** Seconds after which the server asks to try again. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

export interface WireCall {
  id: string;
  type: 'function';
  function: { name: string; arguments: string };
}

export type WireMessage =
  | { role: 'system' | 'user'; content: string }
  | { role: 'assistant'; content: string; reasoning_content?: string; tool_calls?: WireCall[] }
  | { role: 'tool'; tool_call_id: string; content: string };

export interface SamplingSettings {
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repeat_penalty?: number;
  max_tokens?: number;
  seed?: number;
}

export interface ChatRequest extends SamplingSettings {
  model?: string;
  messages: WireMessage[];
  tools?: Tool[];
  tool_choice?: 'required';
  chat_template_kwargs?: { enable_thinking: boolean };
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export interface Timings {
  cache_n?: number;
  prompt_n?: number;
  prompt_ms?: number;
  prompt_per_second?: number;
  predicted_n?: number;
  predicted_ms?: number;
  predicted_per_second?: number;
}

export type ChatEvent =
  | { kind: 'reasoning' | 'content'; text: string }
  /** A part of a call: the first has its id and name, all may have a piece of its arguments. */
  | { kind: 'call'; index: number; id?: string; name?: string; text: string }
  | { kind: 'finish'; reason: string }
  | { kind: 'usage'; usage: Usage; timings: Timings | null };

export interface ModelInfo {
  id: string;
  meta?: { n_ctx?: number };
}

export interface Props {
  model: string;
  build?: string;
  n_ctx?: number;
  default_generation_settings?: SamplingSettings;
  capabilities?: { thinking?: boolean; tools?: boolean };
}

export interface Health {
  ready: boolean;
  /** 0 to 1, or null when the server does not say. */
  progress: number | null;
}

export interface PlacedModule {
  path: string;
  operator: string;
  device: string;
  format: string | null;
  bytes: number | null;
  reason: string;
  /** Share of the time of the last minute's steps; null when nothing ran. */
  share: number | null;
}

const KEY = 'kt.key';

export const apiKey = {
  get: (): string => localStorage.getItem(KEY) ?? '',
  set: (key: string): void => (key ? localStorage.setItem(KEY, key) : localStorage.removeItem(KEY)),
};

function headers(): Record<string, string> {
  const key = apiKey.get();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function retrySeconds(response: Response): number | null {
  const value = Number(response.headers.get('Retry-After') ?? NaN);
  return Number.isFinite(value) && value >= 0 ? value : null;
}

async function toError(response: Response): Promise<ApiError> {
  let message = '';
  let code: string | null = null;
  try {
    const body = await response.json();
    message = String(body?.error?.message ?? body?.message ?? '');
    code = body?.error?.code == null ? null : String(body.error.code);
  } catch {
    // Not JSON: a proxy answered. Its status is all there is to tell.
  }
  return new ApiError(message || `HTTP ${response.status}`, response.status, code, retrySeconds(response));
}

async function send(path: string, init: RequestInit = {}): Promise<Response> {
  try {
    return await fetch(path, { ...init, headers: { ...headers(), ...init.headers } });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError('', 0);
  }
}

async function getJson<T>(path: string): Promise<T> {
  const response = await send(path);
  if (!response.ok) throw await toError(response);
  return (await response.json()) as T;
}

export const fetchProps = (): Promise<Props> => getJson<Props>('/props');

export async function fetchModels(): Promise<ModelInfo[]> {
  const answer = await getJson<{ data?: ModelInfo[] }>('/v1/models');
  return Array.isArray(answer.data) ? answer.data : [];
}

export async function fetchPlacement(): Promise<PlacedModule[]> {
  const answer = await getJson<{ modules?: PlacedModule[] }>('/placement');
  return Array.isArray(answer.modules) ? answer.modules : [];
}

/** Throws when there is no server; a server that loads is an answer. */
export async function fetchHealth(): Promise<Health> {
  const response = await send('/health');
  if (response.ok) return { ready: true, progress: 1 };
  if (response.status !== 503) throw await toError(response);
  const body = await response.json().catch(() => null);
  const progress = typeof body?.progress === 'number' ? Math.min(1, Math.max(0, body.progress)) : null;
  return { ready: false, progress };
}

/** The events of one chunk of a streamed reply. Throws the error that a chunk carries. */
export function chunkEvents(data: string): ChatEvent[] {
  const chunk = JSON.parse(data);
  if (chunk.error) {
    const { message, code } = chunk.error;
    throw new ApiError(String(message ?? chunk.error), 200, code == null ? null : String(code));
  }
  const events: ChatEvent[] = [];
  const choice = chunk.choices?.[0];
  const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
  if (reasoning) events.push({ kind: 'reasoning', text: reasoning });
  if (choice?.delta?.content) events.push({ kind: 'content', text: choice.delta.content });
  for (const { index = 0, id, function: part } of choice?.delta?.tool_calls ?? []) {
    events.push({ kind: 'call', index, id, name: part?.name, text: part?.arguments ?? '' });
  }
  if (choice?.finish_reason) events.push({ kind: 'finish', reason: choice.finish_reason });
  if (chunk.usage) events.push({ kind: 'usage', usage: chunk.usage, timings: chunk.timings ?? null });
  return events;
}

/** Streams a reply. A stream that ends before its finish chunk is an error of status 0. */
export async function* streamChat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<ChatEvent> {
  const response = await send('/v1/chat/completions', {
    method: 'POST',
    signal,
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok) throw await toError(response);
  if (!response.body) throw new ApiError('', 0);
  let finished = false;
  try {
    for await (const data of sseData(response.body)) {
      if (data === '[DONE]') return;
      for (const event of chunkEvents(data)) {
        finished ||= event.kind === 'finish';
        yield event;
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError('', 0);
  }
  if (!finished) throw new ApiError('', 0);
}
