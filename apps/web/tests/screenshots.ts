/** Writes page-{desktop,phone}-{light,dark}.png and page-tools.png into KT_IMAGES (default: docs/images of this tree). */
import { join } from 'node:path';
import { test } from '@playwright/test';
import { fakeServer, say, streamOf, streamOfCalls } from './fake_server';
import { CALLS, REPLY, THOUGHTS } from './samples';

const FOLDER = process.env.KT_IMAGES ?? join(__dirname, '../../../docs/images');
const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ['light', 'dark'] as const) {
    test(`${size}, ${colorScheme}`, async ({ page }) => {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const reply = streamOf(REPLY, { thoughts: THOUGHTS, delay: 50 });
      await fakeServer(page, { replies: [streamOf('Of course.'), streamOf('Of course.'), reply] });
      await page.goto('/');
      for (const text of ['Plan a week of walks', 'What does NUMA change?']) {
        await say(page, text);
        await page.keyboard.press('Control+Shift+O');
      }
      await say(page, 'Why may the experts stay in memory?');
      await page.locator('.thread').evaluate((thread) => (thread.scrollTop = 0));
      await page.waitForTimeout(300);
      await page.screenshot({ path: join(FOLDER, `page-${size}-${colorScheme}.png`) });
    });
  }
}

test('tools', async ({ page }) => {
  await page.setViewportSize({ width: 1000, height: 860 });
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' });
  await fakeServer(page, { replies: [streamOfCalls(CALLS, { text: 'I look up the weather and the trains.' })] });
  await page.goto('/');
  await say(page, 'Is it worth going to Lyon tomorrow?');
  await page.locator('.call summary').first().click();
  await page.getByLabel('Result of get_weather').fill('{"sky": "clear", "degrees": 4}');
  await page.waitForTimeout(300);
  await page.screenshot({ path: join(FOLDER, 'page-tools.png') });
});
