//! The ways a job script can go that are no failures.

use std::time::Duration;

use gha_slurm_contract::runner::{ProgressRequest, RunnerRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use wiremock::ResponseTemplate;

use crate::script_fixture::*;

#[tokio::test]
async fn a_workflow_job_is_run_and_told_about() {
    let launch = Launch::new(&format!(
        r#"[ "$jit" = {JIT_CONFIG} ] || exit 98
        echo "$HOME $TMPDIR $PWD" > "$SEEN/folders"; stat -c %a "$HOME" "$PWD" > "$SEEN/modes"
        touch in-the-copy; mkdir in-steps; stat -c %a in-the-copy in-steps > "$SEEN/modes-of-steps"
        {ONE_WORKFLOW_JOB}"#
    ))
    .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.output.trim_end().ends_with("over: completed"));
    assert!(
        outcome.output.contains("Running job: test"),
        "the runner's output is in the log"
    );

    let redemption = launch.calls("/gha/runner").await;
    let [call] = redemption.as_slice() else {
        panic!("{redemption:?}")
    };
    assert_eq!(bearer(call), LAUNCH_TOKEN);
    assert_eq!(call.headers["traceparent"], TRACEPARENT);
    let body: RunnerRequest = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(
        (
            body.slurm_job_id.as_str(),
            body.restart_count,
            body.node.as_str()
        ),
        ("17", 0, "n1")
    );

    let phases = launch.phases().await;
    assert_eq!(phases.first().unwrap(), "allocated");
    assert_eq!(phases.get(1).unwrap(), "set_up");
    assert_eq!(phases.get(2).unwrap(), "listening");
    for (call, phase) in launch
        .calls("/gha/runner/progress")
        .await
        .iter()
        .zip(&phases)
    {
        let token = if phase == "allocated" {
            LAUNCH_TOKEN
        } else {
            PROGRESS_TOKEN
        };
        assert_eq!(bearer(call), token, "{phase}");
        let body: ProgressRequest = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(body.node.as_deref(), Some("n1"));
        assert!(body.at.is_some() && body.log_tail.is_none());
    }
    let progress = launch.progress().await;
    assert!(
        progress.iter().any(|p| p["phase"] == "workflow_job_started"
            && p["runId"] == 4711
            && p["runAttempt"] == 2),
        "{progress:?}"
    );
    let last = launch.last().await;
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&json!("completed"), &json!(0))
    );

    let folders = launch.seen("folders");
    for folder in folders.split_whitespace() {
        assert!(
            folder.starts_with(launch.path("work").to_str().unwrap()),
            "{folders}"
        );
    }
    assert_eq!(launch.seen("modes"), "700\n700\n");
    assert_eq!(launch.seen("modes-of-steps"), "644\n755\n");
    assert_eq!(launch.seen("arguments"), "run\n");
    assert!(
        !launch.path("runner/in-the-copy").exists(),
        "the release is not written to"
    );
    assert!(launch.calls("/gha/runner/release").await.is_empty());
}

#[tokio::test]
async fn nothing_to_do_ends_it_at_once() {
    for (status, reason) in [(410, "not_wanted"), (409, "redeemed_elsewhere")] {
        let launch = Launch::new(ONE_WORKFLOW_JOB).await;
        launch
            .says("/gha/runner", 1, problem(status, "it was withdrawn"), None)
            .await;
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert!(
            outcome.output.contains("it was withdrawn"),
            "{}",
            outcome.output
        );
        assert!(
            outcome
                .output
                .trim_end()
                .ends_with(&format!("over: {reason}"))
        );
        assert_eq!(launch.phases().await, ["allocated"]);
        assert_eq!(launch.seen("arguments"), "", "no runner was started");
    }
}

#[tokio::test]
async fn a_broker_in_trouble_is_asked_again_when_it_says() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let trouble = problem(503, "GitHub is in trouble").insert_header("Retry-After", "3");
    launch.says("/gha/runner", 1, trouble, Some(1)).await;
    let began = std::time::Instant::now();
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "the first pause would be 1 s"
    );
    assert_eq!(launch.calls("/gha/runner").await.len(), 2);
}

#[tokio::test]
async fn a_broker_that_takes_no_progress_does_not_fail_the_build() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    launch
        .says(
            "/gha/runner/progress",
            1,
            problem(404, "no such route"),
            None,
        )
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.output.contains("no such route"));
}

#[tokio::test]
async fn an_idle_runner_is_given_back() {
    let launch = Launch::new("listening; linger")
        .await
        .with("GHA_SLURM_IDLE_DEADLINE_S", "1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "idle");
    let releases = launch.calls("/gha/runner/release").await;
    assert_eq!(releases.len(), 1);
    assert_eq!(bearer(releases.first().unwrap()), PROGRESS_TOKEN);
    assert_eq!(launch.seen("signals"), "told\n", "it was ended gracefully");
}

#[tokio::test]
async fn a_runner_that_has_work_after_all_is_kept() {
    // It waits until the release was refused.
    let launch = Launch::new(&format!(
        "listening; until [ -e \"$SEEN/refused\" ]; do sleep 0.1; done; {ONE_WORKFLOW_JOB}"
    ))
    .await
    .with("GHA_SLURM_IDLE_DEADLINE_S", "1");
    let refusal = problem(409, "it has work");
    launch.says("/gha/runner/release", 1, refusal, None).await;
    let child = launch.start();
    gha_slurm_test_support::wait_until("the release is asked for", crate::DEADLINE, || async {
        (!launch.calls("/gha/runner/release").await.is_empty()).then_some(())
    })
    .await;
    std::fs::write(launch.path("seen/refused"), "").unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");
    assert_eq!(launch.seen("signals"), "", "it was left alone");
}

#[tokio::test]
async fn slow_set_ups_and_slow_downloads_of_actions_are_not_idle() {
    // Before "Listening for Jobs" the idle deadline does not run; "Running job:" ends it, minutes before the hook.
    let slow = ONE_WORKFLOW_JOB.replace("mkdir -p", "sleep 3; mkdir -p");
    let launch = Launch::new(&format!("sleep 3; {slow}"))
        .await
        .with("GHA_SLURM_IDLE_DEADLINE_S", "1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");
    assert!(launch.calls("/gha/runner/release").await.is_empty());
}

#[tokio::test]
async fn a_worker_log_or_the_hook_ends_the_idle_deadline_too() {
    for signal in [
        "mkdir -p _diag; touch _diag/Worker_1-utc.log",
        "bash \"$ACTIONS_RUNNER_HOOK_JOB_STARTED\"",
    ] {
        let launch = Launch::new(&format!("listening; {signal}; sleep 3"))
            .await
            .with("GHA_SLURM_IDLE_DEADLINE_S", "1");
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(0), "{signal}: {}", outcome.output);
        assert!(
            launch.calls("/gha/runner/release").await.is_empty(),
            "{signal}"
        );
    }
}

#[tokio::test]
async fn the_sites_own_hook_is_called() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let hook = launch.path("site hook's.sh");
    std::fs::write(&hook, "echo $GITHUB_RUN_ID > \"$SEEN/hook\"").unwrap();
    let launch = launch.with("ACTIONS_RUNNER_HOOK_JOB_STARTED", hook.to_str().unwrap());
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.seen("hook"), "4711\n");
}

#[tokio::test]
async fn a_registration_token_is_configured_first() {
    let answer = ResponseTemplate::new(200).set_body_json(json!({
        "mode": "registration", "token": REGISTRATION_TOKEN, "url": "https://github.com/acme/widgets",
        "name": "gha-slurm-test-1", "labels": ["self-hosted", "slurm"], "progressToken": PROGRESS_TOKEN,
    }));
    let runner = format!(
        "if [ \"$1\" = configure ]; then [ \"$token\" = {REGISTRATION_TOKEN} ]; exit; fi\n{ONE_WORKFLOW_JOB}"
    );
    let launch = Launch::new(&runner)
        .await
        .with("GHA_SLURM_RUNNER_MODE", "registration");
    launch.says("/gha/runner", 1, answer.clone(), None).await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let phases = launch.phases().await;
    assert_eq!(
        phases[..4],
        ["allocated", "set_up", "registered", "listening"]
    );
    assert_eq!(
        launch.seen("arguments"),
        "configure --unattended --ephemeral --no-default-labels --url https://github.com/acme/widgets --name \
         gha-slurm-test-1 --labels self-hosted,slurm --work _work\nrun\n"
    );

    // Withdrawn while it registered: it does not start.
    let launch = Launch::new(&runner)
        .await
        .with("GHA_SLURM_RUNNER_MODE", "registration");
    launch.says("/gha/runner", 1, answer, None).await;
    launch
        .says(
            "/gha/runner/progress",
            1,
            ResponseTemplate::new(204),
            Some(2),
        )
        .await;
    launch
        .says("/gha/runner/progress", 2, problem(410, "withdrawn"), None)
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(!launch.seen("arguments").contains("run\n"));
}

#[tokio::test]
async fn a_signal_is_handed_on_and_the_runner_given_back() {
    let launch = Launch::new("listening; echo up > \"$SEEN/up\"; linger").await;
    let child = launch.start();
    launch.until_seen("up").await;
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(143), "{}", outcome.output);
    assert_eq!(launch.seen("signals"), "told\n");
    assert_eq!(launch.last().await["reason"], "signal");
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
}

#[tokio::test]
async fn a_signal_ends_a_redemption() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let trouble = problem(503, "later").insert_header("Retry-After", "500");
    launch.says("/gha/runner", 1, trouble, None).await;
    let child = launch.start();
    gha_slurm_test_support::wait_until("it was told to wait", crate::DEADLINE, || async {
        (!launch.calls("/gha/runner").await.is_empty()).then_some(())
    })
    .await;
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(143), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "signal");
    assert_eq!(launch.seen("arguments"), "");
}
