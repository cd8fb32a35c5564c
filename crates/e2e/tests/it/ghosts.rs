//! Slurm jobs that somebody forgot: slurmctld, the agent, or the launcher's database. On the local backend and on a real Slurm, by
//! its programs and by slurmrestd.

use gha_slurm_test_support::wait_until;

use crate::stack::{Builder, DEADLINE, REPOSITORY, Service, SlurmBackend, Stack};

/// More than the failures after which a class is given up.
const LOST: i64 = 8;

/// Each test, on a real Slurm by both ways.
macro_rules! both_ways {
    ($($test:ident),* $(,)?) => {
        mod by_programs { $(#[tokio::test] async fn $test() { super::$test(Some(super::SlurmBackend::Sbatch)).await; })* }
        mod by_rest { $(#[tokio::test] async fn $test() { super::$test(Some(super::SlurmBackend::Slurmrestd)).await; })* }
    };
}

/// Each test, on the local backend.
macro_rules! local {
    ($($test:ident),* $(,)?) => {
        mod local { $(#[tokio::test] async fn $test() { super::$test(None).await; })* }
    };
}

both_ways!(
    slurmctld_comes_back_without_its_state,
    an_older_database_is_restored,
    the_agent_loses_its_ledger,
);
local!(an_older_database_is_restored, the_agent_loses_its_ledger);

/// One Slurm job runs at a time. `None`: that takes root.
async fn builder(by: Option<SlurmBackend>) -> Option<Builder> {
    let builder = Stack::builder()
        .setting(Service::Launcher, "CLUSTER__STATES_INTERVAL_S", "1")
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .setting(Service::Launcher, "RECONCILER__ROWLESS_S", "2")
        .setting(Service::Agent, "SLURM__INTERVAL_S", "1");
    match by {
        Some(by) => builder.on_slurm(by).await,
        None => Some(builder.setting(Service::Agent, "LOCAL__MAX_RUNNING", "1")),
    }
}

/// From now on nothing starts on the real Slurm; the local backend has one place.
async fn drain(stack: &Stack, by: Option<SlurmBackend>) {
    if by.is_some() {
        let words = ["update", "nodename=n[1-2]", "state=drain", "reason=test"];
        stack.slurm().run("scontrol", &words).await.unwrap();
    }
}

async fn resume(stack: &Stack, by: Option<SlurmBackend>) {
    if by.is_some() {
        let words = ["update", "nodename=n[1-2]", "state=resume"];
        stack.slurm().run("scontrol", &words).await.unwrap();
    }
}

/// Whether a Slurm job was cancelled.
async fn is_cancelled(stack: &Stack, by: Option<SlurmBackend>, id: &str) -> bool {
    if by.is_some() {
        let job = format!("--jobs={id}");
        let words = ["--noheader", "--states=all", "--format=%T", &job];
        stack.slurm().run("squeue", &words).await.unwrap().trim() == "CANCELLED"
    } else {
        let ended = stack.folder().join("agent/local").join(id).join("ended");
        std::fs::read_to_string(ended).is_ok_and(|text| text == "cancelled")
    }
}

/// A build that runs until the file `go` is there, and one that is pending; the pending Slurm job.
async fn one_runs_and_one_is_pending(
    stack: &Stack,
    by: Option<SlurmBackend>,
) -> (i64, i64, String) {
    stack.map(&[REPOSITORY]).await;
    let (script, _) = stack.until_there("go");
    let running = stack.queue(&script);
    stack.until_in_progress(running).await;
    stack.until_kind(running, "workflow_job_started").await;
    drain(stack, by).await;
    let pending = stack.queue("true");
    // That the other one was pending before it ran may be the last that is known of it.
    let it = format!("workflow_job_id = {pending} AND slurm_state = 'pending'");
    stack.until_launches(&it, 1).await;
    let id = format!("SELECT slurm_job_id FROM launches WHERE {it}");
    (running, pending, stack.sql(&id, &[]).await)
}

async fn slurmctld_comes_back_without_its_state(by: Option<SlurmBackend>) {
    let Some(builder) = builder(by).await else {
        return;
    };
    let mut stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    drain(&stack, by).await;
    let builds: Vec<i64> = (0..LOST).map(|_| stack.queue("true")).collect();
    stack.until_launches("slurm_state = 'pending'", LOST).await;
    stack.slurm().lose_state().await.unwrap();
    for id in builds {
        stack.until_succeeded(id).await;
        stack.until_completed(id).await;
    }
    // Each was lost once and replaced once, by a Slurm job that has the number of a lost one.
    let lost = "SELECT count(DISTINCT launch_id) FROM timeline WHERE kind = 'slurm' AND detail LIKE 'not known to Slurm%'";
    assert_eq!(stack.sql::<i64>(lost, &[]).await, LOST);
    assert_eq!(stack.launches("true").await, 2 * LOST);
    let numbers = "SELECT count(DISTINCT slurm_job_id) FROM launches";
    assert_eq!(stack.sql::<i64>(numbers, &[]).await, LOST);
    // It was away for a moment.
    stack.expect_error("Slurm does not answer");
    stack.finish().await;
}

/// A backup from before both builds: neither has a row.
async fn an_older_database_is_restored(by: Option<SlurmBackend>) {
    let Some(builder) = builder(by).await else {
        return;
    };
    let mut stack = builder.start().await;
    let (running, pending, ghost) = one_runs_and_one_is_pending(&stack, by).await;
    stack.kill9(Service::Launcher);
    for table in [
        "usages",
        "runners",
        "launches",
        "workflow_jobs",
        "runner_classes",
        "timeline",
    ] {
        stack.execute(&format!("DELETE FROM {table}")).await;
    }
    stack.restart(Service::Launcher).await;
    wait_until("the pending Slurm job is cancelled", DEADLINE, || async {
        is_cancelled(&stack, by, &ghost).await
    })
    .await;
    // The build was found at GitHub, and has another one. What runs was left alone.
    stack.until_launches("slurm_state = 'pending'", 1).await;
    let log = stack.service(Service::Launcher).log();
    assert!(log.contains("a running Slurm job has no row"), "{log}");
    std::fs::write(stack.folder().join("go"), "").unwrap();
    stack.until_succeeded(running).await;
    resume(&stack, by).await;
    stack.until_succeeded(pending).await;
    stack.until_completed(pending).await;
    let log = stack.service(Service::Launcher).log();
    let cancelled = log.matches("a pending Slurm job has no row").count();
    assert!((1..=2).contains(&cancelled), "{log}");
    stack.finish().await;
}

async fn the_agent_loses_its_ledger(by: Option<SlurmBackend>) {
    let Some(builder) = builder(by).await else {
        return;
    };
    let mut stack = builder.start().await;
    let (running, pending, left) = one_runs_and_one_is_pending(&stack, by).await;
    stack.kill9(Service::Agent);
    std::fs::remove_dir_all(stack.folder().join("agent/launches")).unwrap();
    stack.restart(Service::Agent).await;
    // It is still wanted, until it is not.
    let third = stack.queue("true");
    stack.until_launches("slurm_state = 'pending'", 2).await;
    stack.github.cancel(pending).unwrap();
    wait_until("one pending Slurm job is cancelled", DEADLINE, || async {
        stack.launches("cancelled_at IS NOT NULL").await == 1
    })
    .await;
    let cancelled: String = stack
        .sql(
            "SELECT slurm_job_id FROM launches WHERE cancelled_at IS NOT NULL",
            &[],
        )
        .await;
    wait_until("Slurm says so", DEADLINE, || async {
        is_cancelled(&stack, by, &cancelled).await
    })
    .await;
    if cancelled != left {
        // The newest is withdrawn: the one that was submitted before is still known by its comment alone.
        stack.github.cancel(third).unwrap();
        wait_until("the other one is cancelled", DEADLINE, || async {
            is_cancelled(&stack, by, &left).await
        })
        .await;
    }
    std::fs::write(stack.folder().join("go"), "").unwrap();
    stack.until_succeeded(running).await;
    stack.until_completed(running).await;
    assert_eq!(stack.launches("slurm_state = 'gone'").await, 0);
    stack.finish().await;
}
