//! Why a launch ended, and the words for it: the one place that makes them, except that those about its repository come from
//! [`NotAdmitted`].

use serde::{Deserialize, Serialize};

use crate::admission::NotAdmitted;
use crate::stop::Stop;

/// Most attempts to register a runner for one launch. A launch token may be redeemed again until its runner listens, because a bad
/// network loses answers; but any process of the same user can read it, and each attempt costs calls to GitHub, whose limit all
/// repositories of the installation share.
pub const MOST_ATTEMPTS: u32 = 8;

/// Why a launch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Its node reported the end.
    NodeReported {
        /// The job script's reason, such as `completed`, `idle`, `set_up_deadline` or `runner_outdated: …`.
        reason: String,
        /// Exit code of the runner.
        exit_code: Option<i32>,
    },
    /// No workflow job came in time, so its node gave its registration back.
    Idle,
    /// It is not wanted any more: its launch token answers 410, and its Slurm job is cancelled.
    Withdrawn {
        /// Why.
        why: Why,
    },
    /// The agent or Slurm refused it for good.
    Refused {
        /// Their words.
        words: String,
    },
    /// GitHub refused to register its runner.
    RefusedByGithub {
        /// GitHub's words.
        words: String,
    },
    /// Slurm started it again after its runner token was given out.
    Restarted,
    /// Its launch token was redeemed as often as it may be, and its runner did not listen.
    RedeemedTooOften,
    /// Slurm reported its end.
    EndedBySlurm {
        /// Slurm's words.
        words: String,
        /// Whether it was lost to something that others may be lost to at the same time.
        is_lost: bool,
    },
    /// Nothing came from its node any more.
    Silent,
    /// It ended before outcomes were recorded by kind.
    Recorded {
        /// What was recorded.
        words: String,
    },
}

/// Why a launch is not wanted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// No queued workflow job waits for it.
    NoDemand,
    /// Its launch token is about to expire; another launch takes its place.
    TokenExpiring,
    /// Its repository may not be served.
    NotAdmitted {
        /// Why not.
        reason: NotAdmitted,
    },
    /// Its repository is mapped to another Slurm user now.
    MappedToAnother,
    /// Its workflow job asks for something else now: the mapping's account or QOS changed, or the settings of labels.
    Reassigned,
    /// All launches are stopped.
    Stopped {
        /// Since when and why.
        stop: Stop,
    },
    /// Its launch token was issued before launches were stopped, and is revoked since.
    TokenRevoked,
    /// It was withdrawn before reasons were recorded by kind.
    Recorded {
        /// What was recorded.
        words: String,
    },
}

/// How much an outcome counts against its class, where the launch had no workflow job although one waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Not at all.
    None,
    /// A failure.
    Failure,
    /// A loss: one failure for all that are lost together.
    Loss,
}

impl Outcome {
    /// For people.
    pub fn explained(&self) -> String {
        match self {
            Self::NodeReported { reason, exit_code } => match exit_code.filter(|code| *code != 0) {
                Some(code) => format!("{reason} (the runner's exit code was {code})"),
                None => reason.clone(),
            },
            Self::Idle => "idle: no workflow job came in time".to_owned(),
            Self::Withdrawn { why } => why.explained(),
            Self::Refused { words }
            | Self::RefusedByGithub { words }
            | Self::Recorded { words } => words.clone(),
            Self::Restarted => {
                "Slurm restarted the launch after its runner token was given out".to_owned()
            }
            Self::RedeemedTooOften => format!(
                "its launch token was redeemed {MOST_ATTEMPTS} times, but its runner never listened"
            ),
            Self::EndedBySlurm { words, .. } => format!("Slurm: {words}"),
            Self::Silent => "its node stopped reporting".to_owned(),
        }
    }

    pub(super) fn blame(&self) -> Blame {
        match self {
            Self::Withdrawn { .. } => Blame::None,
            Self::EndedBySlurm { is_lost: true, .. } => Blame::Loss,
            Self::NodeReported { .. }
            | Self::Idle
            | Self::Refused { .. }
            | Self::RefusedByGithub { .. }
            | Self::Restarted
            | Self::RedeemedTooOften
            | Self::EndedBySlurm { .. }
            | Self::Silent
            | Self::Recorded { .. } => Blame::Failure,
        }
    }
}

impl Why {
    /// For people.
    pub fn explained(&self) -> String {
        match self {
            Self::NoDemand => "no queued workflow job waits for it any more".to_owned(),
            Self::TokenExpiring => "its launch token is about to expire".to_owned(),
            Self::NotAdmitted { reason } => reason.to_string(),
            Self::MappedToAnother => {
                "the repository is mapped to another Slurm user now".to_owned()
            }
            Self::Reassigned => {
                "what its workflow job is charged to, or what its labels ask for, was changed: another Slurm job takes its place, at the end \
                 of Slurm's queue"
                    .to_owned()
            }
            Self::Stopped { stop } => stop.explained(),
            Self::TokenRevoked => {
                "its launch token was issued before launches were stopped, and is revoked"
                    .to_owned()
            }
            Self::Recorded { words } => words.clone(),
        }
    }
}
