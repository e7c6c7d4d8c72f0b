/** Against the API of the server itself, whatever its model says. */
import { expect, test } from '@playwright/test';
import { say } from './fake_server';

test('a real reply comes with its numbers', async ({ page }) => {
  await page.goto('/');
  await expect(page.locator('.model')).not.toBeEmpty();
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByLabel('Most tokens of a reply').fill('24');
  await page.getByLabel('Seed').fill('1');
  await page.keyboard.press('Escape');
  await say(page, 'Tell me a story.');
  const reply = page.locator('.message.assistant');
  await expect(reply.locator('.failed')).toHaveCount(0);
  await expect(reply.locator('.numbers')).toContainText(/[\d.]+ tokens\/s · \d+ tokens/);
  await expect(reply.getByRole('meter')).toBeVisible();

  const begun = await reply.locator('.markdown').last().textContent();
  await reply.getByRole('button', { name: 'Continue' }).click();
  await expect(reply.locator('.numbers')).toContainText('48 tokens');
  const whole = await reply.locator('.markdown').last().textContent();
  expect(whole!.length).toBeGreaterThan(begun!.length);
  expect(whole!.slice(0, 40)).toBe(begun!.slice(0, 40));
  await expect(page.locator('.toast.error')).toHaveCount(0);
});

test('the placement of the real model is shown', async ({ page }) => {
  await page.goto('/');
  await page.getByRole('button', { name: 'Placement' }).click();
  await expect(page.locator('.modules tbody tr').first()).toBeVisible();
  await page.getByRole('button', { name: 'Unfold all' }).click();
  await expect(page.locator('.modules tbody')).toContainText('model');
  await expect(page.getByRole('list', { name: 'Devices' }).locator('li').first()).toBeVisible();
});

test('the page at /web/ is the same', async ({ page }) => {
  await page.goto('/web/');
  await expect(page.getByRole('textbox', { name: 'Message', exact: true })).toBeFocused();
});
