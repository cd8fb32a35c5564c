//! Repositories of a Slurm user. `GET /repositories/:username` answers a JSON array of repository URLs; `POST` takes
//! one, replaces the whole list and answers the new one. There is no wrapper type: the body is the list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most repositories one Slurm user can map.
pub const MAX_REPOSITORIES: usize = 1000;

/// Body of `PUT /api/public-repositories/{owner}/{name}`: an administrator allows a public repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicRepositoryAllowance {
    /// Why; kept for the audit.
    pub reason: String,
}
