import { existsSync } from 'node:fs';
import { defineConfig } from '@playwright/test';

/** A browser that is installed; Playwright's own is used where there is none (`npx playwright install chromium`). */
const installed = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find(
  (path) => path !== undefined && existsSync(path),
);
const port = 4600 + (process.pid % 400);
const reused = process.env.E2E_PORT;
process.env.E2E_PORT ??= String(port);

export default defineConfig({
  testDir: 'e2e',
  fullyParallel: true,
  workers: 2,
  reporter: process.env.CI ? 'line' : 'list',
  use: {
    baseURL: `http://127.0.0.1:${process.env.E2E_PORT}`,
    launchOptions: {
      ...(installed && { executablePath: installed }),
      // Chromium refuses its sandbox to root, which is what containers run as.
      args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
    },
  },
  webServer: {
    command: `npx vite preview --host 127.0.0.1 --strictPort --port ${process.env.E2E_PORT}`,
    url: `http://127.0.0.1:${process.env.E2E_PORT}`,
    reuseExistingServer: reused !== undefined,
  },
});
