//! The submission loop: leases planned launches, signs launch tokens, calls the agent, keeps the answers; and has what
//! was withdrawn cancelled.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_auth::{Signer, token};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER, StartRequest};
use gha_slurm_domain::WorkflowJobState;
use gha_slurm_domain::naming::runner_name;
use gha_slurm_storage::launches::{self, Due, Locked, Submitted};
use gha_slurm_storage::{
    AsyncConnection, Database, StorageError, lock_scope, replan, workflow_jobs,
};
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::agent::{Agent, Submission};
use crate::inquiry::{Inquiry, InquiryError};
use crate::settings::{ClusterSettings, DeploymentSettings};
use crate::{slurm_jobs, surplus};

/// Longer than the agent's call may take; after it, another process may try.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// Calls to the agent at once.
pub(crate) const CONCURRENCY: usize = 16;
/// Planned rows of other processes, and leases that ran out, are looked for this often.
const SWEEP: Duration = Duration::from_secs(2);
/// While one planned launch follows the other, what is not wanted any more is looked for this often.
const TIDY: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What a submission needs.
pub struct Submitter {
    /// Where planned rows are.
    pub database: Database,
    /// Asks GitHub whether a workflow job still waits.
    pub inquiry: Inquiry,
    /// GitHub's web pages, `https://github.com`.
    pub web_url: String,
    /// Where they go.
    pub agent: Agent,
    /// Signs launch tokens.
    pub signer: Signer,
    /// Names.
    pub deployment: DeploymentSettings,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Seconds a launch token is valid.
    pub lifetime_s: i64,
    /// The id of the database, in launch tokens and assertions.
    pub launcher: Uuid,
    /// How often something has ended on the Slurm side, as its agent said last.
    pub freed: AtomicU64,
    /// Failures after which a class is given up: a refusal gives it up at once.
    pub max_failures: u32,
}

/// Submits planned launches until `stop`, then finishes the calls in hand. `wake` is notified when something was
/// planned.
pub async fn run(submitter: Arc<Submitter>, wake: Arc<Notify>, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    let mut answers: Vec<Submitted> = Vec::new();
    // At most one, beside the loop: it calls GitHub and the agent, and nothing here shall wait for those.
    let mut tidying = JoinSet::new();
    let mut cancelling_fails = false;
    let mut is_untidy = true;
    let mut tidied_at = Instant::now();
    while !stop.is_cancelled() {
        while let Some(ended) = calls.try_join_next() {
            answers.extend(ended.ok().flatten());
        }
        let room = CONCURRENCY.saturating_sub(calls.len());
        let mut claimed = Vec::new();
        match exchange(&submitter, &answers, room).await {
            Ok(Exchanged { left, due }) => {
                answers.clear();
                for answer in left {
                    calls.spawn(store_alone(Arc::clone(&submitter), answer));
                }
                claimed = due.unwrap_or_else(|error| {
                    tracing::warn!(%error, "planned launches cannot be read");
                    Vec::new()
                });
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
            let span = tracing::info_span!("submit", launch.id = %due.id);
            if let Some(parent) = &due.traceparent {
                gha_slurm_telemetry::set_parent(&span, parent);
            }
            calls.spawn(
                async move {
                    submit(&submitter, &due).await.unwrap_or_else(|error| {
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
            () = tokio::time::sleep(SWEEP) => is_untidy = true,
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

/// Has what is not wanted any more deregistered and cancelled. Whether it could be; said once, not each time.
async fn tidy(submitter: &Submitter, has_failed: bool) -> bool {
    if let Err(error) = surplus::release(&submitter.inquiry).await {
        tracing::warn!(%error, "runners that shall be deregistered cannot be looked up");
    }
    let cancelled = slurm_jobs::cancel_withdrawn(submitter).await;
    if let Err(error) = &cancelled
        && !has_failed
    {
        tracing::warn!(error, "what is not wanted any more is not cancelled yet");
    }
    cancelled.is_ok()
}

/// What came of one transaction.
struct Exchanged {
    /// Answers that are not stored, since another transaction has their rows locked.
    left: Vec<Submitted>,
    /// What is leased.
    due: Result<Vec<Due>, StorageError>,
}

/// Stores answers, and leases as many planned launches as there is room for: one transaction for all. That planned ones
/// cannot be read does not keep answers from being stored.
async fn exchange(
    submitter: &Submitter,
    answers: &[Submitted],
    room: usize,
) -> Result<Exchanged, StorageError> {
    let cluster = &submitter.cluster.name;
    let mut conn = submitter.database.connection().await?;
    conn.transaction::<_, StorageError, _>(async |conn| {
        let left = match answers {
            [] => Vec::new(),
            answers => launches::submitted(conn, cluster, answers, Locked::Skip).await?,
        };
        let due = match room as i64 {
            0 => Ok(Vec::new()),
            room => launches::claim_due(conn, Utc::now(), LEASE, room).await,
        };
        let left = answers.iter().filter(|a| left.contains(&a.id)).cloned();
        Ok(Exchanged {
            left: left.collect(),
            due,
        })
    })
    .await
}

/// Stores an answer when nobody else works on its row any more.
async fn store_alone(submitter: Arc<Submitter>, answer: Submitted) -> Option<Submitted> {
    let stored = async {
        let cluster = &submitter.cluster.name;
        let mut conn = submitter.database.connection().await?;
        conn.transaction::<_, StorageError, _>(async |conn| {
            let answer = std::slice::from_ref(&answer);
            launches::submitted(conn, cluster, answer, Locked::Wait).await
        })
        .await
    };
    match stored.await {
        Ok(left) if left.is_empty() => None,
        Ok(_) => {
            tracing::warn!(launch.id = %answer.id, "a launch that was submitted has no row any more");
            None
        }
        Err(error) if error.is_transient() => Some(answer),
        Err(error) => {
            tracing::error!(%error, launch.id = %answer.id, "a submission cannot be stored");
            None
        }
    }
}

/// The claims of a launch's launch token, issued at `now`.
pub fn claims(submitter: &Submitter, due: &Due, now: DateTime<Utc>) -> LaunchClaims {
    let iat = now.timestamp();
    let DeploymentSettings { name, prefix } = &submitter.deployment;
    LaunchClaims {
        iss: name.clone(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: due.id,
        jti: Uuid::new_v4(),
        iat,
        nbf: iat - token::NOT_BEFORE_S,
        exp: iat + submitter.lifetime_s,
        runner_name: runner_name(prefix, name, due.id, 1),
        cluster: submitter.cluster.name.clone(),
        launcher: Some(submitter.launcher),
        token_url: submitter.cluster.token_url.clone(),
        owner: due.owner.clone(),
        repository_name: due.name.clone(),
        repository_url: format!(
            "{}/{}/{}",
            submitter.web_url.trim_end_matches('/'),
            due.owner,
            due.name
        ),
        repository_id: due.repository.0,
        labels: due.labels.to_string(),
        workflow_id: due.cause.0,
        slurm_user: due.slurm_user.clone(),
        resources: due.resources.clone(),
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
/// no webhook said so: launching for it would go on for ever.
async fn demand(submitter: &Submitter, due: &Due) -> Result<Demand, StorageError> {
    match submitter.inquiry.ask(due.cause).await {
        Ok(Some(WorkflowJobState::Queued)) => Ok(Demand::Stands),
        Ok(_) => Ok(Demand::Over),
        Err(InquiryError::Storage(error)) => Err(error),
        Err(InquiryError::Github(error)) if error.retry_after().is_some() => {
            Ok(Demand::Unknown(error.to_string()))
        }
        Err(InquiryError::Github(error)) => {
            tracing::warn!(%error, workflow_job.id = %due.cause, "a workflow job cannot be looked up before another attempt");
            Ok(Demand::Stands)
        }
    }
}

/// Calls the agent. Gives what it has; whatever else came of it is stored already.
async fn submit(submitter: &Submitter, due: &Due) -> Result<Option<Submitted>, StorageError> {
    if due.verify_demand {
        let demand = demand(submitter, due).await?;
        let now = Utc::now();
        let mut conn = submitter.database.connection().await?;
        match demand {
            Demand::Stands => launches::demand_verified(&mut conn, due.id).await?,
            Demand::Over => {
                launches::find_other_cause(&mut conn, due.id).await?;
                return Ok(None);
            }
            Demand::Unknown(reason) => {
                let next =
                    now + TimeDelta::from_std(retry_delay(due.attempt, None)).unwrap_or(LEASE);
                launches::submission_delayed(&mut conn, due.id, &reason, false, next, now).await?;
                return Ok(None);
            }
        }
    }
    let issued = Utc::now();
    let claims = claims(submitter, due, issued);
    let outcome = match submitter.signer.sign(&claims) {
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
    let now = Utc::now();
    match outcome {
        Submission::Accepted(slurm_job_id) => {
            return Ok(Some(Submitted {
                id: due.id,
                slurm_job_id,
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
                tracing::warn!(reason, attempt = due.attempt, "a submission is delayed");
            }
            let next =
                now + TimeDelta::from_std(retry_delay(due.attempt, retry_after)).unwrap_or(LEASE);
            let mut conn = submitter.database.connection().await?;
            launches::submission_delayed(&mut conn, due.id, &reason, is_limit, next, now).await?;
        }
        Submission::Refused(reason) => {
            tracing::warn!(reason, "the Slurm side refused a launch");
            let given_up = submitter.max_failures as i32;
            let mut conn = submitter.database.connection().await?;
            conn.transaction::<_, StorageError, _>(async |conn| {
                lock_scope(conn, due.repository).await?;
                launches::refused(conn, due.id, &reason, now).await?;
                workflow_jobs::count_failure(conn, due.class, &reason, now).await?;
                // Final until policy or mapping changes: a change forgives.
                workflow_jobs::set_failures(conn, due.class, given_up).await?;
                replan::request(conn, due.repository, false, "the Slurm side refused").await
            })
            .await?;
        }
    }
    Ok(None)
}

fn retry_delay(attempt: u32, wished: Option<Duration>) -> Duration {
    let doubled = FIRST_RETRY * (1 << attempt.saturating_sub(1).min(10));
    wished.unwrap_or(doubled).clamp(FIRST_RETRY, LAST_RETRY)
}
