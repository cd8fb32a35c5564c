//! The developer's commands, run as a developer does.

#![expect(clippy::unwrap_used, reason = "tests")]

mod demo;
mod proofs;
mod with_services;

use std::time::Duration;

use gha_slurm_test_support::{processes_marked, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until no process has `mark` in its environment.
async fn nothing_is_left(mark: &str) {
    wait_until("no process is left", DEADLINE, || async {
        let left = processes_marked(mark);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}
