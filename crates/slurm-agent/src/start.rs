//! `POST /runner/start`: one launch token becomes at most one Slurm job.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{StartAnswer, StartRequest};
use gha_slurm_contract::problem::ProblemPart;
use gha_slurm_domain::naming::is_valid_runner_name;
use gha_slurm_domain::{Clock, LaunchId, ResourceRequest, SlurmJobId, SlurmUser};
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::settings::Address;
use gha_slurm_telemetry::prometheus::IntCounterVec;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tracing::Instrument;
use uuid::Uuid;

use crate::configuration::Configuration;
use crate::keys::{Verifier, VerifyError};
use crate::launches::Launches;
use crate::ledger::{Entry, Ledger};
use crate::quota;
use crate::settings::RunnerSettings;
use crate::submission::{Extras, prepare};
use gha_slurm_policy::{PolicyRefusal, PolicySettings, StopFile};
use gha_slurm_slurm::{Cancellation, Found, Slurm, SubmitError};

/// When the launcher should ask again after a 503.
const RETRY_AFTER_S: u64 = 5;
/// Launches that are worked on at once; two that share a turn wait for each other, which only takes longer.
const TURNS: usize = 64;

/// Everything a start needs.
pub struct Starter {
    /// Verifies launch tokens.
    pub verifier: Verifier,
    /// Remembers.
    pub ledger: Arc<Ledger>,
    /// What is remembered, and where Slurm jobs stand.
    pub launches: Arc<Launches>,
    /// Submits.
    pub slurm: Arc<dyn Slurm>,
    /// What is allowed.
    pub policy: PolicySettings,
    /// What else a refusal depends on.
    pub(crate) configuration: Arc<Configuration>,
    /// What an administrator has stopped.
    pub stop_file: StopFile,
    /// Whether Slurm users are users of this system, which the local backend's need not be.
    pub users_are_real: bool,
    /// What runs in a launch.
    pub runner: RunnerSettings,
    /// Where nodes may send the launch token: base URLs.
    pub token_broker_urls: Vec<Address>,
    /// Where nodes send the launch token instead of where it says: the relay.
    pub relay_url: Option<String>,
    /// This cluster's name.
    pub cluster: String,
    /// Whether the original contract is on.
    pub original: bool,
    /// The time.
    pub clock: Clock,
    /// Starts by outcome.
    pub outcomes: IntCounterVec,
    /// One caller per launch.
    pub turns: Turns,
}

/// Locks by launch.
pub struct Turns {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            locks: std::iter::repeat_with(Mutex::default).take(TURNS).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Turns {
    fn of(&self, launch: LaunchId) -> Option<&Mutex<()>> {
        let index = self.hasher.hash_one(launch) as usize % TURNS;
        self.locks.get(index)
    }
}

/// Waits for a start, counts what became of it, and answers.
pub(crate) async fn answer(
    starter: &Starter,
    work: impl Future<Output = Result<SlurmJobId, ApiError>> + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    // A task of its own: a caller who hangs up does not interrupt it half-way.
    let result = tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|error| Err(ApiError::internal(&error)));
    let outcome = match &result {
        Ok(_) => "submitted",
        Err(error) => match actix_web::ResponseError::status_code(error) {
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::UNPROCESSABLE_ENTITY => "refused",
            StatusCode::TOO_MANY_REQUESTS => "limited",
            _ => "delayed",
        },
    };
    starter.outcomes.with_label_values(&[outcome]).inc();
    let slurm_job_id = result?;
    Ok(HttpResponse::Ok().json(StartAnswer {
        status: "OK!".into(),
        slurm_job_id: Some(slurm_job_id.to_string()),
    }))
}

/// What the policy lets a launch have. Used instead of what it asked for.
struct Permitted {
    resources: ResourceRequest,
    /// The address of token-broker for its node, of the agent's settings. `None`: only the relay's.
    token_url: Option<String>,
}

impl Starter {
    /// The Slurm job that a launch token asks for.
    pub(crate) async fn start(
        self: Arc<Self>,
        request: StartRequest,
    ) -> Result<SlurmJobId, ApiError> {
        let claims: LaunchClaims = self.verifier.verify(&request.launcher_token).await?;
        self.accept(&claims, &request)?;
        let token = SecretString::from(request.launcher_token);
        self.submit_once(claims, token, None).await
    }

    /// The Slurm job of a launch: the one it has, or a new one. `claims` are believed.
    pub(crate) async fn submit_once(
        self: Arc<Self>,
        mut claims: LaunchClaims,
        token: SecretString,
        extras: Option<Extras>,
    ) -> Result<SlurmJobId, ApiError> {
        let _turn = match self.turns.of(claims.sub) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        // Where Slurm accepted an earlier attempt and hides it, this one may not run beside it.
        let mut waits_for_namesakes = false;
        let known = self.launches.entry(claims.sub);
        let entry = match known {
            Some(Entry {
                slurm_job_id: Some(id),
                ..
            }) => return Ok(id),
            // An earlier attempt ended before its answer was recorded.
            Some(entry) => match self.find(claims.sub, &entry.slurm_user).await? {
                Found::Job(id) => return self.record(entry, id).await,
                Found::None => entry,
                Found::MayBeHidden => {
                    waits_for_namesakes = true;
                    entry
                }
            },
            None => {
                let entry = Entry::intent(&claims, self.clock.now());
                self.remember(entry.clone()).await?;
                // An agent before us may have submitted it and lost its state folder.
                let user = &claims.slurm_user;
                let stray = match self.launches.book(|book| book.stray(claims.sub, user)) {
                    Some(stray) => stray,
                    // Every first submission is one that Slurm may hide.
                    None => self.find(claims.sub, user).await?.job(),
                };
                if let Some(id) = stray {
                    return self.record(entry, id).await;
                }
                entry
            }
        };
        // After the search: what is a Slurm job already stays one, whatever became of the policy.
        let permitted = self.permit(&claims).await?;
        claims.resources = permitted.resources;
        if let Some(url) = permitted.token_url {
            // As it was compared: curl, on the node, may read the claim's text in another way.
            claims.token_url = url;
        }
        let allowed = |entry: &Entry, live| {
            let (user, repository) = (&entry.slurm_user, &entry.repository_url);
            self.policy.check_live(live, user, repository)
        };
        let place = self
            .launches
            .reserve(claims.sub, allowed)
            .map_err(refused_by_policy)?;
        let traceparent = gha_slurm_telemetry::current_traceparent();
        let builds = &self.policy.builds;
        let mut submission = prepare(&claims, &token, traceparent, &self.runner, builds)
            .await
            .map_err(|e| ApiError::unavailable("The job script", &e, RETRY_AFTER_S))?;
        submission.waits_for_namesakes = waits_for_namesakes;
        if let Some(url) = &self.relay_url {
            submission
                .environment
                .insert("GHA_SLURM_TOKEN_URL", url.clone());
        }
        if let Some(extras) = extras {
            extras.apply(&mut submission);
        }
        let id = match self.slurm.submit(&submission).await {
            Ok(id) => id,
            Err(error) => {
                let may_be_there =
                    matches!(error, SubmitError::Unavailable(_) | SubmitError::Failed(_));
                if may_be_there {
                    place.keep();
                }
                return Err(refused_by_slurm(&error));
            }
        };
        tracing::info!(
            launch.id = %claims.sub,
            slurm.job_id = %id,
            slurm.user = %claims.slurm_user,
            repository = claims.repository_url,
            "submitted"
        );
        let recorded = self.record(entry, id).await;
        drop(place);
        recorded
    }

    /// The request is taken from the token; a body that says something else is refused.
    fn accept(&self, claims: &LaunchClaims, request: &StartRequest) -> Result<(), ApiError> {
        let runner_name = request.runner_name.as_ref();
        let differing = [
            ("gitHubURL", request.github_url == claims.repository_url),
            ("runnerLabels", request.runner_labels == claims.labels),
            ("tokenURL", request.token_url == claims.token_url),
            (
                "runnerName",
                runner_name.is_none_or(|n| *n == claims.runner_name),
            ),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(key, _)| ProblemPart {
            index: None,
            value: None,
            code: "differs".into(),
            detail: format!("{key} is not what the launch token says"),
            link: None,
        })
        .collect::<Vec<_>>();
        let refused = |code, detail: String| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, "Refused").detail(detail)
        };
        if let Some(first) = differing.first() {
            let detail = first.detail.clone();
            return Err(refused("request_differs_from_token", detail).errors(differing));
        }
        if !is_valid_runner_name(&claims.runner_name) {
            return Err(refused(
                "runner_name_invalid",
                "The launch token's runner name is none that a launcher makes.".into(),
            ));
        }
        if claims.cluster != self.cluster {
            return Err(refused(
                "cluster_wrong",
                format!(
                    "The launch token is meant for the cluster `{}`; this is `{}`.",
                    claims.cluster, self.cluster
                ),
            ));
        }
        Ok(())
    }

    /// What the policy lets it have.
    async fn permit(self: &Arc<Self>, claims: &LaunchClaims) -> Result<Permitted, ApiError> {
        let asked = claims.token_url.parse::<Address>().ok();
        let pinned = asked.filter(|url| self.token_broker_urls.contains(url));
        if self.relay_url.is_none() && pinned.is_none() {
            return Err(refused_by_policy(PolicyRefusal::Never(format!(
                "nodes of this cluster do not send launch tokens to {}: it is none of token_broker.urls",
                claims.token_url
            ))));
        }
        let granted = self
            .policy
            .check_resources(&claims.resources)
            .map_err(refused_by_policy)?;
        if granted.container.is_some() && self.runner.apptainer.is_none() {
            let text = "runners do not run in containers here: runner.apptainer is not set";
            return Err(refused_by_policy(PolicyRefusal::Never(text.into())));
        }
        let (starter, claims) = (Arc::clone(self), claims.clone());
        tokio::task::spawn_blocking(move || {
            starter.stop_file.check(&claims.slurm_user)?;
            if starter.users_are_real {
                starter.policy.check_user(claims.slurm_user.as_str())?;
            }
            let repository = format!("{}/{}", claims.owner, claims.repository_name);
            let (user, id) = (&claims.slurm_user, claims.repository_id);
            starter.policy.check_consent(user, id, &repository)
        })
        .await
        .map_err(|e| ApiError::internal(&e))?
        .map_err(refused_by_policy)?;
        Ok(Permitted {
            resources: granted,
            token_url: pinned.map(|url| url.as_str().to_owned()),
        })
    }

    async fn find(&self, launch: LaunchId, user: &SlurmUser) -> Result<Found, ApiError> {
        let known = self.launches.book(|book| book.numbers());
        self.slurm
            .find(launch, user, &known)
            .await
            .map_err(|e| ApiError::unavailable("Slurm", &e, RETRY_AFTER_S))
    }

    async fn record(
        self: &Arc<Self>,
        entry: Entry,
        id: SlurmJobId,
    ) -> Result<SlurmJobId, ApiError> {
        let slurm_job_id = Some(id.clone());
        self.remember(Entry {
            slurm_job_id,
            answered_at: Some(self.clock.now()),
            ..entry
        })
        .await?;
        Ok(id)
    }

    async fn remember(self: &Arc<Self>, entry: Entry) -> Result<(), ApiError> {
        let (starter, written) = (Arc::clone(self), entry.clone());
        tokio::task::spawn_blocking(move || starter.ledger.write(&written))
            .await
            .map_err(|e| ApiError::internal(&e))?
            .map_err(|e| ApiError::unavailable("The agent's state folder", &e, RETRY_AFTER_S))?;
        self.launches.book(|book| book.remember(entry));
        Ok(())
    }

    /// Cancels the Slurm jobs of launches, unless another launcher than this had them submitted. Returns those that had one that
    /// was not over.
    pub(crate) async fn cancel(
        self: Arc<Self>,
        launches: Vec<LaunchId>,
        launcher: Option<Uuid>,
        only_pending: bool,
    ) -> Result<Vec<LaunchId>, ApiError> {
        let mut wanted = Vec::new();
        for launch in launches {
            // After a submission that is under way.
            let _turn = match self.turns.of(launch) {
                Some(lock) => Some(lock.lock().await),
                None => None,
            };
            let entry = self.launches.entry(launch);
            let may = |entry: &Entry| entry.ended.is_none() && entry.is_for(launcher);
            if entry.as_ref().is_none_or(may) {
                let user = entry.as_ref().map(|entry| entry.slurm_user.clone());
                wanted.push(Cancellation {
                    launch,
                    id: entry.and_then(|entry| entry.slurm_job_id),
                    user,
                    only_pending,
                });
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.launches.book(|book| book.numbers());
        self.slurm
            .cancel(&wanted, &known)
            .await
            .map_err(|e| ApiError::unavailable("Slurm", &e, RETRY_AFTER_S))
    }
}

fn refused_by_slurm(error: &SubmitError) -> ApiError {
    let refusal =
        |status, code, title| ApiError::new(status, code, title).detail(error.to_string());
    match error {
        SubmitError::Unavailable(e) => ApiError::unavailable("Slurm", e, RETRY_AFTER_S)
            .detail(format!("Slurm is not available: {e}")),
        SubmitError::Limit(_) => refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "limit_reached",
            "A limit of Slurm's is reached",
        )
        .retry_after(quota::RETRY_AFTER_S),
        // Without Retry-After: the launcher's pauses grow.
        SubmitError::Failed(_) => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "slurm_failed",
            "Slurm could not accept it this time",
        ),
        SubmitError::Rejected(_) => refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "slurm_rejected",
            "Slurm refuses it",
        ),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn refused_by_policy(refusal: PolicyRefusal) -> ApiError {
    match &refusal {
        PolicyRefusal::Never(_) => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "policy_refused",
            "The cluster's policy refuses it",
        ),
        PolicyRefusal::Wait(_) => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "limit_reached",
            "A limit of the cluster's policy is reached",
        )
        .retry_after(quota::RETRY_AFTER_S),
        // Without Retry-After: the launcher's pauses grow.
        PolicyRefusal::Unknown(_) => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "user_unknown",
            "The cluster does not know the user, or not as one who has opted in",
        ),
        // Not a limit, which passes by itself when something ends.
        PolicyRefusal::Stopped(_) => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopped",
            "New Slurm jobs are stopped on the cluster",
        )
        .retry_after(quota::RETRY_AFTER_S),
    }
    .detail(refusal.to_string())
}

impl From<VerifyError> for ApiError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Token(error) => Self::new(
                StatusCode::UNAUTHORIZED,
                "launch_token_invalid",
                "The launch token is not accepted",
            )
            .detail(error.to_string())
            .header("WWW-Authenticate", "Bearer"),
            VerifyError::Keys(error) => {
                Self::unavailable("The key set of launch tokens", &error, RETRY_AFTER_S)
            }
        }
    }
}
