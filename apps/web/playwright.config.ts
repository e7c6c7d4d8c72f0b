import { existsSync } from 'node:fs';
import { defineConfig } from '@playwright/test';

const DEFAULT_URL = 'http://127.0.0.1:10002';
const PROGRAMS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

// Browser tests against a running server (KT_WEB_URL). The browser is the system's; KT_CHROMIUM names another.
export default defineConfig({
  testDir: 'tests',
  outputDir: 'test-results',
  workers: 1,
  timeout: 120_000,
  expect: { timeout: 30_000 }, // a slow machine is no failure
  reporter: 'list',
  projects: [
    { name: 'page', testMatch: '*.spec.ts' },
    { name: 'images', testMatch: 'screenshots.ts' },
  ],
  use: {
    baseURL: process.env.KT_WEB_URL ?? DEFAULT_URL,
    locale: 'en-US',
    launchOptions: {
      executablePath: process.env.KT_CHROMIUM ?? PROGRAMS.find((path) => existsSync(path)),
      args: ['--no-sandbox', '--disable-dev-shm-usage'],
    },
  },
});
