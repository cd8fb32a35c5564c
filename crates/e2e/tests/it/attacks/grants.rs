//! Those who may write to a mapped repository, and want more than was granted.

use gha_slurm_simulator::request::NewWorkflowJob;
use reqwest::Method;
use serde_json::json;

use crate::stack::{REPOSITORY, SLURM_USER, Stack};

/// `slurm-account-X` spent any account of the user's, whichever the administrator had granted.
#[tokio::test]
async fn a_label_names_another_account_than_was_granted() {
    let stack = Stack::start().await;
    let granted = json!([{"repository": REPOSITORY, "account": "chemistry", "qos": "normal"}]);
    let answer = stack
        .call(Method::POST, &format!("/repositories/{SLURM_USER}"))
        .json(&granted)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    for (label, words) in [
        ("slurm-account-physics", "fixes the account chemistry"),
        ("slurm-qos-high", "fixes the QOS normal"),
    ] {
        let labels = ["self-hosted", "slurm", label];
        let new = NewWorkflowJob::of(REPOSITORY, &labels).script("true");
        let id = stack.github.queue(new).unwrap().id;
        let reason = stack.until_verdict(id, "refused").await;
        assert!(reason.contains(words), "{label}: {reason}");
    }
    assert_eq!(stack.launches("true").await, 0);
    let labels = ["self-hosted", "slurm", "slurm-account-chemistry"];
    let new = NewWorkflowJob::of(REPOSITORY, &labels).script("true");
    let id = stack.github.queue(new).unwrap().id;
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    stack.finish().await;
}
