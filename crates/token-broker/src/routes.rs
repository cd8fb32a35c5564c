//! HTTP in, HTTP out.

use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_auth::TokenError;
use gha_slurm_contract::problem::Problem;
use gha_slurm_contract::runner::{
    OriginalRunnerAnswer, ProgressPhase, ProgressRequest, RunnerAnswer, RunnerMode, RunnerRequest,
};
use gha_slurm_domain::launch::Caller;
use gha_slurm_domain::{LaunchId, SlurmJobId};
use gha_slurm_service_kit::authentication::{bearer, token_missing};
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::strangers::limited;
use gha_slurm_service_kit::{ApiError, Body, Strangers, Window, problem};
use gha_slurm_telemetry::prometheus::IntCounterVec;
use secrecy::{ExposeSecret, SecretString};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::keys::Keys;
use crate::progress::node_name;
use crate::progress_tokens::ProgressTokens;
use crate::redemption::{Broker, Redeemed, RunnerToken, progress_hash};
use crate::repositories::{self, Lookup};
use crate::settings::RunnerSettings;

/// A body holds at most a log tail, escaped.
const BODY_LIMIT: usize = 1 << 20;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) broker: Broker,
    pub(crate) keys: Keys,
    pub(crate) runners: RunnerSettings,
    pub(crate) redemptions: IntCounterVec,
    pub(crate) lookup: Lookup,
    pub(crate) service_tokens: Vec<SecretString>,
    /// By the token's hash.
    pub(crate) calls: Window<Vec<u8>>,
    pub(crate) progress_tokens: ProgressTokens,
    /// Calls for which GitHub may be asked, by the progress token's hash.
    pub(crate) releases: Window<Vec<u8>>,
    /// The same, by the launch.
    pub(crate) questions: Window<LaunchId>,
}

/// Most calls with one token in ten seconds. A job script makes a dozen in its life, and tries again once a second at
/// most. A step can read the progress token from its memory. Addresses are not counted, since all nodes of a cluster may share one;
/// [`ProgressTokens`] counts those of unknown tokens.
pub(crate) const MOST_CALLS: u32 = 30;
/// Most releases, and most questions about installations, of one launch in a minute. A job script asks for a release after its deadline
/// of minutes, and for an installation never.
pub(crate) const MOST_ASKED_OF_GITHUB: u32 = 6;

/// `key_readers` bounds who reads the key set.
pub(crate) fn configure(config: &mut web::ServiceConfig, state: State, key_readers: Strangers) {
    config
        .app_data(web::Data::new(state))
        .app_data(LargestBody(BODY_LIMIT))
        .service(
            web::resource("/gha/runner")
                .route(web::post().to(redeem))
                .route(problem::method_not_allowed("POST")),
        )
        .service(
            web::resource("/gha/runner/progress")
                .route(web::post().to(progress))
                .route(problem::method_not_allowed("POST")),
        )
        .service(
            web::resource("/gha/runner/release")
                .route(web::post().to(release))
                .route(problem::method_not_allowed("POST")),
        )
        .service(
            web::resource("/gha/installations")
                .route(web::get().to(repositories::installations))
                .route(problem::method_not_allowed("GET")),
        )
        .service(
            web::resource("/gha/repositories")
                .route(web::get().to(repositories::repositories))
                .route(problem::method_not_allowed("GET")),
        )
        .service(
            web::resource("/.well-known/jwks.json")
                .wrap(from_fn(move |request, next| {
                    limited(key_readers.clone(), request, next)
                }))
                .route(web::get().to(jwks))
                .route(problem::method_not_allowed("GET")),
        );
}

fn launch_token_error(error: &TokenError) -> ApiError {
    let code = match error {
        TokenError::Expired => "launch_token_expired",
        _ => "launch_token_invalid",
    };
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        code,
        "The launch token is not valid",
    )
    .detail(error.to_string())
    .header("WWW-Authenticate", "Bearer")
}

/// Exchanges a launch token for a runner token. The raw token without `Bearer` and without a body is the original
/// contract and is answered `{"token": …}`.
#[utoipa::path(
    post,
    path = "/gha/runner",
    operation_id = "redeemLaunchToken",
    request_body = RunnerRequest,
    responses(
        (status = 200, description = "A fresh runner token", body = RunnerAnswer),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The launch token is bad or expired", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A registration token or the original contract, which the settings do not allow; or the launch token is not of the launch that it names", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Redeemed by another Slurm job, or listening already", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Nothing waits for this runner: give the node back", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is compressed", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "It comes too often: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launchToken" = []))
)]
async fn redeem(
    request: HttpRequest,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let answer = redeem_either(&request, body, &state).await;
    let outcome = match &answer {
        Ok(_) => "answered",
        Err(error) => match actix_web::ResponseError::status_code(error).as_u16() {
            401 => "unauthorized",
            409 => "conflict",
            410 => "not_wanted",
            429 => "too_often",
            503 => "unavailable",
            _ => "failed",
        },
    };
    state.redemptions.with_label_values(&[outcome]).inc();
    answer
}

async fn redeem_either(
    request: &HttpRequest,
    body: Body,
    state: &State,
) -> Result<HttpResponse, ApiError> {
    let spent = "This launch token is redeemed too often.";
    if let Some(token) = bearer(request) {
        state.calls.take(progress_hash(token), spent)?;
        let claims = verified(state, token).await?;
        allowed(claims.runner_mode, state)?;
        let wanted: RunnerRequest = body.json_of_any_type().await?;
        let Ok(slurm_job) = wanted.slurm_job_id.parse::<SlurmJobId>() else {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "slurm_job_id_invalid",
                "The body is wrong",
            )
            .detail("slurmJobId: write the value of SLURM_JOB_ID, digits only."));
        };
        let caller = Caller {
            slurm_job: Some(slurm_job),
            restart_count: i32::try_from(wanted.restart_count).unwrap_or(i32::MAX),
            node: Some(node_name(&wanted.node)),
        };
        let redeemed = state
            .broker
            .to_the_end(|broker| async move { broker.redeem(&claims, &caller).await })
            .await?;
        state.progress_tokens.issued(&redeemed.progress_token);
        return Ok(HttpResponse::Ok().json(answer(redeemed)));
    }
    let raw = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .ok_or_else(token_missing)?;
    state.calls.take(progress_hash(raw), spent)?;
    let claims = verified(state, raw).await?;
    if !state.runners.original_contract {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "original_contract_off",
            "The original contract is not answered here",
        )
        .detail(
            "Send Authorization: Bearer <token> and a body, or set runners.original_contract.",
        ));
    }
    if claims.runner_mode != RunnerMode::Registration {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "mode_differs",
            "This launch token is good for a just-in-time configuration only",
        )
        .detail(
            "The original contract returns registration tokens; the launcher decides (runners.mode).",
        ));
    }
    // The original contract names no Slurm job: it is bound to the launch's own, and the token is good for one answer only.
    let caller = Caller {
        slurm_job: None,
        restart_count: 0,
        node: None,
    };
    let redeemed = state
        .broker
        .to_the_end(|broker| async move { broker.redeem(&claims, &caller).await })
        .await?;
    let (RunnerToken::Jit(token) | RunnerToken::Registration(token)) = redeemed.secret;
    Ok(HttpResponse::Ok().json(OriginalRunnerAnswer {
        token: token.expose_secret().to_owned(),
    }))
}

/// Registration tokens are good for any number of runners, so a setting must allow them.
fn allowed(mode: RunnerMode, state: &State) -> Result<(), ApiError> {
    if mode == RunnerMode::Registration && !state.runners.registration_tokens {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "registration_tokens_off",
            "Registration tokens are not given out here",
        )
        .detail("The launcher's runners.mode asks for one; runners.registration_tokens of token-broker does not allow it."));
    }
    Ok(())
}

pub(crate) async fn verified(
    state: &State,
    token: &str,
) -> Result<gha_slurm_contract::LaunchClaims, ApiError> {
    state
        .keys
        .verify(token)
        .await
        .map_err(|e| launch_token_error(&e))
}

fn answer(redeemed: Redeemed) -> RunnerAnswer {
    let (mode, jit, token) = match redeemed.secret {
        RunnerToken::Jit(config) => (
            RunnerMode::Jit,
            Some(config.expose_secret().to_owned()),
            None,
        ),
        RunnerToken::Registration(token) => (
            RunnerMode::Registration,
            None,
            Some(token.expose_secret().to_owned()),
        ),
    };
    RunnerAnswer {
        mode,
        encoded_jit_config: jit,
        token,
        expires_at: redeemed.expires_at,
        url: redeemed.url,
        name: redeemed.name,
        labels: redeemed.labels,
        progress_token: redeemed.progress_token,
    }
}

/// Says how far the runner is. The launch token is accepted for `allocated`, `set_up` and `finished`, and can end only
/// what never got a runner token.
#[utoipa::path(
    post,
    path = "/gha/runner/progress",
    operation_id = "reportProgress",
    request_body = ProgressRequest,
    responses(
        (status = 204, description = "Noted; after `registered`: go"),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is bad", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The launch token, where the progress token is needed", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "After `registered`: it was withdrawn, do not start the runner. Otherwise: the launch has been over for long, or the launch token was issued before launches were stopped, and is revoked", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is compressed", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "It comes too often: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("progressToken" = []), ("launchToken" = []))
)]
async fn progress(
    request: HttpRequest,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let token = bearer(&request).ok_or_else(token_missing)?;
    let spent = "This runner reports its progress too often.";
    state.calls.take(progress_hash(token), spent)?;
    // A launch token is a JWT and has dots; a progress token has none.
    if token.contains('.') {
        let claims = verified(&state, token).await?;
        state.broker.refuse_revoked(&claims).await?;
        let said: ProgressRequest = body.json_of_any_type().await?;
        state
            .broker
            .to_the_end(
                |broker| async move { broker.progress_before_redemption(&claims, &said).await },
            )
            .await?;
    } else {
        let loaded = state
            .progress_tokens
            .launch_of(&request, &state.broker, token)
            .await?;
        let token = token.to_owned();
        let said: ProgressRequest = body.json_of_any_type().await?;
        state
            .broker
            .to_the_end(|broker| async move {
                // "Go" depends on the launch as it is now, not as it was before the body came.
                let loaded = match said.phase {
                    ProgressPhase::Registered => broker.launch_of(&token).await?,
                    _ => loaded,
                };
                broker.progress(&loaded.launch, &said).await
            })
            .await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Asks whether the runner may stop because no workflow job came.
#[utoipa::path(
    post,
    path = "/gha/runner/release",
    operation_id = "releaseRunner",
    responses(
        (status = 204, description = "Its registration is deleted: stop"),
        (status = 401, description = "The token is bad", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has a workflow job: keep it running", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The launch has been over for long", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "It comes too often: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("progressToken" = []))
)]
async fn release(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let token = bearer(&request).ok_or_else(token_missing)?;
    let spent = "This runner asks too often whether it may stop.";
    state.releases.take(progress_hash(token), spent)?;
    let loaded = state
        .progress_tokens
        .launch_of(&request, &state.broker, token)
        .await?;
    state
        .broker
        .to_the_end(|broker| async move { broker.release(&loaded).await })
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The public launch-token keys (RFC 7517), for agents.
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    operation_id = "launchTokenKeys",
    responses(
        (status = 200, description = "A JWK set", body = serde_json::Value),
        (status = 429, description = "Too many requests from this address: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(())
)]
async fn jwks(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(state.keys.current().await.to_jwks())
}

/// The kinds of token.
struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, what) in [
            ("launchToken", "The launch token of the Slurm job."),
            (
                "progressToken",
                "`progressToken` of the redemption's answer.",
            ),
            ("serviceToken", "One of `access.service_tokens`."),
        ] {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(what))
                .build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "token-broker", description = "What compute nodes say to token-broker."),
    paths(
        redeem,
        progress,
        release,
        repositories::installations,
        repositories::repositories,
        jwks
    ),
    components(schemas(OriginalRunnerAnswer)),
    modifiers(&Security)
)]
struct Document;

/// The OpenAPI document of the service's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
