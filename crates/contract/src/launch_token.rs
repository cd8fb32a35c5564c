//! The launch token and the call that carries it to the agent.

use chrono::{DateTime, Utc};
use gha_slurm_domain::launch::RunnerMode;
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmUser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Audience of the Slurm agent.
pub const AUDIENCE_AGENT: &str = "gha-slurm-munge";
/// Audience of token-broker.
pub const AUDIENCE_BROKER: &str = "gha-slurm-token-broker";

/// Claims of a launch token: one build request. `owner`, `repositoryName`, `repositoryURL`, `labels`, `workflowId` and
/// `iat` are those of the original contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchClaims {
    /// Issuer: the deployment's launcher.
    pub iss: String,
    /// [`AUDIENCE_AGENT`] and [`AUDIENCE_BROKER`].
    pub aud: Vec<String>,
    /// The launch.
    pub sub: LaunchId,
    /// Unique id of this token.
    pub jti: Uuid,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Not before: `iat` − 120 s, because nodes' clocks differ.
    pub nbf: i64,
    /// Expires: GitHub's 24 h queue limit and an hour, by default.
    pub exp: i64,
    /// Name the runner will register under (its first attempt).
    pub runner_name: String,
    /// Cluster it is meant for.
    pub cluster: String,
    /// Id of the launcher's database. Absent: of an earlier version, or of the original contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<Uuid>,
    /// Where the node sends the token: the base URL of token-broker.
    #[serde(rename = "tokenURL")]
    pub token_url: String,
    /// Account of the repository.
    pub owner: String,
    /// Name of the repository.
    pub repository_name: String,
    /// `https://github.com/owner/name`.
    #[serde(rename = "repositoryURL")]
    pub repository_url: String,
    /// Numeric id of the repository.
    pub repository_id: i64,
    /// Labels of the runner class, comma-separated.
    pub labels: String,
    /// The workflow job that caused the launch; nothing binds the runner to it.
    pub workflow_id: i64,
    /// Slurm user whose account is spent.
    pub slurm_user: SlurmUser,
    /// What to ask Slurm for.
    pub resources: ResourceRequest,
    /// Which runner token it is redeemed for. Absent: of an earlier version, which means JIT.
    #[serde(default)]
    pub runner_mode: RunnerMode,
}

/// Body of `POST /runner/start`, the original wire contract. Only `launcherToken` decides; the rest is what an original
/// agent reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartRequest {
    /// `https://github.com/owner/name`.
    #[serde(rename = "gitHubURL")]
    pub github_url: String,
    /// The launch token.
    #[serde(rename = "launcherToken")]
    pub launcher_token: String,
    /// Labels, comma-separated.
    #[serde(rename = "runnerLabels")]
    pub runner_labels: String,
    /// Base URL of token-broker.
    #[serde(rename = "tokenURL")]
    pub token_url: String,
    /// Name of the runner.
    #[serde(
        rename = "runnerName",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub runner_name: Option<String>,
}

/// Answer of `POST /runner/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartAnswer {
    /// `OK!`, as the original agent answers.
    pub status: String,
    /// The Slurm job. An original agent does not say.
    #[serde(
        rename = "slurmJobId",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub slurm_job_id: Option<String>,
}

impl LaunchClaims {
    /// When the token expires.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.exp, 0)
    }
}
