//! `/gha/installations` and `/gha/repositories`: what the App sees of a repository, for those who have no key of the App.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::problem::{Problem, ProblemPart};
use gha_slurm_contract::repository::{REPOSITORY_UNREACHABLE, Repository};
use gha_slurm_domain::RepositoryFullName;
use gha_slurm_github::{Github, GithubError};
use gha_slurm_service_kit::authentication::{bearer, require_bearer, token_missing};
use gha_slurm_service_kit::{ApiError, problem};
use serde::Deserialize;
use tokio::sync::{OnceCell, Semaphore};

use crate::redemption::github_trouble;
use crate::routes::{State, verified};

/// Most repositories that are looked up at a time: GitHub answers as many calls as there are nodes that call back, and those must not wait.
const LOOKUPS: usize = 8;

/// What the App sees.
#[derive(Clone)]
pub(crate) struct Lookup {
    github: Github,
    turns: Arc<Semaphore>,
    /// Where people install the App. It does not change.
    install_url: Arc<OnceCell<String>>,
}

impl Lookup {
    pub(crate) fn new(github: Github) -> Self {
        Self {
            github,
            turns: Arc::new(Semaphore::new(LOOKUPS)),
            install_url: Arc::default(),
        }
    }

    async fn is_installed(&self, name: &RepositoryFullName) -> Result<bool, GithubError> {
        let _turn = self.turns.acquire().await;
        Ok(self.github.installation_of(name).await?.is_some())
    }

    async fn repository(
        &self,
        name: &RepositoryFullName,
    ) -> Result<Option<Repository>, GithubError> {
        let _turn = self.turns.acquire().await;
        let Some(installation) = self.github.installation_of(name).await? else {
            return Ok(None);
        };
        let found = self.github.repository(installation, name).await?;
        Ok(found.map(|found| Repository {
            id: found.id,
            full_name: found.name,
            private: found.private,
            installation_id: installation,
        }))
    }

    async fn install_url(&self) -> Option<String> {
        self.install_url
            .get_or_try_init(|| self.github.install_url())
            .await
            .inspect_err(|error| tracing::warn!(%error, "the App's page is unknown"))
            .ok()
            .cloned()
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
struct Asked {
    /// `https://github.com/owner/name`, or `owner/name`.
    url: String,
}

fn asked(request: &HttpRequest, state: &State) -> Result<RepositoryFullName, ApiError> {
    let Asked { url } = problem::query(request)?;
    RepositoryFullName::parse(&url, &state.broker.web_url)
        .map_err(|e| problem::repository_invalid(&e))
}

fn trouble(error: &GithubError) -> ApiError {
    github_trouble(error).unwrap_or_else(|| ApiError::internal(error))
}

/// Whether the App is installed on a repository. For a launch token, about its own repository; for a service token, about any: GitHub is
/// asked as the App, and the answer says whether a private repository exists.
#[utoipa::path(
    get,
    path = "/gha/installations",
    operation_id = "isInstalled",
    params(Asked),
    responses(
        (status = 200, description = "`true` or `false`", body = bool),
        (status = 400, description = "Not a repository", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Neither a launch token nor a service token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The launch token is for another repository", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The launch token was issued before launches were stopped, and is revoked", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launchToken" = []), ("serviceToken" = []))
)]
pub(crate) async fn installations(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let of_launch = if require_bearer(&request, &state.service_tokens).is_ok() {
        None
    } else {
        let token = bearer(&request).ok_or_else(token_missing)?;
        let claims = verified(&state, token).await?;
        state.broker.refuse_revoked(&claims).await?;
        Some(claims)
    };
    let name = asked(&request, &state)?;
    if let Some(claims) = of_launch {
        let own = format!("{}/{}", claims.owner, claims.repository_name);
        if !own.eq_ignore_ascii_case(&name.to_string()) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "another_repository",
                "The launch token is for another repository",
            ));
        }
    }
    let installed = state.lookup.is_installed(&name).await;
    Ok(HttpResponse::Ok().json(installed.map_err(|e| trouble(&e))?))
}

/// A repository as the App sees it. Only for service tokens: the answer says whether a private repository exists.
#[utoipa::path(
    get,
    path = "/gha/repositories",
    operation_id = "findRepository",
    params(Asked),
    responses(
        (status = 200, description = "The App sees it", body = Repository),
        (status = 400, description = "Not a repository", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Not a service token", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`repository_unreachable`: it does not exist, or the App is not installed on it; `errors` has the link to install it", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("serviceToken" = []))
)]
pub(crate) async fn repositories(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    require_bearer(&request, &state.service_tokens)?;
    let name = asked(&request, &state)?;
    let found = state.lookup.repository(&name).await;
    if let Some(repository) = found.map_err(|e| trouble(&e))? {
        return Ok(HttpResponse::Ok().json(repository));
    }
    let detail = format!("{name} does not exist, or the GitHub App is not installed on it");
    let part = ProblemPart {
        index: None,
        value: Some(name.to_string()),
        code: REPOSITORY_UNREACHABLE.to_owned(),
        detail: detail.clone(),
        link: state.lookup.install_url().await,
    };
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        REPOSITORY_UNREACHABLE,
        "The App cannot see this repository",
    )
    .detail(detail)
    .errors(vec![part]))
}
