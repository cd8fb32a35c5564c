//! The handlers of `POST /runner/start`, with a launch token, and of `/runner/cancel`, `/runner/states` and `/runner/list`: calls
//! about Slurm jobs that were submitted, each with a signed assertion.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use gha_slurm_contract::Problem;
use gha_slurm_contract::agent::{
    CallClaims, CallPurpose, CancelAnswer, ListAnswer, MAX_CANCELLED_AT_ONCE, MAX_STATES_AT_ONCE,
    StatesAnswer, StatesRequest,
};
use gha_slurm_contract::launch_token::{StartAnswer, StartRequest};
use gha_slurm_service_kit::authentication::{assertion_invalid, bearer};
use gha_slurm_service_kit::{ApiError, Body, problem};

use crate::original;
use crate::start::{Starter, answer};

/// Largest body of `POST /runner/start`, bytes: a launch token of at most 16 KiB, and what repeats parts of it. Until it is read, whoever
/// sends it is a stranger.
pub(crate) const START_LIMIT: usize = 32 << 10;

/// Starts a launch: submits its Slurm job. The launch token decides everything; the same launch again is answered with the same
/// Slurm job. With an `auth-token` it is a call of the original contract, whose body may have other fields.
#[utoipa::path(
    post,
    path = "/runner/start",
    operation_id = "startLaunch",
    request_body = StartRequest,
    responses(
        (status = 200, description = "Its Slurm job is submitted", body = StartAnswer),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The launch token is bad, or the auth-token", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is compressed, or not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The policy or Slurm refuses it for good", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit of the policy or of Slurm is reached: try again later", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Slurm or the agent's state folder is in trouble, or an administrator has stopped new Slurm jobs: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launchTokenInBody" = []), ("authToken" = []))
)]
pub(crate) async fn start(
    starter: web::Data<Starter>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    // The launch token is in the body.
    let request = body.json().await?;
    start_asked(starter, request).await
}

/// As [`start`], whichever way the call came.
pub(crate) async fn start_asked(
    starter: web::Data<Starter>,
    request: StartRequest,
) -> Result<HttpResponse, ApiError> {
    let starter = starter.into_inner();
    let work = Arc::clone(&starter).start(request);
    match answer(&starter, work).await {
        // A client of the original contract that forgot the header, or a launcher.
        Err(error) if starter.original && is_unauthorized(&error) => Ok(original::neither(&error)),
        other => other,
    }
}

fn is_unauthorized(error: &ApiError) -> bool {
    actix_web::ResponseError::status_code(error) == StatusCode::UNAUTHORIZED
}

/// The assertion that a call carries, whichever way it came.
pub(crate) struct Assertion(pub(crate) Option<String>);

impl FromRequest for Assertion {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(bearer(request).map(str::to_owned))))
    }
}

/// The claims of a call's assertion.
async fn asserted(
    starter: &Starter,
    assertion: Assertion,
    purpose: CallPurpose,
) -> Result<CallClaims, ApiError> {
    let token = assertion
        .0
        .ok_or_else(|| assertion_invalid("Send Authorization: Bearer <assertion>."))?;
    let claims: CallClaims = starter.verifier.verify(&token).await?;
    if claims.sub != purpose {
        return Err(assertion_invalid("It is for another call."));
    }
    if claims.cluster != starter.cluster {
        return Err(assertion_invalid("It is for another cluster."));
    }
    Ok(claims)
}

/// Cancels: pending Slurm jobs end at once, running ones get a signal first. The launcher names only launches
/// whose runner has no workflow job.
#[utoipa::path(
    post,
    path = "/runner/cancel",
    operation_id = "cancelLaunches",
    responses(
        (status = 200, description = "All of them are cancelled, or over, or were never submitted", body = CancelAnswer),
        (status = 401, description = "The assertion is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The assertion names too many launches", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Slurm or the agent's state folder is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launcherAssertion" = []))
)]
pub(crate) async fn cancel(
    starter: web::Data<Starter>,
    assertion: Assertion,
) -> Result<HttpResponse, ApiError> {
    let claims = asserted(&starter, assertion, CallPurpose::Cancel).await?;
    if claims.launches.len() > MAX_CANCELLED_AT_ONCE {
        return Err(problem::too_many(
            "Too many launches",
            MAX_CANCELLED_AT_ONCE,
        ));
    }
    let cancelled = starter
        .into_inner()
        .cancel(claims.launches, claims.launcher, claims.only_pending)
        .await?;
    for launch in &cancelled {
        tracing::info!(launch.id = %launch, "cancelled");
    }
    Ok(HttpResponse::Ok().json(CancelAnswer { cancelled }))
}

/// Where Slurm jobs stand.
#[utoipa::path(
    post,
    path = "/runner/states",
    operation_id = "launchStates",
    request_body = StatesRequest,
    responses(
        (status = 200, description = "What is known of them", body = StatesAnswer),
        (status = 400, description = "The body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The assertion is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It names too many launches", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launcherAssertion" = []))
)]
pub(crate) async fn states(
    starter: web::Data<Starter>,
    assertion: Assertion,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let claims = asserted(&starter, assertion, CallPurpose::States).await?;
    states_asked(&starter, &claims, body.json().await?).await
}

/// As [`states`], whichever way the call came.
pub(crate) async fn states_called(
    starter: &Arc<Starter>,
    assertion: Assertion,
    asked: StatesRequest,
) -> Result<HttpResponse, ApiError> {
    let claims = asserted(starter, assertion, CallPurpose::States).await?;
    states_asked(starter, &claims, asked).await
}

async fn states_asked(
    starter: &Arc<Starter>,
    claims: &CallClaims,
    asked: StatesRequest,
) -> Result<HttpResponse, ApiError> {
    if asked.launches.len() > MAX_STATES_AT_ONCE {
        return Err(problem::too_many("Too many launches", MAX_STATES_AT_ONCE));
    }
    if asked.look_now {
        starter.launches.look_now().await;
    }
    let (launches, freed) = starter
        .launches
        .book(|book| (book.states(&asked.launches, claims.launcher), book.freed()));
    let policy = policy_version(starter).await?;
    Ok(HttpResponse::Ok().json(StatesAnswer {
        launches,
        policy,
        freed,
    }))
}

/// The Slurm jobs that this launcher had submitted.
#[utoipa::path(
    post,
    path = "/runner/list",
    operation_id = "listLaunches",
    request_body(content = Object, description = "`{}`"),
    responses(
        (status = 200, description = "Those that are pending or running", body = ListAnswer),
        (status = 401, description = "The assertion is missing or wrong", body = Problem, content_type = "application/problem+json"),
    ),
    security(("launcherAssertion" = []))
)]
pub(crate) async fn list(
    starter: web::Data<Starter>,
    assertion: Assertion,
) -> Result<HttpResponse, ApiError> {
    let claims = asserted(&starter, assertion, CallPurpose::List).await?;
    let launcher = claims
        .launcher
        .ok_or_else(|| assertion_invalid("It does not say which launcher asks."))?;
    let launches = starter.launches.book(|book| book.of_launcher(launcher));
    Ok(HttpResponse::Ok().json(ListAnswer { launches }))
}

/// The version of what final refusals depend on; a file is read.
pub(crate) async fn policy_version(starter: &Arc<Starter>) -> Result<String, ApiError> {
    let starter = Arc::clone(starter);
    tokio::task::spawn_blocking(move || starter.configuration.version(&starter.policy.version()))
        .await
        .map_err(|e| ApiError::internal(&e))
}
