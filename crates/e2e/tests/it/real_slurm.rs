//! The whole way on a real Slurm, by its programs and by slurmrestd.

use std::time::Duration;

use gha_slurm_simulator::model::Status;
use gha_slurm_simulator::request::NewWorkflowJob;
use gha_slurm_test_support::wait_until;

use crate::stack::{By, CREATE_JIT, DEADLINE, LABELS, REPOSITORY, Service, Stack};

/// What arrives while slurmctld is away.
const BUILDS: usize = 50;
/// How long it is away.
const AWAY: Duration = Duration::from_secs(30);
/// Fifty builds on a machine that does other things, too.
const LONG: Duration = Duration::from_secs(300);

async fn builds_arrive_while_slurmctld_is_away(by: By) {
    let Some(builder) = Stack::builder().on_slurm(by).await else {
        return;
    };
    let mut stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    stack.slurm().stop_controller();
    let away_since = std::time::Instant::now();
    let builds: Vec<i64> = (0..BUILDS).map(|_| stack.queue("true")).collect();
    wait_until("Slurm was missed", DEADLINE, || async {
        let reason =
            "SELECT count(*) FROM allocations WHERE submit_attempts > 0 AND reason IS NOT NULL";
        stack.sql::<i64>(reason, &[]).await > 0
    })
    .await;
    assert_eq!(stack.allocations("true").await, BUILDS as i64);
    tokio::time::sleep(AWAY.saturating_sub(away_since.elapsed())).await;
    stack.slurm().start_controller().await.unwrap();
    wait_until("every build has run", LONG, || async {
        let state = stack.github.state();
        let open = builds
            .iter()
            .filter(|id| {
                state
                    .workflow_jobs
                    .iter()
                    .any(|job| job.id == **id && job.status != Status::Completed)
            })
            .count();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    for id in builds {
        stack.until_succeeded(id).await;
    }
    stack.until_allocations("in_supply", 0).await;
    assert_eq!(stack.allocations("true").await, BUILDS as i64);
    assert_eq!(stack.github.calls(CREATE_JIT), BUILDS as u64);
    let all = ["--noheader", "--states=all", "--format=%k"];
    let comments = stack.slurm().run("squeue", &all).await.unwrap();
    let mut comments: Vec<&str> = comments.lines().collect();
    comments.sort_unstable();
    comments.dedup();
    assert_eq!(comments.len(), BUILDS, "one Slurm job each: {comments:#?}");
    // It was away for as long as that.
    stack.expect_error("Slurm does not answer");
    stack.finish().await;
}

#[tokio::test]
async fn fifty_builds_arrive_while_slurmctld_is_away_by_programs() {
    builds_arrive_while_slurmctld_is_away(By::Programs).await;
}

#[tokio::test]
async fn fifty_builds_arrive_while_slurmctld_is_away_by_rest() {
    builds_arrive_while_slurmctld_is_away(By::Rest).await;
}

#[tokio::test]
async fn a_build_arrives_while_slurmrestd_is_away() {
    let Some(builder) = Stack::builder().on_slurm(By::Rest).await else {
        return;
    };
    let stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    stack.slurm().stop_rest();
    let id = stack.queue("true");
    stack.until_kind(id, "delayed").await;
    stack.slurm().start_rest().unwrap();
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.allocations("true").await, 1);
    stack.finish().await;
}

/// Two minutes without a workflow job, and a download of actions of five minutes: here 2 s and 5 s.
async fn idle_nodes_are_given_back(by: By) {
    let Some(builder) = Stack::builder().on_slurm(by).await else {
        return;
    };
    let stack = builder
        .setting(Service::Agent, "RUNNER__IDLE_DEADLINE_S", "2")
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let slow = NewWorkflowJob {
        set_up_ms: 5000,
        ..NewWorkflowJob::of(REPOSITORY, &LABELS)
    };
    let slow = stack.github.queue(slow).unwrap().id;
    stack.until_succeeded(slow).await;
    stack.until_completed(slow).await;
    assert_eq!(stack.allocations("true").await, 1);

    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.until_kind(id, "ended_without_workflow_job").await;
    let shown = stack.build_detail(id).await.unwrap();
    let reason = shown
        .timeline
        .iter()
        .find(|entry| entry.kind == "ended_without_workflow_job");
    assert!(
        reason.is_some_and(|entry| entry.detail.contains("idle")),
        "{:#?}",
        shown.timeline
    );
    stack.github.pause_assignment(false);
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    stack.finish().await;
}

#[tokio::test]
async fn idle_nodes_are_given_back_and_downloads_are_waited_for_by_programs() {
    idle_nodes_are_given_back(By::Programs).await;
}

#[tokio::test]
async fn idle_nodes_are_given_back_and_downloads_are_waited_for_by_rest() {
    idle_nodes_are_given_back(By::Rest).await;
}
