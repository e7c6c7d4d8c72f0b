/**
 * Parser of `text/event-stream` bodies: bytes in, the data of complete events out.
 *
 * Chunks may end anywhere, also inside a UTF-8 sequence or between CR and LF. Comment lines (keep-alive) and
 * fields other than `data` are dropped; several data lines of one event are joined by a newline.
 */
export class SseParser {
  private decoder = new TextDecoder();
  private rest = '';
  private data: string[] = [];

  /** The data of the events that this chunk completes, in order. */
  push(chunk: Uint8Array): string[] {
    return this.take(this.decoder.decode(chunk, { stream: true }), false);
  }

  /** The data of what the stream ended in, for servers that leave out the last empty line. */
  end(): string[] {
    const events = this.take(this.decoder.decode(), true);
    this.dispatch(events);
    return events;
  }

  private take(text: string, last: boolean): string[] {
    this.rest += text;
    const events: string[] = [];
    let from = 0;
    for (;;) {
      const line = this.lineEnd(from, last);
      if (!line) break;
      this.line(this.rest.slice(from, line.end), events);
      from = line.next;
    }
    this.rest = this.rest.slice(from);
    if (last && this.rest) {
      this.line(this.rest, events);
      this.rest = '';
    }
    return events;
  }

  /** The next line break at or after `from`. A CR at the very end may be half of a CR LF, so it waits. */
  private lineEnd(from: number, last: boolean): { end: number; next: number } | null {
    for (let i = from; i < this.rest.length; ++i) {
      const c = this.rest[i];
      if (c === '\n') return { end: i, next: i + 1 };
      if (c !== '\r') continue;
      if (i + 1 === this.rest.length && !last) return null;
      return { end: i, next: this.rest[i + 1] === '\n' ? i + 2 : i + 1 };
    }
    return null;
  }

  private line(line: string, events: string[]): void {
    if (line === '') this.dispatch(events);
    else if (line.startsWith('data:')) this.data.push(line.slice(line[5] === ' ' ? 6 : 5));
    else if (line === 'data') this.data.push('');
  }

  private dispatch(events: string[]): void {
    if (this.data.length) events.push(this.data.join('\n'));
    this.data = [];
  }
}

/** The data of every event of a response body. */
export async function* sseData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const parser = new SseParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield* parser.push(value);
    }
    yield* parser.end();
  } finally {
    // Leaving early must also end the request, or the server goes on generating.
    reader.cancel().catch(() => {});
  }
}
