import AxeBuilder from '@axe-core/playwright';
import { expect, test, type Page } from '@playwright/test';
import { fakeServer, say, streamOf, streamOfCalls } from './fake_server';
import { CALLS, MODULES, REPLY, THOUGHTS } from './samples';

const TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

async function expectClean(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).withTags(TAGS).analyze();
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((n) => n.html).join(' | ')}`);
  expect(found).toEqual([]);
}

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ['light', 'dark'] as const) {
    test(`${size}, ${colorScheme}: no violation in any view`, async ({ page }) => {
      test.slow();
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const failing = { status: 500, json: { error: { message: 'no luck' } } };
      const calling = streamOfCalls(CALLS, { text: 'I look it up.' });
      const replies = [streamOf(REPLY, { thoughts: THOUGHTS }), calling, streamOf('Sun.', { finish: 'length' }), failing];
      await fakeServer(page, { modules: MODULES, replies });
      await page.goto('/');
      await expectClean(page);
      await say(page, 'Explain');
      await page.getByText(/Thought for/).click();
      await say(page, 'Weather?');
      await page.locator('.call summary').first().click();
      await expectClean(page);
      await page.getByRole('button', { name: 'Send results' }).click();
      await expect(page.getByRole('button', { name: 'Continue' })).toBeVisible();
      await page.getByRole('button', { name: 'Regenerate' }).last().click();
      await expect(page.locator('.toast.error')).toBeVisible();
      await expectClean(page);
      await page.getByRole('button', { name: 'Dismiss' }).click();
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow).toBeLessThanOrEqual(0);

      await page.locator('.top').getByRole('button', { name: 'Settings' }).click();
      await page.getByLabel('Definitions').fill('{');
      await expectClean(page);
      await page.keyboard.press('Escape');
      if (size === 'phone') await page.getByRole('button', { name: 'Show conversations' }).click();
      await expectClean(page);
      await page.getByRole('button', { name: 'Delete “Explain”' }).click();
      await expectClean(page);
      await page.keyboard.press('Escape');
      await page.getByRole('button', { name: 'Placement' }).click();
      await page.getByRole('button', { name: 'Unfold all' }).click();
      await expectClean(page);
    });
  }
}

/** Presses Tab until the control with this name has the focus. */
async function tabTo(page: Page, name: RegExp | string): Promise<void> {
  for (let i = 0; i < 60; ++i) {
    await page.keyboard.press('Tab');
    const focused = await page.evaluate(() => {
      const element = document.activeElement as HTMLElement;
      return element.getAttribute('aria-label') ?? element.textContent?.trim() ?? '';
    });
    if (typeof name === 'string' ? focused === name : name.test(focused)) return;
  }
  throw new Error(`no control ${name} can be reached`);
}

test('everything works by keyboard alone', async ({ page }) => {
  await fakeServer(page, { replies: ['one', 'two', 'three'].map((text) => streamOf(text)) });
  await page.goto('/');
  await expect(page.locator('#input')).toBeFocused();
  await page.keyboard.type('First');
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('one');
  await expect(page.locator('#input')).toBeFocused();

  await page.keyboard.press('Shift+Tab');
  for (let i = 0; i < 10; ++i) {
    if ((await page.evaluate(() => document.activeElement?.textContent?.trim())) === 'Regenerate') break;
    await page.keyboard.press('Shift+Tab');
  }
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('two');

  await page.keyboard.press('Control+Shift+O');
  await expect(page.locator('.message')).toHaveCount(0);
  await expect(page.locator('#input')).toBeFocused();
  await page.keyboard.type('Second');
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('three');

  await page.keyboard.press('Control+k');
  await expect(page.locator('#search')).toBeFocused();
  await page.keyboard.type('first');
  await expect(page.locator('.entry')).toHaveCount(1);
  await tabTo(page, 'First');
  await page.keyboard.press('Enter');
  await expect(page.locator('.message.assistant')).toContainText('two');

  await page.keyboard.press('Control+k');
  await tabTo(page, /^Rename/);
  await page.keyboard.press('Enter');
  await page.keyboard.type('Named');
  await page.keyboard.press('Enter');
  await expect(page.locator('.entry .title')).toHaveText('Named');
  await expect(page.getByRole('button', { name: 'Rename “Named”' })).toBeFocused();
  await tabTo(page, /^Delete/);
  await page.keyboard.press('Enter');
  await tabTo(page, 'Delete');
  await page.keyboard.press('Enter');
  await expect(page.locator('.entry')).toHaveCount(0);

  await tabTo(page, 'Settings');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('dialog', { name: 'Settings' })).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toHaveCount(0);
});

test('the theme is the user’s choice', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'light' });
  await fakeServer(page);
  await page.goto('/');
  const background = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.getByRole('button', { name: 'Settings' }).first().click();
  await page.getByLabel('Theme').selectOption('Dark');
  const dark = await background();
  expect(dark).not.toBe(light);
  await page.reload();
  expect(await background()).toBe(dark);
});
