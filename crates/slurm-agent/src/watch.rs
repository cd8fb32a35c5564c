//! What Slurm says of our allocations: asked in one call per interval, whatever their number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_contract::agent::AllocationStatus;
use gha_slurm_domain::{AllocationId, SlurmJobId, SlurmState, SlurmUser};
use gha_slurm_service_kit::Readiness;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Entry, Ledger};
use crate::policy::Live;
use crate::slurm::{JobUsage, Queue, Slurm, SlurmJob};

/// A Slurm job that so many lists in a row do not show is gone: slurmctld forgets those that are over, and may restart
/// without its state.
const MISSES: u8 = 2;
/// Accounting lags by seconds, and by as long as slurmdbd is away: slurmctld keeps what it has to tell it.
const USAGE_PATIENCE: TimeDelta = TimeDelta::days(1);
/// They are an argument, or part of a URL.
const MAX_USAGES_AT_ONCE: usize = 200;
/// Between the agent and slurmctld.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// Every allocation the agent remembers, and where its Slurm job stands.
#[derive(Default)]
pub struct Watch {
    known: Mutex<HashMap<AllocationId, Known>>,
    no_accounting: AtomicBool,
    /// How often Slurm was asked.
    looks: tokio::sync::watch::Sender<u64>,
    /// Slurm jobs that are not ours, by user, as of the last list.
    others: Mutex<HashMap<String, u32>>,
}

struct Known {
    entry: Entry,
    status: Option<AllocationStatus>,
    misses: u8,
    since: DateTime<Utc>,
    usage_asked_at: Option<DateTime<Utc>>,
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
                since: Utc::now(),
                usage_asked_at: None,
                place: Place::None,
            },
        );
    }

    /// What is remembered of an allocation.
    pub fn entry(&self, allocation: AllocationId) -> Option<Entry> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&allocation).map(|known| known.entry.clone())
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
        let accounting = !self.no_accounting.load(Ordering::Relaxed);
        let now = Utc::now();
        allocations
            .iter()
            .filter_map(|id| {
                let known = known.get(id)?;
                let mut status = known.status.clone()?;
                status.usage_to_come = accounting && known.usage_to_come(now);
                Some(status)
            })
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

    /// Ended Slurm jobs whose usage is to be asked for now: the longer ago they ended, the more rarely. No more than one
    /// call may name.
    fn usage_due(&self, now: DateTime<Utc>) -> Vec<SlurmJobId> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Vec<&mut Known> = known
            .values_mut()
            .filter(|known| known.usage_to_come(now))
            .filter(|known| {
                known
                    .usage_asked_at
                    .is_none_or(|at| now - at >= known.age(now) / 4)
            })
            .collect();
        due.sort_by_key(|known| known.usage_asked_at);
        due.truncate(MAX_USAGES_AT_ONCE);
        due.into_iter()
            .filter_map(|known| {
                known.usage_asked_at = Some(now);
                known.entry.slurm_job_id.clone()
            })
            .collect()
    }

    /// Takes in what Slurm jobs used. Gives the entries that have it now, to be written down.
    fn take_in_usage(&self, jobs: &[JobUsage]) -> Vec<Entry> {
        let mut changed = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for known in known.values_mut() {
            let entry = &mut known.entry;
            let Some(status) = entry.ended.as_mut().filter(|s| s.usage.is_none()) else {
                continue;
            };
            // slurmctld may have lost its state, and another Slurm job have had the number before.
            let earliest = entry.intended_at - CLOCKS_DIFFER;
            let job = jobs.iter().find(|job| {
                entry.slurm_job_id.as_ref() == Some(&job.id)
                    && job.submitted_at.is_none_or(|at| at >= earliest)
            });
            if let Some(job) = job {
                status.usage = Some(job.usage.clone());
                known.status = Some(status.clone());
                changed.push(entry.clone());
            }
        }
        changed
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
        let pause = async || {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(interval) => {}
            }
        };
        let states = async {
            while !stop.is_cancelled() {
                match slurm.list().await {
                    Ok(jobs) => {
                        readiness.ready("slurm");
                        let ended = self.take_in(jobs);
                        self.looks.send_modify(|looks| *looks += 1);
                        write(&ledger, ended).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "Slurm does not answer");
                        readiness.not_ready("slurm", error.to_string());
                    }
                }
                pause().await;
            }
        };
        // Beside it: a slow database shall not keep states back.
        let usages = async {
            let mut failing = false;
            while !stop.is_cancelled() {
                let due = self.usage_due(Utc::now());
                let answer = if due.is_empty() {
                    Ok(Some(Vec::new()))
                } else {
                    slurm.usage(&due).await
                };
                match answer {
                    Ok(Some(usages)) => {
                        failing &= due.is_empty();
                        write(&ledger, self.take_in_usage(&usages)).await;
                    }
                    Ok(None) => {
                        tracing::info!(
                            "Slurm has no accounting here: what Slurm jobs use is not known; carrying on without"
                        );
                        self.no_accounting.store(true, Ordering::Relaxed);
                        return;
                    }
                    Err(error) => {
                        // Once, not each time.
                        if !failing {
                            tracing::warn!(%error, "what Slurm jobs used is not known yet");
                        }
                        failing = true;
                    }
                }
                pause().await;
            }
        };
        tokio::join!(states, usages);
    }
}

impl Known {
    /// Whether what it used is not known yet, and still asked for.
    fn usage_to_come(&self, now: DateTime<Utc>) -> bool {
        let ended = self.entry.ended.as_ref();
        ended.is_some_and(|status| status.usage.is_none())
            && self.entry.slurm_job_id.is_some()
            && self.age(now) < USAGE_PATIENCE
    }

    /// How long ago it ended, or how long it has been known where nobody saw it end.
    fn age(&self, now: DateTime<Utc>) -> TimeDelta {
        let ended = self.entry.ended.as_ref().and_then(|s| s.ended_at);
        now - ended.unwrap_or(self.since)
    }
}

async fn write(ledger: &Arc<Ledger>, entries: Vec<Entry>) {
    if entries.is_empty() {
        return;
    }
    let ledger = Arc::clone(ledger);
    let write = move || entries.iter().try_for_each(|entry| ledger.write(entry));
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the end of a Slurm job cannot be written down");
        }
        Err(error) => tracing::error!(%error, "writing the ledger failed"),
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
        usage: None,
        usage_to_come: false,
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
        usage: None,
        usage_to_come: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gha_slurm_domain::Usage;

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

    #[test]
    fn usage_is_asked_for_ever_more_rarely_and_then_no_more() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let watch = Watch::new(vec![entry(1), entry(2)]);
        let over = SlurmJob {
            ended_at: Some(at(1000)),
            ..job(1, "1", SlurmState::Completed)
        };
        watch.take_in(queue(vec![over, job(2, "2", SlurmState::Running)]));
        let due = |seconds: i64| -> Vec<String> {
            let due = watch.usage_due(at(seconds)).into_iter();
            due.map(|id| id.to_string()).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(due(1000), ["1"], "the other one runs");
        assert_eq!(due(1001), ["1"]);
        assert_eq!(due(1100), ["1"]);
        assert_eq!(due(1120), none, "20 s later, 120 s after its end");
        assert_eq!(due(1140), ["1"]);
        let day = USAGE_PATIENCE.num_seconds();
        assert_eq!(due(1000 + day), none, "given up");

        let usage = |submitted: i64| JobUsage {
            id: "1".parse().unwrap(),
            submitted_at: Some(at(submitted)),
            usage: Usage {
                elapsed_s: 5,
                ..Usage::default()
            },
        };
        let earlier = usage(-3600);
        assert!(watch.take_in_usage(&[earlier]).is_empty(), "another one's");
        let changed = watch.take_in_usage(&[usage(900)]);
        let ended = changed[0].ended.as_ref().unwrap();
        assert_eq!(ended.usage.as_ref().unwrap().elapsed_s, 5);
        assert_eq!(due(1200), none);
        let told = watch.states(&[entry(1).allocation]);
        assert_eq!(
            (&told[0].usage, told[0].usage_to_come),
            (&ended.usage, false)
        );
        assert!(watch.take_in_usage(&[usage(900)]).is_empty(), "known");
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
