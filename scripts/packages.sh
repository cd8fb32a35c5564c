#!/usr/bin/env bash
# Finds PostgreSQL and RabbitMQ (their binaries: the tests start private instances of their own), or installs Debian's
# packages when root or sudo is there, or says in one line what to do.
set -euo pipefail

missing=()
have() { compgen -G "$1" >/dev/null; }
have '/usr/lib/postgresql/*/bin/initdb' || command -v initdb >/dev/null || missing+=(postgresql)
have '/usr/lib/rabbitmq/bin/rabbitmq-server' || missing+=(rabbitmq-server)
command -v jq >/dev/null || missing+=(jq)
command -v curl >/dev/null || missing+=(curl)
command -v cc >/dev/null || missing+=(build-essential)
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=(sudo -n)
  else
    echo "Please install: apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
# Only the programs are wanted: no cluster of the system's own shall be created or started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
