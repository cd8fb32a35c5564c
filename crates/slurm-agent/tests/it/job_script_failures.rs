//! The ways a job script can fail, and what it tells then.

use gha_slurm_contract::runner::MAX_LOG_TAIL_BYTES;

use crate::script_fixture::*;

#[tokio::test]
async fn a_launch_token_that_is_not_accepted_is_a_failure() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    launch
        .says(
            "/gha/runner",
            1,
            problem(401, "the launch token has expired"),
            None,
        )
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "callback_refused");
    assert!(
        last["logTail"]
            .as_str()
            .unwrap()
            .contains("the launch token has expired")
    );
    assert_eq!(launch.calls("/gha/runner").await.len(), 1);
}

#[tokio::test]
async fn a_broker_that_stays_away_is_given_up() {
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_CALLBACK_DEADLINE_S", "2");
    launch
        .says("/gha/runner", 1, problem(500, "broken"), None)
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "callback_unavailable");
    assert!(launch.calls("/gha/runner").await.len() >= 2);

    // Nobody there at all.
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_CALLBACK_DEADLINE_S", "1")
        .with("GHA_SLURM_TOKEN_URL", "http://127.0.0.1:1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(
        outcome
            .output
            .trim_end()
            .ends_with("over: callback_unavailable")
    );
}

#[tokio::test]
async fn a_runner_that_fails_before_a_workflow_job_leaves_a_redacted_tail() {
    let secrets = [
        "ghs_1234_eyJhbGciOiJSUzI1NiJ9.abc.def0123456789012345678901234567890",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTkyIn0.c2lnbmF0dXJl",
        "hunter2secret",
    ];
    let [ghs, jwt, password] = secrets;
    let launch = Launch::new(&format!(
        r#"for i in $(seq 3000); do echo "line $i of a long log that nobody needs ÄÖÜ"; done
        printf '\001\002\377\033[31mred\033[0m\n'
        echo "jit $jit"; echo "got {ghs} and {jwt}"; echo "https://user:{password}@proxy.example/"
        echo "the registration has been deleted"; exit 1"#
    ))
    .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"runner_failed".into(), &1.into())
    );
    let tail = last["logTail"].as_str().unwrap();
    assert!(
        tail.len() <= MAX_LOG_TAIL_BYTES && tail.len() > MAX_LOG_TAIL_BYTES / 2,
        "{}",
        tail.len()
    );
    assert!(tail.contains("the registration has been deleted"));
    assert!(tail.contains("line 3000 of a long log that nobody needs ÄÖÜ"));
    for secret in secrets
        .into_iter()
        .chain([JIT_CONFIG, PROGRESS_TOKEN, LAUNCH_TOKEN])
    {
        assert!(!tail.contains(secret), "{secret} is in the tail");
    }
    assert_eq!(
        launch.calls("/gha/runner/release").await.len(),
        1,
        "its registration is given back"
    );
}

#[tokio::test]
async fn a_runner_that_fails_in_its_workflow_job_keeps_its_log() {
    let launch = Launch::new(&format!("{ONE_WORKFLOW_JOB} exit 1")).await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"runner_failed".into(), &1.into())
    );
    assert!(
        last.get("logTail").is_none(),
        "it may hold what the workflow printed"
    );
}

#[tokio::test]
async fn a_runner_that_never_listens_is_ended() {
    let launch = Launch::new("echo starting; linger")
        .await
        .with("GHA_SLURM_SET_UP_DEADLINE_S", "1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "set_up_deadline");
    assert!(last["logTail"].as_str().unwrap().contains("starting"));
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
}

#[tokio::test]
async fn exit_codes_of_the_runner_are_understood() {
    // 2: again; 3: it updates itself; then it is outdated all the same.
    let launch = Launch::new(
        r#"case $(wc -l < "$SEEN/arguments") in
            1) exit 3 ;;
            2) touch update.finished; exit 3 ;;
            *) exit 7 ;;
        esac"#,
    )
    .await;
    std::fs::write(launch.path("runner/update.finished"), "").unwrap();
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("runner_outdated: ") && reason.contains("gha-slurm runner-update"),
        "{reason}"
    );
    assert!(
        !reason.contains('\n') && reason.len() < 500,
        "the time line shows it whole"
    );
    assert_eq!(launch.seen("arguments"), "run\nrun\nrun\n");

    let launch = Launch::new("exit 0").await;
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.last().await["reason"], "no_workflow_job");
}

#[tokio::test]
async fn a_runner_folder_without_a_runner_is_a_failure() {
    let launch = Launch::new("")
        .await
        .with("GHA_SLURM_RUNNER_DIR", "/nonexistent");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "set_up_failed");
    assert!(
        last["logTail"]
            .as_str()
            .unwrap()
            .contains("no bin/Runner.Listener")
    );
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
}
