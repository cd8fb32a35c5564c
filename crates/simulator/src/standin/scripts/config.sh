#!/bin/bash
# Behaves as the real runner's config.sh does.

if [ "$(id -u)" -eq 0 ] && [ -z "$RUNNER_ALLOW_RUNASROOT" ]; then
    echo "Must not run with sudo"
    exit 1
fi

cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

if [ "$1" = "remove" ]; then
    exec ./bin/Runner.Listener "$@"
fi
exec ./bin/Runner.Listener configure "$@"
