//! What every look of the reconciler needs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gha_slurm_github::GithubError;
use gha_slurm_storage::StorageError;
use gha_slurm_telemetry::prometheus::IntCounterVec;
use tokio::sync::Notify;

use crate::inquiry::{Inquiry, InquiryError};
use crate::settings::{DeploymentSettings, ReconcilerSettings};

/// The reconciler.
pub struct Reconciler {
    /// Asks GitHub.
    pub inquiry: Inquiry,
    /// Its bounds.
    pub settings: ReconcilerSettings,
    /// Whose names its runners have.
    pub deployment: DeploymentSettings,
    /// Counts what was found, by `what`.
    pub found: IntCounterVec,
    /// Notified when something may have been planned.
    pub wake: Arc<Notify>,
    /// RabbitMQ is back: webhooks may have failed meanwhile, so everything is looked at.
    pub resumed: Arc<AtomicBool>,
}

/// Whether the next call would fail in the same way.
pub(super) fn is_for_all(error: &InquiryError) -> bool {
    matches!(
        error,
        InquiryError::Storage(StorageError::Unavailable(_))
            | InquiryError::Github(
                GithubError::Unavailable { .. } | GithubError::Unauthorized { .. }
            )
    )
}

/// Whether the call is made later, when GitHub's rate limits leave something for it: nothing is wrong.
pub(super) fn has_to_wait(error: &InquiryError) -> bool {
    matches!(error, InquiryError::Github(GithubError::RateLimited { .. }))
}
