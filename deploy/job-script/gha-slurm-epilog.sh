#!/bin/bash
# gha-slurm epilog: for slurm.conf's Epilog, run by slurmd as root when a Slurm job has ended on a node. It removes what a
# job script of ours that was killed (SIGKILL, out of memory, a power cut of slurmd) left behind: its work directory and its
# processes. Of other Slurm jobs it finds nothing.
#
# Arguments: the folders in which work directories are made (`runner.work_root` of gha-slurm-munge). /tmp is always looked at.
# Environment, from slurmd: SLURM_JOB_ID, SLURM_JOB_UID, SLURM_JOB_GID.
#
# Everything is done as the Slurm job's user: whatever stands at these names, nothing is removed or ended that this user
# could not. It always succeeds: slurmd drains a node whose epilog fails.

readonly PATIENCE_S=120 # for a large work directory; the node waits for it

# What a process was started with: a workflow job's processes have both, unless they hide.
processes_of_steps() {
    local pid
    grep -lzxF "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | while read -r pid; do
        ! grep -qz '^GHA_SLURM_LAUNCH=' "/proc/$pid/environ" 2>/dev/null || echo "$pid"
    done
}

# Those that watch a container or clean up after it have next to no environment, but work in the folders of the Slurm job.
processes_of_podman() {
    local pid program
    grep -laF "/gha-slurm-$SLURM_JOB_ID." /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 | while read -r pid; do
        IFS= read -r -d '' program 2>/dev/null <"/proc/$pid/cmdline"
        case ${program##*/} in conmon | crun | podman | slirp4netns) echo "$pid" ;; esac
    done
}

# Whether a process of the user is in execve(2): it has its program, but gets its arguments and environment last, and may
# wait for the disk before.
declare -A unclear=() # how often a process was seen so
one_changes_its_program() {
    local process found=1
    for process in /proc/[0-9]*; do
        [[ -O $process && -e $process/exe ]] || continue
        # The first argument has an end, even if it is empty.
        ! IFS= read -r -d '' _ 2>/dev/null <"$process/cmdline" || continue
        # A process that hides its arguments never changes.
        unclear[$process]=$((${unclear[$process]:-0} + 1))
        ((${unclear[$process]} > 10)) || found=0
    done
    return "$found"
}

# Looks until there is none: one that ends may start another, as Podman's do.
end_processes() {
    local pid found
    for _ in {1..100}; do
        found=
        while read -r pid; do
            ! kill -KILL "$pid" 2>/dev/null || found=yes
        done < <(
            processes_of_steps
            processes_of_podman
        )
        [[ $found ]] || one_changes_its_program || return 0
        sleep 0.05
    done
}

# As files of the user's range of subordinate uids: a workflow job had containers. Its state goes to the folder $1.
remove_by_podman() {
    # For what is left of Podman itself.
    export HOME=$1 XDG_RUNTIME_DIR=$1 GHA_SLURM_LAUNCH=epilog
    podman --root "$1/root" --runroot "$1" --tmpdir "$1/libpod" --cgroup-manager=cgroupfs unshare rm -rf --one-file-system -- "${@:2}"
    end_processes
}

# clean_up ROOT...: as the user.
clean_up() {
    local root folder left=() state
    end_processes
    for root; do
        for folder in "$root/gha-slurm-$SLURM_JOB_ID".??????; do
            # No symlink, and not what somebody else put there.
            [[ -d $folder && ! -L $folder && -O $folder ]] || continue
            # Some tools make folders read-only.
            chmod -R u+rwX -- "$folder"
            rm -rf --one-file-system -- "$folder"
            [[ ! -e $folder ]] || left+=("$folder")
        done
    done
    if ((${#left[@]} > 0)) && state=$(mktemp -d); then
        remove_by_podman "$state" "${left[@]}"
        rm -rf -- "$state"
    fi
}

if [[ ${1:-} == --as-user ]]; then
    clean_up "${@:2}"
    exit 0
fi
[[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ && ${SLURM_JOB_UID:-} =~ ^[1-9][0-9]*$ ]] || exit 0
set -- /tmp "$@"
# The Slurm job's group: a user sees the environment of none of their processes that has another.
group=${SLURM_JOB_GID:-}
[[ $group =~ ^[0-9]+$ ]] || group=$(id -g "$SLURM_JOB_UID" 2>/dev/null) || group=65534
here=$(realpath "${BASH_SOURCE[0]}")
# On standard input: the user need not be able to read this file.
cd / && timeout --kill-after=5 "$PATIENCE_S" \
    setpriv --reuid "$SLURM_JOB_UID" --regid "$group" --clear-groups \
    env -i PATH=/usr/bin:/bin SLURM_JOB_ID="$SLURM_JOB_ID" bash -s -- --as-user "$@" \
    <"$here" >/dev/null 2>&1
exit 0
