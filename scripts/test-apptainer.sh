#!/usr/bin/env bash
# Runs slurm-agent's tests of runners in containers with Apptainer itself, as an ordinary user (runners are never root), alone and in
# Slurm jobs, in a Debian that has it (Debian 12 has none): `test-apptainer.sh [SUITE]`, sid by default.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/other-debian.sh

suite=${1:-sid}
need_root_and_suite test-apptainer.sh "$suite"
packages=apptainer,squashfuse,jq,curl,ca-certificates,procps,iproute2
packages+=,slurmctld,slurmd,slurm-client,slurmrestd,slurm-wlm-basic-plugins,slurm-wlm-jwt-plugin,munge
make_debian "$suite-apptainer" "$suite" "$packages"
build_tests
# shellcheck disable=SC2016 # the inner bash expands it
enter_debian '
  # As udev has it: whoever may have a user namespace may have FUSE in it.
  mknod -m 666 /run/fuse c 10 229
  mount --bind /run/fuse /dev/fuse
  chmod 755 /root
  export HOME=/root
  apptainer --version
  # The image: this Debian itself.
  if [ ! -e /srv/ci.sif ]; then
    mount --bind / /mnt
    apptainer --silent build /srv/ci.new.sif /mnt
    mv /srv/ci.new.sif /srv/ci.sif
    umount /mnt
  fi
  export GHA_SLURM_TEST_IMAGE=/srv/ci.sif
' bash -euc '
  setpriv --reuid=games --regid=games --clear-groups env HOME=/nonexistent "$1" containers::
  # The agent is root; the Slurm jobs are of an ordinary user.
  "$1" containers::by_
' bash "$executable"
