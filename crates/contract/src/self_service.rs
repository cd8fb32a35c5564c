//! What a Slurm user says to the agent from a login node: `/config/repos` and `/config/runners`, each call with a MUNGE
//! credential that is worth nothing for another one.

use chrono::{DateTime, Utc};
use gha_slurm_domain::{LaunchId, SlurmState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The scheme of the `Authorization` header; a credential of munge(1) follows it.
pub const MUNGE_SCHEME: &str = "Munge";
/// Seconds after which a credential is not accepted any more.
pub const CREDENTIAL_LIFETIME_S: i64 = 60;
/// Who may decode credentials, unless the site says otherwise: the user that the agent runs as.
pub const AGENT_USER: &str = "gha-slurm-munge";

/// Payload of the credential: the call that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialPayload {
    /// HTTP method.
    pub method: String,
    /// Path, with its query.
    pub path: String,
    /// SHA-256 of the body, in hexadecimal.
    pub body_sha256: String,
}

/// Body of `POST /config/repos`: what the user has seen and confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositoryConfirmation {
    /// `owner/name` of the repository.
    pub repository: String,
    /// GitHub's numeric id of the repository. Nothing else is consented to.
    pub repository_id: Option<i64>,
    /// Slurm account, as in a repository's entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Slurm QOS, as in a repository's entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
}

/// Query of `GET /config/repos/identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositoryQuestion {
    /// `owner/name` of the repository.
    pub repository: String,
}

/// Body of `DELETE /config/repos`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositoryRemoval {
    /// `https://github.com/owner/name` or `owner/name`.
    pub repository: String,
}

/// One launch of the user's, as `GET /config/runners` answers an array of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnLaunch {
    /// Our id.
    #[serde(alias = "allocation")]
    #[schema(value_type = Uuid)]
    pub launch: LaunchId,
    /// Slurm's number.
    pub slurm_job_id: String,
    /// Which repository it is for.
    pub repository_url: String,
    /// When it was submitted.
    pub submitted_at: DateTime<Utc>,
    /// Where it stands; absent until Slurm was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub state: Option<SlurmState>,
    /// Slurm's word for why it is pending; for a running one, Slurm's word for its state if only a newer Slurm has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it started, or is expected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// Its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
}

/// Body of `DELETE /config/runners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunnerCancellation {
    /// Slurm's number.
    pub slurm_job_id: String,
}
