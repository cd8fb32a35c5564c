//! The submission loop: leases planned launches, signs launch tokens, calls the agent, keeps the answers; and has what
//! was withdrawn cancelled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_auth::token;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER, StartRequest};
use gha_slurm_domain::launch::Happening;
use gha_slurm_domain::naming::runner_name;
use gha_slurm_domain::{
    Launch, LaunchId, RepositoryId, SlurmJobId, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_service_kit::Pulse;
use gha_slurm_storage::launches::{self, Loaded};
use gha_slurm_storage::{AsyncPgConnection, ScopeLock, ScopeLocks, StorageError, workflow_jobs};
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::agent::{CALL_DEADLINE, Submission};
use crate::inquiry::InquiryError;
use crate::settings::DeploymentSettings;
use crate::submitter::{CONCURRENCY, Submitter};
use crate::{slurm_jobs, surplus};

/// Longer than the agent's call may take; after it, another process may try. Not by much: what a killed launcher had leased waits for it.
const LEASE: TimeDelta = TimeDelta::seconds(CALL_DEADLINE.as_secs() as i64 + 5);
/// Planned rows of other processes, and leases that ran out, are looked for this often.
const SWEEP: Duration = Duration::from_secs(2);
/// While one planned launch follows the other, what is not wanted any more is looked for this often.
const TIDY: Duration = Duration::from_millis(250);
/// Somebody has the scope of planned launches locked: they are looked at again after this.
const CROWDED: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Submits planned launches until `stop`, then finishes the calls in flight. `wake` is notified when something was
/// planned, `pulse` with each round.
pub async fn run(
    submitter: Arc<Submitter>,
    wake: Arc<Notify>,
    pulse: Pulse,
    stop: CancellationToken,
) {
    let mut calls = JoinSet::new();
    let mut answers: Vec<Submitted> = Vec::new();
    // At most one, beside the loop: it calls GitHub and the agent, and nothing here may wait for those.
    let mut tidying = JoinSet::new();
    let mut cancelling_fails = false;
    let mut is_untidy = true;
    let mut tidied_at = Instant::now();
    while !stop.is_cancelled() {
        pulse.beat();
        while let Some(ended) = calls.try_join_next() {
            answers.extend(ended.ok().flatten());
        }
        let room = CONCURRENCY.saturating_sub(calls.len());
        let mut claimed = Vec::new();
        let mut is_crowded = false;
        match exchange(&submitter, &answers, room).await {
            Ok(Exchanged {
                left,
                due,
                is_crowded: crowded,
            }) => {
                answers.clear();
                for answer in left {
                    calls.spawn(store_alone(Arc::clone(&submitter), answer));
                }
                claimed = due;
                is_crowded = crowded;
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, answers = answers.len(), "submissions cannot be stored yet");
            }
            Err(error) => {
                // The leases run out and the rows are tried again.
                tracing::error!(%error, answers = answers.len(), "submissions cannot be stored");
                answers.clear();
            }
        }
        let more_may_wait = room > 0 && claimed.len() == room;
        for due in claimed {
            let submitter = Arc::clone(&submitter);
            let span = tracing::info_span!("submit", launch.id = %due.launch.id);
            if let Some(parent) = &due.launch.traceparent {
                gha_slurm_telemetry::set_parent(&span, parent);
            }
            calls.spawn(
                async move {
                    Box::pin(submit(&submitter, &due))
                        .await
                        .unwrap_or_else(|error| {
                            // The lease runs out and the row is tried again.
                            tracing::warn!(%error, "a submission's answer could not be stored");
                            None
                        })
                }
                .instrument(span),
            );
        }
        // After answers were stored: what was withdrawn meanwhile can be cancelled now.
        if is_untidy && tidying.is_empty() && (!more_may_wait || tidied_at.elapsed() >= TIDY) {
            let submitter = Arc::clone(&submitter);
            tidying.spawn(async move { !tidy(&submitter, cancelling_fails).await });
            (is_untidy, tidied_at) = (false, Instant::now());
        }
        if more_may_wait {
            // One look takes several; the others go on meanwhile.
            while calls.len() > CONCURRENCY / 2 {
                let ended = calls.join_next().await;
                answers.extend(ended.and_then(Result::ok).flatten());
            }
            is_untidy = true;
            if let Some(Ok(fails)) = tidying.try_join_next() {
                cancelling_fails = fails;
            }
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = wake.notified() => is_untidy = true,
            Some(ended) = calls.join_next() => {
                answers.extend(ended.ok().flatten());
                is_untidy = true;
            }
            Some(ended) = tidying.join_next() => cancelling_fails = ended.unwrap_or(false),
            () = tokio::time::sleep(if is_crowded { CROWDED } else { SWEEP }) => is_untidy |= !is_crowded,
        }
    }
    while let Some(ended) = calls.join_next().await {
        answers.extend(ended.ok().flatten());
    }
    match exchange(&submitter, &answers, 0).await {
        Ok(Exchanged { left, .. }) => {
            for answer in left {
                store_alone(Arc::clone(&submitter), answer).await;
            }
        }
        Err(error) => tracing::error!(%error, "the last submissions cannot be stored"),
    }
}

/// Deregisters surplus runners and cancels withdrawn Slurm jobs. Returns `false` on failure and logs only the first one.
async fn tidy(submitter: &Submitter, has_failed: bool) -> bool {
    // At once: what is to be cancelled does not wait while GitHub hangs.
    let (released, cancelled) = tokio::join!(
        surplus::release(&submitter.inquiry),
        slurm_jobs::cancel_withdrawn(submitter)
    );
    if let Err(error) = released {
        tracing::warn!(%error, "runners to be deregistered cannot be looked up");
    }
    if let Err(error) = &cancelled
        && !has_failed
    {
        tracing::warn!(%error, "withdrawn launches are not cancelled yet");
    }
    cancelled.is_ok()
}

/// The agent has a launch.
#[derive(Debug, Clone)]
struct Submitted {
    launch: LaunchId,
    repository: RepositoryId,
    slurm_job: Option<SlurmJobId>,
    token_expires_at: DateTime<Utc>,
    at: DateTime<Utc>,
}

impl Submitted {
    fn happening(&self, cluster: &str) -> Happening {
        Happening::Accepted {
            cluster: cluster.to_owned(),
            slurm_job: self.slurm_job.clone(),
            token_expires_at: self.token_expires_at,
        }
    }
}

/// What came of one transaction.
struct Exchanged {
    /// Answers that are not stored, since another transaction has their scopes locked.
    left: Vec<Submitted>,
    /// What is leased.
    due: Vec<Loaded>,
    /// Whether some are due whose scopes another transaction has locked.
    is_crowded: bool,
}

/// Stores answers, and leases as many planned launches as there is room for: one transaction for all.
async fn exchange(
    submitter: &Submitter,
    answers: &[Submitted],
    room: usize,
) -> Result<Exchanged, StorageError> {
    let now = submitter.inquiry.clock.now();
    submitter
        .database
        .transaction("exchange submissions", async |conn: &mut AsyncPgConnection| {
            let candidates = match room as i64 {
                0 => Vec::new(),
                room => launches::due(conn, now, room, &submitter.weights).await?,
            };
            let scopes = answers.iter().map(|answer| answer.repository);
            let scopes = scopes.chain(candidates.iter().map(|(_, repository)| *repository));
            let mut locks = ScopeLocks::try_take(conn, scopes.collect()).await?;
            let (stored, left): (Vec<_>, Vec<_>) = answers
                .iter()
                .cloned()
                .partition(|answer| locks.holds(answer.repository));
            let leased: Vec<LaunchId> = candidates
                .iter()
                .filter(|(_, repository)| locks.holds(*repository))
                .map(|(id, _)| *id)
                .collect();
            let is_crowded = leased.len() < candidates.len();
            let ids: Vec<LaunchId> = stored.iter().map(|answer| answer.launch).collect();
            let all: Vec<LaunchId> = ids.iter().chain(&leased).copied().collect();
            let loaded = match all.as_slice() {
                [] => Vec::new(),
                all => launches::peek_all(locks.conn(), all).await?,
            };
            for id in ids.iter().filter(|id| loaded.iter().all(|l| l.launch.id != **id)) {
                tracing::warn!(launch.id = %id, "a launch that was submitted has no row any more");
            }
            let mut due = Vec::new();
            for before in loaded {
                let Some(mut lock) = locks.one(before.launch.repository) else {
                    continue;
                };
                let answer = stored.iter().find(|answer| answer.launch == before.launch.id);
                if let Some(answer) = answer {
                    let happening = answer.happening(&submitter.cluster.name);
                    let _ = launches::happen_to(&mut lock, &before, happening, answer.at).await?;
                } else {
                    // Refused where another launcher has leased or delayed it meanwhile.
                    let until = now + LEASE;
                    let happening = Happening::Leased { until };
                    if let Ok(applied) = launches::happen_to(&mut lock, &before, happening, now).await? {
                        due.push(Loaded {
                            launch: applied.launch,
                            ..before
                        });
                    }
                }
            }
            Ok(Exchanged {
                left,
                due,
                is_crowded,
            })
        })
        .await
}

/// Stores an answer when its scope is not locked any more.
async fn store_alone(submitter: Arc<Submitter>, answer: Submitted) -> Option<Submitted> {
    let happening = answer.happening(&submitter.cluster.name);
    let stored = submitter
        .database
        .happen(
            "store a submission",
            answer.repository,
            answer.launch,
            &happening,
            answer.at,
        )
        .await;
    match stored {
        Ok(Ok(_)) => None,
        Ok(Err(_)) => {
            tracing::warn!(launch.id = %answer.launch, "a launch that was submitted has no row any more");
            None
        }
        Err(error) if error.is_transient() => Some(answer),
        Err(error) => {
            tracing::error!(%error, launch.id = %answer.launch, "a submission cannot be stored");
            None
        }
    }
}

/// The claims of a launch's launch token, issued at `now`.
pub fn claims(submitter: &Submitter, due: &Loaded, now: DateTime<Utc>) -> LaunchClaims {
    let Loaded {
        launch,
        class,
        repository,
    } = due;
    let iat = now.timestamp();
    let DeploymentSettings { name, prefix } = &submitter.deployment;
    LaunchClaims {
        iss: name.clone(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: launch.id,
        jti: uuid::Uuid::new_v4(),
        iat,
        nbf: iat - token::NOT_BEFORE_S,
        exp: iat + submitter.lifetime_s,
        runner_name: runner_name(prefix, name, launch.id, 1),
        cluster: submitter.cluster.name.clone(),
        launcher: Some(submitter.launcher),
        token_url: submitter.cluster.token_url.to_string(),
        owner: repository.owner.clone(),
        repository_name: repository.name.clone(),
        repository_url: format!(
            "{}/{}/{}",
            submitter.web_url.trim_end_matches('/'),
            repository.owner,
            repository.name
        ),
        repository_id: repository.id,
        labels: class.labels.to_string(),
        workflow_id: launch.cause.0,
        slurm_user: class.slurm_user.clone(),
        resources: class.resources.clone(),
        runner_mode: submitter.runner_mode,
    }
}

/// What GitHub says of the workflow job that caused a second attempt.
enum Demand {
    /// It waits, or GitHub does not let us look.
    Stands,
    /// It does not wait any more; the planner knows.
    Over,
    /// GitHub is in trouble.
    Unknown(String),
}

/// Runners of the class ended without a workflow job. Perhaps GitHub forgot the one that they were for, or it is over and
/// no webhook said so: launching for it would go on forever.
async fn demand(submitter: &Submitter, cause: WorkflowJobId) -> Result<Demand, StorageError> {
    match submitter.inquiry.ask(cause).await {
        Ok(Some(WorkflowJobState::Queued)) => Ok(Demand::Stands),
        Ok(_) => Ok(Demand::Over),
        Err(InquiryError::Storage(error)) => Err(error),
        Err(InquiryError::Github(error)) if error.retry_after().is_some() => {
            Ok(Demand::Unknown(error.to_string()))
        }
        Err(InquiryError::Github(error)) => {
            tracing::warn!(%error, workflow_job.id = %cause, "a workflow job cannot be looked up before another attempt");
            Ok(Demand::Stands)
        }
    }
}

/// Calls the agent. Returns what it has; whatever else came of it is stored already.
async fn submit(submitter: &Submitter, due: &Loaded) -> Result<Option<Submitted>, StorageError> {
    let launch = &due.launch;
    let attempt = launch.submission.attempts;
    let clock = &submitter.inquiry.clock;
    if launch.submission.verify_demand {
        let happening = match demand(submitter, launch.cause).await? {
            Demand::Stands => Happening::DemandConfirmed,
            Demand::Over => return find_other_cause(submitter, due).await.map(|()| None),
            Demand::Unknown(reason) => {
                let next = clock.now() + pause(attempt, None);
                let delayed = Happening::Delayed {
                    reason,
                    is_limit: false,
                    next,
                };
                record(submitter, launch, delayed).await?;
                return Ok(None);
            }
        };
        record(submitter, launch, happening).await?;
        // The question may have taken long: another launcher may have the launch by now.
        if launch
            .submission
            .lease_until
            .is_none_or(|until| until <= clock.now())
        {
            return Ok(None);
        }
    }
    let claims = claims(submitter, due, clock.now());
    let outcome = match submitter.signer.sign(&claims).await {
        Ok(token) => {
            let request = StartRequest {
                github_url: claims.repository_url.clone(),
                launcher_token: token.expose_secret().to_owned(),
                runner_labels: claims.labels.clone(),
                token_url: claims.token_url.clone(),
                runner_name: Some(claims.runner_name.clone()),
            };
            let traceparent = gha_slurm_telemetry::current_traceparent();
            submitter
                .agent
                .start(&request, traceparent.as_deref())
                .await
        }
        Err(error) => Submission::Delayed {
            reason: format!("the launch token cannot be signed: {error}"),
            retry_after: None,
            is_limit: false,
        },
    };
    let now = clock.now();
    let happening = match outcome {
        Submission::Accepted(slurm_job) => {
            return Ok(Some(Submitted {
                launch: launch.id,
                repository: launch.repository,
                slurm_job,
                token_expires_at: claims.expires_at().unwrap_or(now),
                at: now,
            }));
        }
        Submission::Delayed {
            reason,
            retry_after,
            is_limit,
        } => {
            if is_limit {
                tracing::info!(reason, "a submission waits until something has ended");
            } else {
                tracing::warn!(reason, attempt, "a submission is delayed");
            }
            Happening::Delayed {
                reason,
                is_limit,
                next: now + pause(attempt, retry_after),
            }
        }
        Submission::Refused(words) => {
            tracing::warn!(reason = words, "the agent refused a launch");
            Happening::Refused { words }
        }
    };
    record(submitter, launch, happening).await?;
    Ok(None)
}

/// Unless the launch changed meanwhile: then that stands.
async fn record(
    submitter: &Submitter,
    launch: &Launch,
    happening: Happening,
) -> Result<(), StorageError> {
    let now = submitter.inquiry.clock.now();
    let name = "record a submission";
    let _ = submitter
        .database
        .happen(name, launch.repository, launch.id, &happening, now)
        .await?;
    Ok(())
}

/// The workflow job that caused a launch does not wait any more. If the planner kept the launch, another one of its class does: that is
/// its cause now.
async fn find_other_cause(submitter: &Submitter, due: &Loaded) -> Result<(), StorageError> {
    let now = submitter.inquiry.clock.now();
    let launch = &due.launch;
    submitter
        .database
        .in_scope(
            "find another cause",
            launch.repository,
            async |mut lock: ScopeLock<'_>| {
                let causes = workflow_jobs::causes(&mut lock, launch.class, 1).await?;
                if let Some((cause, _)) = causes.into_iter().next() {
                    let _ = launches::happen(&mut lock, launch.id, Happening::CausedBy(cause), now)
                        .await?;
                }
                Ok::<_, StorageError>(())
            },
        )
        .await
}

fn pause(attempt: u32, wished: Option<Duration>) -> TimeDelta {
    TimeDelta::from_std(retry_delay(attempt, wished)).unwrap_or(LEASE)
}

fn retry_delay(attempt: u32, wished: Option<Duration>) -> Duration {
    let doubled = FIRST_RETRY * (1 << attempt.saturating_sub(1).min(10));
    wished.unwrap_or(doubled).clamp(FIRST_RETRY, LAST_RETRY)
}
