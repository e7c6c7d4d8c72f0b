import 'fake-indexeddb/auto';
import { beforeEach, describe, expect, it } from 'vitest';
import { addMessage, changeMessage, newConversation, newMessage, pickMessage, ROOT, visiblePath, type Conversation } from './conversation';
import { MemoryStore, openStore, type Store } from './store';
import { exportJson, importJson, newcomers } from './transfer';

function sample(text: string, time: number): Conversation {
  const question = newMessage('user', ROOT, text, time);
  const first = newMessage('assistant', question.id, `first answer to ${text}`, time);
  const second = newMessage('assistant', question.id, 'second', time);
  const all = [question, first, second].reduce(addMessage, newConversation(time));
  return pickMessage(
    changeMessage(all, first.id, {
      reasoning: 'hm', thinkMs: 5, finish: 'stop', model: 'm',
      stats: { promptTokens: 1, cachedTokens: 0, newTokens: 2, totalTokens: 3, tokensPerSecond: 4.5, contextSize: null },
    }),
    first.id,
  );
}

let count = 0;
const kinds: [string, () => Promise<Store>][] = [
  ['database', () => openStore(`test-${++count}`)],
  ['memory', async () => new MemoryStore()],
];

describe.each(kinds)('%s store', (_name, make) => {
  let store: Store;
  beforeEach(async () => {
    store = await make();
  });

  it('gives back what was put, branches included', async () => {
    const conversation = sample('cats', 1);
    await store.put(conversation);
    expect(await store.get(conversation.id)).toEqual(conversation);
    expect(visiblePath((await store.get(conversation.id))!)[1]!.content).toContain('first');
  });

  it('lists newest first', async () => {
    for (const [text, time] of [['a', 2], ['b', 3], ['c', 1]] as const) await store.put(sample(text, time));
    expect((await store.list()).map(({ title }) => title)).toEqual(['b', 'a', 'c']);
  });

  it('replaces, removes and clears', async () => {
    const conversation = sample('a', 1);
    await store.put(conversation);
    await store.put({ ...conversation, title: 'renamed' });
    expect((await store.list()).map(({ title }) => title)).toEqual(['renamed']);
    await store.put(sample('b', 2));
    await store.remove(conversation.id);
    expect(await store.get(conversation.id)).toBeNull();
    expect(await store.list()).toHaveLength(1);
    await store.clear();
    expect(await store.all()).toEqual([]);
  });

  it('searches titles and texts', async () => {
    const cats = sample('cats', 1);
    await store.put(cats);
    await store.put(sample('dogs', 2));
    expect(await store.search('ANSWER cats')).toEqual(new Set([cats.id]));
  });
});

describe('export and import', () => {
  const strip = ({ messages, ...rest }: Conversation) => ({
    title: rest.title,
    created: rest.created,
    messages: Object.values(messages).map(({ id: _id, parent: _parent, ...message }) => message),
  });

  it('keeps everything but ids', () => {
    const plain = sample('cats', 1);
    const last = visiblePath(plain).at(-1)!;
    const asking = { ...newMessage('assistant', last.id), calls: [{ id: 'c', name: 'f', arguments: '{}' }] };
    const given = { ...newMessage('tool', asking.id), results: [{ id: 'c', name: 'f', content: '3' }] };
    const conversation = [asking, given].reduce(addMessage, plain);
    const [read] = importJson(exportJson([conversation]));
    expect(strip(read!)).toEqual(strip(conversation));
    expect(read!.id).not.toBe(conversation.id);
    expect(visiblePath(read!).map((m) => m.content)).toEqual(visiblePath(conversation).map((m) => m.content));
  });

  it('takes a file once', () => {
    const conversation = sample('cats', 1);
    expect(newcomers(importJson(exportJson([conversation])), [conversation])).toEqual([]);
    expect(newcomers(importJson(exportJson([conversation])), [sample('dogs', 1)])).toHaveLength(1);
  });

  it.each(['', '[]', '{}', '{"format":"ktransformers-chat","version":2,"conversations":[]}', 'no json'])(
    'refuses %j',
    (source) => expect(() => importJson(source)).toThrow(),
  );

  it('survives hostile files', () => {
    const file = (conversations: unknown): string =>
      JSON.stringify({ format: 'ktransformers-chat', version: 1, conversations });
    const circle = {
      a: { id: 'a', parent: 'b', role: 'user', content: 'x' },
      b: { id: 'b', parent: 'a', role: 'user', content: 'y' },
    };
    expect(importJson(file([null, 5, {}, { messages: [] }, { messages: circle }]))).toEqual([]);
    const odd = `{"__proto__":{"id":"__proto__","parent":"root","role":"user","content":"hi"},
      "z":{"id":"z","parent":"__proto__","role":"assistant","content":"yo","stats":"no","created":"x"},
      "s":{"id":"s","parent":"root","role":"system","content":"no"},
      "t":{"id":"t","parent":"z","role":"tool","content":"","results":[null,{"id":1},5]}}`;
    const [read] = importJson(file([{ messages: JSON.parse(odd), picked: { root: 'gone' } }]));
    expect(visiblePath(read!).map((m) => m.content)).toEqual(['hi', 'yo', '']);
    expect(visiblePath(read!)[2]!.results).toEqual([]);
  });
});
