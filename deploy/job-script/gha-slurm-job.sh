#!/bin/bash
# gha-slurm job script: what runs in a launch. It asks token-broker for a runner, runs it for one workflow job, and
# gives the node back. A site may replace it (setting `runner.job_script` of gha-slurm-munge).
#
# Needs bash 4.4, curl 7.55, jq 1.6, tar and coreutils on the node, and a work directory whose programs may be run. Where one is missing, it
# ends at once and tells token-broker which.
#
# Environment, from the agent:
#   GHA_SLURM_LAUNCH_TOKEN       the launch token. Secret; taken out of the environment at once
#   GHA_SLURM_TOKEN_URL          base URL of token-broker as the node reaches it
#   GHA_SLURM_LAUNCH         UUID of the launch; the only GHA_SLURM_* variable the runner gets
#   GHA_SLURM_RUNNER_DIR         folder of the unpacked runner release (bin/Runner.Listener), or a symlink to it; copied,
#                                never written to. Or its archive (.tar.gz), which is unpacked into the work directory
#   GHA_SLURM_RUNNER_MODE        `jit` (default) or `registration`
#   GHA_SLURM_GITHUB_HOSTS       hosts of GitHub that a runner may belong to, with blanks between; `*.` stands for subdomains, and
#                                `http://` allows plain HTTP (default: GitHub.com's)
#   GHA_SLURM_OUTPUT             beginning of the path of the file for what this script prints; without it: where Slurm puts it
#   GHA_SLURM_WORK_ROOT          where the private work directory is made (default: $TMPDIR, else /tmp)
#   GHA_SLURM_IDLE_DEADLINE_S    seconds a runner may listen without a workflow job (default 120)
#   GHA_SLURM_SET_UP_DEADLINE_S  seconds until a runner must listen (default 600)
#   GHA_SLURM_CALLBACK_DEADLINE_S  seconds to go on trying to reach token-broker (default 600)
#   GHA_SLURM_JOB_STARTED_HOOK, GHA_SLURM_NO_CONTAINERS_HOOK   texts of the hooks gha-slurm-job-started.sh and
#                                gha-slurm-no-containers.sh, which document themselves
#   GHA_SLURM_BUILD_POLICY       which workflow jobs may run, as JSON; see gha-slurm-job-started.sh. Without it: any
#   GHA_SLURM_CONTAINER_HOOKS    the site's runner container hooks (ACTIONS_RUNNER_CONTAINER_HOOKS); without them and Podman,
#                                `container:` and `services:` are refused
#   GHA_SLURM_PODMAN, GHA_SLURM_PODMAN_HOOK   how Podman is called, {"program", "arguments", "volumes"} as JSON, and the text of
#                                the container hook that calls it, gha-slurm-container-hook.js
#   GHA_SLURM_CONTAINER          image (a .sif file, docker://...) that the runner is to run in, by Apptainer
#   GHA_SLURM_APPTAINER          Apptainer's program (default: apptainer)
#   GHA_SLURM_APPTAINER_BINDS    what else is seen inside, as of `apptainer --bind`; one in each line
#   GHA_SLURM_HTTPS_PROXY, GHA_SLURM_HTTP_PROXY, GHA_SLURM_NO_PROXY   for curl, for the runner and for its steps
#   GHA_SLURM_CA_FILE            certificates (PEM) that these trust besides the node's own
#   TRACEPARENT                  W3C trace context; sent on with every call
# from Slurm: SLURM_JOB_ID, SLURM_RESTART_COUNT, SLURMD_NODENAME, TMPDIR.
# A site's own ACTIONS_RUNNER_HOOK_JOB_STARTED, from the environment or from the release's .env, is called after ours.
#
# Exit code: 0 when the runner did its work, or refused it, or when there was none to do; 1 when it failed; 143 after
# SIGTERM, 130 after SIGINT. The last line of the output is the reason.
#
# Workflow code runs under the same user, so it can read this script's environment and command line and the files of this
# user. Therefore: no secret in an argument or in a file that outlives the set-up; the launch token is read by a process
# of its own that ends before the runner starts; the progress token stays in the memory of this one. Never `set -x`.

# The very first: Slurm sends its signal before the time limit once, and maybe early. Until it has started itself again it
# has no variables but GHA_SLURM_*: another one may be exported by the site, and would be seen.
trap 'GHA_SLURM_SIGNAL=TERM' TERM
trap 'GHA_SLURM_SIGNAL=INT' INT

set -uo pipefail
umask 077

# --- the output ---------------------------------------------------------------------------------------------------

# Slurm is told /dev/null: it shows everybody the path of its output file, and follows a link that somebody else puts there first.
# mktemp creates a file of its own, or none. A build does not fail for its lack.
if [[ -n ${GHA_SLURM_OUTPUT:-} ]] && GHA_SLURM_OUTPUT=$(mktemp --suffix=.log "$GHA_SLURM_OUTPUT.XXXXXXXXXX"); then
    exec >>"$GHA_SLURM_OUTPUT" 2>&1
fi
unset GHA_SLURM_OUTPUT

# --- the launch token leaves the environment ---------------------------------------------------------------------
# What a process was started with stays in /proc/<pid>/environ. So it starts itself again without the launch token,
# which waits in a pipe on file descriptor 3.
if [[ -n ${GHA_SLURM_LAUNCH_TOKEN:-} ]]; then
    exec 3< <(printf '%s\n' "$GHA_SLURM_LAUNCH_TOKEN")
    # And what sudo leaves, where the agent became this user by it.
    unset GHA_SLURM_LAUNCH_TOKEN SUDO_COMMAND SUDO_USER SUDO_UID SUDO_GID
    GHA_SLURM_SIGNAL=${GHA_SLURM_SIGNAL:-} exec bash "$0"
fi

# Functions that the site exports: the runner gets them back where one of this script has the same name (see listener).
functions=$(declare -fx)

# What an exported variable is called stays exported, with what is ours in it, for each program that is called. The runner
# gets the site's (see listener).
unset launch_token progress_token registration_token jit_config token text secret secrets inputs

# --- signals ------------------------------------------------------------------------------------------------------

signal=''
signals=0
child='' # the process that is waited for: the redemption, the copying, then the runner
# on_signal NAME: hands it on to whoever is waited for; the main line sees $signal.
on_signal() {
    signal=$1
    ((signals++))
    [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap 'on_signal TERM' TERM
trap 'on_signal INT' INT
# One that came before.
[[ -z ${GHA_SLURM_SIGNAL:-} ]] || signal=$GHA_SLURM_SIGNAL

for name in GHA_SLURM_TOKEN_URL GHA_SLURM_LAUNCH GHA_SLURM_RUNNER_DIR GHA_SLURM_JOB_STARTED_HOOK GHA_SLURM_NO_CONTAINERS_HOOK \
    SLURM_JOB_ID; do
    if [[ -z ${!name:-} ]]; then
        echo "$name is not set: this script is submitted by gha-slurm-munge" >&2
        exit 1
    fi
done

# Not readonly: an exported variable of the same name is the site's, and the runner gets it back (see listener).
TOKEN_URL=${GHA_SLURM_TOKEN_URL%/}
MODE=${GHA_SLURM_RUNNER_MODE:-jit}
read -ra GITHUB_HOSTS <<<"${GHA_SLURM_GITHUB_HOSTS:-github.com *.github.com *.actions.githubusercontent.com}"
NODE=${SLURMD_NODENAME:-$(uname -n)}
CONTAINER=${GHA_SLURM_CONTAINER:-}
APPTAINER=${GHA_SLURM_APPTAINER:-apptainer}
APPTAINER_BINDS=${GHA_SLURM_APPTAINER_BINDS:-}
IDLE_DEADLINE_S=${GHA_SLURM_IDLE_DEADLINE_S:-120}
SET_UP_DEADLINE_S=${GHA_SLURM_SET_UP_DEADLINE_S:-600}
CALLBACK_DEADLINE_S=${GHA_SLURM_CALLBACK_DEADLINE_S:-600}
CALL_TIMEOUT_S=20    # one HTTP call
LONGEST_PAUSE_S=30   # between two attempts, unless the broker asks for more
GRACE_S=35           # the runner takes up to 30 s to cancel its workflow job
LOOK_AGAIN_S=0.5     # at the runner's output
LOG_TAIL_BYTES=65536 # most that token-broker keeps

work=''           # the private work directory
log=/dev/null     # what was said so far
progress_token='' # from the redemption on
started=''        # a workflow job has started
released=''       # the registration is given up
secrets=()        # what the log must not hold
given=()          # NAME=VALUE of what the runner gets besides the site's environment

say() {
    printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$log"
}

# give NAME=VALUE: a variable for all that comes, the runner and its steps too.
give() {
    export "${1?}"
    given+=("$1")
}

# --- the way out of the cluster -----------------------------------------------------------------------------------

# curl and the runner read the same variables; the lower-case names win everywhere.
for name in http_proxy https_proxy no_proxy; do
    from=GHA_SLURM_${name^^}
    [[ -z ${!from:-} ]] || give "$name=${!from}"
done

# The site's certificates, besides the node's own: these variables replace what is trusted, except Node.js's.
trust_ca() {
    [[ -n ${GHA_SLURM_CA_FILE:-} ]] || return 0
    local name system files=("$GHA_SLURM_CA_FILE")
    for system in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem; do
        [[ ! -r $system ]] || files+=("$system")
    done
    for system in "${files[@]}"; do
        # A certificate begins on a line of its own, also after a file without a last line feed.
        cat -- "$system" && echo || return 1
    done >"$work/ca.pem"
    for name in CURL_CA_BUNDLE SSL_CERT_FILE GIT_SSL_CAINFO NODE_EXTRA_CA_CERTS; do
        give "$name=$work/ca.pem"
    done
}

# --- calls to token-broker ----------------------------------------------------------------------------------------

# call PATH BODY-FILE ANSWER-FILE TOKEN: posts JSON. Sets $status (000: no answer) and $retry_after (seconds or empty).
# The token goes through a pipe: arguments are for everybody to see.
call() {
    local path=$1 body=$2 answer=$3 token=$4
    local trace=()
    [[ -z ${TRACEPARENT:-} ]] || trace=(-H "traceparent: $TRACEPARENT")
    # A transfer that breaks off has a status, but no answer.
    status=$(printf 'Authorization: Bearer %s\n' "$token" |
        curl --silent --show-error --stderr "$answer.error" --max-time "$CALL_TIMEOUT_S" --request POST -H @- "${trace[@]}" \
            -H 'Content-Type: application/json' --data-binary "@$body" \
            --output "$answer" --dump-header "$answer.head" --write-out '%{http_code}' "$TOKEN_URL$path") || status=000
    retry_after=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]\{1,5\}\)\r*$/\1/p' "$answer.head" 2>/dev/null | tail -n 1)
    rm -f "$answer.head"
}

# May another attempt help?
is_transient() {
    [[ $1 == 000 || $1 == 408 || $1 == 429 || $1 == 5?? ]]
}

# pause ATTEMPT UNTIL: waits what the broker asked for, else 1, 2, 4 … s; up to a second more, so that nodes spread out;
# no longer than until $SECONDS is UNTIL, and no longer than until a signal. In pieces: one that comes just before `wait`
# does not interrupt it.
pause() {
    local seconds=$((1 << ($1 < 6 ? $1 : 6))) left=$(($2 - SECONDS))
    ((seconds <= LONGEST_PAUSE_S)) || seconds=$LONGEST_PAUSE_S
    seconds=${retry_after:-$seconds}
    ((seconds <= left)) || seconds=$((left > 0 ? left : 0))
    nap "0.$(printf '%03d' $((RANDOM % 1000)))"
    while ((seconds-- > 0)) && [[ -z $signal ]]; do nap 1; done
}

# A sleep that a signal interrupts.
nap() {
    sleep "$1" &
    wait $!
}

# explain ANSWER-FILE: what a problem document says, or why there is no answer.
explain() {
    if [[ $status == 000 ]]; then
        cat "$1.error"
    else
        jq -r '.detail // .title // empty' "$1" 2>/dev/null
    fi | head -c 500
}

# progress TOKEN PHASE [JQ-ARGUMENTS…]: tells how far it is. Never fails the build; $status says what came of it.
progress() {
    local token=$1 file=$work/progress.$BASHPID attempt
    jq -nc --arg phase "$2" --arg at "$(date -u +%FT%T.%3NZ)" --arg node "$NODE" "${@:3}" '$ARGS.named' >"$file"
    for attempt in 0 1 2; do
        ((attempt == 0)) || nap 1
        call /gha/runner/progress "$file" "$file.answer" "$token"
        is_transient "$status" || break
    done
    [[ $status == 2?? ]] || say "progress '$2' was not taken: HTTP $status $(explain "$file.answer")"
    rm -f "$file" "$file.answer"*
}

# Writes the end of the log, without secrets and at most 64 KiB, to $work/tail.
write_log_tail() {
    local text secret
    text=$(tail -c $((2 * LOG_TAIL_BYTES)) "$log" | tr -d '\000')
    for secret in "${secrets[@]}"; do
        [[ -z $secret ]] || text=${text//"$secret"/***}
    done
    printf '%s' "$text" |
        sed -E -e 's/(gh[a-z]|github_pat)_[A-Za-z0-9._-]{16,}/***/g' \
            -e 's/eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+/***/g' \
            -e 's/([Bb]earer|[Aa]uthorization:|[Pp]assword[=:]|[Tt]oken[=:]) *[^ ]+/\1 ***/g' \
            -e 's#://[^/ ]+@#://***@#g' -e "s#(^|[ =\"'])[^ /:@=]+:[^ /]+@#\1***@#g" |
        jq -Rsj --argjson most "$LOG_TAIL_BYTES" 'until(utf8bytelength <= $most; .[(length / 8 | floor) + 1:])' \
            >"$work/tail"
}

# --- the end ------------------------------------------------------------------------------------------------------

# Processes that the workflow job left behind: Slurm does not always end them. They carry the launch's id.
leftovers() {
    grep -lzxF "GHA_SLURM_LAUNCH=$GHA_SLURM_LAUNCH" /proc/[0-9]*/environ 2>/dev/null |
        sed 's#/proc/\([0-9]*\)/environ#\1#' | grep -vx "$$"
}

podman=() # how Podman is called
podman_state=''
PODMAN_PATIENCE_S=60

# of_podman ARGUMENTS…: nothing where no container was asked for.
of_podman() {
    [[ -z $podman_state || ! -d $work/podman ]] ||
        XDG_RUNTIME_DIR=$podman_state timeout "$PODMAN_PATIENCE_S" "${podman[@]}" "$@" </dev/null &>/dev/null
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

# Looks until there is none: one that ends may have started another.
end_leftovers() {
    local pids
    for _ in {1..20}; do
        pids=$(leftovers)
        # shellcheck disable=SC2086 # a list of numbers; those of $(…) itself have ended
        kill -KILL $pids 2>/dev/null || one_changes_its_program || return 0
        sleep 0.05
    done
}

clean_up() {
    trap '' TERM INT
    # Twice: the container that has the network goes after the others.
    of_podman rm --force --all --time 0
    of_podman rm --force --all --time 0
    end_leftovers
    if [[ -n $work ]]; then
        # In Podman's user namespace, files of its other users can be removed, too.
        of_podman unshare rm -rf "$work"
        end_leftovers
        # Some tools make folders read-only.
        chmod -R u+rwX "$work" 2>/dev/null
        rm -rf "$work" ${podman_state:+"$podman_state"}
    fi
}
trap clean_up EXIT

# finish CODE REASON [JQ-ARGUMENTS…]: tells token-broker, gives back what is left to give back, and ends.
finish() {
    if [[ -n $progress_token ]]; then
        progress "$progress_token" finished --arg reason "$2" "${@:3}"
        give_back
    fi
    say "over: $2"
    exit "$1"
}

# failed REASON [RUNNER-EXIT-CODE]: a failure before a workflow job started. The end of the log helps to find out why.
failed() {
    write_log_tail
    finish 1 "$1" --rawfile logTail "$work/tail" --argjson exitCode "${2:-null}"
}

# end_on_signal [RUNNER-EXIT-CODE]
end_on_signal() {
    local code=143
    [[ $signal != INT ]] || code=130
    say "got SIG$signal"
    finish "$code" signal --argjson exitCode "${1:-null}"
}

# reap: waits for $child, signals or not; sets $code.
reap() {
    local before=-1 seen
    code=127
    until ((signals == before)); do
        before=$signals
        wait "$child"
        seen=$?
        # It was waited for already, and the signal came then; bash 5.2 says -1 at times.
        ((seen == 127 || seen == -1)) || code=$seen
    done
    child=''
}

# await SECONDS: waits for $child so long, or until it ended. Fails while it runs.
await() {
    local give_up_at=$((SECONDS + $1))
    while kill -0 "$child" 2>/dev/null; do
        ((SECONDS < give_up_at)) || return 1
        nap "$LOOK_AGAIN_S"
    done
}

# --- redemption ---------------------------------------------------------------------------------------------------

# Runs in a process of its own, the only one that reads the launch token. Leaves token-broker's answer in $work/answer.
# Exit code: 0, 10 (nothing waits for it), 11 (somebody else has it), 12 (refused), 13 (no answer in time), 14 (signal).
redeem() {
    trap 'signal=TERM' TERM INT
    # Not by `wait`, which loses it when a signal comes.
    trap 'echo $? >"$work/code"' EXIT
    local launch_token attempt=0 give_up_at=$((SECONDS + CALLBACK_DEADLINE_S))
    IFS= read -r launch_token <&3
    exec 3<&-
    secrets=("$launch_token")
    [[ -z $signal ]] || give_up 14 signal
    progress "$launch_token" allocated
    jq -nc --arg slurmJobId "$SLURM_JOB_ID" --argjson restartCount "${SLURM_RESTART_COUNT:-0}" \
        --arg node "$NODE" '$ARGS.named' >"$work/request"
    while :; do
        call /gha/runner "$work/request" "$work/answer" "$launch_token"
        [[ $status != 200 ]] || return 0
        say "token-broker answers HTTP $status $(explain "$work/answer")"
        [[ $status != 410 ]] || return 10
        [[ $status != 409 ]] || return 11
        is_transient "$status" || give_up 12 callback_refused
        ((SECONDS < give_up_at)) || give_up 13 callback_unavailable
        [[ -n $signal ]] || pause "$attempt" "$give_up_at"
        [[ -z $signal ]] || give_up 14 signal
        ((attempt++))
    done
}

# What token-broker answered is not believed: whoever can make launch tokens can also name a token-broker of their own.

# is_github URL: whether it is one of a GitHub that the site allows. Nothing in it that the runner may read differently.
is_github() {
    local allowed scheme host
    [[ $1 =~ ^(https?)://([A-Za-z0-9.-]+)(:[0-9]+)?(/[^[:space:]\\]*)?$ ]] || return 1
    scheme=${BASH_REMATCH[1]} host=${BASH_REMATCH[2],,}
    for allowed in "${GITHUB_HOSTS[@]}"; do
        if [[ $allowed == http://* ]]; then
            allowed=${allowed#http://}
        elif [[ $scheme == http ]]; then
            continue
        fi
        case ${allowed,,} in
            \*.*) [[ $host != *?"${allowed#\*}" ]] || return 0 ;;
            "$host") return 0 ;;
        esac
    done
    return 1
}

# decoded BASE64. A NUL becomes what is no JSON: readers disagree about what a NUL ends.
decoded() {
    printf '%s' "$1" | base64 -d 2>/dev/null | tr '\000' '\001'
}

# The runner writes every file that a JIT configuration names, at any path, and connects to what they say
# (actions/runner, Runner.cs). Prints what is wrong with $jit_config; nothing if it is as GitHub makes them. Keys are compared
# as the runner does, without case; --stream shows a key that is there twice.
wrong_in_jit_config() {
    local names file content leaves key value server=''
    names=$(decoded "$jit_config" | jq -c --stream 'select(length == 2)[0]' 2>/dev/null | LC_ALL=C sort) || names=''
    if [[ $names != $'[".credentials"]\n[".credentials_rsaparams"]\n[".runner"]' ]]; then
        echo 'it does not consist of .runner, .credentials and .credentials_rsaparams'
        return
    fi
    for file in .runner .credentials; do
        # The runner's reader also takes what is no JSON, such as single quotes.
        if ! content=$(decoded "$jit_config" | jq -r --arg file "$file" '.[$file]') ||
            ! leaves=$(decoded "$content" |
                jq -r --stream 'select(length == 2) | [.[0][-1], .[1]] | map(tostring) | @tsv' 2>/dev/null); then
            echo "$file: it is no JSON"
            return
        fi
        while IFS=$'\t' read -r key value; do
            case ${key,,} in
                # null, as the runner writes what it does not have
                *url | *urlv[0-9]) [[ $value != null ]] || continue ;;
                *) [[ $value == *://* ]] || continue ;;
            esac
            if ! is_github "$value"; then
                echo "$file: $key is $value, and runner.github_hosts of the agent allows ${GITHUB_HOSTS[*]}"
                return
            fi
            [[ $file/${key,,} != .runner/serverurl ]] || server=$value
        done <<<"$leaves"
    done
    [[ -n $server ]] || echo '.runner: it names no serverUrl'
}

# give_up CODE REASON: without a runner token, the launch token serves to tell why.
give_up() {
    write_log_tail
    progress "$launch_token" finished --arg reason "$2" --rawfile logTail "$work/tail"
    exit "$1"
}

# --- the runner ---------------------------------------------------------------------------------------------------

release='' # where the release really is

# A private copy: the runner writes its credentials beside its programs. Not what another registration left there; of the
# hidden files only the site's environment (.env) and PATH.
copy_runner() {
    local entry name
    mkdir -p "$work/runner" || return 1
    if [[ -f $release ]]; then
        tar -xf "$release" -C "$work/runner" --no-same-owner || return 1
        rm -rf "$work/runner"/_* "$work/runner"/.runner* "$work/runner"/.credentials*
    else
        for entry in "$release"/* "$release/.env" "$release/.path"; do
            name=${entry##*/}
            case $name in
                _*) continue ;;
                # Only executed, and most of the size.
                externals) ln -s "$entry" "$work/runner/$name" || return 1 ;;
                *) [[ ! -e $entry ]] || cp -RL --reflink=auto -- "$entry" "$work/runner/$name" || return 1 ;;
            esac
        done
    fi
    if [[ ! -x $work/runner/bin/Runner.Listener ]]; then
        say "$GHA_SLURM_RUNNER_DIR: no bin/Runner.Listener here"
        return 1
    fi
}

# take_from_env NAME: prints what the release's .env says, and takes it out: the runner would let it win over ours.
take_from_env() {
    local env=$work/runner/.env
    [[ -f $env ]] || return 0
    sed -n "s/^$1=//p" "$env" | tail -n 1 | tr -d '\r'
    sed -i "/^$1=/d" "$env"
}

# What the runner calls before the first step of the workflow job, and for its containers.
write_hooks() {
    local site
    mkdir -p "$work/hook" || return 1
    site=$(take_from_env ACTIONS_RUNNER_HOOK_JOB_STARTED)
    printf '%s' "${site:-${ACTIONS_RUNNER_HOOK_JOB_STARTED:-}}" >"$work/hook/site"
    site=$(take_from_env ACTIONS_RUNNER_CONTAINER_HOOKS)
    container_hooks=${GHA_SLURM_CONTAINER_HOOKS:-${site:-${ACTIONS_RUNNER_CONTAINER_HOOKS:-$work/hook/container.sh}}}
    # Not where the runner itself is in a container.
    if [[ -n ${GHA_SLURM_PODMAN:-} && -z ${GHA_SLURM_CONTAINER_HOOKS:-}$CONTAINER ]]; then
        write_podman_hook || return 1
    fi
    printf '%s' "${GHA_SLURM_BUILD_POLICY:-}" >"$work/hook/policy.json" &&
        printf '%s' "$GHA_SLURM_JOB_STARTED_HOOK" >"$work/hook/job-started.sh" &&
        printf '%s' "$GHA_SLURM_NO_CONTAINERS_HOOK" >"$work/hook/container.sh"
}

# The container hook, and how it calls Podman: with storage of this Slurm job's own.
write_podman_hook() {
    container_hooks=$work/hook/podman.js
    printf '%s' "${GHA_SLURM_PODMAN_HOOK:-}" >"$container_hooks" || return 1
    # Podman takes no longer path for its state than 50 characters.
    podman_state=$(mktemp -d "/tmp/gha-slurm-$SLURM_JOB_ID.XXXXXX") || return 1
    mapfile -t podman < <(jq -r '.program, .arguments[]' <<<"$GHA_SLURM_PODMAN")
    podman+=(--root "$work/podman" --runroot "$podman_state" --tmpdir "$podman_state/libpod" --cgroup-manager=cgroupfs
        --events-backend=file)
    # PATH: not as steps change it. Health checks want a timer of systemd's otherwise.
    printf '%s\n' "${podman[@]}" | jq -Rn --argjson settings "$GHA_SLURM_PODMAN" --arg state "$podman_state" --arg home "$HOME" \
        --arg tmp "$TMPDIR" --arg path "$PATH" '{
        command: [inputs], volumes: $settings.volumes,
        # The site'"'"'s, before any step could set one.
        environment: (($ENV | with_entries(select(.key | startswith("GHA_SLURM_") and . != "GHA_SLURM_LAUNCH" | not))) + {
            HOME: $home, TMPDIR: $tmp, PATH: $path, XDG_RUNTIME_DIR: $state, DISABLE_HC_SYSTEMD: "true",
            # Podman 5 says it at each step, to people who cannot change the node.
            PODMAN_IGNORE_CGROUPSV1_WARNING: "true"})
    }' >"$work/hook/podman.json"
}

# The listener inside the profile's image, by Apptainer: of the node it sees the work directory, the release and what the
# site binds, and no process of others. Its environment goes in by name (APPTAINERENV_*), since arguments are for everybody
# to see; HOME cannot, and is no secret. Sets $program, and adds to $pairs.
contain() {
    local bind pair
    program=("$APPTAINER" exec --containall --no-home --pwd "$work/runner" --bind "$work")
    [[ ! -d $release ]] || program+=(--bind "$release:$release:ro")
    while IFS= read -r bind; do
        [[ -z $bind ]] || program+=(--bind "$bind")
    done <<<"$APPTAINER_BINDS"
    for pair in "${pairs[@]}"; do
        case $pair in
            PATH=* | HOME=* | LD_* | APPTAINER* | SINGULARITY*) ;;
            *) pairs+=("APPTAINERENV_$pair") ;;
        esac
    done
    program+=("$CONTAINER" env "HOME=$HOME" bin/Runner.Listener)
}

# listener ARGUMENTS…: runs Runner.Listener in the background; its process id is $child. Secrets are in $inputs, as
# ACTIONS_RUNNER_INPUT_*=VALUE, which the runner takes out of its environment.
listener() {
    # With job control it gets default signals: a shell starts its other background processes deaf to SIGINT, and the
    # runner cancels steps with that. It also gets a process group of its own.
    set -m
    (
        cd "$work/runner" || exit 1
        program=(bin/Runner.Listener)
        pairs=()
        # What the site exported, as it came: this script's variables may have the same names.
        mapfile -d '' -t environment <"/proc/$$/environ"
        for pair in "${environment[@]}" "${given[@]}" "${inputs[@]}" \
            "ACTIONS_RUNNER_HOOK_JOB_STARTED=$work/hook/job-started.sh" "ACTIONS_RUNNER_CONTAINER_HOOKS=$container_hooks" \
            ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1; do
            case $pair in
                GHA_SLURM_LAUNCH=*) ;;
                # As of this script; srun and sbatch of a step would take it for theirs.
                SLURM_UMASK=*) pair=SLURM_UMASK=0022 ;;
                # Ours, and what belongs to a shell itself; exported functions go along without help.
                GHA_SLURM_* | PWD=* | OLDPWD=* | SHLVL=* | _=* | BASHOPTS=* | SHELLOPTS=* | UID=* | EUID=* | PPID=*) continue ;;
            esac
            [[ ! $pair =~ ^[a-zA-Z_][a-zA-Z0-9_]*= ]] || pairs+=("$pair")
        done
        [[ -z $CONTAINER ]] || contain
        exec </dev/null >>"$work/runner.log" 2>&1 {output}<&-
        set -- "${pairs[@]}" -- "${program[@]}" "$@"
        for pair in "${!GHA_SLURM_@}"; do unset "$pair"; done
        # Steps share files as usual; the folder around their own is closed to others.
        umask 022
        eval "$functions"
        # From here on there are no variables but the runner's.
        until [[ $1 == -- ]]; do
            unset -v "${1%%=*}"
            export "${1?}"
            shift
        done
        exec "${@:2}"
    ) &
    child=$!
    [[ -z $signal ]] || kill -TERM "$child" 2>/dev/null
    set +m
}

listening_since='' # $SECONDS at "Listening for Jobs"
run_known=''       # and token-broker knows of which workflow run
partial=''

# Takes over what the runner printed since the last look, and looks whether a workflow job has started: its line, a Worker
# log, or the hook, whichever is first. Downloads of actions come before the hook and may take minutes.
look() {
    local line
    while IFS= read -r line <&"$output"; do
        line=$partial$line
        partial=''
        printf '%s\n' "$line" | tee -a "$log"
        case $line in
            *': Listening for Jobs'*) [[ -n $listening_since ]] || on_listening ;;
            *': Running job: '*) on_started ;;
        esac
    done
    partial+=$line
    [[ -n $started ]] || ! compgen -G "$work/runner/_diag/Worker_*.log" >/dev/null || on_started
    if [[ -z $run_known && -f $work/hook/started ]]; then
        local run_id run_attempt
        read -r run_id run_attempt <"$work/hook/started"
        [[ $run_id =~ ^[0-9]+$ ]] || run_id=null
        [[ $run_attempt =~ ^[0-9]+$ ]] || run_attempt=null
        run_known=yes
        started=yes
        progress "$progress_token" workflow_job_started --argjson runId "$run_id" --argjson runAttempt "$run_attempt"
    fi
}

on_listening() {
    listening_since=$SECONDS
    progress "$progress_token" listening
}

on_started() {
    [[ -z $started ]] || return
    started=yes
    progress "$progress_token" workflow_job_started
}

# Asks token-broker to deregister the runner. 0: done, stop it; 1: it has work, keep it; 2: no answer, ask again.
release() {
    printf '{}' >"$work/release"
    call /gha/runner/release "$work/release" "$work/release.answer" "$progress_token"
    if [[ $status == 409 ]]; then
        say 'token-broker says that the runner has work'
        return 1
    elif is_transient "$status"; then
        say "token-broker cannot release the runner now: HTTP $status $(explain "$work/release.answer")"
        return 2
    fi
    # Anything else will not change: its registration is gone, or the progress token is not accepted any more.
    [[ $status == 204 ]] || say "token-broker answers the release with HTTP $status $(explain "$work/release.answer")"
    released=yes
}

# A runner token that was not used up: its registration is given back.
give_back() {
    [[ -n $started || -n $released ]] || release
}

# Waits for the runner; sets $code. A deadline ends it only when token-broker could deregister it first: then $reason says
# which deadline.
supervise() {
    local since=$SECONDS deadline deadline_reason attempt=0
    reason=''
    while kill -0 "$child" 2>/dev/null; do
        look
        if [[ -n $signal ]]; then
            # It was told already. Its registration is given up meanwhile, which GitHub refuses while it has work.
            give_back
            await "$GRACE_S" || kill -KILL -- "-$child" 2>/dev/null
            break
        fi
        if [[ -n $started ]]; then
            nap "$LOOK_AGAIN_S"
            continue
        fi
        deadline=$SET_UP_DEADLINE_S deadline_reason=set_up_deadline
        if [[ -n $listening_since ]]; then
            deadline=$IDLE_DEADLINE_S deadline_reason=idle
            ((since >= listening_since)) || since=$listening_since
        fi
        if ((SECONDS - since < deadline)); then
            nap "$LOOK_AGAIN_S"
            continue
        fi
        say "no workflow job within $deadline s ($deadline_reason)"
        release
        case $? in
            0)
                reason=$deadline_reason
                kill -TERM "$child" 2>/dev/null
                await "$GRACE_S" || kill -KILL -- "-$child" 2>/dev/null
                ;;
            1) since=$SECONDS ;;
            2)
                pause "$attempt" $((SECONDS + LONGEST_PAUSE_S))
                ((attempt++))
                ;;
        esac
    done
    reap
    look
}

# Runs the listener until it is over: it may ask to be started again (exit code 2), or update itself (3 and 4).
run_listener() {
    local give_up_at=$((SECONDS + SET_UP_DEADLINE_S)) left
    while :; do
        listener run
        supervise
        [[ -z $signal && -z $reason && -z $started ]] || return
        case $code in
            2) nap 5 ;;
            3 | 4)
                say 'the runner updates itself'
                left=30
                until [[ -e $work/runner/update.finished ]] || ((left-- == 0)); do nap 1; done
                rm -f "$work/runner/update.finished"
                ;;
            *) return ;;
        esac
        ((SECONDS < give_up_at)) || return
    done
}

# config.sh's part: registers the runner, then asks token-broker whether it is still wanted.
register() {
    local give_up_at attempt=0
    inputs=("ACTIONS_RUNNER_INPUT_TOKEN=$registration_token")
    listener configure --unattended --ephemeral --no-default-labels --url "$url" --name "$runner_name" --labels "$labels" \
        --work _work
    inputs=()
    supervise
    [[ -z $signal ]] || end_on_signal "$code"
    [[ -z $reason ]] || failed "$reason" "$code"
    ((code == 0)) || failed registration_failed "$code"
    give_up_at=$((SECONDS + CALLBACK_DEADLINE_S))
    while
        progress "$progress_token" registered
        is_transient "$status"
    do
        ((SECONDS < give_up_at)) || failed callback_unavailable
        pause "$attempt" "$give_up_at"
        [[ -z $signal ]] || end_on_signal
        ((attempt++))
    done
    if [[ $status == 410 ]]; then
        released=yes
        finish 0 not_wanted
    fi
}

# --- what the node must have --------------------------------------------------------------------------------------

# at_least MAJOR MINOR TEXT: whether the first version in the text is that one or newer.
at_least() {
    [[ $3 =~ ([0-9]+)\.([0-9]+) ]] || return 1
    ((BASH_REMATCH[1] > $1 || (BASH_REMATCH[1] == $1 && BASH_REMATCH[2] >= $2)))
}

# unfit REASON: the node cannot run a runner. Tells token-broker with the launch token, in a process of its own, and ends. By what old nodes
# have: curl's -H reads no file before 7.55, and jq may be what is missing.
unfit() {
    (
        IFS= read -r launch_token <&3 || exit
        text=${1//[^[:print:]]/ }
        text=${text//\\/\\\\}
        text=${text//\"/\\\"}
        # The site's certificates come on top of the node's own, which curl cannot be told yet: first the one, then the other.
        for trusted in "${GHA_SLURM_CA_FILE:-}" '' ''; do
            printf 'header = "Authorization: Bearer %s"\n' "$launch_token" |
                curl --config - --silent --show-error --fail --max-time "$CALL_TIMEOUT_S" --output /dev/null \
                    ${trusted:+--cacert "$trusted"} -H 'Content-Type: application/json' \
                    --data-binary "{\"phase\":\"finished\",\"node\":\"$NODE\",\"reason\":\"node_unfit: $text\"}" \
                    "$TOKEN_URL/gha/runner/progress" && break
            sleep 1
        done
    )
    finish 1 "node_unfit: $1"
}

look_at_node() {
    local found tool tools=(curl jq tar mktemp)
    at_least 4 4 "$BASH_VERSION" || unfit "bash 4.4 or newer is needed, and this is $BASH_VERSION"
    [[ -z $CONTAINER ]] || tools+=("$APPTAINER")
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || unfit "$tool is needed, and not installed"
    done
    found=$(jq --version 2>&1)
    at_least 1 6 "$found" || unfit "jq 1.6 or newer is needed, and this is $found"
    found=$(curl --version 2>&1 | head -n 1 | cut -d' ' -f1-2)
    at_least 7 55 "$found" || unfit "curl 7.55 or newer is needed, and this is $found"
}

# --- the way ------------------------------------------------------------------------------------------------------

{ : <&3; } 2>/dev/null || finish 1 'no launch token'
look_at_node
root=${GHA_SLURM_WORK_ROOT:-${TMPDIR:-/tmp}}
work=$(mktemp -d "$root/gha-slurm-${SLURM_JOB_ID:-0}.XXXXXX") || unfit "no folder can be made in $root (runner.work_root)"
log=$work/log
if ! mkdir "$work/home" "$work/tmp" || ! printf '#!/bin/sh\n' >"$work/tmp/run"; then
    unfit "nothing can be written in $root (runner.work_root)"
fi
chmod 0700 "$work/tmp/run"
"$work/tmp/run" || unfit "no program in $root can be run; it may be mounted noexec (runner.work_root)"
rm "$work/tmp/run"
give "HOME=$work/home"
give "TMPDIR=$work/tmp"
trust_ca || unfit "${GHA_SLURM_CA_FILE:-} (runner.network.ca_file) cannot be read"
say "launch ${GHA_SLURM_LAUNCH:-}: Slurm job ${SLURM_JOB_ID:-} on $NODE"

redeem &
child=$!
# One that came before there was anybody to hand it on to.
[[ -z $signal ]] || kill -TERM "$child" 2>/dev/null
reap
if [[ -n $signal && ! -s $work/code ]]; then
    # It ended of that before it had a trap, and so before it had read the launch token: once more, to tell.
    redeem &
    child=$!
    reap
fi
code=$(cat "$work/code") || code=none
exec 3<&-
case $code in
    0) ;;
    10) finish 0 not_wanted ;;
    11) finish 0 redeemed_elsewhere ;;
    12) finish 1 callback_refused ;;
    13) finish 1 callback_unavailable ;;
    *)
        [[ -z $signal ]] || end_on_signal
        finish 1 "the redemption ended with $code"
        ;;
esac

field() {
    jq -r "$1 // empty" "$work/answer"
}
progress_token=$(field .progressToken)
jit_config=$(field .encodedJitConfig)
registration_token=$(field .token)
runner_name=$(field .name)
url=$(field .url)
labels=$(field '.labels | join(",")')
rm -f "$work/answer" "$work/request"
secrets=("$progress_token" "$jit_config" "$registration_token")
# The site's settings say which.
if [[ $MODE == registration ]]; then jit_config=''; else registration_token=''; fi
if [[ -z $progress_token || -z $jit_config$registration_token ]]; then
    finish 1 'token-broker answered without a runner token'
fi
if [[ -n $jit_config ]]; then
    wrong=$(wrong_in_jit_config)
    [[ -z $wrong ]] || failed "jit_config_refused: $wrong"
elif ! is_github "$url"; then
    failed "url_refused: the runner is to be registered at $url, and runner.github_hosts of the agent allows ${GITHUB_HOSTS[*]}"
fi
[[ -z $signal ]] || end_on_signal

progress "$progress_token" set_up
# Once: a symlink that is switched to another release meanwhile must not mix the two.
release=$(realpath -m -- "$GHA_SLURM_RUNNER_DIR")
# Beside this process, which a signal reaches at once that way.
copy_runner &
child=$!
[[ -z $signal ]] || kill -TERM "$child" 2>/dev/null
reap
[[ -z $signal ]] || end_on_signal
((code == 0)) || failed set_up_failed
write_hooks || failed set_up_failed
: >"$work/runner.log"
exec {output}<"$work/runner.log"
if [[ -n $jit_config ]]; then
    inputs=("ACTIONS_RUNNER_INPUT_JITCONFIG=$jit_config")
else
    register
fi
say "runner $runner_name"
run_listener
[[ -z $signal ]] || end_on_signal "$code"
if [[ -n $started ]]; then
    if [[ -f $work/hook/refused ]]; then
        finish 0 "refused_by_policy: $(head -c 400 "$work/hook/refused" | tr -d '\000')" --argjson exitCode "$code"
    fi
    ((code == 0)) || finish 1 runner_failed --argjson exitCode "$code"
    finish 0 completed --argjson exitCode 0
fi
case $reason:$code in
    idle:*) finish 0 idle --argjson exitCode "$code" ;;
    set_up_deadline:*) failed set_up_deadline "$code" ;;
    :0) finish 0 no_workflow_job --argjson exitCode 0 ;;
    :7)
        reason='GitHub does not serve this version of the runner any more'
        failed "runner_outdated: $reason; the administrators must install a newer one (gha-slurm runner-update)" 7
        ;;
    *) failed runner_failed "$code" ;;
esac
