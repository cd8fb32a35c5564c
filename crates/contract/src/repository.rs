//! What token-broker, which alone has the App's key, says about repositories to repo-mapping.

use gha_slurm_domain::{InstallationId, RepositoryFullName, RepositoryId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Code of the problem (404) of a repository that the App cannot see: it does not exist, or the App is not installed on it. The one
/// of `errors` has the link to install the App.
pub const REPOSITORY_UNREACHABLE: &str = "repository_unreachable";

/// A repository that the App can see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// GitHub's numeric id, which survives renames.
    #[schema(value_type = i64)]
    pub id: RepositoryId,
    /// `owner/name` as GitHub spells it now.
    #[schema(value_type = String)]
    pub full_name: RepositoryFullName,
    /// Whether it is private or internal.
    pub private: bool,
    /// The installation of the App that reaches it.
    #[schema(value_type = i64)]
    pub installation_id: InstallationId,
}
