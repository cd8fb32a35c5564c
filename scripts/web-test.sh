#!/usr/bin/env bash
# The web application's own checks and tests; nothing to do while there is none.
set -euo pipefail
cd "$(dirname "$0")"
./web-build.sh
cd ../web 2>/dev/null || exit 0
[ -f package.json ] || exit 0
npm run --silent --if-present check
npm test --silent
# What only a browser can tell: looks, axe, the Content-Security-Policy.
if [ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || [ -x /usr/bin/google-chrome ]; then
  npm run --silent test:browser
else
  echo "No Chromium here (apt-get install chromium): the page's browser tests are skipped"
fi
