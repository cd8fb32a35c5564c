//! What becomes of Slurm jobs: Slurm's truth comes back, and what is not wanted any more is cancelled.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;
use gha_slurm_contract::agent::{
    ASSERTION_LIFETIME_S, CallClaims, CallPurpose, CancelAnswer, LaunchStatus, ListAnswer,
    MAX_CANCELLED_AT_ONCE, MAX_STATES_AT_ONCE, StatesAnswer, StatesRequest,
};
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use gha_slurm_domain::LaunchId;
use gha_slurm_service_kit::{Every, Pause};
use gha_slurm_storage::slurm_jobs::{self, SlurmStatus};
use gha_slurm_storage::{AsyncConnection, Database, StorageError, launches, usage};
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::submission::{CONCURRENCY, Submitter};

/// An agent without these calls is asked again after this; it may have been updated.
const ORIGINAL_AGENT_PAUSE: Duration = Duration::from_secs(600);

/// Asks where Slurm jobs stand, again and again until `stop`. `changed` is notified when something may have to be planned.
pub async fn watch(
    submitter: Arc<Submitter>,
    every: Every,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let round = || async {
        match look(&submitter).await? {
            Looked::Changed(0) => Ok(Pause::Period),
            Looked::Changed(_) => {
                changed.notify_one();
                Ok(Pause::Period)
            }
            Looked::Original => {
                tracing::info!(
                    "the Slurm agent does not tell where Slurm jobs stand: an original agent; carrying on without"
                );
                Ok::<_, String>(Pause::For(ORIGINAL_AGENT_PAUSE))
            }
        }
    };
    every.run(stop, round).await;
}

enum Looked {
    /// So many rows.
    Changed(usize),
    /// The agent has no such call.
    Original,
}

async fn look(submitter: &Submitter) -> Result<Looked, String> {
    let text = |error: StorageError| error.to_string();
    let launches = {
        let mut conn = submitter.database.connection().await.map_err(text)?;
        slurm_jobs::to_watch(&mut conn, Utc::now(), MAX_STATES_AT_ONCE as i64)
            .await
            .map_err(text)?
    };
    let assertion = assertion(submitter, &claims(submitter, CallPurpose::States))?;
    let request = StatesRequest { launches };
    let answer: Option<StatesAnswer> = submitter
        .agent
        .call("/runner/states", &assertion, &request)
        .await?;
    match answer {
        Some(answer) => take_in(submitter, answer).await.map(Looked::Changed),
        None => Ok(Looked::Original),
    }
}

/// Records what the agent says, asked or of its own accord. Gives how many rows changed.
pub(crate) async fn take_in(submitter: &Submitter, answer: StatesAnswer) -> Result<usize, String> {
    let text = |error: StorageError| error.to_string();
    let mut changed = 0;
    for status in answer.launches {
        changed += usize::from(record(&submitter.database, status).await.map_err(text)?);
    }
    let mut conn = submitter.database.connection().await.map_err(text)?;
    let cluster = &submitter.cluster.name;
    let forgiven = conn
        .transaction::<_, StorageError, _>(async |conn| {
            slurm_jobs::policy_is(conn, cluster, &answer.policy).await
        })
        .await
        .map_err(text)?;
    if forgiven > 0 {
        tracing::info!(repositories = forgiven, "the cluster's policy changed");
    }
    if submitter.freed.swap(answer.freed, Ordering::Relaxed) != answer.freed {
        changed += launches::try_limited(&mut conn, Utc::now(), CONCURRENCY as i64)
            .await
            .map_err(text)?;
    }
    Ok(changed)
}

async fn record(database: &Database, told: LaunchStatus) -> Result<bool, StorageError> {
    let status = SlurmStatus {
        launch: told.launch,
        slurm_job_id: Some(told.slurm_job_id).filter(|id| !id.is_empty()),
        state: told.state,
        reason: told.reason,
        starts_at: told.starts_at,
        nodes: told.nodes,
        exit_code: told.exit_code,
    };
    let mut conn = database.connection().await?;
    conn.transaction::<_, StorageError, _>(async |conn| {
        let now = Utc::now();
        let changed = slurm_jobs::record(conn, &status, now).await?;
        if let Some(used) = &told.usage {
            // One that slurmctld forgot before its end was seen has none: it counts in the month it is known in.
            let ended_at = told.ended_at.unwrap_or(now);
            usage::record(conn, told.launch, ended_at, used).await?;
        }
        if told.state.is_over() {
            usage::to_come(conn, told.launch, told.usage_to_come).await?;
        }
        Ok(changed)
    })
    .await
}

/// Has the Slurm side cancel what was withdrawn after it was submitted. The token broker gives such a launch nothing,
/// so no workflow job can be in it.
pub(crate) async fn cancel_withdrawn(submitter: &Submitter) -> Result<(), String> {
    let text = |error: StorageError| error.to_string();
    let launches = {
        let mut conn = submitter.database.connection().await.map_err(text)?;
        slurm_jobs::to_cancel(&mut conn, Utc::now(), MAX_CANCELLED_AT_ONCE as i64)
            .await
            .map_err(text)?
    };
    if launches.is_empty() {
        return Ok(());
    }
    let cancelled = cancel(submitter, launches.clone(), false).await?;
    let mut conn = submitter.database.connection().await.map_err(text)?;
    slurm_jobs::cancelled(&mut conn, &launches, &cancelled, Utc::now())
        .await
        .map_err(text)
}

/// The Slurm jobs that are not over and that this launcher had submitted, as the agent remembers. An original agent does not.
pub(crate) async fn list(submitter: &Submitter) -> Result<Vec<LaunchStatus>, String> {
    let assertion = assertion(submitter, &claims(submitter, CallPurpose::List))?;
    let answer: Option<ListAnswer> = submitter
        .agent
        .call("/runner/list", &assertion, &serde_json::json!({}))
        .await?;
    Ok(answer.map(|answer| answer.launches).unwrap_or_default())
}

/// Those of `listed` that the database has a row of.
pub(crate) async fn rows(
    submitter: &Submitter,
    listed: &[LaunchStatus],
) -> Result<HashSet<LaunchId>, String> {
    let text = |error: StorageError| error.to_string();
    let ids: Vec<LaunchId> = listed.iter().map(|status| status.launch).collect();
    let mut conn = submitter.database.connection().await.map_err(text)?;
    let rows = launches::known(&mut conn, &ids).await.map_err(text)?;
    Ok(rows.into_iter().collect())
}

/// Has the Slurm side cancel those of these that are pending.
pub(crate) async fn cancel_pending(
    submitter: &Submitter,
    launches: Vec<LaunchId>,
) -> Result<(), String> {
    for some in launches.chunks(MAX_CANCELLED_AT_ONCE) {
        cancel(submitter, some.to_vec(), true).await?;
    }
    Ok(())
}

/// Has the Slurm side cancel these; with `only_pending` none that is not. Gives those that it told to end.
async fn cancel(
    submitter: &Submitter,
    launches: Vec<LaunchId>,
    only_pending: bool,
) -> Result<Vec<LaunchId>, String> {
    let claims = CallClaims {
        launches,
        only_pending,
        ..claims(submitter, CallPurpose::Cancel)
    };
    let assertion = assertion(submitter, &claims)?;
    let answer: Option<CancelAnswer> = submitter
        .agent
        .call("/runner/cancel", &assertion, &serde_json::json!({}))
        .await?;
    // An original agent cannot cancel: the Slurm job ends by itself when its launch token is turned away.
    Ok(answer.map(|answer| answer.cancelled).unwrap_or_default())
}

fn claims(submitter: &Submitter, purpose: CallPurpose) -> CallClaims {
    let iat = Utc::now().timestamp();
    CallClaims {
        iss: submitter.deployment.name.clone(),
        aud: vec![AUDIENCE_AGENT.into()],
        sub: purpose,
        jti: uuid::Uuid::new_v4(),
        iat,
        nbf: iat - ASSERTION_LIFETIME_S,
        exp: iat + ASSERTION_LIFETIME_S,
        cluster: submitter.cluster.name.clone(),
        launcher: Some(submitter.launcher),
        launches: Vec::new(),
        only_pending: false,
    }
}

fn assertion(submitter: &Submitter, claims: &CallClaims) -> Result<SecretString, String> {
    submitter
        .signer
        .sign(claims)
        .map_err(|error| format!("the assertion cannot be signed: {error}"))
}
