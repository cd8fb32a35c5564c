//! What becomes of Slurm jobs: Slurm's truth comes back, and what is not wanted any more is cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gha_slurm_contract::agent::{
    CallPurpose, CancelAnswer, LaunchStatus, ListAnswer, MAX_CANCELLED_AT_ONCE, MAX_STATES_AT_ONCE,
    StatesAnswer, StatesRequest,
};
use gha_slurm_domain::LaunchId;
use gha_slurm_domain::launch::{Happening, SlurmReport};
use gha_slurm_service_kit::{Every, Pause};
use gha_slurm_storage::launches::{self, Loaded};
use gha_slurm_storage::{AsyncPgConnection, ScopeLock, StorageError, versions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::submitter::{CONCURRENCY, ClusterError, Submitter};

/// Launches read at once.
const PEEKED_AT_ONCE: usize = 1000;
/// Between two questions that waiting nodes cause.
const REST: Duration = Duration::from_millis(250);
/// An agent without these calls is asked again after this; it may have been updated.
const ORIGINAL_AGENT_PAUSE: Duration = Duration::from_secs(600);

/// Whether a node waits until it is known that Slurm has started its Slurm job.
#[derive(Debug, Default)]
pub struct NodeWaits {
    waits: AtomicBool,
    wake: Arc<Notify>,
}

impl NodeWaits {
    /// One does.
    pub fn notify(&self) {
        self.waits.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// Asks where Slurm jobs stand, again and again until `stop`, and at once when a node waits for it. `changed` is notified when something
/// may have to be planned.
pub async fn watch(
    submitter: Arc<Submitter>,
    every: Every,
    node_waits: Arc<NodeWaits>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let every = every.wake(Arc::clone(&node_waits.wake)).rest(REST);
    let round = || async {
        let look_now = node_waits.waits.swap(false, Ordering::SeqCst);
        match look(&submitter, look_now).await? {
            Looked::Changed(0) => Ok(Pause::Period),
            Looked::Changed(_) => {
                changed.notify_one();
                Ok(Pause::Period)
            }
            Looked::Original => {
                tracing::info!(
                    "the Slurm agent does not tell where Slurm jobs stand: an original agent; carrying on without"
                );
                Ok::<_, ClusterError>(Pause::For(ORIGINAL_AGENT_PAUSE))
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

async fn look(submitter: &Submitter, look_now: bool) -> Result<Looked, ClusterError> {
    let launches = {
        let mut conn = submitter.database.connection().await?;
        let now = submitter.inquiry.clock.now();
        launches::watched(&mut conn, now, MAX_STATES_AT_ONCE as i64).await?
    };
    let assertion = submitter
        .assertion(CallPurpose::States, Vec::new(), false)
        .await?;
    let request = StatesRequest { launches, look_now };
    let answer: Option<StatesAnswer> = submitter
        .agent
        .call("/runner/states", &assertion, &request)
        .await?;
    match answer {
        Some(answer) => take_in(submitter, answer).await.map(Looked::Changed),
        None => Ok(Looked::Original),
    }
}

/// Records what the agent reports, asked or of its own accord. Returns how many rows changed.
pub(crate) async fn take_in(
    submitter: &Submitter,
    answer: StatesAnswer,
) -> Result<usize, ClusterError> {
    let StatesAnswer {
        launches: reported,
        policy,
        freed,
    } = answer;
    let mut changed = 0;
    let ids: Vec<LaunchId> = reported.iter().map(|status| status.launch).collect();
    let mut known: HashMap<LaunchId, Loaded> = HashMap::new();
    for some in ids.chunks(PEEKED_AT_ONCE) {
        let mut conn = submitter.database.connection().await?;
        let loaded = launches::peek_all(&mut conn, some).await?;
        known.extend(loaded.into_iter().map(|l| (l.launch.id, l)));
    }
    for status in reported {
        // Most report nothing new: those need no lock.
        if let Some(known) = known.remove(&status.launch) {
            changed += usize::from(record(submitter, &known, status).await?);
        }
    }
    let cluster = &submitter.cluster.name;
    let forgiven = submitter
        .database
        .transaction("note a policy", async |conn: &mut AsyncPgConnection| {
            versions::seen(conn, versions::What::Policy(cluster), &policy).await
        })
        .await?;
    if forgiven > 0 {
        tracing::info!(repositories = forgiven, "the cluster's policy changed");
    }
    if submitter.freed.swap(freed, Ordering::Relaxed) != freed {
        changed += try_limited(submitter).await?;
    }
    Ok(changed)
}

/// Something has ended at the cluster: of each class that waits behind a limit the oldest tries at once. Returns how many.
async fn try_limited(submitter: &Submitter) -> Result<usize, StorageError> {
    let now = submitter.inquiry.clock.now();
    let waiting = {
        let mut conn = submitter.database.connection().await?;
        launches::limited(&mut conn, now, CONCURRENCY).await?
    };
    let mut tried = 0;
    for (id, repository) in waiting {
        let happening = Happening::MayTryAgain;
        let name = "try behind a limit";
        let tries = submitter
            .database
            .happen(name, repository, id, &happening, now)
            .await?;
        tried += usize::from(tries.is_ok());
    }
    Ok(tried)
}

async fn record(
    submitter: &Submitter,
    known: &Loaded,
    status: LaunchStatus,
) -> Result<bool, StorageError> {
    let LaunchStatus {
        launch,
        slurm_job_id,
        state,
        reason,
        starts_at,
        ended_at,
        nodes,
        exit_code,
        usage,
        usage_to_come,
    } = status;
    let now = submitter.inquiry.clock.now();
    let happening = Happening::SlurmReported {
        report: SlurmReport {
            state,
            reason,
            starts_at,
            nodes,
            usage_to_come: usage_to_come && state.is_over(),
        },
        slurm_job: slurm_job_id.parse().ok(),
        exit_code,
        ended_at,
    };
    let is_news = known.apply(happening.clone(), now).is_ok();
    if !is_news && usage.is_none() {
        return Ok(false);
    }
    let repository = known.launch.repository;
    let name = "record a Slurm job";
    submitter
        .database
        .in_scope(name, repository, async |mut lock: ScopeLock<'_>| {
            let applied = launches::happen(&mut lock, launch, happening.clone(), now).await?;
            if let Some(used) = &usage {
                // One that slurmctld forgot before its end was seen has none: it counts in the month it is known in.
                let ended_at = ended_at.unwrap_or(now);
                gha_slurm_storage::usage::record(lock.conn(), launch, ended_at, used).await?;
            }
            Ok::<_, StorageError>(applied.is_ok())
        })
        .await
}

/// Asks the agent to cancel what was withdrawn after it was submitted. The token broker turns such a launch away, so no workflow job
/// can be in it.
pub(crate) async fn cancel_withdrawn(submitter: &Submitter) -> Result<(), ClusterError> {
    let now = submitter.inquiry.clock.now();
    let due = {
        let mut conn = submitter.database.connection().await?;
        launches::to_cancel(&mut conn, now, MAX_CANCELLED_AT_ONCE as i64).await?
    };
    if due.is_empty() {
        return Ok(());
    }
    let ids = due.iter().map(|(id, _)| *id).collect();
    let cancelled = cancel(submitter, ids, false).await?;
    let now = submitter.inquiry.clock.now();
    for (id, repository) in due {
        let happening = Happening::CancelAsked {
            is_cancelled: cancelled.contains(&id),
        };
        let _ = submitter
            .database
            .happen("note a cancellation", repository, id, &happening, now)
            .await?;
    }
    Ok(())
}

/// The Slurm jobs that are not over and that this launcher had submitted, as the agent remembers. An original agent does not.
pub(crate) async fn list(submitter: &Submitter) -> Result<Vec<LaunchStatus>, ClusterError> {
    let assertion = submitter
        .assertion(CallPurpose::List, Vec::new(), false)
        .await?;
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
) -> Result<HashSet<LaunchId>, ClusterError> {
    let ids: Vec<LaunchId> = listed.iter().map(|status| status.launch).collect();
    let mut conn = submitter.database.connection().await?;
    let rows = launches::known(&mut conn, &ids).await?;
    Ok(rows.into_iter().collect())
}

/// Asks the agent to cancel those of these that are pending.
pub(crate) async fn cancel_pending(
    submitter: &Submitter,
    launches: Vec<LaunchId>,
) -> Result<(), ClusterError> {
    for some in launches.chunks(MAX_CANCELLED_AT_ONCE) {
        cancel(submitter, some.to_vec(), true).await?;
    }
    Ok(())
}

/// Asks the agent to cancel these; with `only_pending` none that has started. Returns those that it cancelled.
async fn cancel(
    submitter: &Submitter,
    launches: Vec<LaunchId>,
    only_pending: bool,
) -> Result<Vec<LaunchId>, ClusterError> {
    let assertion = submitter
        .assertion(CallPurpose::Cancel, launches, only_pending)
        .await?;
    let answer: Option<CancelAnswer> = submitter
        .agent
        .call("/runner/cancel", &assertion, &serde_json::json!({}))
        .await?;
    // An original agent cannot cancel: the Slurm job ends by itself when its launch token is turned away.
    Ok(answer.map(|answer| answer.cancelled).unwrap_or_default())
}
