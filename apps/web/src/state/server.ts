/** What is known of the server: whether it is ready, its models and properties, and the key it may ask for. */
import { computed, signal } from '@preact/signals';
import { ApiError, apiKey, fetchHealth, fetchModels, fetchProps, type ModelInfo, type Props } from '../lib/api';
import { settings, t } from './settings';

export type ServerState =
  | { kind: 'unknown' | 'ready' | 'unreachable' }
  | { kind: 'loading'; progress: number | null };

const LOADING_MS = 1000;
const UNREACHABLE_MS = 3000;

export const server = signal<ServerState>({ kind: 'unknown' });
export const props = signal<Props | null>(null);
export const models = signal<ModelInfo[]>([]);
/** The question for a key: first time, or after a wrong one. Null: not asked. */
export const keyDialog = signal<'wanted' | 'wrong' | null>(null);

/** The chosen model while the server still has it, else the one it runs. */
export const model = computed<string | null>(() => {
  const ids = models.value.map(({ id }) => id);
  const chosen = settings.value.model;
  if (chosen !== null && ids.includes(chosen)) return chosen;
  return props.value?.model ?? ids[0] ?? null;
});

export const contextSize = computed<number | null>(() => {
  const listed = models.value.find(({ id }) => id === model.value)?.meta?.n_ctx;
  return listed ?? props.value?.n_ctx ?? null;
});

let watching = false;

/** Asks until the server is ready, then reads its properties. Calling it again while it asks does nothing. */
export async function watchServer(): Promise<void> {
  if (watching) return;
  watching = true;
  try {
    for (;;) {
      const wait = await look();
      if (wait === 0) break;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  } finally {
    watching = false;
  }
}

/** Milliseconds to wait before the next look; 0 when there is no need of one. */
async function look(): Promise<number> {
  try {
    const health = await fetchHealth();
    if (!health.ready) {
      server.value = { kind: 'loading', progress: health.progress };
      return LOADING_MS;
    }
    const [newProps, newModels] = await Promise.all([fetchProps(), fetchModels()]);
    props.value = newProps;
    models.value = newModels;
    server.value = { kind: 'ready' };
    return 0;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      server.value = { kind: 'ready' };
      askForKey();
      return 0;
    }
    server.value = { kind: 'unreachable' };
    return UNREACHABLE_MS;
  }
}

let afterKey: (() => void) | null = null;

export function askForKey(then?: () => void): void {
  if (then) afterKey = then;
  keyDialog.value = apiKey.get() ? 'wrong' : 'wanted';
}

/** Closes the question. With a key, what needed it is done again. */
export function answerKey(key: string | null): void {
  const then = afterKey;
  afterKey = null;
  keyDialog.value = null;
  if (key === null) return;
  apiKey.set(key.trim());
  void watchServer();
  then?.();
}

/** An error in the user's words. */
export function describe(error: unknown): string {
  if (!(error instanceof ApiError)) return String(error instanceof Error ? error.message : error);
  const { status, code, message } = error;
  if (status === 0) return t('connectionLost');
  if (status === 200) return message;
  if (code === 'context_length_exceeded') return t('errorContext', { message });
  if (status === 401) return t('errorKey');
  if (status === 503) return t('errorBusy', { message });
  return t(status >= 500 ? 'errorServer' : 'errorRefused', { message });
}
