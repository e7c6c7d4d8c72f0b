import { expect, test, type Page } from '@playwright/test';
import { fakeServer, say, streamOf } from './fake_server';
import { HOSTILE, MODULES, REPLY, THOUGHTS } from './samples';

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Walks through every view with content that would like to reach out. */
async function tour(page: Page, path: string): Promise<void> {
  await fakeServer(page, {
    modules: MODULES,
    replies: [streamOf(HOSTILE, { thoughts: HOSTILE }), streamOf(REPLY, { thoughts: THOUGHTS })],
  });
  await page.goto(path);
  await say(page, HOSTILE);
  await page.getByText(/Thought for/).click();
  await page.getByRole('textbox', { name: 'Message', exact: true }).fill('Explain');
  await page.getByRole('button', { name: 'Send' }).click();
  await expect(page.locator('.numbers')).toHaveCount(2);
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Placement' }).click();
  await expect(page.getByRole('row', { name: /^lm_head/ })).toBeVisible();
  await page.getByRole('button', { name: 'Back to the chat' }).click();
}

for (const path of ['/', '/web/']) {
  test(`${path}: no request leaves the host`, async ({ page, baseURL }) => {
    const requests: string[] = [];
    page.on('request', (request) => requests.push(request.url()));
    await tour(page, path);
    expect(requests.length).toBeGreaterThan(3);
    const origin = new URL(baseURL!).origin;
    expect(requests.filter((url) => !url.startsWith(`${origin}/`) && !url.startsWith('data:'))).toEqual([]);
  });

  test(`${path}: the content policy is strict and nothing breaks it`, async ({ page }) => {
    const problems: string[] = [];
    await page.exposeFunction('reportViolation', (what: string) => problems.push(what));
    await page.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI, sample }) =>
        (window as any).reportViolation(`${violatedDirective} ${blockedURI} ${sample}`),
      );
    });
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text());
    });
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('dialog', (dialog) => problems.push(dialog.message()));
    await tour(page, path);
    expect(problems).toEqual([]);
    const served = await page.request.get(path, { headers: { accept: 'text/html' } });
    expect(served.headers()['content-security-policy']).toBe(POLICY);
    // The policy is in force, or the list above would be empty for no reason.
    await page.evaluate(() => document.body.insertAdjacentHTML('beforeend', '<p style="color: red">x</p>'));
    await expect.poll(() => problems.length).toBeGreaterThan(0);
  });
}

test('the whole page is at most 400 KiB as it is sent', async ({ page }) => {
  await fakeServer(page);
  await page.goto('/');
  await page.locator('#input').waitFor();
  const sizes = await page.evaluate(() =>
    [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
      .map((entry) => (entry as PerformanceResourceTiming).encodedBodySize),
  );
  const total = sizes.reduce((sum, size) => sum + size, 0);
  expect(sizes.filter((size) => size > 0).length).toBeGreaterThanOrEqual(3);
  expect(total).toBeLessThanOrEqual(400 * 1024);
});
