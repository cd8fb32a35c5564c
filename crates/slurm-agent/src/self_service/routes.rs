//! The handlers.

use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, HttpResponse, web};
use aws_lc_rs::digest::{SHA256, digest};
use gha_slurm_contract::Problem;
use gha_slurm_contract::mapping::{RepositoryEntry, RepositoryIdentity, UserRepository};
use gha_slurm_contract::self_service::{
    CredentialPayload, MUNGE_SCHEME, OwnLaunch, RepositoryConfirmation, RepositoryQuestion,
    RepositoryRemoval, RunnerCancellation,
};
use gha_slurm_domain::{RepositoryFullName, SlurmUser};
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::problem::{method_not_allowed, query, repository_invalid};
use gha_slurm_service_kit::tls::http;
use gha_slurm_service_kit::{ApiError, Body};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;

use super::SelfService;
use super::munge::{Credential, CredentialError, Opened};
use crate::start::Starter;

const BODY_LIMIT: usize = 16 * 1024;
/// Bytes of an answer of repo-mapping's.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
/// When to ask again after a 503.
const RETRY_AFTER_S: u64 = 5;

/// Adds `/config/…`.
pub(crate) fn configure(config: &mut web::ServiceConfig, service: web::Data<SelfService>) {
    config.service(
        web::scope("/config")
            .app_data(service)
            .app_data(LargestBody(BODY_LIMIT))
            .service(
                web::resource("/repos")
                    .route(web::get().to(list))
                    .route(web::post().to(add))
                    .route(web::delete().to(remove))
                    .default_service(method_not_allowed("GET, POST, DELETE")),
            )
            .service(
                web::resource("/repos/identity")
                    .route(web::get().to(identity))
                    .default_service(method_not_allowed("GET")),
            )
            .service(
                web::resource("/runners")
                    .route(web::get().to(runners))
                    .route(web::delete().to(cancel))
                    .default_service(method_not_allowed("GET, DELETE")),
            ),
    );
}

fn unauthorized(detail: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "munge_credential_needed",
        "A MUNGE credential is needed",
    )
    .detail(detail)
    .header("WWW-Authenticate", MUNGE_SCHEME)
}

fn credential_error(error: &CredentialError) -> ApiError {
    match error {
        CredentialError::Unavailable(_) => ApiError::unavailable("MUNGE", error, RETRY_AFTER_S),
        CredentialError::NotALoginNode(_) => ApiError::new(
            StatusCode::FORBIDDEN,
            "not_a_login_node",
            "Only from a login node",
        )
        .detail(error.to_string()),
        _ => unauthorized(&error.to_string()),
    }
}

impl SelfService {
    /// The user who calls, without a body.
    async fn user(&self, request: &HttpRequest) -> Result<SlurmUser, ApiError> {
        let opened = self.opened(request).await?;
        self.user_of(request, opened, b"").await
    }

    /// The user who calls, and what they send, which is not read before MUNGE vouches for them.
    async fn user_and<T: DeserializeOwned>(
        &self,
        request: &HttpRequest,
        body: Body,
    ) -> Result<(SlurmUser, T), ApiError> {
        let opened = self.opened(request).await?;
        let bytes = body.read().await?;
        let user = self.user_of(request, opened, &bytes).await?;
        let asked = gha_slurm_service_kit::body::json(&bytes).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong")
                .detail(error.to_string())
        })?;
        Ok((user, asked))
    }

    async fn opened(&self, request: &HttpRequest) -> Result<Opened, ApiError> {
        let header = request.headers().get(AUTHORIZATION);
        let credential = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(MUNGE_SCHEME))
            .map(|(_, credential)| credential.trim())
            .ok_or_else(|| {
                unauthorized(
                    "Send Authorization: Munge <credential>, as the command gha-slurm does.",
                )
            })?;
        let credential = Credential::new(credential).map_err(|error| credential_error(&error))?;
        self.strangers.check(request)?;
        let now_s = self.starter.clock.now().timestamp();
        self.munge.open(credential, now_s).await.map_err(|error| {
            if !matches!(error, CredentialError::Unavailable(_)) {
                self.strangers.count(request);
            }
            credential_error(&error)
        })
    }

    /// Opted in by policy.
    async fn user_of(
        &self,
        request: &HttpRequest,
        opened: Opened,
        body: &[u8],
    ) -> Result<SlurmUser, ApiError> {
        let path = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string);
        let call = CredentialPayload {
            method: request.method().to_string(),
            path,
            body_sha256: hex::encode(digest(&SHA256, body).as_ref()),
        };
        let user = self
            .munge
            .accept(opened, &call, self.starter.clock.now().timestamp())
            .await
            .map_err(|error| credential_error(&error))?;
        let refused = |detail: String| {
            ApiError::new(
                StatusCode::FORBIDDEN,
                "policy_refused",
                "The cluster's policy refuses it",
            )
            .detail(detail)
        };
        let name: SlurmUser = user
            .name
            .parse()
            .map_err(|error: gha_slurm_domain::ids::InvalidId| refused(error.to_string()))?;
        let starter = std::sync::Arc::clone(&self.starter);
        let checked = name.clone();
        tokio::task::spawn_blocking(move || starter.policy.check_user(checked.as_str()))
            .await
            .map_err(|e| ApiError::internal(&e))?
            .map_err(|refusal| refused(refusal.to_string()))?;
        Ok(name)
    }

    /// 429 for a user who has had too many repositories looked up at GitHub.
    fn count_lookup(&self, user: &SlurmUser) -> Result<(), ApiError> {
        self.lookups.take(
            user.clone(),
            "You asked about too many repositories within a minute.",
        )
    }

    /// Asks repo-mapping in the name of the user. Returns its answer as it is.
    async fn forward(
        &self,
        user: &SlurmUser,
        method: Method,
        path: &str,
        body: Option<&RepositoryEntry>,
    ) -> Result<Answer, ApiError> {
        let unavailable = |error: &dyn std::fmt::Display| {
            ApiError::unavailable("repo-mapping", error, RETRY_AFTER_S)
        };
        let assertion = self
            .assertion(user)
            .await
            .map_err(|error| ApiError::internal(&error))?;
        let url = format!(
            "{}/api/users/{user}/repositories{path}",
            self.repo_mapping_url
        );
        let mut call = self
            .http
            .request(method, url)
            .bearer_auth(assertion.expose_secret());
        if let Some(body) = body {
            call = call.json(body);
        }
        let response = call
            .send()
            .await
            .map_err(|error| unavailable(&error.without_url()))?;
        let status = response.status().as_u16();
        if status == 401 {
            // Not the user's fault, and nothing they could mend.
            return Err(unavailable(
                &"it does not accept the agent's key: an administrator has to name its public half in `agents`",
            ));
        }
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (kind, retry_after) = (header("content-type"), header("retry-after"));
        let body = http::body(response, LONGEST_ANSWER)
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(Answer {
            status: StatusCode::from_u16(status).map_err(|error| unavailable(&error))?,
            kind,
            retry_after,
            body,
        })
    }

    /// Changes what the cluster itself keeps of users' consents, where it keeps any.
    async fn consents<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Starter) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let starter = std::sync::Arc::clone(&self.starter);
        tokio::task::spawn_blocking(move || change(&starter))
            .await
            .map_err(|e| ApiError::internal(&e))?
            .map_err(|e| ApiError::unavailable("policy.consents", &e, RETRY_AFTER_S))
    }
}

fn name_of(text: &str) -> Result<RepositoryFullName, ApiError> {
    RepositoryFullName::parse_any(text).map_err(|error| repository_invalid(&error))
}

/// The name at the end of a repository's URL, as repo-mapping writes it.
fn is_url_of(url: &str, name: &RepositoryFullName) -> bool {
    name_of(url).is_ok_and(|written| written == *name)
}

/// What repo-mapping answers.
struct Answer {
    status: StatusCode,
    kind: Option<String>,
    retry_after: Option<String>,
    body: Vec<u8>,
}

impl From<Answer> for HttpResponse {
    fn from(answer: Answer) -> Self {
        let mut response = HttpResponse::build(answer.status);
        if let Some(kind) = answer.kind {
            response.content_type(kind);
        }
        if let Some(seconds) = answer.retry_after {
            response.insert_header(("Retry-After", seconds));
        }
        response.body(answer.body)
    }
}

/// What the user has, and what waits.
#[utoipa::path(
    get,
    path = "/config/repos",
    operation_id = "listRepositories",
    responses(
        (status = 200, description = "What the user has, and what waits", body = Vec<UserRepository>),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE or repo-mapping is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let user = service.user(&request).await?;
    let answer = service.forward(&user, Method::GET, "", None).await?;
    Ok(answer.into())
}

/// The repository that a name belongs to, as repo-mapping knows it from GitHub, for the user to check and confirm.
#[utoipa::path(
    get,
    path = "/config/repos/identity",
    operation_id = "identifyRepository",
    params(("repository" = String, Query, description = "`owner/name` of the repository")),
    responses(
        (status = 200, description = "The repository", body = RepositoryIdentity),
        (status = 400, description = "Not a repository", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The user asks about too many repositories, or too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE or repo-mapping is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn identity(
    request: HttpRequest,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let user = service.user(&request).await?;
    let RepositoryQuestion { repository } = query(&request)?;
    let name = name_of(&repository)?;
    service.count_lookup(&user)?;
    let path = format!("/{name}");
    let answer = service.forward(&user, Method::GET, &path, None).await?;
    Ok(answer.into())
}

/// Asks for the repository that the user has confirmed; it waits for an administrator. What the cluster keeps of the consent is what the
/// user wrote: what repo-mapping answers cannot change it, only prevent it.
#[utoipa::path(
    post,
    path = "/config/repos",
    operation_id = "addRepository",
    request_body = RepositoryConfirmation,
    responses(
        (status = 200, description = "It is mapped", body = UserRepository),
        (status = 202, description = "It waits for an administrator", body = UserRepository),
        (status = 400, description = "The body is wrong; `repository_unconfirmed`: it has no id", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is mapped to another user; `repository_differs`: it is not the one that was confirmed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The user asks about too many repositories, or too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE or repo-mapping is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn add(
    request: HttpRequest,
    body: Body,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let (user, confirmed): (_, RepositoryConfirmation) = service.user_and(&request, body).await?;
    let name = name_of(&confirmed.repository)?;
    let Some(id) = confirmed.repository_id else {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "repository_unconfirmed",
            "The repository is not confirmed",
        )
        .detail("`repositoryId` is missing: a newer gha-slurm command shows GitHub's id of the repository and asks for it."));
    };
    service.count_lookup(&user)?;
    let entry = RepositoryEntry {
        repository: name.to_string(),
        account: confirmed.account,
        qos: confirmed.qos,
        id: Some(id),
        cluster: None,
    };
    let answer = service
        .forward(&user, Method::POST, "", Some(&entry))
        .await?;
    if answer.status.is_success() {
        let added: UserRepository =
            serde_json::from_slice(&answer.body).map_err(|e| ApiError::internal(&e))?;
        if added.id != id || !is_url_of(&added.url, &name) {
            tracing::warn!(%user, confirmed = %name, confirmed.id = id, answered = added.url, answered.id = added.id,
                "repo-mapping answered with another repository than the user confirmed");
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "repository_differs",
                "repo-mapping names another repository than you confirmed",
            )
            .detail(format!(
                "You confirmed {name} with the id {id}, and repo-mapping answered with {} and the id {}. The cluster recorded no consent.",
                added.url, added.id
            )));
        }
        let (of, now) = (user.clone(), service.starter.clock.now());
        let recorded = move |starter: &Starter| starter.policy.record_consent(&of, id, &name, now);
        service.consents(recorded).await?;
        tracing::info!(%user, repository = added.url, state = ?added.state, "a user added a repository");
    }
    Ok(answer.into())
}

/// Removes a repository, or what waits. The cluster's own record of the consent ends first, whatever repo-mapping answers.
#[utoipa::path(
    delete,
    path = "/config/repos",
    operation_id = "removeRepository",
    request_body = RepositoryRemoval,
    responses(
        (status = 204, description = "It is removed"),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The user does not have it", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE or repo-mapping is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn remove(
    request: HttpRequest,
    body: Body,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let (user, asked) = service.user_and(&request, body).await?;
    let RepositoryRemoval { repository } = asked;
    let name = name_of(&repository)?;
    let withdraw = async |id: Option<i64>| {
        let (of, name) = (user.clone(), name.clone());
        service
            .consents(move |starter| starter.policy.withdraw_consent(&of, &name, id))
            .await
    };
    let was_consented = withdraw(None).await?;
    let known = service.forward(&user, Method::GET, "", None).await?;
    if !known.status.is_success() {
        return Ok(known.into());
    }
    let known: Vec<UserRepository> =
        serde_json::from_slice(&known.body).map_err(|e| ApiError::internal(&e))?;
    let Some(known) = known.iter().find(|known| is_url_of(&known.url, &name)) else {
        if was_consented {
            return Ok(HttpResponse::NoContent().finish());
        }
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "repository_not_mapped",
            "You do not have this repository",
        )
        .detail("`gha-slurm repos list` shows what you have."));
    };
    // One that was renamed, or recorded without its name.
    withdraw(Some(known.id)).await?;
    // As GitHub spells it.
    let path = format!("/{}", name_of(&known.url)?);
    let answer = service.forward(&user, Method::DELETE, &path, None).await?;
    if answer.status.is_success() {
        tracing::info!(%user, repository = %name, "a user removed a repository");
    }
    Ok(answer.into())
}

/// The user's launches that are not over.
#[utoipa::path(
    get,
    path = "/config/runners",
    operation_id = "listRunners",
    responses(
        (status = 200, description = "The user's launches that are not over", body = Vec<OwnLaunch>),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn runners(
    request: HttpRequest,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let user = service.user(&request).await?;
    let own = service.starter.launches.book(|book| book.of_user(&user));
    let answer: Vec<OwnLaunch> = own
        .into_iter()
        .map(|(entry, slurm_job_id, status)| OwnLaunch {
            launch: entry.launch,
            slurm_job_id: slurm_job_id.to_string(),
            repository_url: entry.repository_url,
            submitted_at: entry.intended_at,
            state: status.as_ref().map(|status| status.state),
            reason: status.as_ref().and_then(|status| status.reason.clone()),
            starts_at: status.as_ref().and_then(|status| status.starts_at),
            nodes: status.and_then(|status| status.nodes),
        })
        .collect();
    Ok(HttpResponse::Ok().json(answer))
}

/// Cancels one of them.
#[utoipa::path(
    delete,
    path = "/config/runners",
    operation_id = "cancelRunner",
    request_body = RunnerCancellation,
    responses(
        (status = 204, description = "It is cancelled"),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "A MUNGE credential is needed, or it is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The policy refuses this user, or it is no login node", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The user has no such runner", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many credentials from this address were refused: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "MUNGE or Slurm is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("mungeCredential" = []))
)]
pub(crate) async fn cancel(
    request: HttpRequest,
    body: Body,
    service: web::Data<SelfService>,
) -> Result<HttpResponse, ApiError> {
    let (user, asked) = service.user_and(&request, body).await?;
    let RunnerCancellation { slurm_job_id } = asked;
    let own = service.starter.launches.book(|book| book.of_user(&user));
    let found = own
        .into_iter()
        .find(|(_, id, _)| id.as_str() == slurm_job_id);
    let Some((entry, ..)) = found else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "runner_unknown",
            "You have no such runner",
        )
        .detail("`gha-slurm runners` shows what you have."));
    };
    let starter = std::sync::Arc::clone(&service.starter);
    let (own, whichever) = (vec![entry.launch], entry.launcher);
    starter.cancel(own, whichever, false).await?;
    tracing::info!(%user, launch.id = %entry.launch, "a user cancelled a runner");
    Ok(HttpResponse::NoContent().finish())
}
