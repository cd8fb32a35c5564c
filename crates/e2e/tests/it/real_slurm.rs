//! The whole way on a real Slurm, by its programs and by slurmrestd.

use std::time::Duration;

use gha_slurm_contract::build::{TimelineEntry, TimelineKind};
use gha_slurm_simulator::model::{State, Status};
use gha_slurm_simulator::request::NewWorkflowJob;
use gha_slurm_test_support::wait_until;

use crate::races::DELETE_RUNNER;
use crate::stack::{
    CREATE_JIT, DEADLINE, LABELS, REPOSITORY, Service, SlurmBackend, Stack, by_both,
};

by_both!(
    fifty_builds_arrive_while_slurmctld_is_away,
    idle_nodes_are_given_back_and_downloads_are_waited_for,
    what_slurm_takes_away_is_replaced_once,
    what_is_not_wanted_any_more_is_cancelled,
);

/// What arrives while slurmctld is away.
const BUILDS: usize = 50;
/// How long it is away.
const AWAY: Duration = Duration::from_secs(30);
/// Fifty builds on a machine that does other things, too.
const LONG: Duration = Duration::from_secs(300);

async fn fifty_builds_arrive_while_slurmctld_is_away(by: SlurmBackend) {
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
            "SELECT count(*) FROM launches WHERE submit_attempts > 0 AND delay IS NOT NULL";
        stack.sql::<i64>(reason, &[]).await > 0
    })
    .await;
    stack.until_launches("true", BUILDS as i64).await;
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
    stack.until_launches("in_supply", 0).await;
    assert_eq!(stack.launches("true").await, BUILDS as i64);
    // On a busy machine the database may be out of reach when GitHub's answer is to be stored: the node asks again.
    let log = stack.service(Service::TokenBroker).log();
    let again = log.matches("The database is not available").count();
    let calls = stack.github.calls(CREATE_JIT) as usize;
    assert!((BUILDS..=BUILDS + again).contains(&calls), "{calls} calls");
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
async fn a_build_arrives_while_slurmrestd_is_away() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Slurmrestd).await else {
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
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// Two minutes without a workflow job, and a download of actions of five minutes: here 2 s and 5 s.
async fn idle_nodes_are_given_back_and_downloads_are_waited_for(by: SlurmBackend) {
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
    assert_eq!(stack.launches("true").await, 1);

    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.until_kind(id, "ended_without_workflow_job").await;
    let shown = stack.build_detail(id).await.unwrap();
    let reason = shown
        .timeline
        .iter()
        .find(|entry| entry.kind == TimelineKind::EndedWithoutWorkflowJob);
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

/// How a Slurm job loses its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    NodeFails,
    /// An administrator has forced it to be one that may be requeued, and then the node fails.
    NodeFailsAndItIsRequeued,
    /// An administrator forces and requeues it.
    Requeue,
}

/// Before a workflow job started, what Slurm takes away is replaced. A Slurm job that is started again all the same is turned
/// away, since its launch token was used, and is not replaced a second time. While a workflow job ran, GitHub's answer stands.
async fn what_slurm_takes_away_is_replaced_once(by: SlurmBackend) {
    let Some(builder) = Stack::builder().on_slurm(by).await else {
        return;
    };
    let stack = builder
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let scontrol = async |words: &[&str]| stack.slurm().run("scontrol", words).await;
    let newest = async || stack.queue_of_slurm().await.pop().unwrap();
    let node_fails = async |id: &str| {
        let words = ["-h", "-j", id, "-o", "%N"];
        let node = stack.slurm().run("squeue", &words).await.unwrap();
        let node = format!("NodeName={}", node.trim());
        let words = ["update", &node, "State=DOWN", "Reason=test"];
        scontrol(&words).await.unwrap();
    };
    let losses = [
        Loss::NodeFails,
        Loss::NodeFailsAndItIsRequeued,
        Loss::Requeue,
    ];
    for (round, loss) in losses.into_iter().enumerate() {
        stack.github.pause_assignment(true);
        let build = stack.queue("true");
        let first = stack.until_listening(1).await.remove(0);
        stack.until_kind(build, "listening").await;
        let (id, state, name) = newest().await;
        assert_eq!(state, "RUNNING");
        let job = format!("JobId={id}");
        let refused = scontrol(&["requeue", &id]).await.unwrap_err();
        assert!(refused.to_string().contains("disabled"), "{refused:#}");
        if loss != Loss::NodeFails {
            scontrol(&["update", &job, "Requeue=1"]).await.unwrap();
        }
        if loss == Loss::Requeue {
            scontrol(&["requeue", &id]).await.unwrap();
        } else {
            node_fails(&id).await;
        }
        // The other one's turn.
        let gone = |state: &State| {
            let left = state.runners.iter().any(|r| r.name == first.name);
            let listening = state.runners.iter().any(|r| r.listening);
            (!left && listening).then_some(())
        };
        let what = "another runner listens";
        stack.github.wait_for(what, DEADLINE, gone).await.unwrap();
        if loss != Loss::NodeFails {
            wait_until("Slurm has started it again", DEADLINE, || async {
                // Slurm would wait two minutes.
                let _ = scontrol(&["update", &job, "StartTime=now"]).await;
                let shown = scontrol(&["show", "job", &id]).await.unwrap();
                let again = shown.contains("Restarts=1") && shown.contains("JobState=COMPLETED");
                if again { Ok(()) } else { Err(shown) }
            })
            .await;
            let printed = stack.output_on_slurm(&name);
            assert!(printed.contains("HTTP 410"), "{printed}");
            assert!(
                printed.trim_end().ends_with("over: not_wanted"),
                "{printed}"
            );
        }
        stack.github.pause_assignment(false);
        stack.until_succeeded(build).await;
        stack.until_completed(build).await;
        let expected = 2 * (round as u64 + 1);
        assert_eq!(stack.github.calls(CREATE_JIT), expected, "{loss:?}");
        assert_eq!(stack.launches("true").await, expected as i64, "{loss:?}");
        assert_eq!(stack.queue_of_slurm().await.len() as u64, expected);
    }
    let failed = "slurm_state = 'node_failed'";
    assert_eq!(stack.launches(failed).await, 1, "the one not requeued");

    let build = stack.queue("sleep 600");
    stack.until_in_progress(build).await;
    stack.until_kind(build, "in_progress").await;
    let (id, ..) = newest().await;
    node_fails(&id).await;
    let detail = stack.until_completed(build).await;
    assert_ne!(detail.build.conclusion.as_deref(), Some("success"));
    stack.until_launches(failed, 2).await;
    let detail = stack.build_detail(build).await.unwrap();
    let why = |entry: &TimelineEntry| {
        entry.kind == TimelineKind::Slurm && entry.detail.contains("node failed")
    };
    assert!(detail.timeline.iter().any(why), "{:#?}", detail.timeline);
    assert_eq!(stack.launches("true").await, 7, "nothing replaces it");
    stack.finish().await;
}

/// A pending Slurm job is cancelled within seconds of its workflow job; a runner that idles is deregistered first.
async fn what_is_not_wanted_any_more_is_cancelled(by: SlurmBackend) {
    const SECONDS: Duration = Duration::from_secs(10);
    let Some(builder) = Stack::builder().on_slurm(by).await else {
        return;
    };
    let stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let idle = stack.queue("true");
    stack.until_listening(1).await;
    stack.until_kind(idle, "listening").await;
    stack.github.cancel(idle).unwrap();
    let state = async |number: usize| {
        let queue = stack.queue_of_slurm().await;
        queue.get(number).map(|(_, state, _)| state.clone())
    };
    wait_until("the idle one has ended", SECONDS, || async {
        // Told to end by a signal, it ends with 143.
        match state(0).await.as_deref() {
            Some("FAILED" | "CANCELLED") => Ok(()),
            other => Err(other.map(str::to_owned)),
        }
    })
    .await;
    assert!(stack.github.calls(DELETE_RUNNER) >= 1);
    assert_eq!(stack.github.state().runners.len(), 0);

    // The person's own have every node.
    let words = [
        "--uid=news",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--parsable",
        "--wrap=sleep 600",
    ];
    let own = stack.slurm().run("sbatch", &words).await.unwrap();
    wait_until("it runs", DEADLINE, || async {
        state(1).await.is_some_and(|state| state == "RUNNING")
    })
    .await;
    let pending = stack.queue("true");
    wait_until("the page says what it waits for", DEADLINE, || async {
        let detail = stack.build_detail(pending).await;
        let timeline = detail.map(|d| d.timeline).unwrap_or_default();
        let said = timeline
            .iter()
            .any(|entry| entry.detail.starts_with("pending (Resources"));
        if said { Ok(()) } else { Err(timeline) }
    })
    .await;
    stack.github.cancel(pending).unwrap();
    wait_until("the pending one is cancelled", SECONDS, || async {
        match state(2).await.as_deref() {
            Some("CANCELLED") => Ok(()),
            other => Err(other.map(str::to_owned)),
        }
    })
    .await;
    stack.slurm().run("scancel", &[own.trim()]).await.unwrap();
    stack.finish().await;
}
