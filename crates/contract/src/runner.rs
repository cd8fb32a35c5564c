//! What the job script on a node says to token-broker.

use chrono::{DateTime, Utc};
pub use gha_slurm_domain::launch::RunnerMode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /gha/runner` with `Authorization: Bearer <launch token>`. The original contract sends the raw token
/// and no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerRequest {
    /// Slurm job that calls (`SLURM_JOB_ID`); redemption is bound to it.
    pub slurm_job_id: String,
    /// `SLURM_RESTART_COUNT`, 0 on the first start.
    #[serde(default)]
    pub restart_count: u32,
    /// Node that calls.
    pub node: String,
}

/// Answer of `POST /gha/runner`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerAnswer {
    /// Which of the two tokens this is.
    pub mode: RunnerMode,
    /// The JIT configuration, base64, for `run.sh --jitconfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_jit_config: Option<String>,
    /// The registration token for `config.sh --token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the runner token expires, where GitHub says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// `https://github.com/owner/name`, for `config.sh --url`.
    pub url: String,
    /// Name of the runner.
    pub name: String,
    /// Labels of the runner: exactly the class's.
    pub labels: Vec<String>,
    /// Weaker token for progress and release; the launch token can be forgotten now.
    pub progress_token: String,
}

/// Answer of `POST /gha/runner` to the raw token with an empty body (original contract).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OriginalRunnerAnswer {
    /// The registration token.
    pub token: String,
}

/// How far the runner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressPhase {
    /// The Slurm job runs.
    Allocated,
    /// The runner is being set up.
    SetUp,
    /// `config.sh` has registered the runner (registration mode): may it start? 410 when it was withdrawn meanwhile.
    Registered,
    /// "Listening for Jobs".
    Listening,
    /// A workflow job started.
    WorkflowJobStarted,
    /// The runner is over; `reason` says why.
    Finished,
    /// A phase that only a newer job script knows: nothing follows from it.
    #[serde(other)]
    Unknown,
}

impl ProgressPhase {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::SetUp => "set_up",
            Self::Registered => "registered",
            Self::Listening => "listening",
            Self::WorkflowJobStarted => "workflow_job_started",
            Self::Finished => "finished",
            Self::Unknown => "unknown",
        }
    }
}

/// Body of `POST /gha/runner/progress` with `Authorization: Bearer <progress token>`; before the redemption, or when
/// it failed, the launch token is accepted for `allocated`, `set_up` and `finished`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressRequest {
    /// How far.
    pub phase: ProgressPhase,
    /// When, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Why it is over: `completed`, `idle`, `set_up_deadline`, `not_wanted`, `signal`, `runner_failed`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `GITHUB_RUN_ID` of the workflow job that started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<i64>,
    /// `GITHUB_RUN_ATTEMPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_attempt: Option<i64>,
    /// Exit code of the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Redacted end of the job script's log, at most 64 KiB; only after a failure before a workflow job started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
}

/// Most bytes of `logTail` that are kept.
pub const MAX_LOG_TAIL_BYTES: usize = 64 * 1024;
