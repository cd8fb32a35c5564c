#!/bin/bash
# The runner calls this before the first step of the workflow job (ACTIONS_RUNNER_HOOK_JOB_STARTED). It tells the job script which
# workflow run it is, and refuses what the cluster's policy does not allow: a script that ends with another code than 0 fails
# the workflow job, and what it prints is in the workflow job's log. The site's own hook is called last.
#
# All that it looks at is GitHub's word: neither the workflow's `env:` nor a step's code has been at work here.
#
# Files beside it, which the job script writes or reads:
#   policy.json  which workflow jobs may run: {"repositoryId": 1, "events": ["push", ...], "forks": false,
#                "actors": null or ["alice", ...]}; empty: any
#   site         path of the site's own hook; empty: none
#   started      run id and attempt
#   refused      why the workflow job is refused

here=${BASH_SOURCE[0]%/*}
printf '%s %s\n' "${GITHUB_RUN_ID:-}" "${GITHUB_RUN_ATTEMPT:-}" >"$here/started.new"
mv "$here/started.new" "$here/started"

# Prints why not; nothing: it may run. Whatever cannot be told is refused.
judge() {
    jq -nr --slurpfile policy "$here/policy.json" --slurpfile event "$GITHUB_EVENT_PATH" '
        $policy[0] as $policy | $event[0] as $event
        | def given($name): env[$name] // "" | if . == "" then error("\($name) is not set") else . end;
        def listed($list): ascii_downcase as $one | any($list[]; ascii_downcase == $one);
        given("GITHUB_REPOSITORY_ID") as $repository
        | given("GITHUB_EVENT_NAME") as $name
        | [given("GITHUB_ACTOR"), env.GITHUB_TRIGGERING_ACTOR // "" | select(. != "")] as $actors
        # Where the commit comes from; null where a deleted fork leaves nothing.
        | [ if ($event | has("pull_request")) or ($name | startswith("pull_request"))
            then $event.pull_request.head.repo else empty end,
            # A deployment has none where no workflow run caused it.
            if $event.workflow_run != null or $name == "workflow_run" then $event.workflow_run.head_repository else empty end ] as $heads
        # A deployment names no repository of its commit, and bots deploy commits of pull requests by their SHA. A branch or tag is of
        # this repository, and so is the commit of a workflow run of this repository; of any other commit it cannot be told.
        | (($name | test("^deployment(_status)?$") | not)
            or (env.GITHUB_REF // "" | test("^refs/(heads|tags)/."))
            or ($event.workflow_run.head_sha // "" | . != "" and . == env.GITHUB_SHA)) as $is_of_repository
        | first(
            if $repository != ($policy.repositoryId | tostring) then
                "this runner is for the repository \($policy.repositoryId), not for \(env.GITHUB_REPOSITORY) (\($repository))"
            else empty end,
            if any($policy.events[]; . == $name) then empty else
                "workflow jobs of the event \($name) may not run on this cluster; the policy allows \($policy.events | join(", "))"
            end,
            ($heads[] | select($policy.forks != true and (.id | tostring) != $repository)
                | "it comes from a fork (\(.full_name // "which is deleted")), and the policy of this cluster does not allow forks"),
            if $policy.forks == true or $is_of_repository then empty else
                "it deploys a commit that no branch or tag names, which may come from a fork, and the policy of this cluster does not allow forks"
            end,
            ($actors[] | select($policy.actors != null and (listed($policy.actors) | not))
                | "\(.) is not one of those for whom workflow jobs may run on this cluster"),
            "")
        | gsub("[[:cntrl:]]"; " ")' 2>&1
}

if [[ -s $here/policy.json ]]; then
    verdict=$(judge) || verdict="the policy of this cluster could not be checked: $verdict"
    if [[ -n $verdict ]]; then
        printf '%s\n' "$verdict" >"$here/refused"
        verdict=${verdict//'%'/%25}
        echo "::error title=Refused by the cluster::${verdict//$'\n'/%0A}"
        exit 1
    fi
fi
[[ ! -s $here/site ]] || exec bash "$(<"$here/site")"
exit 0
