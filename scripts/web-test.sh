#!/usr/bin/env bash
# The web application's own checks and tests; nothing to do while there is none.
set -euo pipefail
cd "$(dirname "$0")/../web" 2>/dev/null || exit 0
[ -f package.json ] || exit 0
command -v npm >/dev/null || { echo "Please install: Node.js 20 or newer, with npm" >&2; exit 1; }
# Installed once for each lock file.
if ! cmp -s package-lock.json node_modules/.installed-lock.json; then
  npm ci --no-audit --no-fund --loglevel=error
  cp package-lock.json node_modules/.installed-lock.json
fi
npm run --silent --if-present check
npm run --silent build
npm test --silent
