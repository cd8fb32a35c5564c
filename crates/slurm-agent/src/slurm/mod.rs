//! What the agent wants of Slurm, whichever way it is spoken to.

mod local;
mod process;
mod sbatch;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use gha_slurm_domain::{AllocationId, SlurmJobId, SlurmState};

use crate::submission::Submission;

pub use local::LocalSlurm;
pub use sbatch::SbatchSlurm;
pub(crate) use sbatch::missing as missing_programs;

/// A way of speaking to Slurm.
#[async_trait]
pub trait Slurm: Send + Sync {
    /// Submits. Not idempotent: when an earlier submission of this allocation may have been accepted, [`find`] it first.
    ///
    /// [`find`]: Slurm::find
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError>;

    /// The Slurm job of an allocation, pending, running or over.
    async fn find(&self, allocation: AllocationId) -> Result<Option<SlurmJobId>, SlurmUnavailable>;

    /// Every Slurm job of ours that Slurm still knows, in one call.
    async fn list(&self) -> Result<Vec<SlurmJob>, SlurmUnavailable>;

    /// Cancels a Slurm job of ours; one that is over already stays as it is.
    async fn cancel(&self, id: &SlurmJobId) -> Result<(), SlurmUnavailable>;

    /// The agent stops.
    async fn stop(&self);
}

/// A Slurm job as Slurm tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmJob {
    /// The allocation it is.
    pub allocation: AllocationId,
    /// Slurm's number.
    pub id: SlurmJobId,
    /// Who it runs as.
    pub user: String,
    /// Where it stands.
    pub state: SlurmState,
    /// Why it is pending, or ended so, in Slurm's word.
    pub reason: Option<String>,
    /// When it started, or is expected to.
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its nodes, as Slurm writes them.
    pub nodes: Option<String>,
    /// Its exit code, when it is over.
    pub exit_code: Option<i32>,
}

/// Slurm cannot be spoken to right now; a submission may have been accepted all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SlurmUnavailable(pub String);

/// Why there is no Slurm job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Slurm cannot be spoken to right now; it may have accepted the submission all the same. Try again.
    #[error(transparent)]
    Unavailable(#[from] SlurmUnavailable),
    /// A limit of Slurm's is reached (MaxSubmitJobs, QOS): wait, with Slurm's reason.
    #[error("{0}")]
    Limit(String),
    /// Slurm says no, in its own words (a partition that does not exist): it will say so again.
    #[error("{0}")]
    Rejected(String),
}
