//! Which runner gets which workflow job.

use std::time::Duration;

use gha_slurm_simulator::model::{Conclusion, Status};
use gha_slurm_simulator::request::NewWorkflowJob;

use crate::{DEADLINE, Sim, settings};

fn wants(labels: &[&str]) -> NewWorkflowJob {
    NewWorkflowJob::of("acme/widgets", labels).script("true")
}

#[tokio::test]
async fn any_idle_runner_with_all_labels_takes_it_whatever_the_case() {
    let sim = Sim::start();
    let plain = sim
        .listening_runner("plain", &["self-hosted", "slurm"])
        .await;
    let big = sim
        .listening_runner("big", &["self-hosted", "Slurm", "GPU"])
        .await;
    let gpu = sim.handle.queue(wants(&["SLURM", "gpu"])).unwrap();
    let gpu = sim
        .handle
        .wait_for_status(gpu.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(gpu.runner_name.as_deref(), Some("big"));
    assert_eq!(big.ended().await.code, Some(0));

    let nobody = sim.handle.queue(wants(&["slurm", "fpga"])).unwrap();
    let no_labels = sim.handle.queue(wants(&[])).unwrap();
    let some = sim.handle.queue(wants(&["slurm"])).unwrap();
    let some = sim
        .handle
        .wait_for_status(some.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(some.runner_name.as_deref(), Some("plain"));
    assert_eq!(plain.ended().await.code, Some(0));
    let state = sim.handle.state();
    for id in [nobody.id, no_labels.id] {
        assert_eq!(state.workflow_job(id).unwrap().status, Status::Queued);
    }
    assert!(state.runners.is_empty(), "{:?}", state.runners);
}

#[tokio::test]
async fn runners_of_another_repository_take_nothing() {
    let sim = Sim::start();
    let _runner = sim.listening_runner("r", &["slurm"]).await;
    sim.handle
        .create_repository(&gha_slurm_simulator::request::NewRepository::named(
            "acme/other",
        ))
        .unwrap();
    let other = sim
        .handle
        .queue(NewWorkflowJob::of("acme/other", &["slurm"]))
        .unwrap();
    let own = sim.handle.queue(wants(&["slurm"])).unwrap();
    sim.handle
        .wait_for_status(own.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(
        sim.handle.state().workflow_job(other.id).unwrap().status,
        Status::Queued
    );
}

#[tokio::test]
async fn runners_can_be_made_to_steal() {
    let sim = Sim::start();
    sim.handle.pause_assignment(true);
    let a = sim.handle.queue(wants(&["slurm"])).unwrap();
    let b = sim.handle.queue(wants(&["slurm"])).unwrap();
    let for_a = sim.listening_runner("for-a", &["slurm"]).await;
    let for_b = sim.listening_runner("for-b", &["slurm"]).await;
    assert!(
        sim.handle
            .state()
            .runners
            .iter()
            .all(|runner| runner.listening)
    );
    sim.handle.assign(a.id, "for-b").unwrap();
    sim.handle.assign(b.id, "for-a").unwrap();
    let a = sim
        .handle
        .wait_for_status(a.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    let b = sim
        .handle
        .wait_for_status(b.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(
        (a.runner_name.as_deref(), b.runner_name.as_deref()),
        (Some("for-b"), Some("for-a"))
    );
    assert_eq!(
        (for_a.ended().await.code, for_b.ended().await.code),
        (Some(0), Some(0))
    );
    assert!(sim.handle.assign(a.id, "for-a").is_err(), "it is over");
}

#[tokio::test]
async fn a_pinned_runner_gets_nothing_else() {
    let sim = Sim::start();
    let later = sim.handle.queue(wants(&["slurm"])).unwrap();
    sim.handle.assign(later.id, "other").unwrap();
    let runner = sim.listening_runner("first", &["slurm"]).await;
    let taken = sim.handle.queue(wants(&["slurm"])).unwrap();
    let taken = sim
        .handle
        .wait_for_status(taken.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(taken.runner_name.as_deref(), Some("first"));
    runner.ended().await;
    let _other = sim.runner("other", &["slurm"]).await;
    let later = sim
        .handle
        .wait_for_status(later.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(later.runner_name.as_deref(), Some("other"));
}

#[tokio::test]
async fn what_a_dead_runner_was_offered_is_offered_again() {
    let mut settings = settings();
    settings.timing.pick_up = Duration::from_millis(300);
    let sim = Sim::start_with(settings);
    let runner = sim.listening_runner("dead", &["slurm"]).await;
    // Stopped, not ended: its connection stays open, it takes nothing.
    runner.signal(rustix::process::Signal::STOP);
    let job = sim.handle.queue(wants(&["slurm"])).unwrap();
    assert!(
        sim.handle
            .state()
            .workflow_job(job.id)
            .unwrap()
            .offered_to
            .is_some()
    );
    let _second = sim.runner("second", &["slurm"]).await;
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.runner_name.as_deref(), Some("second"));
}

#[tokio::test]
async fn a_workflow_job_whose_runner_dies_fails_at_last() {
    let mut settings = settings();
    settings.timing.lost_runner = Duration::from_millis(500);
    let sim = Sim::start_with(settings);
    let mut runner = sim.listening_runner("lost", &["slurm"]).await;
    let job = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]).script("exec sleep 3"))
        .unwrap();
    sim.handle
        .wait_for_status(job.id, Status::InProgress, DEADLINE)
        .await
        .unwrap();
    runner.child.kill().await.unwrap();
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.conclusion, Some(Conclusion::Failure));
    assert!(job.output.contains("lost communication"), "{}", job.output);
    assert!(sim.handle.state().runners.is_empty());
}

#[tokio::test]
async fn a_lost_assignment_leaves_a_ghost_that_listens_on() {
    let sim = Sim::start();
    let mut ghost = sim.listening_runner("ghost", &["slurm"]).await;
    sim.handle.pause_assignment(true);
    let job = sim.handle.queue(wants(&["slurm"])).unwrap();
    sim.handle.lose_next_offer(job.id).unwrap();
    sim.handle.pause_assignment(false);
    sim.handle
        .wait_for("the registration is gone", DEADLINE, |state| {
            state.runner("ghost").is_none().then_some(())
        })
        .await
        .unwrap();
    let _heir = sim.runner("heir", &["slurm"]).await;
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.runner_name.as_deref(), Some("heir"));
    assert!(
        ghost.child.try_wait().unwrap().is_none(),
        "it still listens"
    );
    ghost.signal(rustix::process::Signal::TERM);
    let ended = ghost.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.output.contains("Skipping message Job."),
        "{}",
        ended.output
    );
    assert!(!ended.output.contains("Running job:"), "{}", ended.output);
}
