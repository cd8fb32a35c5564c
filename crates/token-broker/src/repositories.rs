//! `/gha/installations` and `/gha/repositories`: what the App sees of a repository, for those who have no key of the App.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::problem::{Problem, ProblemPart};
use gha_slurm_contract::repository::{REPOSITORY_UNREACHABLE, Repository};
use gha_slurm_domain::{InstallationId, RepositoryFullName};
use gha_slurm_github::{Github, GithubError};
use gha_slurm_service_kit::authentication::{bearer, require_bearer, token_missing};
use gha_slurm_service_kit::{ApiError, problem};
use moka::future::Cache;
use serde::Deserialize;
use tokio::sync::{OnceCell, Semaphore};

use crate::redemption::github_trouble;
use crate::routes::{State, verified};

/// Most repositories that are looked up at a time: GitHub answers as many calls as there are nodes that call back, and those must not wait.
const LOOKUPS: usize = 8;

/// An answer of GitHub is good for so long, and so is "nothing there": after installing the App, a user may have to ask once more.
const REMEMBERED: Duration = Duration::from_secs(15);
/// Most answers that are remembered.
const MOST_REMEMBERED: u64 = 1000;

/// What the App sees. Answers are remembered, because everybody shares GitHub's rate limit.
#[derive(Clone)]
pub(crate) struct Lookup {
    github: Github,
    turns: Arc<Semaphore>,
    /// By name in lower case, as below.
    installations: Cache<String, Option<InstallationId>>,
    repositories: Cache<String, Option<Repository>>,
    /// Where people install the App. It does not change.
    install_url: Arc<OnceCell<String>>,
}

fn remembering<T: Clone + Send + Sync + 'static>() -> Cache<String, T> {
    Cache::builder()
        .max_capacity(MOST_REMEMBERED)
        .time_to_live(REMEMBERED)
        .build()
}

impl Lookup {
    pub(crate) fn new(github: Github) -> Self {
        Self {
            github,
            turns: Arc::new(Semaphore::new(LOOKUPS)),
            installations: remembering(),
            repositories: remembering(),
            install_url: Arc::default(),
        }
    }

    async fn installation(
        &self,
        name: &RepositoryFullName,
    ) -> Result<Option<InstallationId>, GithubError> {
        let ask = async {
            let _turn = self.turns.acquire().await;
            self.github.installation_of(name).await
        };
        let key = name.to_string().to_lowercase();
        let known = self.installations.try_get_with(key, ask).await;
        known.map_err(|error| (*error).clone())
    }

    async fn repository(
        &self,
        name: &RepositoryFullName,
    ) -> Result<Option<Repository>, GithubError> {
        let ask = async {
            let Some(installation) = self.installation(name).await? else {
                return Ok(None);
            };
            let _turn = self.turns.acquire().await;
            let found = self.github.repository(installation, name).await?;
            Ok::<_, GithubError>(found.map(|found| Repository {
                id: found.id,
                full_name: found.name,
                private: found.private,
                installation_id: installation,
            }))
        };
        let key = name.to_string().to_lowercase();
        let known = Box::pin(self.repositories.try_get_with(key, ask)).await;
        known.map_err(|error| (*error).clone())
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

/// Whether the App is installed on a repository. For a launch token, until its launch is over, about its own repository; for a service
/// token, about any: GitHub is asked as the App, and the answer says whether a private repository exists.
#[utoipa::path(
    get,
    path = "/gha/installations",
    operation_id = "isInstalled",
    params(Asked),
    responses(
        (status = 200, description = "`true` or `false`", body = bool),
        (status = 400, description = "Not a repository", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Neither a launch token nor a service token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The launch token is for another repository, or not of the launch that it names", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The launch of the token is over, or the token was issued before launches were stopped, and is revoked", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The launch asks too often: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
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
        let spent = "This launch asks too often whether the App is installed.";
        state.questions.take(claims.sub, spent)?;
        state.broker.refuse_spent(&claims).await?;
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
    let installation = state.lookup.installation(&name).await;
    let is_installed = installation.map_err(|e| trouble(&e))?.is_some();
    Ok(HttpResponse::Ok().json(is_installed))
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
