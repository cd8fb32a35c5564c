//! What handlers share: clients, access, answers to failed calls.

use std::sync::Arc;

use actix_web::HttpRequest;
use gha_slurm_domain::{Clock, SlurmUser};
use gha_slurm_github::{Github, GithubError};
use gha_slurm_service_kit::ApiError;
use gha_slurm_storage::{AsyncPgConnection, Database, Failure, StorageError};

use crate::access::{Access, Caller};

/// Seconds after which a client may try again when the database cannot be reached.
const RETRY_S: u64 = 2;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) github: Github,
    pub(crate) clock: Clock,
    pub(crate) web_url: Arc<str>,
    pub(crate) access: Arc<Access>,
}

impl State {
    /// Requires an administrator.
    pub(crate) fn authorize(&self, request: &HttpRequest) -> Result<(), ApiError> {
        self.access.administrator(request)
    }

    /// Requires an administrator, or an agent's assertion about this user.
    pub(crate) fn authorize_for(
        &self,
        request: &HttpRequest,
        user: &SlurmUser,
    ) -> Result<Caller, ApiError> {
        self.access.of_user(request, user)
    }

    pub(crate) async fn connection(
        &self,
    ) -> Result<impl std::ops::DerefMut<Target = AsyncPgConnection> + use<>, ApiError> {
        self.database
            .connection()
            .await
            .map_err(|e| storage_error(&e))
    }

    /// `https://github.com/owner/name`.
    pub(crate) fn repository_url(&self, owner: &str, name: &str) -> String {
        format!("{}/{owner}/{name}", self.web_url.trim_end_matches('/'))
    }
}

/// The answer to a request that failed at Postgres.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error.failure() {
        Failure::Unavailable => ApiError::database_unavailable(error, RETRY_S),
        Failure::Conflict => ApiError::conflict(error),
        Failure::Rejected => ApiError::internal(error),
    }
}

/// The answer to a request that failed at GitHub.
pub(crate) fn github_error(error: &GithubError) -> ApiError {
    match error.retry_after() {
        Some(after) => ApiError::github_unavailable(error, after.as_secs().clamp(1, 3600)),
        None => ApiError::internal(error),
    }
}
