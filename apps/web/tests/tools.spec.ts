import { expect, test, type Page } from '@playwright/test';
import { chatRequests, fakeServer, say, streamOf, streamOfCalls } from './fake_server';

const DEFINITION = { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } };
const CALLS = ['Paris', 'Rome'].map((city) => ({ name: 'get_weather', arguments: { city } }));

async function define(page: Page, source: string, use?: string): Promise<void> {
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByLabel('Definitions').fill(source);
  if (use) await page.getByLabel('Use of tools').selectOption(use);
  await page.keyboard.press('Escape');
}

test('a user answers the calls of a model by hand', async ({ page, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const replies = [streamOfCalls(CALLS, { text: 'I look.' }), streamOf('Sunny.'), streamOf('Rainy.')];
  await fakeServer(page, { replies });
  await page.goto('/');
  await define(page, JSON.stringify([DEFINITION]));
  await expect(page.getByText('Tools sent with each message: get_weather')).toBeVisible();
  await say(page, 'Weather?');
  const call = page.locator('.message.assistant .call').first();
  await expect(call.locator('pre')).toBeHidden();
  await call.locator('summary').click();
  await expect(call.locator('pre')).toHaveText('{\n  "city": "Paris"\n}');
  await call.getByRole('button', { name: 'Copy' }).click();
  expect(JSON.parse(await page.evaluate(() => navigator.clipboard.readText()))).toEqual({ city: 'Paris' });

  await page.getByLabel('Result of get_weather').first().fill('{"sky": "clear"}');
  await page.getByLabel('Result of get_weather').last().fill('sun');
  await page.getByRole('button', { name: 'Send results' }).click();
  await expect(page.locator('.message.assistant').last()).toContainText('Sunny.');
  const [first, second] = await chatRequests(page);
  expect(first.tools).toEqual([{ type: 'function', function: DEFINITION }]);
  expect(first).not.toHaveProperty('tool_choice');
  expect(second.messages.slice(1)).toEqual([
    {
      role: 'assistant', content: 'I look.',
      tool_calls: ['Paris', 'Rome'].map((city, index) => ({
        id: `call_${index}`, type: 'function', function: { name: 'get_weather', arguments: JSON.stringify({ city }) },
      })),
    },
    { role: 'tool', tool_call_id: 'call_0', content: '{"sky": "clear"}' },
    { role: 'tool', tool_call_id: 'call_1', content: 'sun' },
  ]);

  const given = page.locator('.message.tool');
  await given.getByRole('button', { name: 'Edit' }).click();
  await expect(page.getByLabel('Result of get_weather').first()).toHaveValue('{"sky": "clear"}');
  await page.getByLabel('Result of get_weather').last().fill('rain');
  await page.keyboard.press('Control+Enter');
  await expect(page.locator('.message.assistant').last()).toContainText('Rainy.');
  expect((await chatRequests(page))[2].messages[3].content).toBe('rain');
  await given.getByRole('button', { name: 'Previous version' }).click();
  await expect(page.locator('.message.assistant').last()).toContainText('Sunny.');

  await page.reload();
  await page.locator('.entry .title').click();
  await expect(page.locator('.message.assistant .call')).toHaveCount(2);
  await expect(page.locator('.message.assistant').last()).toContainText('Sunny.');
});

test('calls show while they are written', async ({ page }) => {
  const slow = streamOfCalls([{ name: 'save', arguments: { text: 'word '.repeat(60) } }], { delay: 30 });
  await fakeServer(page, { replies: [slow] });
  await page.goto('/');
  await page.locator('#input').fill('Go');
  await page.keyboard.press('Enter');
  await page.getByText('Calling save').click();
  await expect(page.locator('.call pre')).toContainText('{"text":"word word');
  await expect(page.getByRole('button', { name: 'Send results' })).toHaveCount(0);
  await page.keyboard.press('Escape');
  await expect(page.getByText('Tool call save')).toBeVisible();
  await expect(page.getByText('no JSON object')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Send results' })).toHaveCount(0);
  await expect(page.getByRole('button', { name: 'Continue' })).toHaveCount(0);
});

test('definitions with an error are told of and not sent', async ({ page }) => {
  await fakeServer(page);
  await page.goto('/');
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByRole('button', { name: 'Insert an example' }).click();
  const field = page.getByLabel('Definitions');
  await expect(field).toHaveValue(/get_weather/);
  await expect(field).toHaveAttribute('aria-invalid', 'false');
  await field.fill('[{"name": "a"}, {"parameters": {}}]');
  await expect(page.getByText('Tool 2 has no “name”.')).toBeVisible();
  await expect(field).toHaveAttribute('aria-invalid', 'true');
  await page.keyboard.press('Escape');
  await expect(page.getByText(/No tools are sent/)).toBeVisible();
  await say(page, 'Hi');
  expect((await chatRequests(page))[0]).not.toHaveProperty('tools');
});

test('a call may be required, and tools switched off', async ({ page }) => {
  await fakeServer(page, { replies: [streamOfCalls(CALLS.slice(0, 1)), streamOf('Done.')] });
  await page.goto('/');
  await define(page, JSON.stringify(DEFINITION), 'A call before each answer');
  await say(page, 'Weather?');
  await page.getByRole('button', { name: 'Send results' }).click();
  await expect(page.locator('.message.assistant').last()).toContainText('Done.');
  await define(page, JSON.stringify(DEFINITION), 'Off');
  await say(page, 'And now?');
  const requests = await chatRequests(page);
  expect(requests.map((request) => request.tool_choice)).toEqual(['required', undefined, undefined]);
  expect(requests.map((request) => 'tools' in request)).toEqual([true, true, false]);
});
