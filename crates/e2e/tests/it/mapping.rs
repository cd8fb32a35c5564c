//! Who may spend whose account.

use gha_slurm_simulator::model::Status;
use gha_slurm_simulator::request::{NewRepository, NewWorkflowJob};
use gha_slurm_test_support::wait_until;
use reqwest::Method;
use serde_json::json;

use crate::stack::{DEADLINE, LABELS, REPOSITORY, Service, Stack};

const PUBLIC: &str = "acme/open";

#[tokio::test]
async fn a_mapping_starts_what_waits_and_its_end_withdraws_what_is_pending() {
    let mut stack = Stack::start().await;
    let first = stack.queue("true");
    let reason = stack.until_verdict(first, "waiting_for_mapping").await;
    assert!(reason.contains("mapped"), "{reason}");
    assert_eq!(stack.launches("true").await, 0);
    // No webhook comes for this.
    stack.map(&[REPOSITORY]).await;
    stack.until_succeeded(first).await;
    stack.until_completed(first).await;

    stack.freeze(Service::TokenBroker);
    let second = stack.queue("true");
    stack.until_launches("state = 'submitted'", 1).await;
    stack.freeze(Service::Agent);
    stack.map(&[]).await;
    stack
        .until_launches("outcome->'why'->>'reason' = 'unmapped'", 1)
        .await;
    stack.until_verdict(second, "waiting_for_mapping").await;
    stack.thaw(Service::TokenBroker);
    wait_until("its Slurm job is told to end", DEADLINE, || async {
        stack.outputs()[1].contains("HTTP 410")
    })
    .await;
    stack.thaw(Service::Agent);
    assert_eq!(
        stack.github.state().workflow_job(second).unwrap().status,
        Status::Queued
    );

    stack.map(&[REPOSITORY]).await;
    stack.until_succeeded(second).await;
    stack.until_completed(second).await;
    assert_eq!(stack.launches("true").await, 3);
    stack.finish().await;
}

#[tokio::test]
async fn a_public_repository_is_refused_until_it_is_allowed() {
    let stack = Stack::start().await;
    let public = NewRepository {
        private: false,
        ..NewRepository::named(PUBLIC)
    };
    stack.github.create_repository(&public).unwrap();
    stack.map(&[PUBLIC]).await;
    let new = NewWorkflowJob::of(PUBLIC, &LABELS).script("true");
    let id = stack.github.queue(new).unwrap().id;
    let reason = stack.until_verdict(id, "refused").await;
    assert!(reason.starts_with("Public repositories"), "{reason}");
    assert_eq!(stack.launches("true").await, 0);

    let path = format!("/api/public-repositories/{PUBLIC}");
    let body = json!({ "reason": "only members may push" });
    let allowed = stack
        .call(Method::PUT, &path)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(allowed.status(), 204);
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 1);
    stack.finish().await;
}

/// What somebody writes into `runs-on` is told to be wrong, and starts nothing.
#[tokio::test]
async fn hostile_labels_are_named_and_start_nothing() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let harm = stack.folder().join("harm");
    let touch = format!("touch {}", harm.display());
    for label in [
        format!("slurm-partition-$({touch})"),
        format!("slurm-account-'; {touch}; '"),
        format!("slurm-qos-\"; {touch}; \""),
        format!("slurm-constraint-a\n{touch}"),
        "slurm-partition-../../etc".to_owned(),
        format!("slurm-gpus-{}", "x".repeat(10_000)),
        "slurm-nodes--1".to_owned(),
    ] {
        let labels = ["self-hosted", "slurm", &label];
        let new = NewWorkflowJob::of(REPOSITORY, &labels).script("true");
        let id = stack.github.queue(new).unwrap().id;
        // One that is too long to be kept matches nothing, so that it is left to others.
        let verdict = if label.len() > 256 {
            "not_ours"
        } else {
            "refused"
        };
        let reason = stack.until_verdict(id, verdict).await;
        let begin: String = label
            .chars()
            .take_while(char::is_ascii_graphic)
            .take(40)
            .collect();
        assert!(reason.contains(&begin), "{label}: {reason}");
    }
    let id = stack.queue("true");
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    assert_eq!(stack.launches("true").await, 1);
    assert!(!harm.exists());
    stack.finish().await;
}
