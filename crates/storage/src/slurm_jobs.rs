//! What Slurm says of the Slurm jobs of launches, and which of them it shall cancel.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{LaunchId, RepositoryId, SlurmState};

use crate::pool::{StorageError, lock_scope};
use crate::replan;
use crate::runners::{self, Ending};
use crate::schema::{cluster_policies, launches, runner_classes, workflow_jobs};
use crate::timeline::{self, Entry};

/// A launch token lives a day and an hour, a workflow job five days: whatever is older is not asked about any more.
const OLDEST: TimeDelta = TimeDelta::days(8);

/// Where a Slurm job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmStatus {
    /// The launch it is.
    pub launch: LaunchId,
    /// Slurm's number. `None`: the Slurm side does not know it.
    pub slurm_job_id: Option<String>,
    /// Where it stands.
    pub state: SlurmState,
    /// Slurm's word for why.
    pub reason: Option<String>,
    /// When it started, or is expected to.
    pub starts_at: Option<DateTime<Utc>>,
    /// Its nodes.
    pub nodes: Option<String>,
    /// The job script's exit code.
    pub exit_code: Option<i32>,
}

/// Launches that Slurm had when it was asked last, and those whose usage is still to come.
pub async fn to_watch(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<LaunchId>, StorageError> {
    Ok(launches::table
        .filter(launches::submitted_at.is_not_null())
        .filter(launches::submitted_at.ge(now - OLDEST))
        .filter(
            launches::slurm_state
                .is_null()
                .or(launches::slurm_state.eq_any(["pending", "running"]))
                .or(launches::usage_to_come),
        )
        .order(launches::submitted_at.desc())
        .limit(limit)
        .select(launches::id)
        .load::<uuid::Uuid>(conn)
        .await?
        .into_iter()
        .map(LaunchId)
        .collect())
}

/// Records where a Slurm job stands, and what follows: one that is over has no runner any more, and what had no workflow
/// job is replaced while there is demand. Run it in a transaction. `false`: that was known, or is about another Slurm job.
pub async fn record(
    conn: &mut AsyncPgConnection,
    status: &SlurmStatus,
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    type Row = (
        i64,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<DateTime<Utc>>,
        Option<String>,
    );
    let row: Option<Row> = launches::table
        .find(status.launch.0)
        // An agent that tells of its own accord may be faster than its answer to the submission.
        .filter(launches::submitted_at.is_not_null())
        .select((
            launches::repository_id,
            launches::slurm_job_id,
            launches::slurm_state,
            launches::slurm_reason,
            launches::slurm_starts_at,
            launches::slurm_nodes,
        ))
        .first(conn)
        .await
        .optional()?;
    let Some((scope, number, state, reason, starts_at, nodes)) = row else {
        return Ok(false);
    };
    // Anybody may write our comment into a Slurm job of their own, which an agent without its ledger cannot tell.
    if let (Some(ours), Some(told)) = (&number, &status.slurm_job_id)
        && ours != told
    {
        return Ok(false);
    }
    let is_same_state = state.as_deref() == Some(status.state.as_str());
    let is_news = !is_same_state || reason != status.reason;
    if !is_news && starts_at == status.starts_at && nodes == status.nodes {
        return Ok(false);
    }
    diesel::update(launches::table.find(status.launch.0))
        .set((
            launches::slurm_state.eq(status.state.as_str()),
            launches::slurm_reason.eq(&status.reason),
            launches::slurm_starts_at.eq(status.starts_at),
            launches::slurm_nodes.eq(&status.nodes),
        ))
        .execute(conn)
        .await?;
    // A better estimate of the start is no event.
    if is_news {
        let entry = Entry::launch(now, status.launch, "slurm", explain(status));
        timeline::append(conn, &[entry]).await?;
    }
    if status.state.is_over() {
        ended(conn, RepositoryId(scope), status, now).await?;
    }
    Ok(true)
}

/// The node may have said so already, and better.
async fn ended(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    status: &SlurmStatus,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    lock_scope(conn, scope).await?;
    let reason = format!("Slurm: {}", explain(status));
    let ending = Ending {
        is_lost: status.state.is_lost(),
        release_at: Some(now),
        ..Ending::because(&reason)
    };
    match runners::by_launch(conn, status.launch).await? {
        Some((runner, scope)) => runners::end(conn, scope, &runner, &ending, now).await,
        None => runners::launch_ended(conn, status.launch, &ending, now).await,
    }
}

/// For people: `pending (Priority, starts ~14:05 UTC)`, `running on n3`, `node failed`.
fn explain(status: &SlurmStatus) -> String {
    let mut details: Vec<String> = status.reason.iter().cloned().collect();
    if status.state == SlurmState::Pending {
        details.extend(
            status
                .starts_at
                .map(|at| format!("starts ~{} UTC", at.format("%H:%M"))),
        );
    }
    if let Some(code) = status.exit_code.filter(|code| *code != 0) {
        details.push(format!("exit code {code}"));
    }
    let nodes = match &status.nodes {
        Some(nodes) if !nodes.is_empty() => format!(" on {nodes}"),
        _ => String::new(),
    };
    let details = if details.is_empty() {
        String::new()
    } else {
        format!(" ({})", details.join(", "))
    };
    format!("{}{nodes}{details}", status.state.explained())
}

/// Takes in which policy a cluster's agent has. If it is another one than before, what was refused or given up gets a fresh
/// chance. Run it in a transaction. Gives how many scopes are looked at again.
pub async fn policy_is(
    conn: &mut AsyncPgConnection,
    cluster: &str,
    version: &str,
) -> Result<usize, StorageError> {
    let before: Option<String> = cluster_policies::table
        .find(cluster)
        .select(cluster_policies::version)
        .first(conn)
        .await
        .optional()?;
    if before.as_deref() == Some(version) {
        return Ok(0);
    }
    diesel::insert_into(cluster_policies::table)
        .values((
            cluster_policies::cluster.eq(cluster),
            cluster_policies::version.eq(version),
        ))
        .on_conflict(cluster_policies::cluster)
        .do_update()
        .set(cluster_policies::version.eq(version))
        .execute(conn)
        .await?;
    if before.is_none() {
        return Ok(0);
    }
    let scopes: Vec<i64> = workflow_jobs::table
        .inner_join(runner_classes::table)
        .filter(workflow_jobs::state.eq("queued"))
        .filter(runner_classes::failures.gt(0))
        .select(workflow_jobs::repository_id)
        .distinct()
        .load(conn)
        .await?;
    for scope in &scopes {
        let scope = RepositoryId(*scope);
        replan::request(conn, scope, true, "the cluster's policy changed").await?;
    }
    Ok(scopes.len())
}

/// Withdrawn launches that the Slurm side may have a Slurm job of, and was not told about. Not those that are being
/// submitted at this moment.
pub async fn to_cancel(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<LaunchId>, StorageError> {
    Ok(launches::table
        .filter(launches::state.eq("withdrawn"))
        .filter(launches::cancelled_at.is_null())
        .filter(launches::submit_attempts.gt(0))
        .filter(
            launches::lease_until
                .is_null()
                .or(launches::lease_until.le(now)),
        )
        .order(launches::ended_at)
        .limit(limit)
        .select(launches::id)
        .load::<uuid::Uuid>(conn)
        .await?
        .into_iter()
        .map(LaunchId)
        .collect())
}

/// The Slurm side was told about `told`; of these it has cancelled the Slurm jobs of `cancelled`.
pub async fn cancelled(
    conn: &mut AsyncPgConnection,
    told: &[LaunchId],
    cancelled: &[LaunchId],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let ids: Vec<uuid::Uuid> = told.iter().map(|id| id.0).collect();
    diesel::update(launches::table.filter(launches::id.eq_any(ids)))
        .set(launches::cancelled_at.eq(now))
        .execute(conn)
        .await?;
    let entries: Vec<Entry> = cancelled
        .iter()
        .map(|id| Entry::launch(now, *id, "cancelled", "its Slurm job is cancelled"))
        .collect();
    timeline::append(conn, &entries).await
}
