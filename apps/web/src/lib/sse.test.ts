import { describe, expect, it } from 'vitest';
import { ApiError, chunkEvents } from './api';
import { sseData, SseParser } from './sse';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** What a parser says when the bytes come in pieces of `size`. */
function parseInPieces(text: string, size: number): string[] {
  const parser = new SseParser();
  const all = bytes(text);
  const events: string[] = [];
  for (let at = 0; at < all.length; at += size) events.push(...parser.push(all.slice(at, at + size)));
  return [...events, ...parser.end()];
}

describe('SseParser', () => {
  const stream = ': ping\n\ndata: {"a":"é漢😀"}\r\n\r\nevent: x\ndata: one\ndata:two\nid: 7\n\n:\ndata: [DONE]\n\n';
  const wanted = ['{"a":"é漢😀"}', 'one\ntwo', '[DONE]'];

  it('gives the same events however the bytes are split', () => {
    for (let size = 1; size <= bytes(stream).length; ++size) {
      expect(parseInPieces(stream, size)).toEqual(wanted);
    }
  });

  it('ends lines at a lone carriage return too', () => {
    expect(parseInPieces('data: a\rdata: b\r\rdata: c\r\r', 1)).toEqual(['a\nb', 'c']);
  });

  it('keeps an event until its empty line has come', () => {
    const parser = new SseParser();
    expect(parser.push(bytes('data: whole\n'))).toEqual([]);
    expect(parser.push(bytes('\n'))).toEqual(['whole']);
  });

  it('gives out an event that the end of the stream cut off', () => {
    expect(parseInPieces('data: last', 3)).toEqual(['last']);
  });

  it('drops comments and events without data', () => {
    expect(parseInPieces(': keep-alive\n\nevent: nothing\n\n', 4)).toEqual([]);
  });
});

describe('sseData', () => {
  it('cancels the body when its reader stops early', async () => {
    let cancelled = false;
    const body = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(bytes('data: x\n\n')),
      cancel: () => {
        cancelled = true;
      },
    });
    for await (const data of sseData(body)) {
      expect(data).toBe('x');
      break;
    }
    expect(cancelled).toBe(true);
  });
});

describe('chunkEvents', () => {
  const chunk = (choice: object, more: object = {}): string =>
    JSON.stringify({ choices: [{ index: 0, ...choice }], ...more });

  it('reads thoughts, text, the end and the numbers', () => {
    expect(chunkEvents(chunk({ delta: { role: 'assistant', content: null }, finish_reason: null }))).toEqual([]);
    expect(chunkEvents(chunk({ delta: { reasoning_content: 'hm' } }))).toEqual([{ kind: 'reasoning', text: 'hm' }]);
    expect(chunkEvents(chunk({ delta: { content: 'yes' } }))).toEqual([{ kind: 'content', text: 'yes' }]);
    expect(chunkEvents(chunk({ delta: {}, finish_reason: 'length' }))).toEqual([{ kind: 'finish', reason: 'length' }]);
    const usage = { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 };
    expect(chunkEvents(JSON.stringify({ choices: [], usage, timings: { cache_n: 1 } }))).toEqual([
      { kind: 'usage', usage, timings: { cache_n: 1 } },
    ]);
  });

  it('throws the error that comes inside a stream', () => {
    const data = JSON.stringify({ error: { message: 'out of memory', type: 'server_error', code: 500 } });
    expect(() => chunkEvents(data)).toThrowError(new ApiError('out of memory', 200, '500'));
  });
});
