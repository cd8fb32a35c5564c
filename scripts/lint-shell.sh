#!/usr/bin/env bash
# Checks every shell script with shellcheck, and its format with shfmt, which reads .editorconfig. `lint-shell.sh fix` formats
# them. shfmt finds scripts by their name or their first line.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in shellcheck shfmt; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is missing: run scripts/packages.sh, or apt-get install $program" >&2
    exit 1
  fi
done
mapfile -t scripts < <(shfmt -f .ci crates deploy scripts)
if [ ${#scripts[@]} -eq 0 ]; then
  echo "shfmt finds no shell script" >&2
  exit 1
fi
if [ "${1:-}" = fix ]; then
  exec shfmt -w "${scripts[@]}"
fi
shfmt -d "${scripts[@]}"
shellcheck "${scripts[@]}"
