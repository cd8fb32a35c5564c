#!/usr/bin/env bash
# Builds the page (web/dist), unless it is newer than everything it is made of. `web-build.sh optional`: or unless there is
# no npm.
set -euo pipefail
cd "$(dirname "$0")/../web" 2>/dev/null || exit 0
[ -f package.json ] || exit 0
command -v npm >/dev/null || [ "${1:-}" != optional ] || exit 0
command -v npm >/dev/null || {
  echo "Please install: Node.js 20 or newer, with npm" >&2
  exit 1
}
# Installed once for each lock file.
if ! cmp -s package-lock.json node_modules/.installed-lock.json; then
  npm ci --no-audit --no-fund --loglevel=error
  cp package-lock.json node_modules/.installed-lock.json
fi
if [ -z "$(find . -path ./node_modules -prune -o -path ./dist -prune -o -newer dist/index.html -print -quit 2>&1)" ]; then
  exit 0
fi
npm run --silent build
