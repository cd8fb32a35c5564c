#!/usr/bin/env bash
# Writes .env for docker-compose.yml: new secrets, and what else the stack must be told. Never overwrites one.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -e .env ]; then
  echo ".env is there already and stays as it is"
  exit 0
fi
command -v openssl >/dev/null || {
  echo "Please install: apt-get install openssl" >&2
  exit 1
}
umask 077
secret() { openssl rand -hex 24; }
postgres=$(secret) rabbitmq=$(secret)
launcher=$(secret) token_broker=$(secret) repo_mapping=$(secret)
new=$(mktemp .env.XXXXXX)
trap 'rm -f "$new"' EXIT
cat >"$new" <<ENV
# Made by \`make env\`, for docker-compose.yml. It holds secrets: for your eyes only, and in no repository.

# Where the one port is on this machine. Whoever offers it to the world puts TLS before it.
HTTP_ADDRESS=127.0.0.1
HTTP_PORT=8080
# Whose X-Forwarded-For says who a client is: Docker's networks, where this stack's proxy is. Add that of a proxy on another machine.
TRUSTED_PROXIES=127.0.0.0/8,172.16.0.0/12

# The GitHub App. As it stands: that of the simulator (profile demo). For GitHub: https://api.github.com,
# https://github.com, the App's own id, private key and webhook secret.
GITHUB_API_URL=http://simulator:8090
GITHUB_WEB_URL=http://simulator:8090
GITHUB_APP_ID=1
GITHUB_PRIVATE_KEY="$(openssl genrsa 2048 2>/dev/null)"
WEBHOOK_SECRET=$(secret)

# The name of this deployment is part of runner names. The Slurm agent's address; as it stands, that of the profile demo.
# TOKEN_URL is this stack's one port as the compute nodes reach it.
DEPLOYMENT_NAME=compose
CLUSTER_NAME=local
AGENT_URL=http://slurm-agent:5011
TOKEN_URL=http://proxy:8080

# Whoever has it may map every repository; the page asks for it.
ADMINISTRATOR_TOKEN=$(secret)
# With which repo-mapping asks token-broker, which alone has the App's key of the two.
SERVICE_TOKEN=$(secret)

POSTGRES_PASSWORD=$postgres
RABBITMQ_PASSWORD=$rabbitmq
# The owner of the database, for migrations alone; and the roles of the services.
GHA_SLURM_DATABASE_URL=postgres://gha_slurm:$postgres@postgres:5432/gha_slurm?sslmode=disable
LAUNCHER_DATABASE_PASSWORD=$launcher
LAUNCHER_DATABASE_URL=postgres://gha_slurm_launcher:$launcher@postgres:5432/gha_slurm?sslmode=disable
TOKEN_BROKER_DATABASE_PASSWORD=$token_broker
TOKEN_BROKER_DATABASE_URL=postgres://gha_slurm_token_broker:$token_broker@postgres:5432/gha_slurm?sslmode=disable
REPO_MAPPING_DATABASE_PASSWORD=$repo_mapping
REPO_MAPPING_DATABASE_URL=postgres://gha_slurm_repo_mapping:$repo_mapping@postgres:5432/gha_slurm?sslmode=disable
GHA_SLURM_AMQP_URL=amqp://gha_slurm:$rabbitmq@rabbitmq:5672/%2f
ENV
# Fails when somebody else was faster.
ln "$new" .env
echo "wrote .env"
