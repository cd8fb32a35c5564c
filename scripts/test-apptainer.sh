#!/usr/bin/env bash
# Runs slurm-agent's tests of runners in containers with Apptainer itself, as an ordinary user (runners are never root), in a Debian
# that has it (Debian 12 has none): `test-apptainer.sh [SUITE]`, sid by default. The Debian is made once, below target/debian, and entered
# in mount and PID namespaces of its own: this machine's packages are not touched, and no process is left.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:-sid}
case $suite in *[!a-z-]*) echo "test-apptainer.sh: $suite: not the name of a Debian release" >&2; exit 2 ;; esac
if [ "$(id -u)" -ne 0 ]; then
  echo "test-apptainer.sh takes root: another Debian is made and entered" >&2
  exit 1
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
root=$target/debian/$suite-apptainer
if [ ! -d "$root" ]; then
  if ! command -v mmdebstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
  fi
  mkdir -p "$target/debian"
  rm -rf "$root.new"
  # A mirror may be a copy of some day.
  mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=apptainer,squashfuse,jq,curl,ca-certificates,procps "$suite" "$root.new" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
  touch "$root.new/etc/hosts"
  mv "$root.new" "$root"
fi

cargo build -p gha-slurm-slurm-agent --bins --locked
executable=$(cargo test -p gha-slurm-slurm-agent --test it --locked --no-run --message-format=json |
  jq -r 'select(.reason == "compiler-artifact" and .profile.test and .target.name == "it").executable')

# bash stays as the first process: it takes the orphans, and all others end with it.
exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
  root=$1 checkout=$2 target=$3; shift 3
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  for folder in tmp run; do mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"; done
  # As udev has it: whoever may have a user namespace may have FUSE in it.
  mknod -m 666 "$root/run/fuse" c 10 229
  mount --bind "$root/run/fuse" "$root/dev/fuse"
  for folder in "$checkout" "$target"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
  done
  mount --bind /etc/hosts "$root/etc/hosts"
  chmod 755 "$root/root"
  # Not chroot alone: containers take a root that is a mount.
  cd "$root"
  pivot_root . mnt
  umount -l /mnt
  cd /
  unset TMPDIR
  export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  apptainer --version
  # The image: this Debian itself.
  if [ ! -e /srv/ci.sif ]; then
    mount --bind / /mnt
    apptainer --silent build /srv/ci.new.sif /mnt
    mv /srv/ci.new.sif /srv/ci.sif
    umount /mnt
  fi
  export GHA_SLURM_TEST_IMAGE=/srv/ci.sif
  setpriv --reuid=games --regid=games --clear-groups env HOME=/nonexistent "$@"
' bash "$root" "$PWD" "$target" "$executable" containers::
