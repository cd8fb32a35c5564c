//! What comes again and again, and in any order, at webhook-ingest's port.

use std::time::Duration;

use futures_util::future::join_all;
use gha_slurm_auth::webhook;
use gha_slurm_simulator::model::Delivery;
use gha_slurm_test_support::wait_until;
use serde_json::Value;

use crate::stack::{DEADLINE, REPOSITORY, Service, Stack};

const TIMES: usize = 20;
const TIMES_EACH: usize = 3;
const ACTIONS: [&str; 3] = ["queued", "in_progress", "completed"];
/// Positions in [`ACTIONS`].
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// While it runs, and once more after everything is over.
#[tokio::test]
async fn each_delivery_of_a_build_twenty_times_is_one_launch() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("true");
    let queued = stack.until_answered(id, "queued", 1).await;
    for _ in 1..TIMES {
        stack.github.redeliver(queued.id).unwrap();
    }
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    for action in ACTIONS.into_iter().rev() {
        let answered = stack.until_answered(id, action, 1).await;
        for _ in 1..TIMES {
            stack.github.redeliver(answered.id).unwrap();
        }
        stack.until_answered(id, action, TIMES).await;
    }
    stack.until_events_are_applied().await;
    assert_eq!(stack.launches("true").await, 1);
    assert_eq!(stack.slurm_jobs().len(), 1);
    stack.finish().await;
}

/// Six workflow jobs, one for each order of the three events, each event three times. Made of one real build's payloads,
/// signed as GitHub signs; token-broker answers no node before all have come, so that none of them gets a runner.
#[tokio::test]
async fn events_in_every_order_plan_at_most_one_launch_each() {
    let mut stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("true");
    stack.until_completed(id).await;
    let mut originals = Vec::new();
    for action in ACTIONS {
        originals.push(stack.until_answered(id, action, 1).await);
    }
    stack.freeze(Service::TokenBroker);
    join_all(ORDERS.into_iter().zip(1..).map(|(order, n)| {
        let (stack, originals) = (&stack, &originals);
        async move {
            for position in order {
                let body = of_another(&originals[position], n);
                let calls = (0..TIMES_EACH).map(|_| post(stack, &originals[position], &body));
                for status in join_all(calls).await {
                    assert_eq!(status, 202);
                }
            }
        }
    }))
    .await;
    wait_until("all are completed", DEADLINE, || async {
        let query = "SELECT count(*) FROM workflow_jobs WHERE state = 'completed'";
        match stack.sql::<i64>(query, &[]).await {
            7 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    stack.until_events_are_applied().await;
    let most =
        "SELECT max(n) FROM (SELECT count(*) AS n FROM launches GROUP BY workflow_job_id) AS each";
    assert_eq!(stack.sql::<i64>(most, &[]).await, 1);
    // Only one was ever given a runner: the build that was real.
    assert_eq!(
        stack
            .launches("id IN (SELECT launch_id FROM runners)")
            .await,
        1
    );
    stack.thaw(Service::TokenBroker);
    stack.finish().await;
}

/// The payload, with the ids of another workflow job and its run.
fn of_another(original: &Delivery, n: i64) -> String {
    let mut payload: Value = serde_json::from_str(&original.payload).unwrap();
    let workflow_job = &mut payload["workflow_job"];
    for field in ["id", "run_id"] {
        workflow_job[field] = (workflow_job[field].as_i64().unwrap() + 1_000_000 * n).into();
    }
    payload.to_string()
}

async fn post(stack: &Stack, original: &Delivery, body: &str) -> u16 {
    let signature = webhook::sign(&stack.webhook_secret(), body.as_bytes());
    let request = stack
        .http()
        .post(stack.webhook_url())
        .timeout(Duration::from_secs(30))
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", &original.event)
        .header("X-GitHub-Delivery", &original.guid)
        .header("X-Hub-Signature-256", signature);
    request
        .body(body.to_owned())
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}
