import { expect, test } from '@playwright/test';
import { chatRequests, fakeServer, say, streamOf } from './fake_server';
import { MODULES, REPLY } from './samples';

const input = { name: 'Message', exact: true };

test('renders a streamed reply with thoughts, code, formula, table and numbers', async ({ page, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await fakeServer(page, { replies: [streamOf(REPLY, { thoughts: 'Let me think.' })] });
  await page.goto('/');
  await say(page, 'Explain');
  const reply = page.locator('.message.assistant');
  await expect(reply.locator('table td').nth(1)).toHaveText('GPU');
  await expect(reply.locator('math[display=block]')).toHaveCount(1);
  await expect(reply).toContainText('$5 or $10');
  await expect(reply.locator('.hljs-keyword').first()).toHaveText('def');
  await reply.getByRole('button', { name: 'Copy' }).first().click();
  expect(await page.evaluate(() => navigator.clipboard.readText())).toContain('def route(x, router, k=2):\n');

  await expect(reply.getByText('Let me think.')).toBeHidden();
  await reply.getByText(/Thought for (<1|\d+) s/).click();
  await expect(reply.getByText('Let me think.')).toBeVisible();

  await expect(reply).toContainText('42.5 tokens/s');
  await expect(reply).toContainText('prompt 20 (12 cached)');
  await expect(reply.getByRole('meter')).toHaveAccessibleName(/^\d+ of 4,096 tokens of context used$/);
});

test('counts while it thinks and stops on Escape', async ({ page }) => {
  await fakeServer(page, { replies: [streamOf('never seen', { thoughts: 'hm '.repeat(1000), delay: 20 })] });
  await page.goto('/');
  await page.getByRole('textbox', input).fill('Go');
  await page.keyboard.press('Enter');
  await expect(page.getByText(/Thinking… [1-9] s/)).toBeVisible();
  await expect(page.getByText(/≈\d+ tokens/)).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByText('Stopped.')).toBeVisible();
  await expect(page.getByText(/Thought for (<1|\d+) s/)).toBeVisible();
  await expect(page.getByRole('button', { name: 'Send' })).toBeVisible();
});

test('keeps versions of replies and of questions', async ({ page }) => {
  await fakeServer(page, { replies: ['one', 'two', 'three'].map((text) => streamOf(text)) });
  await page.goto('/');
  await say(page, 'Question');
  await page.getByRole('button', { name: 'Regenerate' }).click();
  await expect(page.locator('.message.assistant')).toContainText('two');
  await expect(page.getByText('2/2')).toBeVisible();
  await page.getByRole('button', { name: 'Previous version' }).click();
  await expect(page.locator('.message.assistant')).toContainText('one');

  await page.getByRole('button', { name: 'Edit', exact: true }).click();
  await page.getByRole('textbox', { name: 'Edit message' }).fill('Better question');
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('three');
  await page.getByRole('button', { name: 'Previous version' }).click();
  await expect(page.locator('.message.user')).toContainText('Question');
  await expect(page.locator('.message.assistant')).toContainText('one');

  await page.reload();
  await page.locator('.entry .title').click();
  await expect(page.locator('.message.assistant')).toContainText('one');
});

test('sends history, system prompt and what was set, and nothing else', async ({ page }) => {
  await fakeServer(page, { replies: [streamOf('first', { thoughts: 'hm' })] });
  await page.goto('/');
  await say(page, 'Hi');
  expect((await chatRequests(page))[0]).toEqual({
    model: 'demo-moe', messages: [{ role: 'user', content: 'Hi' }], stream: true, stream_options: { include_usage: true },
  });
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await expect(page.getByLabel('Temperature')).toHaveAttribute('placeholder', '0.6');
  await page.getByLabel('Temperature').fill('5');
  await page.getByLabel('Seed').fill('3');
  await page.getByLabel('System prompt').fill('Be brief.');
  await page.getByLabel('Thinking').selectOption('Off');
  await page.keyboard.press('Escape');
  await say(page, 'Again');
  expect((await chatRequests(page))[1]).toMatchObject({
    temperature: 2, seed: 3, chat_template_kwargs: { enable_thinking: false },
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
      { role: 'assistant', content: 'first', reasoning_content: 'hm' },
      { role: 'user', content: 'Again' },
    ],
  });
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByRole('button', { name: 'Reset to the server’s defaults' }).click();
  await expect(page.getByLabel('Temperature')).toHaveValue('');
});

test('switches the model', async ({ page }) => {
  await fakeServer(page, { models: [{ id: 'demo-moe', meta: { n_ctx: 4096 } }, { id: 'other', meta: { n_ctx: 99 } }] });
  await page.goto('/');
  await page.getByLabel('Model').selectOption('other');
  await say(page, 'Hi');
  expect((await chatRequests(page))[0].model).toBe('other');
  await expect(page.getByRole('meter')).toHaveAccessibleName(/of 99 tokens/);
});

test('tells of an error inside the stream and tries again', async ({ page }) => {
  const failing = streamOf('partial');
  failing.events!.splice(2, 9, { error: { message: 'out of memory', type: 'server_error', code: 500 } });
  await fakeServer(page, { replies: [failing, streamOf('whole')] });
  await page.goto('/');
  await say(page, 'Hi');
  await expect(page.locator('.message.assistant')).toContainText('partial');
  await expect(page.locator('.message.assistant')).toContainText('cut off. out of memory');
  await page.locator('.toast.error').getByRole('button', { name: 'Try again' }).click();
  await expect(page.locator('.message.assistant')).toContainText('whole');
  await expect(page.getByText('2/2')).toBeVisible();
});

test('goes on with a reply that ended early, in the same message', async ({ page }) => {
  const lost = { events: [{ choices: [{ delta: { content: ' there' } }] }, null], delay: 50 };
  const replies = [streamOf('Once upon', { thoughts: 'A tale.', finish: 'length' }), lost, streamOf(' was a cat.')];
  await fakeServer(page, { replies });
  await page.goto('/');
  await say(page, 'Tell');
  const reply = page.locator('.message.assistant');
  await expect(reply).toContainText('Stopped at the token limit.');
  await reply.getByRole('button', { name: 'Continue' }).click();
  await expect(reply.locator('.markdown').last()).toHaveText('Once upon there');
  await page.locator('.toast.error').getByRole('button', { name: 'Try again' }).click();
  await expect(reply.locator('.markdown').last()).toHaveText('Once upon there was a cat.');
  await expect(reply).toContainText('7 tokens');
  await expect(reply.getByText(/Thought for/)).toBeVisible();
  await expect(reply.getByRole('button', { name: 'Continue' })).toHaveCount(0);
  await expect(page.locator('.versions')).toHaveCount(0);
  expect((await chatRequests(page))[2].messages).toEqual([
    { role: 'user', content: 'Tell' },
    { role: 'assistant', content: 'Once upon there', reasoning_content: 'A tale.' },
  ]);
});

test('a reply that filled the context says so', async ({ page }) => {
  const models = [{ id: 'demo-moe', meta: { n_ctx: 22 } }];
  await fakeServer(page, { models, replies: [streamOf('Once upon', { finish: 'length' })] });
  await page.goto('/');
  await say(page, 'Tell');
  await expect(page.locator('.message.assistant')).toContainText('the context is full');
  await expect(page.getByRole('button', { name: 'Continue' })).toHaveCount(0);
});

test('says in plain words what the server refused', async ({ page }) => {
  const error = (status: number, message: string, code?: string) => ({ status, json: { error: { message, code } } });
  const replies = [
    error(400, '9 tokens, 4 fit', 'context_length_exceeded'), error(503, 'queue full'), error(500, 'boom'),
    error(400, 'temperature: wrong'),
  ];
  await fakeServer(page, { replies });
  await page.goto('/');
  await say(page, 'Hi');
  const failed = page.locator('.message.assistant .failed');
  for (const words of [/no longer fits.*9 tokens, 4 fit/, /try again in a moment/, /failed: boom/, /refused this: temp/]) {
    await expect(failed).toContainText(words);
    await failed.getByRole('button', { name: 'Try again' }).click();
  }
});

test('tells of a lost connection', async ({ page }) => {
  await fakeServer(page, { replies: [{ events: [{ choices: [{ delta: { content: 'par' } }] }, null] }] });
  await page.goto('/');
  await say(page, 'Hi');
  await expect(page.locator('.toast.error')).toContainText('connection to the server was lost');
});

test('waits while the server is busy', async ({ page }) => {
  const busy = { status: 503, headers: { 'Retry-After': '1' }, json: { error: { message: 'queue full' } } };
  await fakeServer(page, { replies: [busy, streamOf('at last')] });
  await page.goto('/');
  await page.getByRole('textbox', input).fill('Hi');
  await page.keyboard.press('Enter');
  await expect(page.getByText(/The server is busy/)).toBeVisible();
  await expect(page.locator('.message.assistant')).toContainText('at last');
});

test('shows how far the server is with loading', async ({ page }) => {
  let looks = 0;
  await fakeServer(page, {
    health: () =>
      ++looks < 3
        ? { status: 503, body: { error: { message: 'loading' }, status: 'loading', progress: 0.42 } }
        : { status: 200, body: { status: 'ok' } },
  });
  await page.goto('/');
  await expect(page.getByText('42 %')).toBeVisible();
  await expect(page.getByText('The server is loading the model.')).toBeHidden();
  await expect(page.locator('.model')).toHaveText('demo-moe');
});

test('asks for a key, keeps it and goes on', async ({ page }) => {
  await fakeServer(page, { key: 'secret' });
  await page.goto('/');
  const dialog = page.getByRole('dialog', { name: 'API key' });
  await dialog.getByLabel('API key').fill('wrong');
  await page.keyboard.press('Enter');
  await expect(dialog).toContainText('did not accept');
  await dialog.getByLabel('API key').fill('secret');
  await page.keyboard.press('Enter');
  await expect(page.locator('.model')).toHaveText('demo-moe');
  await say(page, 'Hi');
  await expect(page.locator('.message.assistant')).toContainText('Hello there.');
  await page.reload();
  await expect(page.locator('.model')).toHaveText('demo-moe');
});

test('follows the text until the user scrolls up', async ({ page }) => {
  await fakeServer(page, { replies: [streamOf('line\n\n'.repeat(150), { delay: 15 })] });
  await page.goto('/');
  await page.getByRole('textbox', input).fill('Long');
  await page.keyboard.press('Enter');
  const thread = page.locator('.thread');
  const fromEnd = (): Promise<number> => thread.evaluate((e) => e.scrollHeight - e.clientHeight - e.scrollTop);
  await expect.poll(() => thread.evaluate((e) => e.scrollTop)).toBeGreaterThan(100);
  expect(await fromEnd()).toBeLessThan(60);
  await thread.hover();
  await page.mouse.wheel(0, -200);
  await expect.poll(fromEnd).toBeGreaterThan(100);
  const top = await thread.evaluate((e) => e.scrollTop);
  await page.waitForTimeout(400);
  expect(await thread.evaluate((e) => e.scrollTop)).toBe(top);
  await page.getByRole('button', { name: 'To the newest message' }).click();
  await page.waitForTimeout(300);
  expect(await fromEnd()).toBeLessThan(60);
});

test('Enter of an input method does not send', async ({ page }) => {
  await fakeServer(page);
  await page.goto('/');
  const field = page.getByRole('textbox', input);
  await field.fill('你好');
  await field.evaluate((e) => {
    e.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }));
  });
  await page.keyboard.press('Shift+Enter');
  await expect(field).toHaveValue('你好\n');
  await expect(page.locator('.message')).toHaveCount(0);
});

test('shows the placement, folded and live', async ({ page }) => {
  let looks = 0;
  await fakeServer(page);
  await page.route('/placement', (route) => {
    looks += 1;
    return route.fulfill({ json: { modules: MODULES } });
  });
  await page.goto('/');
  await page.getByRole('button', { name: 'Placement' }).click();
  await expect(page.getByRole('row', { name: /^lm_head/ })).toContainText('every step reads it');
  await expect(page.getByRole('row', { name: /experts/ })).toHaveCount(0);
  await page.getByRole('button', { name: 'Unfold model.layers.0', exact: true }).click();
  await page.getByRole('button', { name: 'Unfold model.layers.0.mlp', exact: true }).click();
  await expect(page.getByRole('row', { name: /^experts/ })).toContainText('CpuExperts');
  await expect(page.getByRole('list', { name: 'Devices' })).toContainText('cpu');
  await expect.poll(() => looks, { timeout: 6000 }).toBeGreaterThan(1);
  await page.getByRole('button', { name: 'Back to the chat' }).click();
  await expect(page.getByRole('textbox', input)).toBeFocused();
});

test('speaks Chinese', async ({ page }) => {
  await fakeServer(page);
  await page.goto('/');
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByLabel('Language').selectOption('中文');
  await expect(page.getByRole('dialog', { name: '设置' })).toBeVisible();
  await expect(page.locator('html')).toHaveAttribute('lang', 'zh-CN');
});
