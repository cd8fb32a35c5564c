//! Idle runners that no queued workflow job waits for: deregistered at GitHub first, which refuses where one has work
//! (rule 4). And runners whose node could not give their registration back, since Slurm ended it.

use chrono::TimeDelta;
use gha_slurm_domain::launch::Happening;
use gha_slurm_github::Deletion;
use gha_slurm_storage::StorageError;
use gha_slurm_storage::launches::{self, Loaded};

use crate::inquiry::{Inquiry, InquiryError};

/// Looked at at once.
const AT_ONCE: i64 = 50;
/// GitHub is in trouble: asked again after this.
const RETRY: TimeDelta = TimeDelta::seconds(30);

/// Deregisters the runners whose time has come.
pub(crate) async fn release(inquiry: &Inquiry) -> Result<(), StorageError> {
    let due = {
        let mut conn = inquiry.database.connection().await?;
        launches::to_deregister(&mut conn, inquiry.clock.now(), AT_ONCE).await?
    };
    for launch in due {
        release_one(inquiry, &launch).await?;
    }
    Ok(())
}

async fn release_one(inquiry: &Inquiry, loaded: &Loaded) -> Result<(), StorageError> {
    let launch = &loaded.launch;
    let Some(runner) = launch.runner() else {
        return Ok(());
    };
    let happening = match inquiry.deregister(runner, &loaded.repository).await {
        Ok(deletion) => {
            tracing::info!(
                runner = runner.name,
                ?deletion,
                "GitHub was asked to deregister a runner"
            );
            match deletion {
                Deletion::Deleted => Happening::Deregistered {
                    attempt: runner.mint_attempt,
                },
                Deletion::Busy => Happening::DeregistrationRefused,
                // That GitHub does not know it does not mean that it is idle.
                Deletion::NotFound => Happening::DeregistrationUnknown,
            }
        }
        Err(InquiryError::Storage(error)) => return Err(error),
        Err(InquiryError::Github(error)) => {
            tracing::warn!(%error, runner = runner.name, "a runner is not deregistered yet");
            Happening::DeregistrationDelayed {
                until: inquiry.clock.now() + RETRY,
            }
        }
    };
    // Unless it changed meanwhile: then the next look decides.
    let _ = inquiry
        .database
        .happen(
            "release",
            launch.repository,
            launch.id,
            &happening,
            inquiry.clock.now(),
        )
        .await?;
    Ok(())
}
