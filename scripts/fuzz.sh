#!/usr/bin/env bash
# fuzz.sh [INPUTS] [TARGET...]: runs the fuzz targets of crates/fuzz, one after the other and at low priority, with so many inputs each
# (10 million), and prints a line for the table in docs/development.md per target. Needs a nightly toolchain, and node. An input that
# fails is kept in crates/fuzz/fuzz/artifacts, and the next target is run.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/cargo-tool.sh
source scripts/cargo-tool.sh
cargo_tool cargo-fuzz 0.13.2

inputs=${1:-10000000}
shift || true
cd crates/fuzz
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml && echo container_options)

failed=()
for target in "${targets[@]}"; do
  log=$(mktemp)
  begun=$SECONDS
  if [ "$target" = container_options ]; then
    nice -n 19 node container-options.js "$inputs" 1 >"$log" 2>&1 || failed+=("$target")
    coverage=-
  else
    mkdir -p "fuzz/corpus/$target"
    nice -n 19 cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "seeds/$target" -- \
      -runs="$inputs" -max_len=4096 -timeout=10 -rss_limit_mb=1024 >"$log" 2>&1 || failed+=("$target")
    coverage=$(sed -nE 's/^#([0-9]+)[[:space:]]+DONE[[:space:]]+cov: ([0-9]+).*/\1 inputs, \2 edges/p' "$log")
  fi
  echo "| \`$target\` | $inputs | $((SECONDS - begun)) | ${coverage:-see $log} |"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
