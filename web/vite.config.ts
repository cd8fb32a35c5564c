import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

/** Where `npm run dev` sends API calls: a repo-mapping service. */
const service = process.env.REPO_MAPPING_URL ?? 'http://127.0.0.1:8004';

/** The policy the page is written for; repo-mapping or the reverse proxy may send it as it is. */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

export default defineConfig({
  plugins: [react()],
  build: {
    // Everything as files of our own: inlined assets would need `data:` in the policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 800,
  },
  server: { proxy: { '/api': service, '/repositories': service } },
  preview: { headers: { 'Content-Security-Policy': contentSecurityPolicy } },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.{ts,tsx}'],
    setupFiles: ['test/setup.ts'],
    css: false,
    // Above the deadline of a single wait (test/setup.ts).
    testTimeout: 30_000,
    // Primer imports its style sheets from JavaScript, which only the bundler understands.
    server: { deps: { inline: [/@primer\/react/] } },
  },
});
