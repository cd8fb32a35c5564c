//! Forward-only states. An event that would go back changes nothing, so order and repetition do not matter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a workflow job as far as we know it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowJobState {
    /// Created, waiting for an approval; not demand.
    Waiting,
    /// Wants a runner: demand.
    Queued,
    /// A runner has it.
    InProgress,
    /// Over, whatever the conclusion.
    Completed,
}

impl WorkflowJobState {
    /// The state after hearing `heard`. `waiting` after `queued` keeps `queued`: which of them is newer cannot be told
    /// from an unordered stream, and assuming demand is the safe side until REST is asked.
    #[must_use]
    pub fn advance(self, heard: Self) -> Self {
        self.max(heard)
    }

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }

    /// From the stored text, or from GitHub's REST `status` (`requested` and `pending` are before `queued`).
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "waiting" | "requested" | "pending" => Self::Waiting,
            "queued" => Self::Queued,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed,
            _ => return None,
        })
    }
}

/// State of a launch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LaunchState {
    /// Wanted; the submission loop will submit it.
    Planned,
    /// The Slurm side has it.
    Submitted,
    /// Its Slurm job runs and has called back; it has a runner (or is being given one).
    Redeemed,
    /// Over, with a reason.
    Ended,
    /// No longer wanted: its launch token answers 410.
    Withdrawn,
    /// The Slurm side refused it for good, with a reason.
    Refused,
}

impl LaunchState {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Submitted => "submitted",
            Self::Redeemed => "redeemed",
            Self::Ended => "ended",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
        }
    }

    /// From the stored text.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "planned" => Self::Planned,
            "submitted" => Self::Submitted,
            "redeemed" => Self::Redeemed,
            "ended" => Self::Ended,
            "withdrawn" => Self::Withdrawn,
            "refused" => Self::Refused,
            _ => return None,
        })
    }
}

/// State of a runner.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RunnerState {
    /// A runner token is being minted at GitHub.
    Redeeming,
    /// The node has its runner token.
    Registered,
    /// "Listening for Jobs"; redemption is closed.
    Listening,
    /// A workflow job started in it.
    Busy,
    /// Over.
    Ended,
}

impl RunnerState {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redeeming => "redeeming",
            Self::Registered => "registered",
            Self::Listening => "listening",
            Self::Busy => "busy",
            Self::Ended => "ended",
        }
    }

    /// From the stored text.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "redeeming" => Self::Redeeming,
            "registered" => Self::Registered,
            "listening" => Self::Listening,
            "busy" => Self::Busy,
            "ended" => Self::Ended,
            _ => return None,
        })
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = WorkflowJobState> {
        prop_oneof![
            Just(WorkflowJobState::Waiting),
            Just(WorkflowJobState::Queued),
            Just(WorkflowJobState::InProgress),
            Just(WorkflowJobState::Completed)
        ]
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(mut heard in proptest::collection::vec(any_state(), 1..12)) {
            let run = |events: &[WorkflowJobState]| events.iter().fold(WorkflowJobState::Waiting, |s, e| s.advance(*e));
            let forward = run(&heard);
            heard.reverse();
            heard.push(heard[0]);
            prop_assert_eq!(forward, run(&heard));
        }
    }

    #[test]
    fn stored_texts_round_trip() {
        for s in [
            WorkflowJobState::Waiting,
            WorkflowJobState::Queued,
            WorkflowJobState::InProgress,
            WorkflowJobState::Completed,
        ] {
            assert_eq!(WorkflowJobState::parse(s.as_str()), Some(s));
        }
        for s in [
            LaunchState::Planned,
            LaunchState::Submitted,
            LaunchState::Redeemed,
            LaunchState::Ended,
            LaunchState::Withdrawn,
            LaunchState::Refused,
        ] {
            assert_eq!(LaunchState::parse(s.as_str()), Some(s));
        }
        for s in [
            RunnerState::Redeeming,
            RunnerState::Registered,
            RunnerState::Listening,
            RunnerState::Busy,
            RunnerState::Ended,
        ] {
            assert_eq!(RunnerState::parse(s.as_str()), Some(s));
        }
    }
}
