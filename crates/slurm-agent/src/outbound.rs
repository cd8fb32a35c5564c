//! Outbound mode, for a cluster that accepts no connection: the agent asks each launcher for calls, answers them with the
//! handlers of its own port, and reports changed states of Slurm jobs at once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, ResponseError, web};
use anyhow::Context;
use gha_slurm_auth::{KeyFolder, Signer, TokenError};
use gha_slurm_contract::Problem;
use gha_slurm_contract::agent::StatesAnswer;
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use gha_slurm_contract::outbound::{
    AGENT_ASSERTION_LIFETIME_S, AUDIENCE_LAUNCHER, AgentClaims, AgentPurpose, AnswersRequest, Call,
    CallAnswer, MAX_PUSHED_AT_ONCE, POLL_WAIT_S, PollAnswer, PollRequest,
};
use gha_slurm_service_kit::settings::Address;
use gha_slurm_service_kit::tls::http;
use gha_slurm_service_kit::{ApiError, Readiness};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::calls::{self, Assertion};
use crate::settings::{IdentitySettings, OutboundSettings};
use crate::start::Starter;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// On top of what a poll waits.
const POLL_DEADLINE: Duration = Duration::from_secs(POLL_WAIT_S + 10);
/// Pause before a launcher that does not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a launcher's answer to a poll.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
/// A launcher waits no longer for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Why a call to a launcher failed.
#[derive(Debug, thiserror::Error)]
enum LauncherError {
    /// There is no answer.
    #[error("{0}")]
    Unreachable(String),
    /// It answers with an error: its status, and what it says.
    #[error("it answers {0}")]
    Refused(String),
    #[error("its answer is not what its contract says")]
    Answer,
    #[error("the assertion cannot be signed: {0}")]
    Signature(#[from] TokenError),
}

/// The launchers of an agent in outbound mode.
pub(crate) struct Outbound {
    launchers: Vec<Arc<Launcher>>,
}

struct Launcher {
    url: String,
    http: reqwest::Client,
    signer: Arc<Signer>,
    starter: Arc<Starter>,
    readiness: Readiness,
    /// Calls that it has no answer to yet.
    in_hand: Mutex<BTreeSet<Uuid>>,
}

impl Outbound {
    /// With these settings; calls nobody yet.
    pub(crate) fn new(
        settings: &OutboundSettings,
        identity: Option<&IdentitySettings>,
        starter: &Arc<Starter>,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let identity = identity
            .context("identity.keys: must be given for [outbound]: the agent signs its calls")?;
        let signer = Signer::load(&KeyFolder::new(&identity.keys)).context("identity.keys")?;
        let signer = Arc::new(signer);
        readiness.not_ready("launcher", "not asked yet");
        let http = reqwest::Client::builder().connect_timeout(CONNECT_DEADLINE);
        let http = settings.tls.apply(http, "outbound.tls")?.build()?;
        let launcher = |url: &Address| {
            Arc::new(Launcher {
                url: url.to_string(),
                http: http.clone(),
                signer: Arc::clone(&signer),
                starter: Arc::clone(starter),
                readiness: readiness.clone(),
                in_hand: Mutex::default(),
            })
        };
        Ok(Self {
            launchers: settings.launchers.iter().map(launcher).collect(),
        })
    }

    /// Works until `stop`, then finishes the calls in flight.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for launcher in self.launchers {
            tasks.spawn(Arc::clone(&launcher).answer_calls(stop.clone()));
            tasks.spawn(launcher.tell_states(stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// A call in flight: from the poll that returned it until the launcher has the answer. If answering panics, the launcher hands it out
/// again, as it does with a lost call.
struct InFlight {
    launcher: Arc<Launcher>,
    id: Uuid,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.launcher.in_hand().remove(&self.id);
    }
}

impl InFlight {
    fn take(launcher: &Arc<Launcher>, id: Uuid) -> Self {
        launcher.in_hand().insert(id);
        Self {
            launcher: Arc::clone(launcher),
            id,
        }
    }

    async fn answer(self, call: Call) {
        let launcher = &self.launcher;
        let request = AnswersRequest {
            answers: vec![answer(&launcher.starter, call).await],
        };
        let started = Instant::now();
        loop {
            let told = launcher
                .post(
                    "/agent/answers",
                    AgentPurpose::Answers,
                    &request,
                    CALL_DEADLINE,
                )
                .await;
            match told {
                Ok(_) => break,
                Err(error) if started.elapsed() > ANSWER_DEADLINE => {
                    tracing::warn!(%error, launcher = launcher.url, "an answer could not be given");
                    break;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

impl Launcher {
    async fn answer_calls(self: Arc<Self>, stop: CancellationToken) {
        let mut calls = JoinSet::new();
        let mut failing = false;
        while !stop.is_cancelled() {
            let asked = Instant::now();
            let polled = tokio::select! {
                () = stop.cancelled() => break,
                polled = self.poll() => polled,
            };
            let pause = match polled {
                Ok(answer) => {
                    if failing {
                        tracing::info!(launcher = self.url, "the launcher answers again");
                    }
                    failing = false;
                    self.readiness.ready("launcher");
                    // Empty and at once: the launcher stops, or another agent polls with this agent's key.
                    let in_vain = answer.calls.is_empty() && asked.elapsed() < PAUSE;
                    for call in answer.calls {
                        calls.spawn(InFlight::take(&self, call.id).answer(call));
                    }
                    in_vain
                }
                Err(error) => {
                    // Once, not each time.
                    if !failing {
                        tracing::warn!(
                            %error,
                            launcher = self.url,
                            "the launcher cannot be asked for calls"
                        );
                    }
                    failing = true;
                    let reason = format!("{}: {error}", self.url);
                    self.readiness.not_ready("launcher", reason);
                    true
                }
            };
            while calls.try_join_next().is_some() {}
            if pause {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
        while calls.join_next().await.is_some() {}
    }

    fn in_hand(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn poll(&self) -> Result<PollAnswer, LauncherError> {
        let in_hand = self.in_hand().iter().copied().collect();
        let request = PollRequest { in_hand };
        let answer = self
            .post("/agent/poll", AgentPurpose::Poll, &request, POLL_DEADLINE)
            .await?;
        let answer = http::body(answer, LONGEST_ANSWER).await;
        let answer = answer.map_err(|_| LauncherError::Answer)?;
        serde_json::from_slice(&answer).map_err(|_| LauncherError::Answer)
    }

    /// Tells where Slurm jobs stand, at each change; after a start everything that is known.
    async fn tell_states(self: Arc<Self>, stop: CancellationToken) {
        let mut looked = self.starter.launches.looks();
        // The number of the last change that was reported.
        let mut told = 0;
        let mut told_policy = None;
        let mut told_freed = 0;
        while !stop.is_cancelled() {
            // Read before the states: a change in between is reported in the next round.
            let (freed, (news, last)) = self
                .starter
                .launches
                .book(|book| (book.freed(), book.changed_since(told, MAX_PUSHED_AT_ONCE)));
            let policy = match calls::policy_version(&self.starter).await {
                Ok(policy) => policy,
                Err(error) => {
                    tracing::warn!(%error, "the policy cannot be read");
                    told_policy.clone().unwrap_or_default()
                }
            };
            if news.is_empty() && told_policy.as_ref() == Some(&policy) && told_freed == freed {
                tokio::select! {
                    () = stop.cancelled() => {}
                    // Never an error: the sender lives as long as this agent.
                    _ = looked.changed() => {}
                }
                continue;
            }
            let body = StatesAnswer {
                launches: news,
                policy,
                freed,
            };
            let pushed = self
                .post("/agent/states", AgentPurpose::States, &body, CALL_DEADLINE)
                .await;
            if let Err(error) = pushed {
                tracing::debug!(
                    %error,
                    launcher = self.url,
                    "it does not hear where Slurm jobs stand"
                );
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
                continue;
            }
            told_freed = body.freed;
            told_policy = Some(body.policy);
            told = last;
        }
    }

    async fn post(
        &self,
        path: &str,
        purpose: AgentPurpose,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<reqwest::Response, LauncherError> {
        let assertion = self.assertion(purpose).await?;
        let response = self
            .http
            .post(format!("{}{path}", self.url))
            .timeout(deadline)
            .bearer_auth(assertion.expose_secret())
            .json(body)
            .send()
            .await
            .map_err(|error| {
                LauncherError::Unreachable(format!(
                    "{:#}",
                    anyhow::Error::from(error.without_url())
                ))
            })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = http::body(response, http::SHORT).await.ok();
        let problem = problem.and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
        let detail = problem.map(|problem| problem.detail.unwrap_or(problem.title));
        Err(LauncherError::Refused(match detail {
            Some(detail) => format!("{status}: {detail}"),
            None => status.to_string(),
        }))
    }

    async fn assertion(&self, sub: AgentPurpose) -> Result<SecretString, LauncherError> {
        let iat = self.starter.clock.now().timestamp();
        let claims = AgentClaims {
            iss: AUDIENCE_AGENT.into(),
            aud: vec![AUDIENCE_LAUNCHER.into()],
            sub,
            jti: Uuid::new_v4(),
            iat,
            nbf: iat - AGENT_ASSERTION_LIFETIME_S,
            exp: iat + AGENT_ASSERTION_LIFETIME_S,
            cluster: self.starter.cluster.clone(),
        };
        Ok(self.signer.sign(&claims).await?)
    }
}

/// What the handlers of the agent's own port answer to a call.
async fn answer(starter: &Arc<Starter>, call: Call) -> CallAnswer {
    let span = tracing::info_span!("request", http.method = "POST", http.route = %call.path);
    if let Some(parent) = &call.traceparent {
        gha_slurm_telemetry::set_parent(&span, parent);
    }
    let id = call.id;
    async move {
        let data = web::Data::from(Arc::clone(starter));
        let assertion = Assertion(call.assertion);
        let result = match call.path.as_str() {
            "/runner/start" => match parse(call.body) {
                Ok(asked) => calls::start_asked(data, asked).await,
                Err(error) => Err(error),
            },
            "/runner/cancel" => calls::cancel(data, assertion).await,
            "/runner/list" => calls::list(data, assertion).await,
            "/runner/states" => match parse(call.body) {
                Ok(asked) => calls::states_called(starter, assertion, asked).await,
                Err(error) => Err(error),
            },
            path => Err(
                ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here")
                    .detail(path.to_owned()),
            ),
        };
        call_answer(id, result.unwrap_or_else(|error| error.error_response()))
    }
    .instrument(span)
    .await
}

fn parse<T: DeserializeOwned>(body: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(body).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong")
            .detail(error.to_string())
    })
}

fn call_answer(id: Uuid, response: HttpResponse) -> CallAnswer {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after_s = retry_after.and_then(|v| v.to_str().ok()?.parse().ok());
    let status = response.status().as_u16();
    // Our handlers answer with whole bodies of JSON.
    let body = response.into_body().try_into_bytes().ok();
    CallAnswer {
        id,
        status,
        retry_after_s,
        body: body
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default(),
    }
}
