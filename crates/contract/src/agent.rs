//! What the launcher says to the agent about Slurm jobs that were submitted.

use chrono::{DateTime, Utc};
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmState, SlurmUser, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Longest seconds an assertion is valid.
pub const ASSERTION_LIFETIME_S: i64 = 60;
/// Most launches of one [`CallClaims`]: an assertion travels in a header.
pub const MAX_CANCELLED_AT_ONCE: usize = 100;
/// Most launches of one [`StatesRequest`].
pub const MAX_STATES_AT_ONCE: usize = 10_000;

/// What an assertion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallPurpose {
    /// `POST /runner/cancel`.
    Cancel,
    /// `POST /runner/states`.
    States,
    /// `POST /runner/list`.
    List,
}

/// Claims of the assertion (`Authorization: Bearer`) of a call other than a start. Signed as a launch token is, with a
/// `sub` that no launch token has, and for the agent alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallClaims {
    /// Issuer: the deployment's launcher.
    pub iss: String,
    /// The agent.
    pub aud: Vec<String>,
    /// What it is for.
    pub sub: CallPurpose,
    /// Unique id.
    pub jti: Uuid,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// Expires.
    pub exp: i64,
    /// Cluster it is meant for.
    pub cluster: String,
    /// Id of the launcher's database: it touches only what it had submitted itself. Absent: of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<Uuid>,
    /// What to cancel.
    #[serde(default, alias = "allocations")]
    pub launches: Vec<LaunchId>,
    /// Only where the Slurm job is pending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_pending: bool,
}

/// Answer of `POST /runner/cancel`: all of them are cancelled, or over, or were never submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelAnswer {
    /// Slurm jobs that were cancelled now.
    #[schema(value_type = Vec<Uuid>)]
    pub cancelled: Vec<LaunchId>,
}

/// Answer of `POST /runner/list`, whose body is `{}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListAnswer {
    /// Those that the launcher of the assertion had submitted and that are pending or running.
    #[serde(alias = "allocations")]
    pub launches: Vec<LaunchStatus>,
}

/// Body of `POST /runner/states`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatesRequest {
    /// Which launches.
    #[schema(value_type = Vec<Uuid>)]
    #[serde(alias = "allocations")]
    pub launches: Vec<LaunchId>,
    /// A node waits for the answer: ask Slurm first, however short ago it was asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look_now: bool,
}

/// Answer of `POST /runner/states`, and body of `POST /agent/states`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatesAnswer {
    /// Those of the asked launches of which something is known.
    #[serde(alias = "allocations")]
    pub launches: Vec<LaunchStatus>,
    /// Changes when the agent's policy or Slurm's configuration does: what was refused may be allowed now.
    pub policy: String,
    /// Changes when something has ended: what waits because of a limit may be accepted now.
    #[serde(default)]
    pub freed: u64,
}

/// Where the Slurm job of a launch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchStatus {
    /// Which.
    #[schema(value_type = Uuid)]
    #[serde(alias = "allocation")]
    pub launch: LaunchId,
    /// Slurm's number. Empty: the agent does not know it, and Slurm knows no Slurm job of this launch.
    pub slurm_job_id: String,
    /// Where it stands.
    #[schema(value_type = String)]
    pub state: SlurmState,
    /// Slurm's word for why it is pending or ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it started, or is expected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Its nodes, as Slurm writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// Exit code of the job script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What it used, after its end, where Slurm has accounting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Usage>,
    /// It has ended, and what it used is not known yet: ask again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usage_to_come: bool,
}

impl LaunchStatus {
    /// Nothing is known but where it stands.
    pub fn new(launch: LaunchId, slurm_job_id: String, state: SlurmState) -> Self {
        Self {
            launch,
            slurm_job_id,
            state,
            reason: None,
            starts_at: None,
            ended_at: None,
            nodes: None,
            exit_code: None,
            usage: None,
            usage_to_come: false,
        }
    }
}

/// What `gha-slurm explain` asks `gha-slurm-munge --dry-run`, on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRunRequest {
    /// Whose account would be spent.
    pub slurm_user: SlurmUser,
    /// Numeric id of the repository; 0 when that does not matter.
    #[serde(default)]
    pub repository_id: i64,
    /// What the labels ask for.
    #[serde(default)]
    pub resources: ResourceRequest,
}
