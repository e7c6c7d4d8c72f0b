/** Export and import of conversations as one JSON file. The reader takes any file for hostile. */
import { newId, ROOT, titleFrom, type Conversation, type Message, type ReplyStats, type Role } from './conversation';
import { isObject } from './json';

const FORMAT = 'ktransformers-chat';
const VERSION = 1;

export function exportJson(conversations: Conversation[], now = new Date()): string {
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: now.toISOString(), conversations }, null, 1);
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
const number = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) ? value : undefined;

function readStats(value: unknown): ReplyStats | undefined {
  if (!isObject(value)) return undefined;
  return {
    promptTokens: number(value.promptTokens) ?? 0,
    cachedTokens: number(value.cachedTokens) ?? 0,
    newTokens: number(value.newTokens) ?? 0,
    totalTokens: number(value.totalTokens) ?? 0,
    tokensPerSecond: number(value.tokensPerSecond) ?? null,
    contextSize: number(value.contextSize) ?? null,
  };
}

/** A list of objects whose `keys` are all texts; undefined when it is none. */
function readTexts<K extends string>(value: unknown, keys: readonly K[]): Record<K, string>[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const good = value.filter((entry) => isObject(entry) && keys.every((key) => typeof entry[key] === 'string'));
  return good.map((entry) => Object.fromEntries(keys.map((key) => [key, entry[key]])) as Record<K, string>);
}

/** Drops what is undefined, so that a read message equals the written one. */
function compact<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as T;
}

function readMessage(value: unknown, ids: Map<string, string>): Message | null {
  if (!isObject(value)) return null;
  const id = ids.get(text(value.id) ?? '');
  const parent = value.parent === ROOT ? ROOT : ids.get(text(value.parent) ?? '');
  const content = text(value.content);
  if (id === undefined || parent === undefined || content === undefined) return null;
  const role = (['user', 'assistant', 'tool'] as const).find((known: Role) => known === value.role);
  if (role === undefined) return null;
  return compact<Message>({
    id,
    parent,
    role,
    content,
    created: number(value.created) ?? 0,
    reasoning: text(value.reasoning),
    thinkMs: number(value.thinkMs),
    calls: readTexts(value.calls, ['id', 'name', 'arguments']),
    results: readTexts(value.results, ['id', 'name', 'content']),
    model: text(value.model),
    finish: text(value.finish),
    error: text(value.error),
    stats: readStats(value.stats),
  });
}

/** Only messages that hang on the root: orphans and circles are left behind. */
function reachable(messages: Message[]): Record<string, Message> {
  const byParent = new Map<string, Message[]>();
  for (const message of messages) byParent.set(message.parent, [...(byParent.get(message.parent) ?? []), message]);
  const found = new Set<string>();
  const open = [ROOT];
  while (open.length) {
    for (const { id } of byParent.get(open.pop()!) ?? []) {
      if (!found.has(id)) open.push(id);
      found.add(id);
    }
  }
  return Object.fromEntries(messages.filter((m) => found.has(m.id)).map((m) => [m.id, m]));
}

function readConversation(value: unknown): Conversation | null {
  if (!isObject(value) || !isObject(value.messages)) return null;
  const entries = Object.values(value.messages);
  // New ids of our own making: a key such as __proto__ must not reach an object.
  const ids = new Map<string, string>();
  for (const entry of entries) {
    const id = isObject(entry) ? text(entry.id) : undefined;
    if (id !== undefined) ids.set(id, newId());
  }
  const messages = reachable(entries.map((e) => readMessage(e, ids)).filter((m): m is Message => m !== null));
  const first = Object.values(messages)[0];
  if (!first) return null;
  const picked: Record<string, string> = {};
  for (const [parent, child] of Object.entries(isObject(value.picked) ? value.picked : {})) {
    const from = parent === ROOT ? ROOT : ids.get(parent);
    const to = ids.get(text(child) ?? '');
    if (from !== undefined && to !== undefined) picked[from] = to;
  }
  return {
    id: newId(),
    title: text(value.title) ?? titleFrom(first.content),
    autoTitle: value.autoTitle !== false,
    created: number(value.created) ?? 0,
    updated: number(value.updated) ?? 0,
    messages,
    picked,
  };
}

/** The conversations of an exported file, under new ids. Throws when it is no such file. */
export function importJson(source: string): Conversation[] {
  const file: unknown = JSON.parse(source);
  if (!isObject(file) || file.format !== FORMAT || file.version !== VERSION || !Array.isArray(file.conversations)) {
    throw new Error('not an export of this page');
  }
  return file.conversations.map(readConversation).filter((c): c is Conversation => c !== null);
}

/** Those of `incoming` that are not there already, told by their times and size: the same file may come twice. */
export function newcomers(incoming: Conversation[], present: Conversation[]): Conversation[] {
  const print = (c: Conversation): string =>
    [c.created, c.updated, c.title, Object.keys(c.messages).length].join('\n');
  const known = new Set(present.map(print));
  return incoming.filter((c) => !known.has(print(c)));
}
