//! What a step of a workflow job, which runs as the user of the job script, can do with whatever it reads.

use std::collections::BTreeSet;

use gha_slurm_test_support::wait_until;
use serde_json::{Value, json};

use crate::stack::{DEADLINE, REPOSITORY, Service, Stack};

/// Looks through every process of this Slurm job (environment, arguments, open files) and every file of it, tries each
/// word that could be a token on everything that token-broker offers, and writes `status path token` per attempt. A decoy
/// of the shape of a launch token shows that it finds what is there.
const REPLAY_EVERYTHING: &str = r#"
set +e
echo 'eyJkZWNveQ.ZGVjb3ktZGVjb3ktZGVjb3ktZGVjb3k.c2lnbmF0dXJl' > decoy
session=$(sed 's/.*) . [0-9]* [0-9]* \([0-9]*\) .*/\1/' /proc/$$/stat)
leader=$(tr '\0' '\n' < /proc/$session/environ)
broker=$(sed -n 's/^GHA_SLURM_TOKEN_URL=//p' <<< "$leader")
submitted=$(sed -n 's/^SLURM_SUBMIT_DIR=//p' <<< "$leader")
mine() {
    for stat in /proc/[0-9]*/stat; do
        [ "$(sed 's/.*) . [0-9]* [0-9]* \([0-9]*\) .*/\1/' "$stat" 2>/dev/null)" != "$session" ] || dirname "$stat"
    done
}
{
    env
    for process in $(mine); do
        cat "$process/environ" "$process/cmdline" 2>/dev/null
        for fd in "$process"/fd/*; do
            [ -f "$fd" ] && head -c 1000000 "$fd"
            [ -p "$fd" ] && timeout 0.2 dd if="$fd" iflag=nonblock status=none
        done 2>/dev/null
    done
    find "$submitted" "$HOME/.." "$RUNNER_TEMP" . -type f -size -2000k -exec cat {} + 2>/dev/null
} < /dev/null > "$TMPDIR/everything"
tr -c 'A-Za-z0-9_.=+/-' '\n' < "$TMPDIR/everything" | sed 's/^[A-Za-z_]*=//' | grep -xE '[A-Za-z0-9_.=+-]{30,3000}' | sort -u > "$TMPDIR/tokens"
echo "broker=$broker slurm_job=$SLURM_JOB_ID"
try() {
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' -X POST -H "Authorization: $2" \
        -H 'Content-Type: application/json' --data "$3" "$broker$1")
    echo "attempt $status $1 $2"
}
redeem="{\"slurmJobId\":\"$SLURM_JOB_ID\",\"restartCount\":0,\"node\":\"n1\",\"mode\":\"jit\"}"
while read -r token; do
    try /gha/runner "Bearer $token" "$redeem"
    try /gha/runner "$token" ''
    try /gha/runner/progress "Bearer $token" '{"phase":"finished","reason":"replayed"}'
    try /gha/runner/release "Bearer $token" '{}'
done < "$TMPDIR/tokens"
"#;

#[tokio::test]
async fn replaying_everything_that_can_be_read_gains_nothing() {
    let stack = Stack::builder()
        .setting(Service::Agent, "LOCAL__MAX_RUNNING", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    // While the first occupies the node, the second is pending: the test reads what the Slurm job is given.
    let until = |file: &str| stack.until_there(file).0;
    let first = stack.queue(&until("go"));
    stack.until_in_progress(first).await;
    let second = stack.queue(&format!("{REPLAY_EVERYTHING}\n{}", until("go.on")));
    stack.until_launches("state = 'submitted'", 1).await;
    let given = std::fs::read(stack.slurm_jobs()[1].join("environment.json")).unwrap();
    let given: Value = serde_json::from_slice(&given).unwrap();
    let launch_token = given["GHA_SLURM_LAUNCH_TOKEN"].as_str().unwrap();
    std::fs::write(stack.folder().join("go"), "").unwrap();
    stack.until_in_progress(second).await;

    // Whoever has the launch token all the same, comes too late: the runner listens.
    stack.until_kind(second, "workflow_job_started").await;
    let body = json!({"slurmJobId": "2", "restartCount": 0, "node": "n1", "mode": "jit"});
    assert_eq!(post(&stack, "/gha/runner", launch_token, &body).await, 409);
    let finished = json!({"phase": "finished", "reason": "replayed"});
    assert_eq!(
        post(&stack, "/gha/runner/progress", launch_token, &finished).await,
        204
    );
    assert_eq!(
        post(&stack, "/gha/runner/release", launch_token, &json!({})).await,
        401
    );
    let state = "SELECT state::text FROM launches WHERE slurm_job_id = '2'";
    assert_eq!(stack.sql::<String>(state, &[]).await, "busy");

    std::fs::write(stack.folder().join("go.on"), "").unwrap();
    let output = stack.until_succeeded(second).await.output;
    let attempts: Vec<&str> = output
        .lines()
        .filter(|l| l.starts_with("attempt "))
        .collect();
    assert!(
        output.contains(&format!("broker={}", stack.url(Service::TokenBroker))),
        "{output}"
    );
    assert!(
        attempts.iter().any(|a| a.contains("eyJkZWNveQ.")),
        "the decoy is found:\n{output}"
    );
    let statuses: BTreeSet<&str> = attempts
        .iter()
        .filter_map(|a| a.split(' ').nth(1))
        .collect();
    assert_eq!(statuses, ["401"].into(), "{output}");
    assert!(!output.contains(launch_token), "{output}");
    stack.until_completed(second).await;
    wait_until("the runner is over as it should", DEADLINE, || async {
        let reason =
            "SELECT coalesce(outcome->>'reason', '') FROM launches WHERE slurm_job_id = '2'";
        match stack.sql::<String>(reason, &[]).await {
            reason if reason == "completed" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(post(&stack, "/gha/runner", launch_token, &body).await, 410);
    assert_eq!(stack.launches("true").await, 2);
    stack.finish().await;
}

async fn post(stack: &Stack, path: &str, token: &str, body: &Value) -> u16 {
    let url = format!("{}{path}", stack.url(Service::TokenBroker));
    let request = stack.http().post(url).bearer_auth(token).json(body);
    request.send().await.unwrap().status().as_u16()
}
