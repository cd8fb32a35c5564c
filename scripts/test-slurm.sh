#!/usr/bin/env bash
# Runs slurm-agent's tests with a real Slurm on the Slurm of a newer Debian: `test-slurm.sh trixie [TEST…]`. (What is built here
# does not run on an older one, whose C library is older, too.)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/other-debian.sh

suite=${1:?the name of a Debian release, such as trixie}
shift
need_root_and_suite test-slurm.sh "$suite"
# Every module with tests that start a Slurm or run on what a node has.
tests=("$@")
[ $# -gt 0 ] || tests=(containers:: doctor:: ends:: ghosts:: hooks:: node:: original:: podman:: real_slurm:: rest:: sbatch:: self_service:: sudo::)

packages=slurmctld,slurmd,slurm-client,slurmrestd,slurmdbd,slurm-wlm-basic-plugins,slurm-wlm-jwt-plugin
packages+=,slurm-wlm-mysql-plugin,mariadb-server,munge,sudo,jq,curl,ca-certificates,procps,iproute2,git
packages+=,podman,slirp4netns,passt,uidmap,busybox-static,nodejs
make_debian "$suite" "$suite" "$packages"
build_tests
enter_debian 'slurmctld -V' "$executable" "${tests[@]}"
