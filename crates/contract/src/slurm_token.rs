//! The Slurm agent asks the token signer for a Slurm token: one line of JSON each way, over a unix socket.

use serde::{Deserialize, Serialize};

/// Longest line, in bytes.
pub const LONGEST_LINE: u64 = 4096;

/// What the signer is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmTokenRequest {
    /// Whose token.
    pub user: String,
    /// For how many seconds; the signer may give less.
    pub lifespan_s: u32,
}

/// What it answers. Not `Debug`: it may hold the token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlurmTokenAnswer {
    /// The token.
    Token(String),
    /// Not for this user, or not to this peer, and why.
    Refused(String),
    /// Not now, and why.
    Failed(String),
}
