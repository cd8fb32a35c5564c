//! What was used, summed for each repository and Slurm user.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /api/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MonthlyUsage {
    /// `2026-11`: Slurm jobs that ended in it, in UTC.
    pub month: String,
    /// The one with the most CPU time first.
    pub sums: Vec<UsageSum>,
}

/// What the Slurm jobs for a repository used that spent one Slurm user's account, as Slurm's accounting says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageSum {
    /// `https://github.com/owner/name`.
    pub repository_url: String,
    /// Whose account was spent.
    pub slurm_user: String,
    /// Slurm jobs in which a workflow job ran.
    pub builds: i64,
    /// Slurm jobs, with those that got no workflow job.
    pub launches: i64,
    /// Seconds from start to end.
    pub elapsed_s: i64,
    /// CPU seconds they had, used or not (sacct's `CPUTimeRAW`).
    pub cpu_allocated_s: i64,
    /// CPU seconds their processes used (sacct's `TotalCPU`); 0 where Slurm gathers none.
    pub cpu_used_s: i64,
    /// GPU seconds they had, used or not; 0 where Slurm does not count GPUs.
    pub gpu_allocated_s: i64,
    /// The largest resident set of a task of them, in bytes, where Slurm gathers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<i64>,
}

/// What the Slurm job of a build used, as Slurm's accounting says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildUsage {
    /// Seconds from its start to its end.
    pub elapsed_s: u64,
    /// CPU seconds it had, used or not (sacct's `CPUTimeRAW`).
    pub cpu_allocated_s: u64,
    /// CPU seconds its processes used (sacct's `TotalCPU`); 0 where Slurm gathers none.
    pub cpu_used_s: u64,
    /// GPU seconds it had, used or not; 0 where Slurm does not count GPUs.
    pub gpu_allocated_s: u64,
    /// The largest resident set of a task of it, in bytes, where Slurm gathers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// What it had, as sacct's `AllocTRES`: `cpu=2,gres/gpu=1,mem=4000M,node=1`.
    pub tres: String,
}
