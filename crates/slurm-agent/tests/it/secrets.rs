//! What workflow code, which runs as the same user, can read.

use gha_slurm_test_support::wait_until;

use crate::DEADLINE;
use crate::script_fixture::*;

/// Everything a step can read about the processes above it and beside it, and every file of the launch.
const READ_EVERYTHING: &str = r#"
{
    pid=$$
    while [ "$pid" -gt 1 ] && [ "$pid" != "$STOP_AT" ]; do
        echo "== $pid"; tr '\0' '\n' < /proc/$pid/environ; tr '\0' ' ' < /proc/$pid/cmdline; echo
        for fd in /proc/$pid/fd/*; do
            [ -f "$fd" ] && cat "$fd"
            [ -p "$fd" ] && timeout 0.2 dd if="$fd" iflag=nonblock status=none
        done
        pid=$(sed 's/.*) . \([0-9]*\) .*/\1/' /proc/$pid/stat)
    done 2>/dev/null
    session=$(sed 's/.*) . [0-9]* [0-9]* \([0-9]*\) .*/\1/' /proc/$$/stat)
    env
    find .. -type f -exec cat {} + 2>/dev/null
} > "$SEEN/everything" < /dev/null
"#;

#[tokio::test]
async fn neither_token_can_be_read_by_workflow_code() {
    let runner = format!(
        "{ONE_WORKFLOW_JOB}\nbash -c '{}'",
        READ_EVERYTHING.replace('\'', r"'\''")
    );
    let launch = Launch::new(&runner)
        .await
        .with("STOP_AT", &std::process::id().to_string());
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let everything = launch.seen("everything");
    assert!(
        everything.contains("gha-slurm-job.sh"),
        "the script itself was looked at:\n{everything}"
    );
    assert!(everything.contains("SLURM_JOB_ID=17"));
    for secret in [LAUNCH_TOKEN, PROGRESS_TOKEN] {
        assert!(
            !everything.contains(secret),
            "{secret} can be read:\n{everything}"
        );
        assert!(
            !outcome.output.contains(secret),
            "{secret} is in the output"
        );
    }
    assert!(
        !outcome.output.contains(JIT_CONFIG),
        "the JIT configuration is in the output"
    );
    // Its environment: none of ours but the launch.
    let step = everything.rsplit("== ").next().unwrap();
    for line in step.lines().filter(|l| l.starts_with("GHA_SLURM_")) {
        assert!(line.starts_with("GHA_SLURM_LAUNCH="), "{line}");
    }
}

/// While the broker keeps it waiting, the launch token is in nobody's environment or arguments.
#[tokio::test]
async fn the_launch_token_is_in_no_environment_or_argument_while_it_is_redeemed() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let slow = jit_answer().set_delay(std::time::Duration::from_secs(2));
    launch.says("/gha/runner", 1, slow, None).await;
    let child = launch.start();
    wait_until("it redeems", DEADLINE, || async {
        (!launch.calls("/gha/runner").await.is_empty()).then_some(())
    })
    .await;
    let mut looked_at = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = std::fs::read(process.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (environment, arguments) = (read("environ"), read("cmdline"));
        if !environment.contains(&launch.id) {
            continue;
        }
        looked_at += 1;
        assert!(
            !environment.contains(LAUNCH_TOKEN),
            "environment of {arguments}"
        );
        assert!(!arguments.contains(LAUNCH_TOKEN), "{arguments}");
    }
    assert!(
        looked_at >= 3,
        "the script, its redemption and curl: {looked_at}"
    );
    assert_eq!(launch.finish(child).await.code, Some(0));
}

#[tokio::test]
async fn processes_a_workflow_job_leaves_behind_are_ended() {
    let launch = Launch::new(&format!(
        r#"{ONE_WORKFLOW_JOB}
        setsid sleep 1000 & echo $! > "$SEEN/left"
        mkdir -p _work/read-only/module; chmod 500 _work/read-only/module _work/read-only"#
    ))
    .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let left = format!("/proc/{}", launch.seen("left").trim());
    wait_until("it is gone", DEADLINE, || async {
        (!std::path::Path::new(&left).exists()).then_some(())
    })
    .await;
}
