# shellcheck shell=bash
# For scripts that run slurm-agent's tests in another Debian; sourced, at the top of the checkout. It is made once, below
# target/debian, and entered in mount and PID namespaces of its own: this machine's packages are not touched, and no process is
# left.

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

# need_root_and_suite WHO SUITE
need_root_and_suite() {
  if [[ $2 == *[!a-z-]* ]]; then
    echo "$1: $2: not the name of a Debian release" >&2
    exit 2
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "$1 takes root: another Debian is made and entered, and Slurm starts Slurm jobs as their users" >&2
    exit 1
  fi
}

# make_debian NAME SUITE PACKAGES: sets $root.
make_debian() {
  root=$target/debian/$1
  [ ! -d "$root" ] || [ "$(cat "$root.packages" 2>/dev/null)" != "$3" ] || return 0
  if ! command -v mmdebstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
  fi
  mkdir -p "$target/debian"
  rm -rf "$root.new"
  # A mirror may be a copy of some day. The hosts file is a place to put this machine's.
  mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$3" "$2" "$root.new" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
  touch "$root.new/etc/hosts"
  rm -rf "$root"
  mv "$root.new" "$root"
  echo "$3" >"$root.packages"
}

# The tests' executable: sets $executable.
build_tests() {
  cargo build --workspace --bins --locked
  # shellcheck disable=SC2034 # read by the scripts that source this one
  executable=$(cargo test -p gha-slurm-slurm-agent --test it --locked --no-run --message-format=json-render-diagnostics |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .target.name == "it").executable')
}

# enter_debian SET_UP COMMAND...: runs the command in $root, after SET_UP (bash). Does not come back.
enter_debian() {
  # bash stays as the first process: it takes the orphans, and all others end with it.
  # shellcheck disable=SC2016 # the inner bash expands it
  exec unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    root=$1 checkout=$2 target=$3 set_up=$4; shift 4
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
    # Not chroot alone: tests and containers make namespaces of their own, which takes a root that is a mount.
    cd "$root"
    pivot_root . mnt
    umount -l /mnt
    cd /
    unset TMPDIR
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    eval "$set_up"
    "$@"
  ' bash "$root" "$PWD" "$target" "$@"
}
