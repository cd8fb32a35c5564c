#!/usr/bin/env bash
# Runs slurm-agent's tests with a real Slurm on the Slurm of a newer Debian: `test-slurm.sh trixie [TEST…]`. (What is built here
# does not run on an older one, whose C library is older, too.) That Debian is made once, below target/debian, and entered in
# mount and PID namespaces of its own: this machine's packages are not touched, and no process is left.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:?the name of a Debian release, such as trixie}
shift
case $suite in *[!a-z-]*) echo "test-slurm.sh: $suite: not the name of a Debian release" >&2; exit 2 ;; esac
if [ "$(id -u)" -ne 0 ]; then
  echo "test-slurm.sh takes root: Slurm starts Slurm jobs as their users, and another Debian is entered by chroot" >&2
  exit 1
fi
# Every module with tests that start a Slurm or run on what a node has.
tests=("$@")
[ $# -gt 0 ] || tests=(doctor:: hooks:: node:: original:: rest:: sbatch:: self_service:: sudo::)

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
root=$target/debian/$suite
if [ ! -d "$root" ]; then
  if ! command -v mmdebstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
  fi
  packages=slurmctld,slurmd,slurm-client,slurmrestd,slurmdbd,slurm-wlm-basic-plugins,slurm-wlm-jwt-plugin
  packages+=,slurm-wlm-mysql-plugin,mariadb-server,munge,sudo,jq,curl,ca-certificates,procps,iproute2,git
  mkdir -p "$target/debian"
  rm -rf "$root.new"
  # A mirror may be a copy of some day. The hosts file is a place to put this machine's.
  mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" "$suite" "$root.new" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
  touch "$root.new/etc/hosts"
  mv "$root.new" "$root"
fi

cargo build --workspace --bins --locked
executable=$(cargo test -p gha-slurm-slurm-agent --test it --locked --no-run --message-format=json-render-diagnostics |
  jq -r 'select(.reason == "compiler-artifact" and .profile.test and .target.name == "it").executable')

# bash stays as the first process: it takes the orphans, and all others end with it.
exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
  root=$1 checkout=$2 target=$3; shift 3
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  for folder in tmp run; do mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"; done
  for folder in "$checkout" "$target"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
  done
  # The name of this host has to be found.
  mount --bind /etc/hosts "$root/etc/hosts"
  # Not chroot alone: tests make namespaces of their own, which takes a root that is a mount.
  cd "$root"
  pivot_root . mnt
  umount -l /mnt
  cd /
  unset TMPDIR
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  slurmctld -V
  "$@"
' bash "$root" "$PWD" "$target" "$executable" "${tests[@]}"
