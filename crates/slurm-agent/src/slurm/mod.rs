//! What the agent wants of Slurm, whichever way it is spoken to.

mod local;
mod process;

use async_trait::async_trait;
use gha_slurm_domain::{AllocationId, SlurmJobId};

use crate::submission::Submission;

pub use local::LocalSlurm;

/// A way of speaking to Slurm.
#[async_trait]
pub trait Slurm: Send + Sync {
    /// Submits. Not idempotent: when an earlier submission of this allocation may have been accepted, [`find`] it first.
    ///
    /// [`find`]: Slurm::find
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SlurmUnavailable>;

    /// The Slurm job of an allocation, pending, running or over.
    async fn find(&self, allocation: AllocationId) -> Result<Option<SlurmJobId>, SlurmUnavailable>;

    /// The agent stops.
    async fn stop(&self);
}

/// Slurm cannot be spoken to right now; a submission may have been accepted all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SlurmUnavailable(pub String);
