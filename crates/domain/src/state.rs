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
