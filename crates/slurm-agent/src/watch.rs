//! What Slurm says of our allocations: asked in one call per interval, whatever their number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gha_slurm_contract::agent::AllocationStatus;
use gha_slurm_domain::{AllocationId, SlurmJobId, SlurmState, SlurmUser};
use gha_slurm_service_kit::Readiness;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Entry, Ledger};
use crate::policy::Live;
use crate::slurm::{Slurm, SlurmJob};

/// A Slurm job that so many lists in a row do not show is gone: slurmctld forgets those that are over, and may restart
/// without its state.
const MISSES: u8 = 2;

/// Every allocation the agent remembers, and where its Slurm job stands.
#[derive(Default)]
pub struct Watch {
    known: Mutex<HashMap<AllocationId, Known>>,
    /// How often Slurm was asked.
    looks: tokio::sync::watch::Sender<u64>,
}

struct Known {
    entry: Entry,
    status: Option<AllocationStatus>,
    misses: u8,
}

impl Watch {
    /// With what is in the ledger.
    pub fn new(entries: Vec<Entry>) -> Self {
        let watch = Self::default();
        for entry in entries {
            watch.remember(entry);
        }
        watch
    }

    /// Takes in what was just written to the ledger.
    pub fn remember(&self, entry: Entry) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let status = entry.ended.clone();
        known.insert(
            entry.allocation,
            Known {
                entry,
                status,
                misses: 0,
            },
        );
    }

    /// How many allocations have a Slurm job that is not over, beside `own`.
    pub fn live(&self, user: &SlurmUser, repository_id: i64, own: AllocationId) -> Live {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = Live::default();
        for known in known.values() {
            let entry = &known.entry;
            if entry.ended.is_some() || entry.slurm_job_id.is_none() || entry.allocation == own {
                continue;
            }
            live.total += 1;
            live.of_user += u32::from(entry.slurm_user == *user);
            live.of_repository += u32::from(entry.repository_id == repository_id);
        }
        live
    }

    /// The allocations of a user that have a Slurm job that is not over, the oldest first.
    pub fn of_user(&self, user: &SlurmUser) -> Vec<(Entry, SlurmJobId, Option<AllocationStatus>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<_> = known
            .values()
            .filter(|known| known.entry.slurm_user == *user && known.entry.ended.is_none())
            .filter_map(|known| {
                let id = known.entry.slurm_job_id.clone()?;
                Some((known.entry.clone(), id, known.status.clone()))
            })
            .collect();
        own.sort_by_key(|(entry, ..)| entry.intended_at);
        own
    }

    /// Where these stand; nothing about those of which nothing is known.
    pub fn states(&self, allocations: &[AllocationId]) -> Vec<AllocationStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        allocations
            .iter()
            .filter_map(|id| known.get(id)?.status.clone())
            .collect()
    }

    /// Where all stand of which something is known.
    pub fn all(&self) -> Vec<AllocationStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(|k| k.status.clone()).collect()
    }

    /// Changes each time Slurm was asked.
    pub fn looks(&self) -> tokio::sync::watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// Takes a complete list in. Gives the entries that have ended now, to be written down.
    pub fn take_in(&self, jobs: Vec<SlurmJob>) -> Vec<Entry> {
        let mut listed: HashMap<AllocationId, Vec<SlurmJob>> = HashMap::new();
        for job in jobs {
            listed.entry(job.allocation).or_default().push(job);
        }
        let mut ended = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, known) in known.iter_mut() {
            let Some(slurm_job_id) = known.entry.slurm_job_id.clone() else {
                continue;
            };
            if known.entry.ended.is_some() {
                continue;
            }
            // Somebody may write our comment into a Slurm job of their own: the number is what we were told.
            let job = listed
                .get(id)
                .and_then(|jobs| jobs.iter().find(|job| job.id == slurm_job_id));
            let status = if let Some(job) = job {
                known.misses = 0;
                status(job)
            } else {
                known.misses = known.misses.saturating_add(1);
                if known.misses < MISSES {
                    continue;
                }
                gone(*id, &slurm_job_id)
            };
            if status.state.is_over() {
                known.entry.ended = Some(status.clone());
                ended.push(known.entry.clone());
            }
            known.status = Some(status);
        }
        ended
    }

    /// Asks Slurm each `interval`, until `stop`.
    pub async fn run(
        self: Arc<Self>,
        slurm: Arc<dyn Slurm>,
        ledger: Arc<Ledger>,
        interval: Duration,
        readiness: Readiness,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            match slurm.list().await {
                Ok(jobs) => {
                    readiness.ready("slurm");
                    let ended = self.take_in(jobs);
                    self.looks.send_modify(|looks| *looks += 1);
                    if !ended.is_empty() {
                        let ledger = Arc::clone(&ledger);
                        let write = move || ended.iter().try_for_each(|entry| ledger.write(entry));
                        match tokio::task::spawn_blocking(write).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => {
                                tracing::error!(%error, "the end of a Slurm job cannot be written down");
                            }
                            Err(error) => tracing::error!(%error, "writing the ledger failed"),
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "Slurm does not answer");
                    readiness.not_ready("slurm", error.to_string());
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    }
}

fn gone(allocation: AllocationId, slurm_job_id: &SlurmJobId) -> AllocationStatus {
    AllocationStatus {
        allocation,
        slurm_job_id: slurm_job_id.to_string(),
        state: SlurmState::Gone,
        reason: None,
        starts_at: None,
        ended_at: None,
        nodes: None,
        exit_code: None,
    }
}

fn status(job: &SlurmJob) -> AllocationStatus {
    AllocationStatus {
        allocation: job.allocation,
        slurm_job_id: job.id.to_string(),
        state: job.state,
        reason: job.reason.clone(),
        starts_at: job.starts_at,
        ended_at: job.ended_at,
        nodes: job.nodes.clone(),
        exit_code: job.exit_code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn entry(id: u128) -> Entry {
        Entry {
            allocation: AllocationId(uuid::Uuid::from_u128(id)),
            slurm_user: "alice".parse().unwrap(),
            repository_id: 1,
            repository_url: "https://github.com/acme/widgets".into(),
            intended_at: DateTime::UNIX_EPOCH,
            expires_at: None,
            slurm_job_id: Some(id.to_string().parse().unwrap()),
            ended: None,
        }
    }

    fn job(id: u128, number: &str, state: SlurmState) -> SlurmJob {
        SlurmJob {
            allocation: AllocationId(uuid::Uuid::from_u128(id)),
            id: number.parse().unwrap(),
            user: "alice".into(),
            state,
            reason: None,
            starts_at: None,
            ended_at: None,
            nodes: None,
            exit_code: None,
        }
    }

    #[test]
    fn the_end_is_kept_and_a_miss_is_no_end() {
        let watch = Watch::new(vec![entry(1), entry(2)]);
        let ids = [entry(1).allocation, entry(2).allocation];
        assert!(watch.states(&ids).is_empty(), "not asked yet");
        let running = job(2, "2", SlurmState::Running);
        let ended = watch.take_in(vec![job(1, "1", SlurmState::NodeFailed), running.clone()]);
        assert_eq!(ended.len(), 1);
        let states = |watch: &Watch| -> Vec<SlurmState> {
            watch.states(&ids).into_iter().map(|s| s.state).collect()
        };
        assert_eq!(
            states(&watch),
            [SlurmState::NodeFailed, SlurmState::Running]
        );
        assert!(watch.take_in(vec![]).is_empty());
        assert_eq!(
            states(&watch),
            [SlurmState::NodeFailed, SlurmState::Running],
            "one list without it says nothing"
        );
        // Somebody else's Slurm job with our comment.
        let ended = watch.take_in(vec![job(2, "99", SlurmState::Running)]);
        assert_eq!(ended.len(), 1);
        assert_eq!(states(&watch), [SlurmState::NodeFailed, SlurmState::Gone]);
        let alice = "alice".parse().unwrap();
        assert_eq!(
            watch.live(&alice, 1, ids[0]),
            Live::default(),
            "both are over"
        );
        watch.remember(entry(3));
        let expected = Live {
            of_user: 1,
            of_repository: 0,
            total: 1,
        };
        assert_eq!(watch.live(&alice, 2, ids[0]), expected);
        assert_eq!(watch.live(&alice, 2, entry(3).allocation), Live::default());
        // After a restart.
        let again = Watch::new(ended);
        assert_eq!(again.states(&ids).len(), 1);
    }
}
