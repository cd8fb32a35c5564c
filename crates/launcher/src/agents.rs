//! The port for agents that accept no connection (outbound mode): an agent polls for calls, answers them, and reports where Slurm
//! jobs stand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_auth::{KeySet, KeysError, verify};
use gha_slurm_contract::agent::StatesAnswer;
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use gha_slurm_contract::outbound::{
    AUDIENCE_LAUNCHER, AgentClaims, AgentPurpose, AnswersRequest, MAX_CALLS_AT_ONCE,
    MAX_PUSHED_AT_ONCE, POLL_WAIT_S, PollAnswer, PollRequest,
};
use gha_slurm_contract::problem::Problem;
use gha_slurm_service_kit::authentication::{assertion_invalid, bearer};
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::{ApiError, Body, BodyLimits, problem};
use moka::future::Cache;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::mailbox::Mailbox;
use crate::slurm_jobs;
use crate::submitter::Submitter;

/// Where ten thousand Slurm jobs stand, some 300 bytes each, is the longest body. As JSON in memory it can take twelve times as much.
const BODY_LIMIT: u32 = 4 << 20;
/// Two of the longest, and a reserve for short ones.
const BODIES_LIMIT: u32 = 12 << 20;
/// The ids of the calls that an agent has.
const POLL_LIMIT: usize = 64 << 10;
/// [`MAX_PUSHED_AT_ONCE`].
const STATES_LIMIT: usize = 1 << 20;
const BODY_DEADLINE: Duration = Duration::from_secs(20);
const RETRY_AFTER_S: u64 = 5;
const KEYS_READ_AGAIN: Duration = Duration::from_secs(2);

/// What the handlers share.
pub(crate) struct Agents {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) submitter: Arc<Submitter>,
    /// The agent's public keys.
    pub(crate) keys: AgentKeys,
    /// Notified when something may have to be planned.
    pub(crate) changed: Arc<Notify>,
    /// Ends waiting polls.
    pub(crate) quit: CancellationToken,
}

/// What agents may send.
pub(crate) fn body_limits() -> BodyLimits {
    BodyLimits::new(BODY_LIMIT, BODIES_LIMIT, BODY_DEADLINE)
}

pub(crate) fn configure(
    config: &mut web::ServiceConfig,
    agents: web::Data<Agents>,
    limits: web::Data<BodyLimits>,
) {
    let not_allowed = || problem::method_not_allowed("POST");
    config
        .app_data(agents)
        .app_data(limits)
        .service(
            web::resource("/agent/poll")
                .app_data(LargestBody(POLL_LIMIT))
                .route(web::post().to(poll))
                .default_service(not_allowed()),
        )
        .service(
            web::resource("/agent/answers")
                .route(web::post().to(answers))
                .default_service(not_allowed()),
        )
        .service(
            web::resource("/agent/states")
                .app_data(LargestBody(STATES_LIMIT))
                .route(web::post().to(states))
                .default_service(not_allowed()),
        );
}

/// The agent's public keys, a file or a folder. Keys change, so they are read again, but not for every call of a stranger.
pub(crate) struct AgentKeys {
    path: PathBuf,
    read: Cache<(), Arc<KeySet>>,
}

impl AgentKeys {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Cache::builder()
                .max_capacity(1)
                .time_to_live(KEYS_READ_AGAIN)
                .build(),
        }
    }

    /// As they were read at most two seconds ago, by one caller for all that wait.
    async fn current(&self) -> Result<Arc<KeySet>, Arc<KeysError>> {
        let path = self.path.clone();
        self.read
            .try_get_with((), async move {
                tokio::task::spawn_blocking(move || KeySet::read_some(&path))
                    .await
                    .unwrap_or_else(|e| Err(KeysError::NotAKey(e.to_string())))
                    .map(Arc::new)
            })
            .await
    }
}

impl Agents {
    /// Before the body is looked at.
    async fn authenticate(
        self: &Arc<Self>,
        request: &HttpRequest,
        purpose: AgentPurpose,
    ) -> Result<(), ApiError> {
        let token = bearer(request)
            .ok_or_else(|| assertion_invalid("Send Authorization: Bearer <assertion>."))?;
        let keys = self
            .keys
            .current()
            .await
            .map_err(|e| ApiError::unavailable("The agent's public keys", &e, RETRY_AFTER_S))?;
        let claims: AgentClaims = verify(token, &keys, AUDIENCE_LAUNCHER, AUDIENCE_AGENT)
            .map_err(|e| assertion_invalid(e.to_string()))?;
        if claims.sub != purpose {
            return Err(assertion_invalid("It is for another call."));
        }
        if claims.cluster != self.submitter.cluster.name {
            return Err(assertion_invalid("It is from another cluster."));
        }
        Ok(())
    }

    async fn body<T: DeserializeOwned>(
        self: &Arc<Self>,
        request: &HttpRequest,
        body: Body,
        purpose: AgentPurpose,
    ) -> Result<T, ApiError> {
        self.authenticate(request, purpose).await?;
        body.json().await
    }
}

/// The agent asks for calls.
#[utoipa::path(
    post,
    path = "/agent/poll",
    operation_id = "poll",
    security(("agentAssertion" = [])),
    request_body = PollRequest,
    responses(
        (status = 200, description = "Calls to answer; none when none came in time", body = PollAnswer),
        (status = 401, description = "The assertion is not accepted", body = Problem),
    )
)]
async fn poll(
    agents: web::Data<Agents>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let asked: PollRequest = agents.body(&request, body, AgentPurpose::Poll).await?;
    let wait = Duration::from_secs(POLL_WAIT_S);
    let calls = agents
        .mailbox
        .poll(&asked.in_hand, wait, &agents.quit)
        .await;
    Ok(HttpResponse::Ok().json(PollAnswer { calls }))
}

/// The agent answers calls.
#[utoipa::path(
    post,
    path = "/agent/answers",
    operation_id = "answer",
    security(("agentAssertion" = [])),
    request_body = AnswersRequest,
    responses(
        (status = 204, description = "Taken"),
        (status = 401, description = "The assertion is not accepted", body = Problem),
        (status = 422, description = "Too many answers", body = Problem),
    )
)]
async fn answers(
    agents: web::Data<Agents>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let given: AnswersRequest = agents.body(&request, body, AgentPurpose::Answers).await?;
    if given.answers.len() > MAX_CALLS_AT_ONCE {
        return Err(problem::too_many("Too many answers", MAX_CALLS_AT_ONCE));
    }
    agents.mailbox.answer(given.answers);
    Ok(HttpResponse::NoContent().finish())
}

/// The agent reports the states of Slurm jobs.
#[utoipa::path(
    post,
    path = "/agent/states",
    operation_id = "states",
    security(("agentAssertion" = [])),
    request_body = StatesAnswer,
    responses(
        (status = 204, description = "Recorded"),
        (status = 401, description = "The assertion is not accepted", body = Problem),
        (status = 422, description = "Too many launches", body = Problem),
        (status = 503, description = "Not now: say it again", body = Problem),
    )
)]
async fn states(
    agents: web::Data<Agents>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let told: StatesAnswer = agents.body(&request, body, AgentPurpose::States).await?;
    if told.launches.len() > MAX_PUSHED_AT_ONCE {
        return Err(problem::too_many("Too many launches", MAX_PUSHED_AT_ONCE));
    }
    let changed = slurm_jobs::take_in(&agents.submitter, told)
        .await
        .map_err(|e| ApiError::unavailable("The database", &e, RETRY_AFTER_S))?;
    if changed > 0 {
        agents.changed.notify_one();
    }
    Ok(HttpResponse::NoContent().finish())
}

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A JWT signed with the agent's own key (EdDSA) for the launcher and this call, valid at most a minute.",
            ))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("agentAssertion", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "launcher", description = "What an agent in outbound mode says to the launcher."),
    paths(poll, answers, states),
    modifiers(&Security)
)]
struct Document;

/// The OpenAPI document of the launcher's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
