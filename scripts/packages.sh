#!/usr/bin/env bash
# Finds PostgreSQL, RabbitMQ and Slurm (their programs: private instances are started of them), or installs Debian's packages
# when root or sudo is there, or says in one line what to do. `packages.sh demo`: only what the demo is not given by
# DATABASE_URL and AMQP_URL.
set -euo pipefail

missing=()
use=${1:-test}
have() { compgen -G "$1" >/dev/null; }
if [ "$use" != demo ] || [ -z "${DATABASE_URL:-}" ]; then
  have '/usr/lib/postgresql/*/bin/initdb' || command -v initdb >/dev/null || missing+=(postgresql)
fi
if [ "$use" != demo ] || [ -z "${AMQP_URL:-}" ]; then
  have '/usr/lib/rabbitmq/bin/rabbitmq-server' || missing+=(rabbitmq-server)
fi
# A private Slurm starts Slurm jobs as their users: only root can have one.
if [ "$(id -u)" -eq 0 ]; then
  for program in /usr/sbin/munged:munge /usr/sbin/slurmctld:slurmctld /usr/sbin/slurmd:slurmd \
    /usr/sbin/slurmrestd:slurmrestd /usr/bin/sbatch:slurm-client /usr/bin/sudo:sudo; do
    [ -x "${program%%:*}" ] || missing+=("${program#*:}")
  done
  # What the demo does without: Slurm's accounting, a network that accepts no connection, containers of workflow jobs.
  if [ "$use" != demo ]; then
    for program in /usr/sbin/slurmdbd:slurmdbd /usr/sbin/mariadbd:mariadb-server /usr/sbin/iptables:iptables \
      /usr/sbin/ip:iproute2; do
      [ -x "${program%%:*}" ] || missing+=("${program#*:}")
    done
    have '/usr/lib/*/faketime/libfaketime.so.1' || missing+=(faketime)
    have '/usr/lib/*/slurm-wlm/accounting_storage_mysql.so' || missing+=(slurm-wlm-mysql-plugin)
    # Debian's Podman comes with another network by default, and with runc, if slirp4netns and crun are not named.
    for program in podman:podman crun:crun slirp4netns:slirp4netns newuidmap:uidmap busybox:busybox-static; do
      command -v "${program%%:*}" >/dev/null || missing+=("${program#*:}")
    done
  fi
  have '/usr/lib/*/slurm-wlm/select_cons_tres.so' || missing+=(slurm-wlm-basic-plugins)
  have '/usr/lib/*/slurm-wlm/auth_jwt.so' || missing+=(slurm-wlm-jwt-plugin)
fi
if [ "$use" != demo ]; then
  for program in shellcheck:shellcheck shfmt:shfmt systemd-analyze:systemd; do
    command -v "${program%%:*}" >/dev/null || missing+=("${program#*:}")
  done
fi
command -v jq >/dev/null || missing+=(jq)
command -v curl >/dev/null || missing+=(curl)
command -v cc >/dev/null || missing+=(build-essential)
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=(sudo -n)
  else
    echo "Please install: apt-get install ${missing[*]}   (or name servers of yours by DATABASE_URL and AMQP_URL: make demo)" >&2
    exit 1
  fi
fi
# Only the programs are wanted: no cluster of the system's own may be created or started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
