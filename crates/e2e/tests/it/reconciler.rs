//! What webhooks did not tell, and nodes that fall silent: the launcher asks GitHub.

use gha_slurm_simulator::request::{WebhookEffect, WebhookFault};
use gha_slurm_test_support::wait_until;

use crate::stack::{Builder, CREATE_JIT, DEADLINE, REPOSITORY, Service, Stack};

/// The launcher looks every second for what one of its settings names, and otherwise as seldom as usual.
fn looking_for(settings: &[(&'static str, &str)]) -> Builder {
    let builder = Stack::builder().setting(Service::Launcher, "RECONCILER__INTERVAL_S", "1");
    settings.iter().fold(builder, |builder, (key, value)| {
        builder.setting(Service::Launcher, key, value)
    })
}

/// GitHub never repeats a delivery that failed.
#[tokio::test]
async fn webhooks_that_came_while_webhook_ingest_was_dead_are_asked_for_again() {
    let mut stack = looking_for(&[("RECONCILER__DELIVERIES_S", "1")])
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    stack.kill9(Service::WebhookIngest);
    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    let failed = stack.github.wait_for("`queued` fails", DEADLINE, |state| {
        let failed = |d: &&_| is_of(d, id) && d.status_code != 202;
        state.deliveries.iter().find(failed).map(|d| d.guid.clone())
    });
    let guid = failed.await.unwrap();
    stack.restart(Service::WebhookIngest).await;
    stack.until_listening(1).await;
    assert_eq!(stack.until_answered(id, "queued", 1).await.guid, guid);

    stack.kill9(Service::WebhookIngest);
    stack.github.pause_assignment(false);
    stack.until_succeeded(id).await;
    let failed = stack
        .github
        .wait_for("`completed` fails", DEADLINE, |state| {
            let failed = |d: &&_| {
                is_of(d, id) && d.action.as_deref() == Some("completed") && d.status_code != 202
            };
            state.deliveries.iter().find(failed).map(|_| ())
        });
    failed.await.unwrap();
    stack.restart(Service::WebhookIngest).await;
    stack.until_completed(id).await;
    for action in ["in_progress", "completed"] {
        assert!(stack.until_answered(id, action, 1).await.redelivery);
    }
    assert_eq!(stack.launches("true").await, 1);
    assert_eq!(stack.slurm_jobs().len(), 1);
    stack.finish().await;
}

fn is_of(delivery: &gha_slurm_simulator::model::Delivery, id: i64) -> bool {
    delivery.workflow_job_id == Some(id)
}

/// No delivery is made at all, so none can be repeated: GitHub lists its workflow jobs.
#[tokio::test]
async fn a_workflow_job_that_no_webhook_told_of_is_found() {
    let stack = looking_for(&[("RECONCILER__REPOSITORIES_S", "1")])
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    drop_webhooks(&stack, &["queued", "in_progress", "completed"]);
    let id = stack.queue("true");
    stack.until_succeeded(id).await;
    let detail = stack.until_completed(id).await;
    assert_eq!(detail.build.conclusion.as_deref(), Some("success"));
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// The node says that a workflow job runs, GitHub does not say which.
#[tokio::test]
async fn a_busy_runner_that_no_webhook_names_is_asked_about() {
    let stack = looking_for(&[("RECONCILER__UNATTRIBUTED_S", "1")])
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    drop_webhooks(&stack, &["in_progress"]);
    let (script, go) = stack.until_there("go");
    let id = stack.queue(&script);
    stack.until_kind(id, "attributed").await;
    assert_eq!(stack.launches("in_supply").await, 0);
    std::fs::write(go, "").unwrap();
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// It was cancelled and no webhook said so: its runner idles, and no second one is submitted.
#[tokio::test]
async fn stale_demand_is_looked_up_before_the_second_attempt() {
    let stack = Stack::builder()
        .setting(Service::Agent, "RUNNER__IDLE_DEADLINE_S", "1")
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    drop_webhooks(&stack, &["completed"]);
    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.github.cancel(id).unwrap();
    let detail = stack.until_completed(id).await;
    assert_eq!(detail.build.conclusion.as_deref(), Some("cancelled"));
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    assert_eq!(stack.slurm_jobs().len(), 1);
    stack.finish().await;
}

/// Its registration is deleted, which GitHub would refuse if it had work, and another runner takes its place.
#[tokio::test]
async fn a_node_that_falls_silent_is_replaced() {
    let stack = looking_for(&[
        ("RECONCILER__LISTENING_LIMIT_S", "2"),
        ("PLANNER__BACKOFF_BASE_S", "1"),
    ])
    .start()
    .await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let id = stack.queue("true");
    stack.until_listening(1).await;
    stack.until_kind(id, "listening").await;
    stack.cut_power(&stack.slurm_jobs()[0]);
    wait_until("the silent runner is given up", DEADLINE, || async {
        stack.launches("state = 'over'").await == 1
    })
    .await;
    stack.github.pause_assignment(false);
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 2);
    // Nobody cleans up on a dead node.
    for left in std::fs::read_dir(stack.folder().join("work"))
        .unwrap()
        .flatten()
    {
        if left
            .file_name()
            .to_string_lossy()
            .starts_with("gha-slurm-1.")
        {
            std::fs::remove_dir_all(left.path()).unwrap();
        }
    }
    stack.finish().await;
}

fn drop_webhooks(stack: &Stack, actions: &[&str]) {
    for action in actions {
        stack
            .github
            .add_webhook_fault(WebhookFault::on(action, WebhookEffect::Drop));
    }
}
