//! Which request goes where, and what handlers share.

use std::sync::Arc;

use actix_web::{HttpRequest, web};
use gha_slurm_contract::build::{Build, BuildDetail, TimelineEntry};
use gha_slurm_contract::mapping::{ListEntry, RepositoryEntry, UserRepository};
use gha_slurm_contract::problem::{Problem, ProblemPart};
use gha_slurm_contract::usage::{BuildUsage, MonthlyUsage, UsageSum};
use gha_slurm_domain::SlurmUser;
use gha_slurm_github::{Github, GithubError};
use gha_slurm_service_kit::{ApiError, problem};
use gha_slurm_storage::{AsyncPgConnection, Database, Failure, StorageError};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use crate::access::{Access, Caller};
use crate::web_application::WebApplication;
use crate::{builds, mapping, public_repositories, usage, users};

/// A list of 1,000 repositories with the longest names GitHub has.
const BODY_LIMIT: usize = 256 * 1024;
const RETRY_S: u64 = 2;
/// What handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) github: Github,
    pub(crate) web_url: Arc<str>,
    pub(crate) access: Arc<Access>,
}

impl State {
    /// Requires an administrator.
    pub(crate) fn authorize(&self, request: &HttpRequest) -> Result<(), ApiError> {
        self.access.administrator(request)
    }

    /// Requires an administrator, or the word of an agent about this user.
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

/// An error of Postgres as an answer.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error.failure() {
        Failure::Unavailable => ApiError::database_unavailable(error, RETRY_S),
        Failure::Conflict => ApiError::conflict(error),
        Failure::Rejected => ApiError::internal(error),
    }
}

/// An error of GitHub as an answer.
pub(crate) fn github_error(error: &GithubError) -> ApiError {
    match error.retry_after() {
        Some(after) => ApiError::github_unavailable(error, after.as_secs().clamp(1, 3600)),
        None => ApiError::internal(error),
    }
}

pub(crate) fn configure(
    config: &mut web::ServiceConfig,
    state: State,
    application: Option<WebApplication>,
) {
    config
        .app_data(web::Data::new(state))
        .app_data(web::PayloadConfig::new(BODY_LIMIT))
        .service(
            web::resource("/repositories/{username}")
                .route(web::get().to(mapping::list))
                .route(web::post().to(mapping::replace))
                .route(problem::method_not_allowed("GET, POST")),
        )
        .service(
            web::scope("/api")
                .service(
                    web::resource("/builds")
                        .route(web::get().to(builds::list))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/builds/{workflow_job_id}")
                        .route(web::get().to(builds::get))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/mapping-requests")
                        .route(web::get().to(users::requests))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/users/{username}/repositories")
                        .route(web::get().to(users::list))
                        .route(web::post().to(users::add))
                        .route(problem::method_not_allowed("GET, POST")),
                )
                .service(
                    web::resource("/users/{username}/repositories/{owner}/{name}")
                        .route(web::delete().to(users::remove))
                        .route(problem::method_not_allowed("DELETE")),
                )
                .service(
                    web::resource("/usage")
                        .route(web::get().to(usage::get))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/public-repositories/{owner}/{name}")
                        .route(web::put().to(public_repositories::allow))
                        .route(web::delete().to(public_repositories::refuse))
                        .route(problem::method_not_allowed("PUT, DELETE")),
                )
                .default_service(web::to(problem::not_found)),
        );
    if let Some(application) = application {
        config.service(application.service());
    }
}

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", scheme);
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "repo-mapping",
        description = "Which repositories may spend which Slurm user's account, and what became of their builds."
    ),
    paths(
        mapping::list,
        mapping::replace,
        users::list,
        users::add,
        users::remove,
        users::requests,
        builds::list,
        builds::get,
        usage::get,
        public_repositories::allow,
        public_repositories::refuse
    ),
    components(schemas(
        Build,
        BuildDetail,
        TimelineEntry,
        ListEntry,
        RepositoryEntry,
        UserRepository,
        BuildUsage,
        MonthlyUsage,
        UsageSum,
        Problem,
        ProblemPart
    )),
    modifiers(&Security)
)]
struct Document;

/// The OpenAPI document of the service's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
