#!/bin/bash
# gha-slurm: the job template of the original contract, for a site whose file has none. A site's own has the same
# placeholders: %LAUNCH_TOKEN%, %LOG_FILE%, %RUNNER_CONFIG_LINE% and $USER.
#
# Beside them it uses what the agent puts into the environment:
#   GHA_SLURM_TOKEN_URL           tokenURL of the request: the original app as the node reaches it
#   GHA_SLURM_REPOSITORY_URL      gitHubURL, as the site's file writes it
#   GHA_SLURM_RUNNER_NAME, GHA_SLURM_LABELS   as requested; may be empty
#   GHA_SLURM_RUNNER_DIR, GHA_SLURM_WORK_ROOT, GHA_SLURM_IDLE_DEADLINE_S   as for the job script

set -uo pipefail
readonly IDLE_DEADLINE_S=${GHA_SLURM_IDLE_DEADLINE_S:-120}

child=''
# The epilog looks for this name.
work=$(mktemp -d "${GHA_SLURM_WORK_ROOT:-${TMPDIR:-/tmp}}/gha-slurm-${SLURM_JOB_ID:-0}.XXXXXX") || exit 1
clean_up() {
    trap '' TERM INT
    [[ -z $child ]] || kill -KILL -- "-$child" 2>/dev/null
    chmod -R u+rwX "$work" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
trap '[[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT

# The original app takes the bare token. Through a pipe: arguments are for everybody to see.
runner_token=$(printf 'Authorization: %s\n' "%LAUNCH_TOKEN%" |
    curl --silent --show-error --fail --retry 5 --max-time 20 --request POST -H @- "${GHA_SLURM_TOKEN_URL%/}/gha/runner" |
    jq -r '.token // empty')
unset GHA_SLURM_LAUNCH_TOKEN
if [[ -z $runner_token ]]; then
    echo "no runner token from ${GHA_SLURM_TOKEN_URL}"
    exit 1
fi

mkdir "$work/runner" "$work/home" "$work/tmp" || exit 1
for entry in "$GHA_SLURM_RUNNER_DIR"/* "$GHA_SLURM_RUNNER_DIR/.env" "$GHA_SLURM_RUNNER_DIR/.path"; do
    case ${entry##*/} in
        _*) continue ;;
        externals) ln -s "$entry" "$work/runner/externals" || exit 1 ;;
        *) [[ ! -e $entry ]] || cp -RL --reflink=auto -- "$entry" "$work/runner/" || exit 1 ;;
    esac
done
cd "$work/runner" || exit 1
export HOME=$work/home TMPDIR=$work/tmp

options=(--unattended --replace --ephemeral --work gha_work --url "$GHA_SLURM_REPOSITORY_URL")
[[ -z ${GHA_SLURM_RUNNER_NAME:-} ]] || options+=(--name "$GHA_SLURM_RUNNER_NAME")
[[ -z ${GHA_SLURM_LABELS:-} ]] || options+=(--labels "$GHA_SLURM_LABELS")
# The runner takes its inputs out of its environment.
if ! ACTIONS_RUNNER_INPUT_TOKEN=$runner_token bin/Runner.Listener configure "${options[@]}" </dev/null; then
    echo 'the runner could not be registered'
    exit 1
fi
unset runner_token

set -m
bin/Runner.Listener run </dev/null >>"%LOG_FILE%" 2>&1 &
child=$!
set +m
# Not for ever without a workflow job.
listening_since=''
while kill -0 "$child" 2>/dev/null; do
    sleep 1 &
    wait $!
    [[ -n $listening_since ]] || ! grep -q 'Listening for Jobs' "%LOG_FILE%" || listening_since=$SECONDS
    if [[ -n $listening_since ]] && ((SECONDS - listening_since >= IDLE_DEADLINE_S)) &&
        ! grep -q 'Running job' "%LOG_FILE%"; then
        echo "no workflow job within $IDLE_DEADLINE_S s"
        kill -TERM "$child" 2>/dev/null
        break
    fi
done
wait "$child"
code=$?
child=''
cat "%LOG_FILE%"
exit "$code"
