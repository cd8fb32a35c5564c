//! The original contract, where a site opts in by `[original]`: a shared secret instead of a signature, and the site's own YAML
//! file instead of a repository mapping. Weaker than a launch token, and logged as such: whoever has the secret starts
//! Slurm jobs for every repository in the file. The policy still applies.

pub(crate) mod file;
pub(crate) mod request;
mod template;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use gha_slurm_auth::token::DEFAULT_LIFETIME_S;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::Problem;
use gha_slurm_contract::problem::PROBLEM_JSON;
use gha_slurm_service_kit::{ApiError, Body};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::settings::Settings;
use crate::start::{Starter, answer};
use crate::submission::{Extras, claims_without_token};
use file::{Repository, SiteFile};
use request::OriginalRequest;

/// The header with the shared secret.
pub(crate) const HEADER: &str = "auth-token";

/// What the site's file says, until it is read again.
pub(crate) struct Original {
    path: PathBuf,
    site: RwLock<Arc<SiteFile>>,
}

impl Original {
    /// Reads the file, where the settings name one. Blocks.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let Some(original) = &settings.original else {
            return Ok(None);
        };
        let path = original.file.clone();
        let site = SiteFile::read(&path)?;
        tracing::warn!(
            repositories = site.repositories.len(),
            "original.file: the original contract is on; it is weaker than launch tokens"
        );
        Ok(Some(Self {
            path,
            site: RwLock::new(Arc::new(site)),
        }))
    }

    fn site(&self) -> Arc<SiteFile> {
        Arc::clone(&self.site.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file, if the request has its secret. Compared as hashes: neither content nor length shows in the time it takes.
    fn authenticated(&self, request: &HttpRequest) -> Option<Arc<SiteFile>> {
        let site = self.site();
        let given = request.headers().get(HEADER)?;
        let given = Sha256::digest(given.as_bytes());
        bool::from(given.ct_eq(&site.secret_hash)).then_some(site)
    }
}

/// What the original program answers to whoever does not know the secret.
fn not_authenticated() -> HttpResponse {
    HttpResponse::Unauthorized().json(json!({ "message": "auth-token missing" }))
}

/// As [`not_authenticated`], to somebody without the header whose launch token is not accepted: they may be either.
pub(crate) fn neither(error: &ApiError) -> HttpResponse {
    let mut body = json!(error.problem());
    if let Some(body) = body.as_object_mut() {
        body.insert("message".into(), "auth-token missing".into());
    }
    HttpResponse::Unauthorized()
        .content_type(PROBLEM_JSON)
        .body(body.to_string())
}

/// `POST /runner/start` with an `auth-token`.
pub(crate) async fn start(
    starter: web::Data<Starter>,
    original: web::Data<Original>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let Some(site) = original.authenticated(&request) else {
        tracing::warn!("a call of the original contract without the right auth-token");
        return Ok(not_authenticated());
    };
    let asked = OriginalRequest::parse(&body.read().await?)?;
    let repository = site.find(&asked.github_url).ok_or_else(|| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "repository_unknown",
            "No Slurm user for this repository",
        )
        .detail("The site's file (original.file) does not name the repository of gitHubURL.")
    })?;
    let claims = claims(&asked, repository, starter.clock.now());
    tracing::warn!(
        launch.id = %claims.sub,
        repository = claims.repository_url,
        slurm.user = %claims.slurm_user,
        "asked for by the original contract: a shared secret and no signature, weaker than a launch token"
    );
    let extras = Extras {
        script: site.template.script(&asked, repository),
        environment: [
            ("GHA_SLURM_REPOSITORY_URL", repository.url.clone()),
            (
                "GHA_SLURM_RUNNER_NAME",
                asked.runner_name.clone().unwrap_or_default(),
            ),
            ("GHA_SLURM_LABELS", asked.labels.clone()),
        ],
    };
    let starter = starter.into_inner();
    let work = Arc::clone(&starter).submit_once(claims, asked.launcher_token, Some(extras));
    answer(&starter, work).await
}

/// `POST /api/reload`: reads the file again. One that is wrong changes nothing.
#[utoipa::path(
    post,
    path = "/api/reload",
    operation_id = "reloadOriginalFile",
    responses(
        (status = 200, description = "The file is read again", body = gha_slurm_contract::launch_token::StartAnswer),
        (status = 401, description = "The auth-token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The file is wrong; the one that was read before stays", body = Problem, content_type = "application/problem+json"),
    ),
    security(("authToken" = []))
)]
pub(crate) async fn reload(
    original: web::Data<Original>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    if original.authenticated(&request).is_none() {
        return Ok(not_authenticated());
    }
    let path = original.path.clone();
    let site = tokio::task::spawn_blocking(move || SiteFile::read(&path))
        .await
        .map_err(|e| ApiError::internal(&e))?
        .map_err(|error| {
            tracing::warn!("original.file is not taken over: {error:#}");
            ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "original_file_invalid",
                "The site's file is wrong; the one that was read before stays",
            )
            .detail(format!("{error:#}"))
        })?;
    tracing::info!(
        repositories = site.repositories.len(),
        "original.file is read again"
    );
    *original
        .site
        .write()
        .unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    Ok(HttpResponse::Ok().json(json!({ "status": "OK!" })))
}

/// The claims that a launch token would have. The token in the request is not read: the agent has no key for it.
fn claims(asked: &OriginalRequest, repository: &Repository, now: DateTime<Utc>) -> LaunchClaims {
    let launch = asked.launch();
    let simple = launch.0.simple().to_string();
    let short = simple.get(16..).unwrap_or(&simple);
    let now = now.timestamp();
    LaunchClaims {
        iat: now,
        nbf: now,
        // Theirs do not expire; so long the same request gets the same answer at least.
        exp: now + DEFAULT_LIFETIME_S,
        token_url: asked.token_url.clone(),
        owner: repository.owner.clone(),
        repository_name: repository.name.clone(),
        repository_url: repository.url.clone(),
        repository_id: repository.id,
        labels: asked.labels.clone(),
        ..claims_without_token(
            launch,
            format!("gha-slurm-original-{short}"),
            repository.slurm_user.clone(),
            asked.resources.clone(),
        )
    }
}
