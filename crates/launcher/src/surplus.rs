//! Idle runners that no queued workflow job waits for: deregistered at GitHub first, which refuses where one has work
//! (rule 4); what was deregistered is withdrawn, so that its Slurm job is cancelled. And runners whose node could not give their
//! registration back, since Slurm ended it.

use chrono::{TimeDelta, Utc};
use gha_slurm_domain::RepositoryId;
use gha_slurm_github::Deletion;
use gha_slurm_storage::runners::{self, Runner};
use gha_slurm_storage::{AsyncConnection, StorageError, replan};

use crate::inquiry::{Inquiry, InquiryError};

/// Looked at at once.
const AT_ONCE: i64 = 50;
/// GitHub is in trouble: asked again after this.
const RETRY: TimeDelta = TimeDelta::seconds(30);

/// Deregisters what shall be deregistered.
pub(crate) async fn release(inquiry: &Inquiry) -> Result<(), StorageError> {
    let due = {
        let mut conn = inquiry.database.connection().await?;
        runners::to_release(&mut conn, Utc::now(), AT_ONCE).await?
    };
    for (runner, repository) in due {
        match release_one(inquiry, &runner, repository).await {
            Ok(()) => {}
            Err(InquiryError::Storage(error)) => return Err(error),
            Err(InquiryError::Github(error)) => {
                tracing::warn!(%error, runner = runner.name, "a runner is not deregistered yet");
                let mut conn = inquiry.database.connection().await?;
                let again = Some(Utc::now() + RETRY);
                runners::release_again(&mut conn, &runner, again).await?;
            }
        }
    }
    Ok(())
}

async fn release_one(
    inquiry: &Inquiry,
    runner: &Runner,
    repository: RepositoryId,
) -> Result<(), InquiryError> {
    let deletion = inquiry.deregister(runner, repository).await?;
    tracing::info!(
        runner = runner.name,
        ?deletion,
        "GitHub was asked to deregister a runner"
    );
    let now = Utc::now();
    let mut conn = inquiry.database.connection().await?;
    match deletion {
        Deletion::Deleted => {
            let reason = "no queued workflow job waits for it any more";
            conn.transaction::<_, StorageError, _>(async |conn| {
                runners::released(conn, repository, runner, reason, now).await
            })
            .await?;
        }
        // Then another one may be idle in its stead: the planner looks again.
        Deletion::Busy => {
            conn.transaction::<_, StorageError, _>(async |conn| {
                runners::busy(conn, runner, None, now).await?;
                runners::release_again(conn, runner, None).await?;
                replan::request(conn, repository, false, "a runner has work").await
            })
            .await?;
        }
        // Not registered yet, or over: its node will say which. That GitHub does not know it does not mean that it is idle.
        Deletion::NotFound => runners::release_again(&mut conn, runner, None).await?,
    }
    Ok(())
}
