/**
 * Answers of the API made up by the test, so that what the page does with them can be told exactly. The page's own
 * files still come from the server under test. Replies are streamed by a fetch of our own inside the page:
 * Playwright's routes can only answer in one piece.
 */
import type { Page } from '@playwright/test';

export interface Reply {
  status?: number;
  headers?: Record<string, string>;
  /** Body of an answer that is no stream. */
  json?: object;
  /** Data of the events of a stream, or `null` for a lost connection. */
  events?: (object | string | null)[];
  /** Milliseconds between events. */
  delay?: number;
}

export interface FakeServer {
  /** One per request, in order; the last one again for all that follow. */
  replies?: Reply[];
  models?: object[];
  props?: object;
  modules?: object[];
  health?: () => { status: number; body: object };
  /** Key that every request must carry. */
  key?: string;
}

export const PROPS = {
  model: 'demo-moe',
  build: '0.1.0',
  n_ctx: 4096,
  default_generation_settings: {
    temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0, repeat_penalty: 1.05, max_tokens: 1024, seed: 7,
  },
  capabilities: { thinking: true, tools: true },
};

const delta = (content: object, finish: string | null = null): object => ({
  id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'demo-moe',
  choices: [{ index: 0, delta: content, finish_reason: finish }],
});

/** A stream with thoughts and text, word by word. */
export function streamOf(text: string, { thoughts = '', finish = 'stop', delay = 0 } = {}): Reply {
  const words = (all: string): string[] => all.match(/\s*\S+|\s+$/g) ?? [];
  const count = words(text).length + words(thoughts).length;
  return {
    delay,
    events: [
      delta({ role: 'assistant', content: null }),
      ...words(thoughts).map((word) => delta({ reasoning_content: word })),
      ...words(text).map((word) => delta({ content: word })),
      delta({}, finish),
      {
        id: 'chatcmpl-1', choices: [],
        usage: { prompt_tokens: 20, completion_tokens: count, total_tokens: 20 + count },
        timings: { cache_n: 12, prompt_n: 8, predicted_n: count, predicted_per_second: 42.5 },
      },
      '[DONE]',
    ],
  };
}

/** A stream with calls; the arguments of all of them come in pieces, in turns. */
export function streamOfCalls(calls: { name: string; arguments: object }[], { text = '', delay = 0 } = {}): Reply {
  const parts = calls.map((call) => JSON.stringify(call.arguments).match(/.{1,6}/gs) ?? []);
  const longest = Math.max(...parts.map((part) => part.length));
  const part = (index: number, piece: object): object => delta({ tool_calls: [{ index, ...piece }] });
  const reply = streamOf(text, { finish: 'tool_calls', delay });
  const begins = calls.map(({ name }, index) =>
    part(index, { id: `call_${index}`, type: 'function', function: { name, arguments: '' } }),
  );
  const rest = Array.from({ length: longest }, (_, i) =>
    parts.flatMap((pieces, index) => (pieces[i] === undefined ? [] : [part(index, { function: { arguments: pieces[i] } })])),
  );
  reply.events!.splice(-3, 0, ...begins, ...rest.flat());
  return reply;
}

/** Runs inside the page. */
function installFetch({ replies, key }: { replies: Reply[]; key: string | null }): void {
  const state = window as unknown as { chatRequests: object[] };
  state.chatRequests = [];
  const original = window.fetch.bind(window);
  const encoder = new TextEncoder();
  const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
  const answer = (status: number, body: object, headers = {}): Response =>
    new Response(JSON.stringify(body), { status, headers });

  const stream = ({ events = [], delay = 0 }: Reply, signal: AbortSignal): Response =>
    new Response(
      new ReadableStream<Uint8Array>({
        async start(controller) {
          for (const event of events) {
            if (delay) await pause(delay);
            if (signal.aborted) return controller.error(signal.reason);
            if (event === null) return controller.error(new TypeError('network error'));
            const data = typeof event === 'string' ? event : JSON.stringify(event);
            controller.enqueue(encoder.encode(`data: ${data}\n\n`));
          }
          controller.close();
        },
      }),
      { headers: { 'Content-Type': 'text/event-stream' } },
    );

  window.fetch = async (input, init = {}) => {
    if (input !== '/v1/chat/completions') return original(input, init);
    const headers = new Headers(init.headers);
    if (key !== null && headers.get('Authorization') !== `Bearer ${key}`) {
      return answer(401, { error: { message: 'Invalid API key', type: 'authentication_error', code: 'invalid_api_key' } });
    }
    const reply = replies[Math.min(state.chatRequests.length, replies.length - 1)]!;
    state.chatRequests.push(JSON.parse(String(init.body)));
    if (reply.json) return answer(reply.status ?? 200, reply.json, reply.headers);
    return stream(reply, init.signal!);
  };
}

export async function fakeServer(page: Page, server: FakeServer = {}): Promise<void> {
  const json = (path: string, body: () => object) =>
    page.route(path, (route) => {
      const allowed = server.key === undefined || route.request().headers()['authorization'] === `Bearer ${server.key}`;
      return allowed
        ? route.fulfill({ json: body() })
        : route.fulfill({ status: 401, json: { error: { message: 'Invalid API key', code: 'invalid_api_key' } } });
    });
  await page.route('/health', (route) => {
    const { status, body } = server.health?.() ?? { status: 200, body: { status: 'ok' } };
    return route.fulfill({ status, json: body });
  });
  await json('/props', () => server.props ?? PROPS);
  await json('/v1/models', () => ({ object: 'list', data: server.models ?? [{ id: 'demo-moe', meta: { n_ctx: 4096 } }] }));
  await json('/placement', () => ({ modules: server.modules ?? [] }));
  await page.addInitScript(installFetch, {
    replies: server.replies ?? [streamOf('Hello there.')],
    key: server.key ?? null,
  });
}

/** Bodies of the chat requests so far. */
export const chatRequests = (page: Page): Promise<any[]> =>
  page.evaluate(() => (window as unknown as { chatRequests: object[] }).chatRequests);

/** Sends a message and waits for the end of the reply. */
export async function say(page: Page, text: string): Promise<void> {
  const field = page.getByRole('textbox', { name: 'Message', exact: true });
  await field.fill(text);
  // On the field: a dialog that just closed may take the focus back to its opener in between.
  await field.press('Enter');
  await page.getByRole('button', { name: 'Stop' }).waitFor({ state: 'detached' });
  await page.locator('.message.assistant[aria-busy=false]').last().waitFor();
}
