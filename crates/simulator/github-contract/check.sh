#!/usr/bin/env bash
# Holds the simulator's REST answers against GitHub's own OpenAPI description, by Prism in proxy mode.
# Needs Node 20 or newer and npm. BINARIES=folder uses those binaries instead of building.
set -euo pipefail
cd "$(dirname "$0")"

if [ -z "${BINARIES:-}" ]; then
    cd ../../..
    # As `make build` does: the same features, so nothing is built twice.
    cargo build --quiet --workspace --all-targets --locked
    BINARIES=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
    cd - >/dev/null
fi

# npm keeps a copy of the lock it installed from; only a changed one is installed again.
if ! node installed.mjs; then
    npm ci --silent --no-audit --no-fund
fi
exec node check.mjs "$BINARIES"
