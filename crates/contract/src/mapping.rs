//! Repositories of a Slurm user. `GET /repositories/:username` answers a JSON array of repository URLs; `POST` takes
//! one, replaces the whole list and answers the new one. There is no wrapper type: the body is the list.
//! `/api/users/:username/repositories` is about single repositories, and says more of them.

use chrono::{DateTime, Utc};
use gha_slurm_domain::SlurmUser;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most repositories one Slurm user can map.
pub const MAX_REPOSITORIES: usize = 1000;

/// Who the assertion of a Slurm agent is for.
pub const AUDIENCE_REPO_MAPPING: &str = "gha-slurm-repo-mapping";

/// Longest seconds that assertion is valid.
pub const USER_ASSERTION_LIFETIME_S: i64 = 60;

/// Claims of the assertion (`Authorization: Bearer`) with which a Slurm agent says which Slurm user asks: MUNGE proved it.
/// Signed with a key of the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserClaims {
    /// Issuer: the name of the agent's cluster.
    pub iss: String,
    /// [`AUDIENCE_REPO_MAPPING`].
    pub aud: Vec<String>,
    /// The Slurm user.
    pub sub: SlurmUser,
    /// Unique id.
    pub jti: Uuid,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// Expires.
    pub exp: i64,
}

/// In place of an account or QOS: the site's default, and labels may name one.
pub const DEFAULT_CHARGE: &str = "default";

/// A repository to map, and what its launches are charged to. What is named is fixed: a workflow job whose labels name another account or
/// QOS is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositoryEntry {
    /// `https://github.com/owner/name` or `owner/name`.
    pub repository: String,
    /// Slurm account. Absent or `default`: the site's default, and labels may name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Slurm QOS. Absent or `default`: the site's default, and labels may name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// GitHub's numeric id of the repository that is meant. If the name belongs to another one, nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The cluster that the Slurm user is a user of. Only administrators name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// The repository that a name belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryIdentity {
    /// GitHub's numeric id.
    pub id: i64,
    /// `https://github.com/owner/name`, as GitHub writes the name now.
    pub url: String,
}

/// Entry of a list: a repository alone (what it is charged to stays as it is), or with what it is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ListEntry {
    /// `https://github.com/owner/name` or `owner/name`.
    Name(String),
    /// With account and QOS.
    Entry(RepositoryEntry),
}

/// Where the mapping of a repository stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MappingState {
    /// Its workflow jobs may spend the user's account.
    Mapped,
    /// An administrator has to agree: that the user may administer it at GitHub is not proved.
    Waiting,
}

/// A repository of a Slurm user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserRepository {
    /// The Slurm user.
    pub user: String,
    /// Where it stands.
    pub state: MappingState,
    /// GitHub's numeric id.
    pub id: i64,
    /// `https://github.com/owner/name`.
    pub url: String,
    /// Slurm account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Slurm QOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// When it was asked for, if it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<DateTime<Utc>>,
    /// The cluster that the user is a user of. Absent: an administrator named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Version of the request, for If-Match of a decision, if it waits. Another one whenever it asks for something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// Body of `PUT /api/public-repositories/{owner}/{name}`: an administrator allows a public repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicRepositoryAllowance {
    /// Why; kept for the audit.
    pub reason: String,
    /// GitHub's numeric id of the repository that is meant. If the name belongs to another one, nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
}
