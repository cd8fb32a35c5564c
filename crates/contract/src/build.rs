//! Builds and their timelines, as the web page shows them.

use chrono::{DateTime, Utc};
pub use gha_slurm_domain::WorkflowJobState;
pub use gha_slurm_domain::status::{BuildStage, BuildStatus};
pub use gha_slurm_domain::timeline::Kind as TimelineKind;
pub use gha_slurm_domain::workflow_job::Verdict;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::usage::BuildUsage;

/// One workflow job and how far we are with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// GitHub's id of the workflow job.
    pub workflow_job_id: i64,
    /// `https://github.com/owner/name`.
    pub repository_url: String,
    /// Where it stands, why, and what can be done, for people.
    pub status: BuildStatus,
    /// Slurm user whose account it spends or spent; before that is decided, the one its repository is mapped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_user: Option<String>,
    /// Name of the workflow job.
    pub name: String,
    /// Name of the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_name: Option<String>,
    /// Its page at GitHub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html_url: Option<String>,
    /// Branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_branch: Option<String>,
    /// The strings of `runs-on`.
    pub labels: Vec<String>,
    /// How far it is.
    pub state: WorkflowJobState,
    /// GitHub's conclusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<String>,
    /// What is decided about it.
    pub verdict: Verdict,
    /// Runner that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_name: Option<String>,
    /// When GitHub queued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<DateTime<Utc>>,
    /// When it started; nothing where it ended before a runner had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// When we last learned something about it.
    pub updated_at: DateTime<Utc>,
}

/// Answer of `GET /api/builds/{workflowJobId}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildDetail {
    /// The build.
    pub build: Build,
    /// What happened, oldest first: to the workflow job, and to the launch and runner that served it (while none
    /// has, to those of its runner class that are on the way).
    pub timeline: Vec<TimelineEntry>,
    /// What the Slurm job used that it ran in, once that has ended, where Slurm has accounting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<BuildUsage>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// When it happened, by the clock of who reported it; entries are in this order.
    pub happened_at: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// What.
    pub kind: TimelineKind,
    /// For people.
    pub detail: String,
    /// The launch it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_id: Option<uuid::Uuid>,
    /// The Slurm job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job_id: Option<String>,
    /// The runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_name: Option<String>,
    /// End of the job script's log, after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
}
