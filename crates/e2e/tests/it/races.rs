//! Schedules of `docs/architecture.md` ("Races these rules were written against") that several processes are needed for.

use std::time::Duration;

use gha_slurm_simulator::model::{Conclusion, Status};
use gha_slurm_simulator::request::{
    NewWorkflowJob, ReleaseOrder, RestEffect, RestFault, WebhookEffect, WebhookFault,
};
use gha_slurm_test_support::wait_until;

use crate::stack::{Builder, CREATE_JIT, DEADLINE, LABELS, REPOSITORY, Service, Stack};

pub(crate) const DELETE_RUNNER: &str = "DELETE /repos/{owner}/{repo}/actions/runners/{runner_id}";

/// GitHub gives A's runner to B and B's to A.
#[tokio::test]
async fn a_stolen_runner_starts_no_third_launch() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let (a, b) = (stack.queue("true"), stack.queue("true"));
    stack.until_listening(2).await;
    let (of_a, of_b) = (
        stack.runner_caused_by(a).await,
        stack.runner_caused_by(b).await,
    );
    // B is over before A has begun: a planner that bound runners to workflow jobs would see A without one.
    stack.github.assign(b, &of_a).unwrap();
    assert_eq!(stack.until_succeeded(b).await.runner_name, Some(of_a));
    stack.until_completed(b).await;
    stack.github.assign(a, &of_b).unwrap();
    assert_eq!(stack.until_succeeded(a).await.runner_name, Some(of_b));
    stack.until_completed(a).await;
    assert_eq!(stack.launches("true").await, 2);
    assert_eq!(stack.github.calls(CREATE_JIT), 2);
    stack.finish().await;
}

/// While token-broker does not answer, ten Slurm jobs call back; nine of their workflow jobs are cancelled; then it
/// answers all ten.
#[tokio::test]
async fn ten_call_back_at_once_and_one_is_wanted() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.freeze(Service::TokenBroker);
    let jobs: Vec<i64> = (0..10).map(|_| stack.queue("true")).collect();
    // Known to run: a launch token is not redeemed before.
    stack
        .until_launches("state = 'submitted' AND slurm_state = 'running'", 10)
        .await;
    // Nobody cancels the Slurm jobs: the row alone turns them away.
    stack.freeze(Service::Agent);
    let (wanted, cancelled) = jobs.split_first().unwrap();
    for id in cancelled {
        stack.github.cancel(*id).unwrap();
    }
    stack
        .until_launches("outcome->>'kind' = 'withdrawn'", 9)
        .await;
    stack.thaw(Service::TokenBroker);
    stack.until_succeeded(*wanted).await;
    stack.until_completed(*wanted).await;
    wait_until("nine Slurm jobs are told to end", DEADLINE, || async {
        let outputs = stack.outputs();
        let told = outputs
            .iter()
            .filter(|o| o.contains("HTTP 410") && o.contains("over: not_wanted"));
        let told = told.count();
        if told == 9 { Ok(()) } else { Err(told) }
    })
    .await;
    stack.thaw(Service::Agent);
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    assert_eq!(stack.launches("true").await, 10);
    stack.finish().await;
}

/// Which launch was planned for which workflow job does not matter: the newest pending one goes.
#[tokio::test]
async fn a_cancelled_workflow_job_takes_the_newest_pending_launch_with_it() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.freeze(Service::TokenBroker);
    let older = stack.queue("true");
    stack.until_launches("state = 'submitted'", 1).await;
    let newer = stack.queue("true");
    stack
        .until_launches("state = 'submitted' AND slurm_state = 'running'", 2)
        .await;
    stack.freeze(Service::Agent);
    stack.github.cancel(older).unwrap();
    stack
        .until_launches("outcome->>'kind' = 'withdrawn'", 1)
        .await;
    let withdrawn = "SELECT workflow_job_id FROM launches WHERE outcome->>'kind' = 'withdrawn'";
    assert_eq!(stack.sql::<i64>(withdrawn, &[]).await, newer);
    stack.thaw(Service::TokenBroker);
    let job = stack.until_succeeded(newer).await;
    assert_eq!(job.runner_name, Some(stack.runner_caused_by(older).await));
    stack.until_completed(newer).await;
    wait_until("the other Slurm job is told to end", DEADLINE, || async {
        stack.outputs()[1].contains("HTTP 410")
    })
    .await;
    stack.thaw(Service::Agent);
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    stack.finish().await;
}

/// GitHub has made the runner, but its answer is on the way, when the workflow job is cancelled.
#[tokio::test]
async fn a_withdrawal_during_the_redemption_leaves_no_registration() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack
        .github
        .add_rest_fault(RestFault::on(CREATE_JIT, 1, RestEffect::DelayMs(1500)));
    let id = stack.queue("true");
    let registered = stack.github.wait_for("a registration", DEADLINE, |state| {
        (!state.runners.is_empty()).then_some(())
    });
    registered.await.unwrap();
    stack.freeze(Service::Agent);
    stack.github.cancel(id).unwrap();
    stack
        .until_launches("outcome->>'kind' = 'withdrawn'", 1)
        .await;
    let deleted = stack
        .github
        .wait_for("the registration is deleted", DEADLINE, |state| {
            state.runners.is_empty().then_some(())
        });
    deleted.await.unwrap();
    assert_eq!(stack.github.calls(DELETE_RUNNER), 1);
    wait_until("the Slurm job is told to end", DEADLINE, || async {
        stack.outputs()[0].contains("HTTP 410")
    })
    .await;
    stack.thaw(Service::Agent);
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    stack.finish().await;
}

/// One that waits in Slurm's queue need not wait for its turn to be turned away.
#[tokio::test]
async fn a_pending_slurm_job_that_is_not_wanted_any_more_is_cancelled() {
    pending_and_not_wanted_any_more(Stack::builder()).await;
}

pub(crate) async fn pending_and_not_wanted_any_more(builder: Builder) {
    let stack = builder
        .setting(Service::Agent, "LOCAL__MAX_RUNNING", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let (script, go) = stack.until_there("go");
    let running = stack.queue(&script);
    stack.until_in_progress(running).await;
    let pending = stack.queue("true");
    stack.until_kind(pending, "submitted").await;
    stack.github.cancel(pending).unwrap();
    wait_until("the second Slurm job is cancelled", DEADLINE, || async {
        let ended = stack.slurm_jobs()[1].join("ended");
        std::fs::read_to_string(ended).is_ok_and(|end| end == "cancelled")
    })
    .await;
    assert_eq!(stack.outputs()[1], "", "it never started");
    std::fs::write(go, "").unwrap();
    stack.until_succeeded(running).await;
    stack.until_completed(running).await;
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    stack.finish().await;
}

/// The node says "started" and "finished" while GitHub's webhooks are minutes late; then `completed` overtakes
/// `in_progress`.
#[tokio::test]
async fn late_and_reordered_webhooks_start_no_second_launch() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    for action in ["in_progress", "completed"] {
        stack
            .github
            .add_webhook_fault(WebhookFault::on(action, WebhookEffect::Hold));
    }
    let id = stack.queue("true");
    stack.until_succeeded(id).await;
    stack.until_kind(id, "finished").await;
    // The planner looks again: demand 1, and a supply that is over on its node but not attributed.
    let queued = stack.until_answered(id, "queued", 1).await;
    stack.github.redeliver(queued.id).unwrap();
    stack.until_answered(id, "queued", 2).await;
    stack.until_events_are_applied().await;
    assert_eq!(stack.launches("in_supply").await, 1);
    assert_eq!(stack.launches("true").await, 1);
    assert_eq!(stack.github.release_webhooks(&ReleaseOrder::Reversed), 2);
    stack.until_completed(id).await;
    stack.until_answered(id, "in_progress", 1).await;
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// `queued` and `waiting` of one approval arrive in the wrong order.
#[tokio::test]
async fn a_late_waiting_after_queued_changes_nothing() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack
        .github
        .add_webhook_fault(WebhookFault::on("waiting", WebhookEffect::Hold));
    stack.github.pause_assignment(true);
    let new = NewWorkflowJob {
        waiting: true,
        ..NewWorkflowJob::of(REPOSITORY, &LABELS)
    };
    let id = stack.github.queue(new).unwrap().id;
    stack.github.approve(id).unwrap();
    stack.until_listening(1).await;
    assert_eq!(stack.github.release_webhooks(&ReleaseOrder::AsHeld), 1);
    stack.until_answered(id, "waiting", 1).await;
    stack.until_events_are_applied().await;
    assert_eq!(stack.launches("in_supply").await, 1);
    stack.github.pause_assignment(false);
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// Our runner of a class is given a fork's workflow job: it fails before its first step, and the runner is replaced.
#[tokio::test]
async fn a_forks_workflow_job_is_refused_on_the_node_and_its_runner_replaced() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let own = stack.queue("echo our own step");
    let runners = stack.until_listening(1).await;
    // Nothing is launched for it.
    stack
        .github
        .add_webhook_fault(WebhookFault::on("queued", WebhookEffect::Drop));
    let fork = NewWorkflowJob {
        event: Some("pull_request".into()),
        fork: Some("mallory/widgets".into()),
        actor: Some("mallory".into()),
        ..NewWorkflowJob::of(REPOSITORY, &LABELS).script("echo a step of the fork")
    };
    let fork = stack.github.queue(fork).unwrap().id;
    stack.github.assign(fork, &runners[0].name).unwrap();
    stack.until_in_progress(fork).await;
    stack.github.pause_assignment(false);

    let job = stack
        .github
        .wait_for_status(fork, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.conclusion, Some(Conclusion::Failure));
    let reason = "it comes from a fork (mallory/widgets)";
    assert!(
        job.output
            .contains("::error title=Refused by the cluster::"),
        "{}",
        job.output
    );
    assert!(
        job.output.contains(reason) && !job.output.contains("a step of the fork"),
        "{}",
        job.output
    );
    stack.until_kind(own, "finished").await;
    let detail = stack.until_completed(fork).await;
    let told = detail
        .timeline
        .iter()
        .any(|entry| entry.detail.contains("refused_by_policy") && entry.detail.contains(reason));
    assert!(told, "{:?}", detail.timeline);

    stack.until_succeeded(own).await;
    stack.until_completed(own).await;
    assert_eq!(stack.launches("true").await, 2);
    stack.finish().await;
}

/// With an idle deadline of 1 s: a set-up of 3 s (actions are downloaded) is no idleness; a runner that gets nothing is
/// released.
#[tokio::test]
async fn an_idle_runner_is_released_and_a_slow_download_is_not_idle() {
    let stack = Stack::builder()
        .setting(Service::Agent, "RUNNER__IDLE_DEADLINE_S", "1")
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let slow = NewWorkflowJob {
        set_up_ms: 3000,
        ..NewWorkflowJob::of(REPOSITORY, &LABELS)
    };
    let slow = stack.github.queue(slow).unwrap().id;
    stack.until_succeeded(slow).await;
    stack.until_completed(slow).await;
    assert_eq!(stack.launches("true").await, 1);
    // Nobody even thought so.
    let output = &stack.outputs()[0];
    assert!(!output.contains("no workflow job within"), "{output}");

    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.until_listening(1).await;
    stack.until_kind(id, "ended_without_workflow_job").await;
    assert_eq!(stack.github.calls(DELETE_RUNNER), 1);
    wait_until("the node is given back", DEADLINE, || async {
        stack.outputs()[1].contains("over: idle")
    })
    .await;
    stack.github.pause_assignment(false);
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    stack.finish().await;
}

/// Long before its idle deadline, a runner that nothing waits for any more is deregistered, and its Slurm job cancelled.
#[tokio::test]
async fn an_idle_runner_that_is_not_wanted_any_more_is_deregistered_and_cancelled() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let (a, b) = (stack.queue("true"), stack.queue("true"));
    stack.until_listening(2).await;
    stack.github.cancel(b).unwrap();
    stack
        .until_launches("outcome->>'kind' = 'withdrawn'", 1)
        .await;
    // First at GitHub. Its node gives it back once more when it is told to end.
    assert_eq!(stack.github.state().runners.len(), 1);
    wait_until("one Slurm job is told to end", DEADLINE, || async {
        let outputs = stack.outputs();
        let told = outputs.iter().filter(|text| text.contains("got SIGTERM"));
        told.count() == 1
    })
    .await;
    stack.github.pause_assignment(false);
    stack.until_succeeded(a).await;
    stack.until_completed(a).await;
    assert_eq!(stack.launches("true").await, 2);
    stack.finish().await;
}

/// It looks idle because neither its node nor GitHub's webhook has said that it works: GitHub refuses to deregister it.
#[tokio::test]
async fn a_runner_that_only_looks_idle_is_kept() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let (wait, go) = stack.until_there("go");
    let (a, b) = (stack.queue(&wait), stack.queue(&wait));
    stack.until_listening(2).await;
    stack
        .until_launches("state IN ('registered', 'listening', 'busy')", 2)
        .await;
    stack.freeze(Service::TokenBroker);
    stack
        .github
        .add_webhook_fault(WebhookFault::on("in_progress", WebhookEffect::Hold));
    // The newest is asked for first.
    let newest = stack.runner_caused_by(b).await;
    stack.github.assign(a, &newest).unwrap();
    stack.until_in_progress(a).await;
    stack.github.cancel(b).unwrap();
    stack
        .until_launches("outcome->>'kind' = 'withdrawn'", 1)
        .await;
    assert_eq!(
        stack.github.calls(DELETE_RUNNER),
        2,
        "the busy one was asked for, too"
    );
    stack.thaw(Service::TokenBroker);
    stack.github.release_webhooks(&ReleaseOrder::AsHeld);
    std::fs::write(go, "").unwrap();
    assert_eq!(stack.until_succeeded(a).await.runner_name, Some(newest));
    stack.until_completed(a).await;
    stack.finish().await;
}

/// A fault of GitHub's (actions/runner#4617): a runner listens forever although its registration is gone.
#[tokio::test]
async fn a_runner_that_lost_its_workflow_job_is_released_and_replaced() {
    let stack = Stack::builder()
        .setting(Service::Agent, "RUNNER__IDLE_DEADLINE_S", "1")
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.github.lose_next_offer(id).unwrap();
    stack.github.pause_assignment(false);
    let job = stack.until_succeeded(id).await;
    assert_eq!(job.conclusion, Some(Conclusion::Success));
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 2);
    stack.finish().await;
}

/// A runner that GitHub refuses for its age ends at once: the attempts are bounded and further and further apart.
#[tokio::test]
async fn outdated_runners_are_given_up_with_the_reason() {
    let stack = Stack::builder()
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .setting(Service::Launcher, "PLANNER__MAX_FAILURES", "2")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    stack.github.deprecate_runners(true);
    let id = stack.queue("true");
    let reason = wait_until("the class is given up", DEADLINE, || async {
        match stack.verdict(id).await {
            Some((_, reason)) if reason.contains("Stopped after") => Ok(reason),
            other => Err(other),
        }
    })
    .await;
    assert!(
        reason.contains("runner_outdated") && reason.contains("gha-slurm runner-update"),
        "{reason}"
    );
    assert_eq!(stack.launches("true").await, 2);
    let pause =
        "SELECT extract(epoch FROM max(a.submitted_at) - min(a.ended_at))::float8 FROM launches a";
    assert!(stack.sql::<f64>(pause, &[]).await >= 1.0);
    stack.finish().await;
}

/// What is cancelled while it runs ends through its runner, and gives its node back.
#[tokio::test]
async fn a_running_workflow_job_that_is_cancelled_gives_its_node_back() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("sleep 1000");
    stack.until_in_progress(id).await;
    stack.until_kind(id, "workflow_job_started").await;
    let asked = std::time::Instant::now();
    stack.github.cancel(id).unwrap();
    let detail = stack.until_completed(id).await;
    assert_eq!(detail.build.conclusion.as_deref(), Some("cancelled"));
    stack.finish().await;
    assert!(asked.elapsed() < Duration::from_secs(30));
}
