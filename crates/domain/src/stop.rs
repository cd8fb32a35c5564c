//! All launches are stopped: from `gha-slurm panic` to `gha-slurm resume`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Longest reason of a stop, in characters.
pub const MAX_REASON: usize = 200;

/// Launches are stopped. While they are, nothing is launched, no runner token is given out, and what has no workflow job is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Since when. A launch token that was issued up to then is never accepted again.
    pub since: DateTime<Utc>,
    /// Why, in the words of who stopped them.
    pub reason: String,
}

impl Stop {
    /// For people.
    pub fn explained(&self) -> String {
        let since = self.since.format("%F %H:%M UTC");
        format!("all launches are stopped since {since}: {}", self.reason)
    }
}
