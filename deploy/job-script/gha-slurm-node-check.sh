#!/bin/bash
# gha-slurm node check: what `gha-slurm doctor --node USER` runs on a compute node, as USER. It prints a line for each thing it
# looks at and changes nothing.
#
# Environment, as the job script gets it from the agent:
#   GHA_SLURM_TOKEN_URL   base URL of token-broker as the node reaches it; may be empty
#   GHA_SLURM_RUNNER_DIR  folder of the unpacked runner release
#   GHA_SLURM_OUTPUT      beginning of the path of the file for what it prints
#   GHA_SLURM_WORK_ROOT   where private work directories are made (default: $TMPDIR, else /tmp)
#
# Exit code: the sum of what is a problem, for when the lines stay on the node: 1 token-broker, 2 certificates, 4 scratch
# space, 8 programs, 16 the runner, 32 the clock, 64 the output folder.

set -uo pipefail
# Its time limit is short: the signal that announces it may come at once.
trap '' TERM
code=0
if [[ -n ${GHA_SLURM_OUTPUT:-} ]]; then
    # As the job script does.
    if output_file=$(umask 077 && mktemp --suffix=.log "$GHA_SLURM_OUTPUT.XXXXXXXXXX"); then
        exec >>"$output_file" 2>&1
        # For the doctor, who may be another user than this one. Nothing secret is printed: passwords are masked.
        chmod 0644 "$output_file"
    else
        code=64
    fi
fi
say() {
    printf '%-8s %s: %s\n' "$1" "$2" "$3"
}
problem() {
    code=$((code | $1))
    say problem "$2" "$3"
}
# mask VALUE: without the password of a URL, or of `user:password@host`. A password may have an `@`.
mask() {
    sed -E 's#^([A-Za-z][A-Za-z0-9+.-]*://)?.*@#\1***@#' <<<"$1"
}

say ok node "$(uname -n), user $(id -un)"

# at_least MAJOR MINOR TEXT: whether the first version in the text is that one or newer.
at_least() {
    [[ $3 =~ ([0-9]+)\.([0-9]+) ]] || return 1
    ((BASH_REMATCH[1] > $1 || (BASH_REMATCH[1] == $1 && BASH_REMATCH[2] >= $2)))
}
# version PROGRAM: what it says of itself, or that it is not there.
version() {
    if command -v "$1" >/dev/null; then
        "$1" --version 2>&1 | head -n 1 | cut -d' ' -f1-2
    else
        echo "no $1"
    fi
}
bash_version="bash ${BASH_VERSION%%(*}" curl_version=$(version curl) jq_version=$(version jq)
needed=''
at_least 4 4 "$bash_version" || needed+=" bash 4.4,"
at_least 7 55 "$curl_version" || needed+=" curl 7.55,"
at_least 1 6 "$jq_version" || needed+=" jq 1.6,"
command -v tar >/dev/null || needed+=" tar,"
if [[ -n $needed ]]; then
    problem 8 programs "the job script needs${needed%,} or newer, and this node has $bash_version, $curl_version, $jq_version: install them on every node"
else
    say ok programs "$bash_version, $curl_version, $jq_version"
fi

work=''
root=${GHA_SLURM_WORK_ROOT:-${TMPDIR:-/tmp}}
if made=$(mktemp -d "$root/gha-slurm-node-check.XXXXXX" 2>&1); then
    work=$made
    trap 'rm -rf "$work"' EXIT
    free=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
    printf '#!/bin/sh\n' >"$work/run" && chmod 0700 "$work/run"
    if ! "$work/run" 2>/dev/null; then
        problem 4 'scratch space' "no program in $root can be run; it may be mounted noexec: set runner.work_root to another folder"
    elif ((free < 4096)); then
        say warning 'scratch space' "$root has only $free MiB free; a runner, its actions and a checkout take some GiB"
    else
        say ok 'scratch space' "$root, $free MiB free"
    fi
else
    problem 4 'scratch space' "no folder can be made in $root ($made): set runner.work_root"
fi

# What curl and the runner are told: by the environment, and by the runner folder's .env.
told() {
    local name=$1
    if [[ -n ${!name:-} ]]; then
        printf '%s' "${!name}"
    elif [[ -r ${GHA_SLURM_RUNNER_DIR:-}/.env ]]; then
        sed -n "s/^$name=//p" "$GHA_SLURM_RUNNER_DIR/.env" | tail -n 1
    fi
}
proxies=''
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    value=$(told "$name")
    [[ -z $value ]] || proxies+=" $name=$(mask "$value")"
done
say ok proxy "${proxies:- none}"
for name in CURL_CA_BUNDLE SSL_CERT_FILE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO; do
    value=$(told "$name")
    if [[ -n $value && ! -r $value ]]; then
        problem 2 certificates "$name names $value, which cannot be read on this node"
    elif [[ -n $value ]]; then
        say ok certificates "$name=$value"
    fi
done

# Without Yama, or with 0, a process may take over another one of its user.
scope=$(cat /proc/sys/kernel/yama/ptrace_scope 2>/dev/null)
if [[ ${scope:-0} == 0 ]]; then
    say warning ptrace "a user's processes can take over one another, also what the epilog starts: set kernel.yama.ptrace_scope=1"
else
    say ok ptrace "kernel.yama.ptrace_scope=$scope"
fi

url=${GHA_SLURM_TOKEN_URL:-}
url=${url%/}
if [[ -z $url ]]; then
    say warning token-broker 'its URL is not known here: give --token-url URL'
elif [[ -n $work ]] && command -v curl >/dev/null; then
    status=$(curl --silent --show-error --max-time 10 --stderr "$work/error" --dump-header "$work/head" \
        --output "$work/body" --write-out '%{http_code}' "$url/.well-known/jwks.json")
    if [[ $status == 200 ]] && grep -q '"keys"' "$work/body"; then
        say ok token-broker "$(mask "$url") answers"
    elif [[ $status == 000 ]]; then
        problem 1 token-broker "$(mask "$url") cannot be reached: $(tail -n 1 "$work/error")"
    else
        problem 1 token-broker "$(mask "$url") is not token-broker: /.well-known/jwks.json is answered with HTTP $status"
    fi
    there=$(sed -n 's/^[Dd]ate: *//p' "$work/head" 2>/dev/null | tail -n 1 | tr -d '\r')
    if [[ -n $there ]] && there=$(date -d "$there" +%s 2>/dev/null); then
        ahead=$(($(date +%s) - there))
        if ((ahead > 120 || ahead < -120)); then
            problem 32 clock "$ahead s ahead of token-broker's; launch tokens allow for 120 s: set the node's clock"
        else
            say ok clock "$ahead s ahead of token-broker's"
        fi
    fi
fi

runner=${GHA_SLURM_RUNNER_DIR:-}
if [[ ! -x $runner/bin/Runner.Listener ]]; then
    problem 16 runner "no $runner/bin/Runner.Listener on this node: unpack a release of actions/runner there, readable to all"
elif [[ -n $work ]]; then
    # It logs beside its own file, which nobody may do there: so it gets another place, with links to the rest.
    mkdir -p "$work/runner/bin"
    for file in "$runner"/bin/*; do
        case $file in
            */Runner.Listener*) cp "$file" "$work/runner/bin/" ;;
            *) ln -s "$file" "$work/runner/bin/" ;;
        esac
    done
    if version=$(timeout 10 "$work/runner/bin/Runner.Listener" --version 2>"$work/error" </dev/null) && [[ -n $version ]]; then
        say ok runner "$runner, version $(head -n 1 <<<"$version" | cut -c1-40)"
    else
        problem 16 runner "$runner/bin/Runner.Listener does not run on this node: $(head -n 1 "$work/error" | cut -c1-200)"
    fi
fi
exit "$code"
