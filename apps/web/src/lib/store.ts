/**
 * Keeps conversations in the browser's IndexedDB: summaries in one table, for the list, whole conversations in
 * another. Where the browser allows no database (some private windows), they live in memory until the page closes.
 */
import { matches, summaryOf, type Conversation, type Summary } from './conversation';

export interface Store {
  /** False when nothing outlives the page. */
  readonly lasting: boolean;
  /** Newest first. */
  list(): Promise<Summary[]>;
  get(id: string): Promise<Conversation | null>;
  put(conversation: Conversation): Promise<void>;
  remove(id: string): Promise<void>;
  clear(): Promise<void>;
  all(): Promise<Conversation[]>;
  /** Ids of the conversations with all words of the query. */
  search(query: string): Promise<Set<string>>;
}

const SUMMARIES = 'summaries';
const BODIES = 'conversations';

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

const newestFirst = (a: Summary, b: Summary): number => b.updated - a.updated;

class DatabaseStore implements Store {
  readonly lasting = true;
  constructor(private readonly database: IDBDatabase) {}

  async list(): Promise<Summary[]> {
    const table = this.database.transaction(SUMMARIES).objectStore(SUMMARIES);
    return (await done<Summary[]>(table.getAll())).sort(newestFirst);
  }

  async get(id: string): Promise<Conversation | null> {
    const table = this.database.transaction(BODIES).objectStore(BODIES);
    return (await done<Conversation | undefined>(table.get(id))) ?? null;
  }

  put(conversation: Conversation): Promise<void> {
    return this.write((summaries, bodies) => {
      summaries.put(summaryOf(conversation));
      bodies.put(conversation);
    });
  }

  remove(id: string): Promise<void> {
    return this.write((summaries, bodies) => {
      summaries.delete(id);
      bodies.delete(id);
    });
  }

  clear(): Promise<void> {
    return this.write((summaries, bodies) => {
      summaries.clear();
      bodies.clear();
    });
  }

  all(): Promise<Conversation[]> {
    return done(this.database.transaction(BODIES).objectStore(BODIES).getAll());
  }

  /** By cursor: one conversation in memory at a time. */
  search(query: string): Promise<Set<string>> {
    const found = new Set<string>();
    const request = this.database.transaction(BODIES).objectStore(BODIES).openCursor();
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve(found);
        if (matches(cursor.value, query)) found.add(cursor.value.id);
        cursor.continue();
      };
    });
  }

  private write(change: (summaries: IDBObjectStore, bodies: IDBObjectStore) => void): Promise<void> {
    const transaction = this.database.transaction([SUMMARIES, BODIES], 'readwrite');
    change(transaction.objectStore(SUMMARIES), transaction.objectStore(BODIES));
    // Without this the transaction is given up when the page is left before its requests are answered.
    transaction.commit();
    return committed(transaction);
  }
}

export class MemoryStore implements Store {
  readonly lasting = false;
  private readonly kept = new Map<string, Conversation>();

  list = async (): Promise<Summary[]> => [...this.kept.values()].map(summaryOf).sort(newestFirst);
  get = async (id: string): Promise<Conversation | null> => this.kept.get(id) ?? null;
  put = async (conversation: Conversation): Promise<void> => void this.kept.set(conversation.id, conversation);
  remove = async (id: string): Promise<void> => void this.kept.delete(id);
  clear = async (): Promise<void> => this.kept.clear();
  all = async (): Promise<Conversation[]> => [...this.kept.values()];
  search = async (query: string): Promise<Set<string>> =>
    new Set([...this.kept.values()].filter((c) => matches(c, query)).map((c) => c.id));
}

export async function openStore(name = 'kt-chat'): Promise<Store> {
  try {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(SUMMARIES, { keyPath: 'id' });
      request.result.createObjectStore(BODIES, { keyPath: 'id' });
    };
    return new DatabaseStore(await done(request));
  } catch {
    return new MemoryStore();
  }
}
