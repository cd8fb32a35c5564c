#!/usr/bin/env bash
# Audits dependencies and GitHub workflows. Tools that are missing are installed into target/audit.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/cargo-tool.sh
source scripts/cargo-tool.sh

# python_tools REQUIREMENT...: installs them into a virtual environment.
python_tools() {
  if [ "$(cat "$tools/python.requirements" 2>/dev/null)" = "$*" ]; then return; fi
  echo "installing $*"
  if ! python3 -m venv --clear "$tools/python" 2>/dev/null; then
    echo "Please install: apt-get install python3-venv" >&2
    exit 1
  fi
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check "$@"
  echo "$*" >"$tools/python.requirements"
}

mkdir -p "$tools"
python_tools check-jsonschema==0.39.0 zizmor==1.32.0
cargo_tool cargo-machete 0.9.2
cargo_tool cargo-deny 0.20.2

failed=()
# check COMMAND...: goes on after a failure, so that one run shows all findings.
check() {
  echo "--- ${1##*/} ${*:2}"
  "$@" || failed+=("${1##*/}")
}
python=$tools/python/bin
check "$python/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
check "$python/check-jsonschema" --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
check "$python/check-jsonschema" --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
check "$python/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml
check "$python/zizmor" --offline --no-progress --strict-collection --persona pedantic .github
check cargo-machete crates
check cargo-deny --locked check bans licenses sources
# No failure: a digest can be looked up only where the registry can be reached.
echo "--- images"
scripts/pin-images.sh check || true
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  check cargo-deny --locked check advisories
else
  echo "--- advisories were not checked: https://github.com/RustSec/advisory-db cannot be reached"
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
