#!/bin/bash
# The container hook of a cluster that offers no containers (ACTIONS_RUNNER_CONTAINER_HOOKS;
# https://github.com/actions/runner-container-hooks): refuses `container:`, `services:` and actions made of a container, and writes
# why to the file `refused` beside it, for the job script. The runner passes a command as JSON on standard input.

here=${BASH_SOURCE[0]%/*}
[[ $(jq -r .command) != cleanup_job ]] || exit 0
verdict='containers (container:, services:, actions made of one) are not offered on this cluster'
printf '%s\n' "$verdict" >"$here/refused"
echo "::error title=Refused by the cluster::$verdict. Use a label of the site whose profile has a container, or run \
Apptainer in a step; or ask the administrators to set runner.container_hooks."
exit 1
