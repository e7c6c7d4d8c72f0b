import { readFile } from 'node:fs/promises';
import { expect, test } from '@playwright/test';
import { fakeServer, say, streamOf } from './fake_server';

test.beforeEach(async ({ page }) => {
  await fakeServer(page);
  await page.goto('/');
  for (const text of ['Tell me of **cats**', 'And of dogs']) {
    await page.getByRole('button', { name: 'New chat' }).click();
    await say(page, text);
  }
});

test('are named, listed, kept, renamed and searched', async ({ page }) => {
  const titles = page.locator('.entry .title');
  await expect(titles).toHaveText(['And of dogs', 'Tell me of cats']);
  await page.getByRole('button', { name: 'Rename “Tell me of cats”' }).click();
  await page.keyboard.type('Felines');
  await page.keyboard.press('Enter');
  await expect(titles).toHaveText(['And of dogs', 'Felines']);
  await page.reload();
  await expect(titles).toHaveText(['And of dogs', 'Felines']);
  await page.keyboard.press('Control+k');
  await page.keyboard.type('cats hello');
  await expect(titles).toHaveText(['Felines']);
  await titles.click();
  await expect(page.locator('.message.user')).toContainText('Tell me of **cats**');
});

test('are deleted after a question', async ({ page }) => {
  const remove = page.getByRole('button', { name: 'Delete “And of dogs”' });
  await remove.click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
  await expect(page.locator('.entry')).toHaveCount(2);
  await remove.click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete', exact: true }).click();
  await expect(page.locator('.entry')).toHaveCount(1);
  await expect(page.locator('.message')).toHaveCount(0);
  await page.reload();
  await expect(page.locator('.entry')).toHaveCount(1);
});

test('go out to a file and come back', async ({ page }) => {
  await page.getByRole('button', { name: 'Settings' }).first().click();
  const [file] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Export conversations' }).click(),
  ]);
  const exported = await readFile((await file.path())!);
  expect(JSON.parse(exported.toString()).conversations).toHaveLength(2);
  await page.getByRole('button', { name: 'Delete all conversations' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete', exact: true }).click();
  await expect(page.locator('.entry')).toHaveCount(0);
  const upload = { name: 'x.json', mimeType: 'application/json', buffer: exported };
  await page.locator('#import-file').setInputFiles(upload);
  await expect(page.locator('.entry .title')).toHaveText(['And of dogs', 'Tell me of cats']);
  await page.locator('#import-file').setInputFiles({ ...upload, buffer: Buffer.from('{}') });
  await expect(page.locator('.toast.error')).toContainText('not an export');
});

test('appear in other tabs', async ({ page, context }) => {
  const other = await context.newPage();
  await fakeServer(other);
  await other.goto('/');
  await expect(other.locator('.entry')).toHaveCount(2);
  await page.getByRole('button', { name: 'New chat' }).click();
  await say(page, 'Third');
  await expect(other.locator('.entry .title').first()).toHaveText('Third');
});

test('a reply goes on while another conversation is open', async ({ context }) => {
  const page = await context.newPage();
  await fakeServer(page, { replies: [streamOf(`${'word '.repeat(60)}end`, { delay: 30 }), streamOf('short')] });
  await page.goto('/');
  await page.locator('#input').fill('Long');
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('word');
  await page.getByRole('button', { name: 'New chat' }).click();
  await say(page, 'Other');
  await expect(page.locator('.message.assistant')).toContainText('short');
  await page.getByRole('button', { name: 'Long', exact: true }).click();
  await expect(page.locator('.message.assistant')).toContainText('end');
  await expect(page.locator('.message.assistant .numbers')).toBeVisible();
});
