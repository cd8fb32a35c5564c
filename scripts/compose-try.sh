#!/usr/bin/env bash
# Tries docker-compose.yml with Docker: its own project, .env, port and volumes, which are gone at the end. It builds the images
# first. What it looks at is in docs/compose.md. usage: compose-try.sh [PORT]
set -euo pipefail
cd "$(dirname "$0")/.."
port=${1:-18080}
url=http://127.0.0.1:$port
folder=$(mktemp -d)
export COMPOSE_PROJECT_NAME=gha-slurm-try

compose() { docker compose --env-file "$folder/.env" --profile demo "$@"; }
say() { printf '%s %s\n' "$(date +%T)" "$*"; }
fail() {
  say "FAILED: $*" >&2
  compose ps --all >&2
  compose logs --no-color --tail 20 >&2
  exit 1
}
trap 'compose down --volumes --timeout 5 >/dev/null 2>&1; rm -rf "$folder"' EXIT

# until_true SECONDS WHAT COMMAND…
until_true() {
  local give_up_at=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < give_up_at)) || fail "not in time: $what"
    sleep 0.5
  done
}

services=(proxy webhook-ingest launcher token-broker repo-mapping postgres rabbitmq simulator slurm-agent)
is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$(compose ps --quiet "$1")")" = healthy ]; }
all_healthy() {
  local service
  for service in "${services[@]}"; do
    until_true 120 "$service is healthy" is_healthy "$service"
  done
  say "all ${#services[@]} are healthy"
}
api() { curl -sS --fail-with-body -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "$@"; }
simulator() { compose exec -T simulator curl -sS --fail-with-body -H 'Content-Type: application/json' "http://127.0.0.1:8090/simulator$1" "${@:2}"; }
succeeded() { api "$url/api/builds/$1" | jq -e '.build | .state == "completed" and .conclusion == "success"'; }
queue() {
  simulator /workflow-jobs --data '{"repository": "octo-org/demo", "labels": ["self-hosted", "slurm"], "script": "echo hello"}' | jq .id
}
build() {
  local id
  id=$(queue)
  until_true 120 "workflow job $id is completed, with success" succeeded "$id"
  say "workflow job $id: completed, success"
}
# Its process, as a crash ends it: `docker kill` would count as a wish.
kill_process() {
  local id
  id=$(compose ps --quiet "$1")
  kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$id")"
  until_true 60 "$1 is started again" was_restarted "$id"
  say "$1: killed with signal 9, started again"
}
was_restarted() { [ "$(docker inspect --format '{{.RestartCount}} {{.State.Running}}' "$1")" = '1 true' ]; }

[ "$(id -u)" = 0 ] || {
  echo "must be root: it kills processes in containers" >&2
  exit 1
}
mkdir "$folder/scripts" && cp scripts/env.sh "$folder/scripts/" && "$folder/scripts/env.sh"
sed -i "s/^HTTP_PORT=.*/HTTP_PORT=$port/" "$folder/.env"
token=$(sed -n 's/^ADMINISTRATOR_TOKEN=//p' "$folder/.env")

# --- without .env, it says what to do ---
if message=$(docker compose --env-file /dev/null config 2>&1); then fail "it needs no .env"; fi
grep -q 'run make env' <<<"$message" || fail "without .env: $message"
say "without .env: ${message##*services.}"

compose build --quiet
say "built:"
docker image ls --format '{{.Repository}} {{.Size}}' --filter 'reference=gha-slurm/*' | sed 's/^/  /'
compose up --detach >/dev/null 2>&1 || fail "up"
all_healthy

# --- what containers may do ---
published=$(compose ps --format '{{.Ports}}' | grep -o '[0-9.:]*->[0-9]*' | sort -u)
[ "$published" = "127.0.0.1:$port->8080" ] || fail "published: $published"
say "published: $published"
for service in "${services[@]}"; do
  id=$(compose ps --quiet "$service")
  pid=$(docker inspect --format '{{.State.Pid}}' "$id")
  read -r user capabilities < <(awk '/^Uid:/ { u = $2 } /^CapEff:/ { c = $2 } END { print u, c }' "/proc/$pid/status")
  say "  $service: user $user, capabilities $capabilities, privileged $(docker inspect --format '{{.HostConfig.Privileged}}' "$id")"
  [ "$user" != 0 ] || fail "$service runs as root"
done
key=$(compose exec -T launcher sh -c 'cat /var/lib/gha-slurm/keys/*.key.pem' | head -1)
[ "$key" = '-----BEGIN PRIVATE KEY-----' ] || fail "the launcher cannot read its key"
if compose exec -T token-broker sh -c 'cat /var/lib/gha-slurm/keys/*.key.pem' >/dev/null 2>&1; then
  fail "token-broker can read the launcher's key"
fi
say "the private launch-token key: readable to the launcher, not to token-broker"
# shellcheck source=/dev/null
compose exec -T token-broker cat /run/secrets/github-private-key |
  cmp - <(. "$folder/.env" && printf %s "$GITHUB_PRIVATE_KEY") || fail "the App's key arrives changed"
say "the App's private key arrives line by line as it is in .env"
files=$(compose exec -T repo-mapping ls /run/secrets | xargs)
[ "$files" = 'administrator-token repo-mapping-database-url service-token' ] || fail "repo-mapping has $files"
say "repo-mapping has neither the App's key nor the owner's password: $files"

# --- builds ---
api --data '["octo-org/demo"]' "$url/repositories/demo" >/dev/null
build
kill_process rabbitmq
all_healthy
build
for service in webhook-ingest launcher token-broker repo-mapping proxy slurm-agent; do
  kill_process "$service"
done
all_healthy
build
kill_process postgres
all_healthy
build

# --- another key ---
compose run --rm --entrypoint gha-slurm keys keys rotate --dir /var/lib/gha-slurm/keys >/dev/null 2>&1 || fail "rotate"
compose restart launcher >/dev/null 2>&1
all_healthy
say "launch-token keys: $(compose exec -T token-broker ls /var/lib/gha-slurm/keys | xargs)"
build

# --- the proxy ---
script=$(curl -sS "$url/" | grep -o '/assets/[^"]*\.js' | head -1)
curl -sS --fail --output /dev/null "$url$script" || fail "the page's script"
say "the page: $script"
for megabytes in 25 27 28; do
  head -c "${megabytes}000000" /dev/zero >"$folder/body"
  answer=$(curl -sS -w ' %{http_code} %{content_type}' -H 'Content-Type: application/json' -H 'X-GitHub-Event: workflow_job' \
    -H "X-GitHub-Delivery: $(cat /proc/sys/kernel/random/uuid)" -H "X-Hub-Signature-256: sha256=$(printf '0%.0s' {1..64})" \
    --data-binary "@$folder/body" "$url/api/github/webhooks")
  [[ $answer == *' application/problem+json' ]] || fail "$megabytes MB: $answer"
  say "a webhook of $megabytes MB that nobody signed: $answer"
done
compose stop repo-mapping >/dev/null 2>&1
answer=$(curl -sS -w ' %{http_code} %{content_type}' "$url/api/builds")
[[ $answer == *'"code":"unavailable"'*' 503 application/problem+json' ]] || fail "without repo-mapping: $answer"
say "without repo-mapping: $answer"
compose start repo-mapping >/dev/null 2>&1
all_healthy

# --- another start keeps the data ---
keys=$(compose exec -T token-broker ls /var/lib/gha-slurm/keys)
builds=$(api "$url/api/builds" | jq -c '[.[].workflowJobId]')
compose down >/dev/null 2>&1
say "down"
compose up --detach >/dev/null 2>&1 || fail "up again"
all_healthy
[ "$keys" = "$(compose exec -T token-broker ls /var/lib/gha-slurm/keys)" ] || fail "other keys than before"
[ "$builds" = "$(api "$url/api/builds" | jq -c '[.[].workflowJobId]')" ] || fail "other builds than before"
[ "$(api "$url/repositories/demo" | jq length)" = 1 ] || fail "the mapping is gone"
say "up again: the same keys, builds $builds, and mapping"
build
say "done"
