/**
 * The list of conversations and the open one. Conversations that a reply is being written to are kept in `busy`,
 * so that the reply goes on while the user looks at another. Other tabs hear of changes over a BroadcastChannel.
 */
import { signal } from '@preact/signals';
import {
  newConversation, rename, summaryOf, type Conversation, type Summary,
} from '../lib/conversation';
import { openStore, type Store } from '../lib/store';
import { exportJson, importJson, newcomers } from '../lib/transfer';
import { ask, showError, showInfo } from './notices';
import { t } from './settings';

const SAVE_MS = 1000;

export const summaries = signal<Summary[]>([]);
export const current = signal<Conversation>(newConversation());
/** Ids that the search found; null: no search. */
export const found = signal<Set<string> | null>(null);
export const query = signal('');

let store: Store;
const channel = 'BroadcastChannel' in window ? new BroadcastChannel('kt-chat') : null;
export const busy = new Map<string, Conversation>();
const unsaved = new Map<string, ReturnType<typeof setTimeout>>();

export async function startChats(): Promise<void> {
  store = await openStore();
  if (!store.lasting) showInfo(t('notKept'));
  summaries.value = await store.list();
  channel?.addEventListener('message', () => void refresh());
  window.addEventListener('pagehide', () => busy.forEach((conversation) => void save(conversation)));
}

/** What another tab changed. */
async function refresh(): Promise<void> {
  summaries.value = await store.list();
  const { id } = current.value;
  if (busy.has(id)) return;
  const fresh = await store.get(id);
  if (fresh && current.value.id === id) current.value = fresh;
}

async function save(conversation: Conversation): Promise<void> {
  clearTimeout(unsaved.get(conversation.id));
  unsaved.delete(conversation.id);
  try {
    await store.put(conversation);
    channel?.postMessage(conversation.id);
  } catch (error) {
    showError(t('saveFailed', { message: String(error) }), () => void save(conversation));
  }
}

export function conversationById(id: string): Conversation | null {
  return busy.get(id) ?? (current.value.id === id ? current.value : null);
}

/** Shows and keeps a changed conversation; `soon` lets frequent changes share one write. */
export function update(conversation: Conversation, soon = false): void {
  const { id } = conversation;
  if (busy.has(id)) busy.set(id, conversation);
  if (current.value.id === id) current.value = conversation;
  if (soon) {
    if (!unsaved.has(id)) unsaved.set(id, setTimeout(() => saveLatest(id), SAVE_MS));
    return;
  }
  const others = summaries.value.filter((summary) => summary.id !== id);
  summaries.value = [summaryOf(conversation), ...others].sort((a, b) => b.updated - a.updated);
  void save(conversation);
}

function saveLatest(id: string): void {
  unsaved.delete(id);
  const latest = conversationById(id);
  if (latest) void save(latest);
}

export function startNew(): void {
  current.value = newConversation();
}

export async function open(id: string): Promise<void> {
  const conversation = busy.get(id) ?? (await store.get(id));
  if (conversation) current.value = conversation;
}

export async function renameChat(id: string, title: string): Promise<void> {
  const conversation = conversationById(id) ?? (await store.get(id));
  if (conversation && title.trim()) update(rename(conversation, title.trim()));
}

export async function deleteChat(summary: Summary, stop: (id: string) => void): Promise<void> {
  const title = summary.title || t('untitled');
  if (!(await ask(t('deleteQuestion', { title }), t('cannotUndo'), t('delete')))) return;
  forget(summary.id, stop);
  await store.remove(summary.id);
  channel?.postMessage(summary.id);
  summaries.value = summaries.value.filter(({ id }) => id !== summary.id);
}

/** Nothing may write the conversation from here on, or it would come back. */
function forget(id: string, stop: (id: string) => void): void {
  stop(id);
  clearTimeout(unsaved.get(id));
  unsaved.delete(id);
  busy.delete(id);
  if (current.value.id === id) startNew();
}

export async function deleteAll(stop: (id: string) => void): Promise<void> {
  const count = summaries.value.length;
  if (!(await ask(t('deleteAllQuestion', { count }), t('cannotUndo'), t('delete')))) return;
  for (const { id } of summaries.value) forget(id, stop);
  await store.clear();
  channel?.postMessage('');
  summaries.value = [];
}

/** Finds titles and texts. Later answers to earlier words are dropped. */
export async function search(words: string): Promise<void> {
  query.value = words;
  if (!words.trim()) {
    found.value = null;
    return;
  }
  const ids = await store.search(words);
  if (query.value === words) found.value = ids;
}

export async function exportChats(): Promise<string> {
  return exportJson(await store.all());
}

export async function importChats(file: Blob): Promise<void> {
  try {
    const incoming = newcomers(importJson(await file.text()), await store.all());
    for (const conversation of incoming) {
      await store.put(conversation);
    }
    summaries.value = await store.list();
    channel?.postMessage('');
    showInfo(t('imported', { count: incoming.length }));
  } catch {
    showError(t('importFailed'));
  }
}
