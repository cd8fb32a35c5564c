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
use crate::slurm::{Queue, Slurm, SlurmJob};

/// A Slurm job that so many lists in a row do not show is gone: slurmctld forgets those that are over, and may restart
/// without its state.
const MISSES: u8 = 2;

/// Every allocation the agent remembers, and where its Slurm job stands.
#[derive(Default)]
pub struct Watch {
    known: Mutex<HashMap<AllocationId, Known>>,
    /// Slurm jobs that are not ours, by user, as of the last list.
    others: Mutex<HashMap<String, u32>>,
}

struct Known {
    entry: Entry,
    status: Option<AllocationStatus>,
    misses: u8,
    place: Place,
}

/// Whether an allocation without a known Slurm job takes one of the places that the policy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No.
    None,
    /// It is being submitted.
    Taken,
    /// Slurm did not answer: it may have a Slurm job. Until lists show that it has none, or the launcher asks again.
    Doubtful,
}

/// A place among those that the policy has; given back when dropped, unless it is [kept](Reservation::keep).
pub struct Reservation<'a> {
    watch: &'a Watch,
    allocation: AllocationId,
}

impl Reservation<'_> {
    /// Slurm may have it, but did not say so.
    pub fn keep(self) {
        self.watch.set_place(self.allocation, Place::Doubtful);
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.watch.set_place(self.allocation, Place::None);
    }
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
                place: Place::None,
            },
        );
    }

    /// Takes a place for an allocation that was remembered, if `allowed` says so of those that are taken beside it. Counting and
    /// taking are one step: two starts at the same moment never get the last place both.
    pub fn reserve<E>(
        &self,
        allocation: AllocationId,
        allowed: impl FnOnce(Live) -> Result<(), E>,
    ) -> Result<Reservation<'_>, E> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = Live::default();
        if let Some(own) = known.get(&allocation).map(|known| &known.entry) {
            for known in known.values() {
                let entry = &known.entry;
                let counts = entry.ended.is_none()
                    && (entry.slurm_job_id.is_some() || known.place != Place::None);
                if !counts || entry.allocation == allocation {
                    continue;
                }
                live.total += 1;
                live.of_user += u32::from(entry.slurm_user == own.slurm_user);
                live.of_repository += u32::from(entry.repository_id == own.repository_id);
            }
            let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            live.of_users_own = others.get(own.slurm_user.as_str()).copied().unwrap_or(0);
        }
        allowed(live)?;
        if let Some(own) = known.get_mut(&allocation) {
            own.place = Place::Taken;
            own.misses = 0;
        }
        Ok(Reservation {
            watch: self,
            allocation,
        })
    }

    fn set_place(&self, allocation: AllocationId, place: Place) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&allocation) {
            known.place = place;
        }
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

    /// Takes a complete list in. Gives the entries that have ended now, to be written down.
    pub fn take_in(&self, queue: Queue) -> Vec<Entry> {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = queue.others;
        let jobs = queue.ours;
        let mut listed: HashMap<AllocationId, Vec<SlurmJob>> = HashMap::new();
        for job in jobs {
            listed.entry(job.allocation).or_default().push(job);
        }
        let mut ended = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, known) in known.iter_mut() {
            let Some(slurm_job_id) = known.entry.slurm_job_id.clone() else {
                if known.place == Place::Doubtful && !listed.contains_key(id) {
                    known.misses = known.misses.saturating_add(1);
                    if known.misses >= MISSES {
                        known.place = Place::None;
                    }
                }
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
                Ok(queue) => {
                    readiness.ready("slurm");
                    let ended = self.take_in(queue);
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
        let ended = watch.take_in(queue(vec![
            job(1, "1", SlurmState::NodeFailed),
            running.clone(),
        ]));
        assert_eq!(ended.len(), 1);
        let states = |watch: &Watch| -> Vec<SlurmState> {
            watch.states(&ids).into_iter().map(|s| s.state).collect()
        };
        assert_eq!(
            states(&watch),
            [SlurmState::NodeFailed, SlurmState::Running]
        );
        assert!(watch.take_in(queue(vec![])).is_empty());
        assert_eq!(
            states(&watch),
            [SlurmState::NodeFailed, SlurmState::Running],
            "one list without it says nothing"
        );
        // Somebody else's Slurm job with our comment.
        let ended = watch.take_in(queue(vec![job(2, "99", SlurmState::Running)]));
        assert_eq!(ended.len(), 1);
        assert_eq!(states(&watch), [SlurmState::NodeFailed, SlurmState::Gone]);
        watch.remember(entry(3));
        assert_eq!(seen(&watch, 3), Live::default(), "both are over");
        // After a restart.
        let again = Watch::new(ended);
        assert_eq!(again.states(&ids).len(), 1);
    }
    fn queue(ours: Vec<SlurmJob>) -> Queue {
        Queue {
            ours,
            others: HashMap::new(),
        }
    }

    /// What an allocation sees beside it.
    fn seen(watch: &Watch, id: u128) -> Live {
        let mut seen = Live::default();
        let _ = watch.reserve(entry(id).allocation, |live| {
            seen = live;
            Err::<(), ()>(())
        });
        seen
    }

    fn intent(id: u128) -> Entry {
        Entry {
            slurm_job_id: None,
            ..entry(id)
        }
    }

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let watch = Watch::new(vec![intent(1), intent(2), intent(3)]);
        let first = watch
            .reserve(intent(1).allocation, |_| Ok::<(), ()>(()))
            .unwrap();
        let taken = Live {
            of_user: 1,
            of_repository: 1,
            total: 1,
            ..Live::default()
        };
        assert_eq!(seen(&watch, 2), taken);
        assert_eq!(seen(&watch, 1), Live::default(), "its own");
        drop(first);
        assert_eq!(seen(&watch, 2), Live::default());
        // Slurm did not answer: it counts until two lists do not show it.
        let first = watch
            .reserve(intent(1).allocation, |_| Ok::<(), ()>(()))
            .unwrap();
        first.keep();
        watch.take_in(queue(vec![]));
        assert_eq!(seen(&watch, 2), taken);
        watch.take_in(queue(vec![]));
        assert_eq!(seen(&watch, 2), Live::default());
        // One with a Slurm job counts, reserved or not.
        let first = watch
            .reserve(intent(1).allocation, |_| Ok::<(), ()>(()))
            .unwrap();
        watch.remember(entry(1));
        drop(first);
        assert_eq!(seen(&watch, 2), taken);
        let elsewhere = Entry {
            slurm_user: "bob".parse().unwrap(),
            repository_id: 2,
            ..intent(4)
        };
        watch.remember(elsewhere);
        let mut others = queue(vec![job(1, "1", SlurmState::Running)]);
        others.others.insert("bob".into(), 7);
        watch.take_in(others);
        let expected = Live {
            of_users_own: 7,
            total: 1,
            ..Live::default()
        };
        assert_eq!(seen(&watch, 4), expected);
    }

    #[test]
    fn many_at_once_get_no_more_than_there_is() {
        let watch = Watch::new((1..=64).map(intent).collect());
        let most = 5;
        let got = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|threads| {
            for id in 1..=64 {
                let (watch, got) = (&watch, &got);
                threads.spawn(move || {
                    let allowed = |live: Live| if live.total < most { Ok(()) } else { Err(()) };
                    if let Ok(place) = watch.reserve(intent(id).allocation, allowed) {
                        got.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        place.keep();
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), most);
    }
}
