//! `kill -9` of each service at each step of a build: nothing is lost, nothing is doubled.

use std::time::Duration;

use gha_slurm_simulator::request::{
    ReleaseOrder, RestEffect, RestFault, WebhookEffect, WebhookFault,
};

use gha_slurm_test_support::try_wait_until;

use crate::stack::{CREATE_JIT, DEADLINE, REPOSITORY, Service, Stack};

/// How far a build is when a service is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// webhook-ingest has answered; the launcher knows nothing yet.
    Answered,
    /// The launch is planned; the agent has not answered.
    Planned,
    /// It is a Slurm job; the launcher has not heard so.
    Accepted,
    /// It is a Slurm job, which asks for a runner; token-broker has not answered.
    Submitted,
    /// GitHub has made the runner; token-broker has not heard so.
    Redeeming,
    /// The runner listens.
    Listening,
    /// The workflow job runs.
    Running,
    /// GitHub says that it is completed, but its webhook is on the way, and the node is about to say so.
    Ending,
}

/// The agent takes a fraction of a second.
const ACCEPTANCE: Duration = Duration::from_secs(5);

const STEPS: [Step; 8] = [
    Step::Answered,
    Step::Planned,
    Step::Accepted,
    Step::Submitted,
    Step::Redeeming,
    Step::Listening,
    Step::Running,
    Step::Ending,
];

#[tokio::test]
async fn webhook_ingest_may_be_killed_at_every_step() {
    kill_at_every_step(Service::WebhookIngest).await;
}

#[tokio::test]
async fn the_launcher_may_be_killed_at_every_step() {
    kill_at_every_step(Service::Launcher).await;
}

#[tokio::test]
async fn token_broker_may_be_killed_at_every_step() {
    kill_at_every_step(Service::TokenBroker).await;
}

#[tokio::test]
async fn repo_mapping_may_be_killed_at_every_step() {
    kill_at_every_step(Service::RepoMapping).await;
}

#[tokio::test]
async fn the_agent_may_be_killed_at_every_step() {
    kill_at_every_step(Service::Agent).await;
}

/// One build after the other, each with the service killed one step later.
async fn kill_at_every_step(service: Service) {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let watch = stack.watch_registrations();
    for (done, step) in STEPS.into_iter().enumerate() {
        let id = build(&mut stack, service, step).await;
        stack.until_succeeded(id).await;
        stack.until_completed(id).await;
        let context = format!("{service:?} was killed while {step:?}");
        let caused = format!("workflow_job_id = {id}");
        assert_eq!(stack.launches(&caused).await, 1, "{context}");
        assert_eq!(stack.slurm_jobs().len(), done + 1, "{context}");
        stack.until_launches("in_supply", 0).await;
        let attributed = "SELECT count(*) FROM runners WHERE workflow_job_id = $1";
        assert_eq!(stack.sql::<i64>(attributed, &[&id]).await, 1, "{context}");
    }
    assert_eq!(
        watch.most(),
        1,
        "registrations that were alive at the same time"
    );
    // A registration whose answer nobody stored is made anew, under another name.
    let again = u64::from(service == Service::TokenBroker);
    assert_eq!(stack.github.calls(CREATE_JIT), STEPS.len() as u64 + again);
    stack.finish().await;
}

/// Brings a build to this step, kills the service there and starts it again, and lets the build go on.
async fn build(stack: &mut Stack, service: Service, step: Step) -> i64 {
    match step {
        Step::Answered => {
            stack.freeze(Service::Launcher);
            let id = stack.queue("true");
            stack.until_answered(id, "queued", 1).await;
            kill_and_restart(stack, service).await;
            stack.thaw(Service::Launcher);
            id
        }
        Step::Planned => {
            stack.freeze(Service::Agent);
            let id = stack.queue("true");
            stack.until_asked(Service::Agent).await;
            kill_and_restart(stack, service).await;
            stack.thaw(Service::Agent);
            end_leases_of_the_dead(stack, service).await;
            id
        }
        Step::Accepted => {
            stack.freeze(Service::TokenBroker);
            stack.freeze(Service::Agent);
            let slurm_jobs = stack.slurm_jobs().len();
            let id = stack.queue("true");
            loop {
                stack.until_asked(Service::Agent).await;
                stack.freeze(Service::Launcher);
                stack.thaw(Service::Agent);
                let is_one = || async { stack.slurm_jobs().len() > slurm_jobs };
                if try_wait_until("it is a Slurm job", ACCEPTANCE, is_one)
                    .await
                    .is_ok()
                {
                    break;
                }
                // An HTTP server may close a connection that was idle instead of reading what has just come: then the
                // launcher asks again.
                stack.freeze(Service::Agent);
                stack.thaw(Service::Launcher);
            }
            kill_and_restart(stack, service).await;
            stack.thaw(Service::Launcher);
            end_leases_of_the_dead(stack, service).await;
            stack.until_kind(id, "submitted").await;
            stack.thaw(Service::TokenBroker);
            id
        }
        Step::Submitted => {
            stack.freeze(Service::TokenBroker);
            let id = stack.queue("true");
            stack.until_kind(id, "submitted").await;
            kill_and_restart(stack, service).await;
            stack.thaw(Service::TokenBroker);
            id
        }
        Step::Redeeming => {
            let late = RestEffect::DelayMs(1500);
            stack
                .github
                .add_rest_fault(RestFault::on(CREATE_JIT, 1, late));
            let id = stack.queue("true");
            let registered = stack.github.wait_for("a registration", DEADLINE, |state| {
                (!state.runners.is_empty()).then_some(())
            });
            registered.await.unwrap();
            kill_and_restart(stack, service).await;
            id
        }
        Step::Listening => {
            stack.github.pause_assignment(true);
            let id = stack.queue("true");
            stack.until_listening(1).await;
            stack.until_kind(id, "listening").await;
            kill_and_restart(stack, service).await;
            stack.github.pause_assignment(false);
            id
        }
        Step::Running => {
            let (script, go) = stack.until_there("go");
            let id = stack.queue(&script);
            stack.until_in_progress(id).await;
            stack.until_kind(id, "in_progress").await;
            kill_and_restart(stack, service).await;
            std::fs::write(go, "").unwrap();
            id
        }
        Step::Ending => {
            let held = WebhookFault::on("completed", WebhookEffect::Hold);
            stack.github.add_webhook_fault(held);
            let id = stack.queue("true");
            stack.until_succeeded(id).await;
            kill_and_restart(stack, service).await;
            assert_eq!(stack.github.release_webhooks(&ReleaseOrder::AsHeld), 1);
            id
        }
    }
}

/// A launcher's lease on what it submits outlives it by a minute.
pub(crate) async fn end_leases_of_the_dead(stack: &Stack, killed: Service) {
    if killed == Service::Launcher {
        stack
            .execute("UPDATE launches SET lease_until = now() WHERE state = 'planned'")
            .await;
    }
}

pub(crate) async fn kill_and_restart(stack: &mut Stack, service: Service) {
    stack.kill9(service);
    stack.restart(service).await;
}

/// Every service at once, while five builds are at five different places.
#[tokio::test]
async fn everything_may_be_killed_at_once() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let jobs: Vec<i64> = (0..5)
        .map(|n| stack.queue(&format!("sleep 0.{n}")))
        .collect();
    for id in &jobs {
        stack.until_answered(*id, "queued", 1).await;
    }
    stack.until_kind(jobs[0], "allocated").await;
    for service in Service::ALL {
        stack.kill9(service);
    }
    for service in Service::ALL {
        stack.restart(service).await;
    }
    end_leases_of_the_dead(&stack, Service::Launcher).await;
    for id in jobs {
        stack.until_succeeded(id).await;
    }
    // Webhooks that came while webhook-ingest was dead: somebody asks for them on the App's page.
    for delivery in stack.github.state().deliveries {
        if delivery.status_code != 202 {
            stack.github.redeliver(delivery.id).unwrap();
        }
    }
    stack.until_launches("in_supply", 0).await;
    assert_eq!(stack.launches("true").await, 5);
    assert_eq!(stack.slurm_jobs().len(), 5);
    stack.finish().await;
}
