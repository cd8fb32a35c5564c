//! States of a Slurm job. A new word of Slurm goes into the row of the state that is handled the same way; no other file has a list of
//! Slurm's words. A state that needs
//! different handling gets a row: the text that is stored and sent, the words for people, and whether it is over follow from it.
//! `docs/architecture.md` names the code that distinguishes states.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a state means for the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Pending or running.
    Alive,
    /// Ended by itself or by somebody's decision.
    Over,
    /// Ended by something that may end other Slurm jobs at the same time, such as a node's failure.
    Lost,
}

struct Row {
    stored: &'static str,
    standing: Standing,
    people: &'static str,
    slurm: &'static [&'static str],
}

macro_rules! slurm_states {
    ($($(#[$doc:meta])* $state:ident: $stored:literal, $standing:ident, $people:literal, [$($slurm:literal),*];)*) => {
        /// State of a Slurm job: of the states that Slurm has (squeue(1), "JOB STATE CODES"), those that make a difference here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum SlurmState {
            $($(#[$doc])* $state,)*
        }

        impl SlurmState {
            /// Every state.
            pub const ALL: &[Self] = &[$(Self::$state),*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$state => Row {
                        stored: $stored,
                        standing: Standing::$standing,
                        people: $people,
                        slurm: &[$($slurm),*],
                    },)*
                }
            }
        }
    };
}

slurm_states! {
    // State: text stored and sent, standing, words for people, Slurm's words.
    /// Waits for resources.
    Pending: "pending", Alive, "pending", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "POWER_UP_NODE", "EXPEDITING"];
    /// Has its nodes; in a federation, perhaps those of another cluster, whose start of it revoked it here
    /// (<https://slurm.schedmd.com/federation.html>).
    Running: "running", Alive, "running", ["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "RECONFIG_FAIL", "UPDATE_DB", "REVOKED"];
    /// Ended with exit code 0.
    Completed: "completed", Over, "ended", ["COMPLETED"];
    /// Ended with another exit code, or could not be started.
    Failed: "failed", Over, "failed", ["FAILED", "LAUNCH_FAILED"];
    /// Reached its time limit.
    TimedOut: "timed_out", Over, "timed out: it reached its time limit", ["TIMEOUT", "DEADLINE"];
    /// One of its nodes failed.
    NodeFailed: "node_failed", Lost, "node failed", ["NODE_FAIL", "BOOT_FAIL"];
    /// Used more memory than it had.
    OutOfMemory: "out_of_memory", Over, "out of memory", ["OUT_OF_MEMORY"];
    /// Another Slurm job of higher priority took its nodes.
    Preempted: "preempted", Lost, "preempted", ["PREEMPTED"];
    /// Cancelled by its user or an administrator.
    Cancelled: "cancelled", Over, "cancelled by its user or an administrator", ["CANCELLED"];
    /// Slurm does not know it any more, and how it ended was not seen.
    Gone: "gone", Lost, "not known to Slurm any more", [];
}

impl SlurmState {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        self.row().stored
    }

    /// From the text that is stored and sent. One that only a newer version knows counts as running, as a word of a newer Slurm
    /// does: one launch's status must not make a message about 10,000 of them unreadable.
    pub fn parse(text: &str) -> Self {
        let mut states = Self::ALL.iter().copied();
        states
            .find(|state| state.as_str() == text)
            .unwrap_or(Self::Running)
    }

    /// For people.
    pub fn explained(self) -> &'static str {
        self.row().people
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.row().standing != Standing::Alive
    }

    /// Whether it was lost to something that others may be lost to at the same time.
    pub fn is_lost(self) -> bool {
        self.row().standing == Standing::Lost
    }

    /// From Slurm's own word, such as `NODE_FAIL`. `None`: a word that only a newer Slurm has.
    pub fn of_word(word: &str) -> Option<Self> {
        let mut states = Self::ALL.iter().copied();
        states.find(|state| state.row().slurm.contains(&word))
    }

    /// From Slurm's own word; a word that only a newer Slurm has counts as running, because nothing is done about a Slurm job
    /// that runs. Slurm forgets the job after its end, and then it is [`Gone`](Self::Gone).
    pub fn from_slurm(word: &str) -> Self {
        Self::of_word(word).unwrap_or(Self::Running)
    }
}

impl fmt::Display for SlurmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for SlurmState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SlurmState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ok(Self::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_text_and_each_word_of_slurm_is_in_one_row_only() {
        let texts: HashSet<&str> = SlurmState::ALL.iter().map(|s| s.as_str()).collect();
        assert_eq!(texts.len(), SlurmState::ALL.len());
        let words = SlurmState::ALL.iter().flat_map(|s| s.row().slurm);
        let mut seen = HashSet::new();
        for word in words {
            assert!(seen.insert(*word), "{word} is in two rows");
        }
        for state in SlurmState::ALL {
            assert_eq!(SlurmState::parse(state.as_str()), *state);
            let json = serde_json::to_string(state).unwrap();
            assert_eq!(json, format!("\"{state}\""));
            let read: SlurmState = serde_json::from_str(&json).unwrap();
            assert_eq!(read, *state);
        }
    }

    #[test]
    fn what_is_over_or_lost() {
        let of = |wanted: fn(SlurmState) -> bool| -> Vec<&str> {
            let states = SlurmState::ALL.iter().copied();
            states
                .filter(|s| wanted(*s))
                .map(SlurmState::as_str)
                .collect()
        };
        assert_eq!(of(|s| !s.is_over()), ["pending", "running"]);
        assert_eq!(
            of(SlurmState::is_lost),
            ["node_failed", "preempted", "gone"]
        );
    }

    #[test]
    fn words_of_slurm_are_sorted_and_what_is_new_counts_as_running() {
        for (word, state) in [
            ("PENDING", SlurmState::Pending),
            ("COMPLETING", SlurmState::Running),
            ("DEADLINE", SlurmState::TimedOut),
            ("BOOT_FAIL", SlurmState::NodeFailed),
            ("REVOKED", SlurmState::Running),
        ] {
            assert_eq!(SlurmState::of_word(word), Some(state), "{word}");
            assert_eq!(SlurmState::from_slurm(word), state, "{word}");
        }
        for new in ["TELEPORTED", "", "pending"] {
            assert_eq!(SlurmState::of_word(new), None, "{new}");
            assert_eq!(SlurmState::from_slurm(new), SlurmState::Running, "{new}");
        }
        let newer: SlurmState = serde_json::from_str("\"teleported\"").unwrap();
        assert_eq!(newer, SlurmState::Running);
        assert!(serde_json::from_str::<SlurmState>("7").is_err());
    }
}
