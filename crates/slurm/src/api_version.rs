//! Versions of slurmrestd's API.

use serde::{Deserialize, Serialize};

/// A version of slurmrestd's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ApiVersion {
    /// Slurm 20.11 to 22.05.
    #[serde(rename = "v0.0.36")]
    V36,
    /// Slurm 21.08 to 23.02.
    #[serde(rename = "v0.0.37")]
    V37,
    /// Slurm 22.05 to 23.11.
    #[serde(rename = "v0.0.38")]
    V38,
    /// Slurm 23.11 to 24.11.
    #[serde(rename = "v0.0.40")]
    V40,
    /// Slurm 24.05 to 25.05.
    #[serde(rename = "v0.0.41")]
    V41,
    /// Slurm 24.11 to 26.05.
    #[serde(rename = "v0.0.42")]
    V42,
    /// Slurm 25.05 and later.
    #[serde(rename = "v0.0.43")]
    V43,
    /// Slurm 25.11 and later.
    #[serde(rename = "v0.0.44")]
    V44,
    /// Slurm 26.05 and later.
    #[serde(rename = "v0.0.45")]
    V45,
}

impl ApiVersion {
    /// All of them, in the order they are asked for.
    pub const NEWEST_FIRST: [Self; 9] = [
        Self::V45,
        Self::V44,
        Self::V43,
        Self::V42,
        Self::V41,
        Self::V40,
        Self::V38,
        Self::V37,
        Self::V36,
    ];

    /// As in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V36 => "v0.0.36",
            Self::V37 => "v0.0.37",
            Self::V38 => "v0.0.38",
            Self::V40 => "v0.0.40",
            Self::V41 => "v0.0.41",
            Self::V42 => "v0.0.42",
            Self::V43 => "v0.0.43",
            Self::V44 => "v0.0.44",
            Self::V45 => "v0.0.45",
        }
    }

    /// The newest that a program of Slurm's can print in, by what it lists for `--json=list`: `data_parser/v0.0.42`.
    pub(crate) fn of_parsers(listed: &str) -> Option<Self> {
        let listed: Vec<&str> = listed.lines().map(str::trim).collect();
        Self::NEWEST_FIRST
            .into_iter()
            .find(|version| listed.contains(&format!("data_parser/{}", version.as_str()).as_str()))
    }

    /// Whether the job script can be warned before its end. Before v0.0.40 a signal goes to steps alone, never to the
    /// batch script (`B:` is refused).
    pub fn signals_the_job_script(self) -> bool {
        self >= Self::V40
    }

    /// Whether all that serve this version ask who it is at each call, which slurmrestd 20.11 does once for a connection, and 22.05
    /// at each call (tried with both; 21.08 was not).
    pub(crate) fn authenticates_each_call(self) -> bool {
        self >= Self::V38
    }
}
