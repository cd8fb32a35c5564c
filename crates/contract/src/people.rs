//! People who sign in, and the Slurm users that they are.

use chrono::{DateTime, Utc};
use gha_slurm_domain::SlurmUser;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /api/sign-in`: how people can sign in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignInWays {
    /// With GitHub: `GET /api/sign-in/github`.
    pub github: bool,
}

/// Answer of `GET /api/me`: whose credential the call carries, and what it opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// GitHub's id of their account. Absent for a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub github_id: Option<i64>,
    /// Their login at GitHub. Absent for a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// Whether they may see and change everything.
    pub administrator: bool,
    /// The Slurm user that they are, if an administrator has linked them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slurm_user: Option<SlurmUser>,
}

/// A person who has signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Person {
    /// GitHub's id of their account.
    pub github_id: i64,
    /// Their login at GitHub, as it was when they last signed in.
    pub login: String,
    /// Whether they may see and change everything.
    pub administrator: bool,
    /// When they last signed in.
    pub signed_in_at: DateTime<Utc>,
    /// The Slurm user that they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slurm_user: Option<SlurmUser>,
    /// The cluster of that Slurm user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Who linked them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_by: Option<String>,
    /// When they were linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_at: Option<DateTime<Utc>>,
}

/// Body of `PUT /api/people/{github_id}/slurm-user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLink {
    /// The Slurm user that the person is.
    #[schema(value_type = String)]
    pub slurm_user: SlurmUser,
    /// The cluster of that Slurm user: one of `[[agents]]`. The only one, if there is one and none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}
