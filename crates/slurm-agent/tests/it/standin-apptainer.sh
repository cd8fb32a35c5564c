#!/bin/bash
# Not Apptainer, but what the job script needs of `apptainer exec`, for tests: it knows the options and the order that the
# job script uses, and runs the command with a root of its own (a mount namespace) in which there are the node's programs,
# private /tmp, /root and /home, and what was bound. Its "image" is any file. It takes no process away from sight. Users are root
# inside. Its arguments are in `arguments` beside it.
set -eu
here=$(dirname "$(realpath "$0")")
printf '%s\n' "$@" >"$here/arguments"
[[ $1 == exec ]] || {
    echo "FATAL: not exec: $1" >&2
    exit 255
}
shift
options='' pwd=/ binds=()
while [[ $1 == -* ]]; do
    case $1 in
        --containall | --no-home)
            options+=" $1"
            shift
            ;;
        --pwd)
            pwd=$2
            shift 2
            ;;
        --bind)
            binds+=("$2")
            shift 2
            ;;
        *)
            echo "FATAL: unknown option $1" >&2
            exit 255
            ;;
    esac
done
[[ $options == *--containall* && $options == *--no-home* ]] || {
    echo 'FATAL: not contained' >&2
    exit 255
}
[[ -f $1 ]] || {
    echo "FATAL: could not open image $1" >&2
    exit 255
}
shift
# A clean environment, but for APPTAINERENV_*.
for name in $(compgen -e); do
    [[ $name == APPTAINERENV_* ]] || unset "$name"
done
for name in $(compgen -e); do
    export "${name#APPTAINERENV_}=${!name}"
    unset "$name"
done
export PATH=/usr/bin:/bin:/usr/sbin
root=$(mktemp -d "$here/root.XXXXXX")
user=()
((EUID == 0)) || user=(--user --map-root-user)
# In the new namespace, so that nothing is left mounted.
# shellcheck disable=SC2016 # the inner bash expands it
exec unshare "${user[@]}" --mount bash -euc '
    root=$1 pwd=$2 count=$3; shift 3
    mount -t tmpfs none "$root"
    mkdir "$root"/{usr,etc,proc,dev,tmp,root,home}
    chmod 1777 "$root/tmp"
    for folder in usr etc proc dev; do mount --rbind "/$folder" "$root/$folder"; done
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
    while ((count-- > 0)); do
        IFS=: read -r from to options <<<"$1"; shift
        to=$root${to:-$from}
        mkdir -p "$to"
        mount --rbind "$from" "$to"
        [[ $options != ro ]] || mount -o remount,bind,ro "$to"
    done
    exec chroot "$root" sh -c "cd \"\$1\" && shift && exec \"\$@\"" sh "$pwd" "$@"
' bash "$root" "$pwd" "${#binds[@]}" "${binds[@]}" "$@"
