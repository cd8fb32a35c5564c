//! States of Slurm jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a Slurm job, of those that Slurm knows (squeue(1), "JOB STATE CODES") the ones that make a difference here.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SlurmState {
    /// Waits for resources.
    Pending,
    /// Has its nodes.
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended with another exit code, or could not be started.
    Failed,
    /// Reached its time limit.
    TimedOut,
    /// A node of it failed.
    NodeFailed,
    /// Used more memory than it had.
    OutOfMemory,
    /// Had to make room for another one.
    Preempted,
    /// Cancelled by its user or an administrator.
    Cancelled,
    /// Slurm does not know it any more, and nobody saw it end.
    Gone,
}

impl SlurmState {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::NodeFailed => "node_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::Preempted => "preempted",
            Self::Cancelled => "cancelled",
            Self::Gone => "gone",
        }
    }

    /// From the stored text.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Completed,
            Self::Failed,
            Self::TimedOut,
            Self::NodeFailed,
            Self::OutOfMemory,
            Self::Preempted,
            Self::Cancelled,
            Self::Gone,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
    }

    /// For people.
    pub fn explained(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "ended",
            Self::Failed => "failed",
            Self::TimedOut => "timed out: it reached its time limit",
            Self::NodeFailed => "node failed",
            Self::OutOfMemory => "out of memory",
            Self::Preempted => "preempted",
            Self::Cancelled => "cancelled by its user or an administrator",
            Self::Gone => "not known to Slurm any more",
        }
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Whether it was lost to something that others may be lost to at the same time.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::NodeFailed | Self::Preempted | Self::Gone)
    }

    /// From Slurm's own word, such as `NODE_FAIL`. A word that a later Slurm adds counts as running: nothing is done
    /// about those.
    pub fn from_slurm(word: &str) -> Self {
        match word {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED"
            | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => Self::Pending,
            "COMPLETED" => Self::Completed,
            "FAILED" | "LAUNCH_FAILED" => Self::Failed,
            "TIMEOUT" | "DEADLINE" => Self::TimedOut,
            "NODE_FAIL" | "BOOT_FAIL" => Self::NodeFailed,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            "PREEMPTED" => Self::Preempted,
            "CANCELLED" | "REVOKED" => Self::Cancelled,
            _ => Self::Running,
        }
    }
}
