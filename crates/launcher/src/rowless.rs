//! gha-slurm's Slurm jobs without a row in this database, because it was restored from an older state. No build waits for them, and
//! token-broker turns them away when they call back. Those that are pending are cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::{Absence, LaunchId, SlurmState};
use gha_slurm_service_kit::Periodic;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::slurm_jobs;
use crate::submitter::{ClusterError, Submitter};

/// What the looks so far have found.
pub struct Rowless {
    since: Instant,
    /// How long a row must be missing.
    patience: Duration,
    absences: HashMap<LaunchId, Absence<Instant>>,
}

impl Rowless {
    /// From now on.
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self {
            since: now,
            patience,
            absences: HashMap::new(),
        }
    }

    /// Takes in what the agent lists, and those `rows` that the database had after that. Returns what has had no row for long enough.
    /// The look was begun at `begun`.
    pub fn look(
        &mut self,
        listed: Vec<LaunchStatus>,
        rows: &HashSet<LaunchId>,
        begun: Instant,
    ) -> Vec<LaunchStatus> {
        let before = std::mem::take(&mut self.absences);
        let mut rowless = listed;
        rowless.retain(|status| !rows.contains(&status.launch));
        for status in &rowless {
            let before = before.get(&status.launch).copied();
            let mut absence = before.unwrap_or_else(|| Absence::of_one_there(self.since));
            absence.missed(begun);
            self.absences.insert(status.launch, absence);
        }
        rowless.retain(|status| {
            self.absences.get(&status.launch).is_some_and(|absence| {
                let first = absence.first_missed().unwrap_or(begun);
                absence.is_certain() && begun.duration_since(first) >= self.patience
            })
        });
        rowless
    }
}

/// Looks for them until `stop`, and has those cancelled that are pending and had no row for `patience`.
pub async fn watch(
    submitter: Arc<Submitter>,
    periodic: Periodic,
    patience: Duration,
    stop: CancellationToken,
) {
    let state = Mutex::new((Rowless::new(patience, Instant::now()), HashSet::new()));
    let round = || async {
        let mut state = state.lock().await;
        let (rowless, told) = &mut *state;
        look(&submitter, rowless, told).await
    };
    periodic
        .every("rowless", patience / 2)
        .run(stop, round)
        .await;
}

async fn look(
    submitter: &Submitter,
    rowless: &mut Rowless,
    told: &mut HashSet<LaunchId>,
) -> Result<(), ClusterError> {
    let begun = Instant::now();
    // Before the rows: whatever is submitted has one already.
    let listed = slurm_jobs::list(submitter).await?;
    let rows = slurm_jobs::rows(submitter, &listed).await?;
    let mut pending = Vec::new();
    for status in rowless.look(listed, &rows, begun) {
        let LaunchStatus {
            launch,
            slurm_job_id,
            state,
            ..
        } = status;
        if state == SlurmState::Pending {
            tracing::warn!(%launch, slurm_job_id, "a pending Slurm job has no row in the database: it is cancelled");
            pending.push(launch);
        } else if told.insert(launch) {
            tracing::warn!(%launch, slurm_job_id, "a running Slurm job has no row in the database: it is left alone");
        }
    }
    slurm_jobs::cancel_pending(submitter, pending).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(id: u8) -> LaunchStatus {
        LaunchStatus::new(launch(id), id.to_string(), SlurmState::Pending)
    }

    fn launch(id: u8) -> LaunchId {
        LaunchId(uuid::Uuid::from_u128(id.into()))
    }

    const PATIENCE: u64 = 600;

    proptest! {
        /// Of each look: how long after the one before, what the agent lists, and which of it has a row. A Slurm job is rowless
        /// exactly if each look of the last `PATIENCE` seconds, and one before, had it listed and without a row.
        #[test]
        fn rowless_is_what_no_look_has_found_a_row_of_for_long(
            looks in prop::collection::vec(
                (1..900u64, prop::collection::btree_set(0..4u8, 0..4), prop::collection::btree_set(0..4u8, 0..3)),
                1..12,
            )
        ) {
            let start = Instant::now();
            let mut rowless = Rowless::new(Duration::from_secs(PATIENCE), start);
            let mut now = 0;
            let mut history = Vec::new();
            for (pause, listed, rows) in looks {
                now += pause;
                history.push((now, listed.clone(), rows.clone()));
                let rows = rows.into_iter().map(launch).collect();
                let listed = listed.into_iter().map(status).collect();
                let found = rowless.look(listed, &rows, start + Duration::from_secs(now));
                let found: Vec<LaunchId> = found.into_iter().map(|s| s.launch).collect();
                for id in 0..4u8 {
                    let without = history.iter().rev()
                        .take_while(|(_, listed, rows)| listed.contains(&id) && !rows.contains(&id));
                    let expected = without.clone().count() >= 2
                        && without.last().is_some_and(|(first, ..)| now - first >= PATIENCE);
                    prop_assert_eq!(found.contains(&launch(id)), expected);
                }
            }
        }
    }
}
