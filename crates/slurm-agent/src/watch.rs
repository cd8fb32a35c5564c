//! What Slurm says of our launches: asked in one call per interval, whatever their number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::{Absence, LaunchId, SlurmJobId, SlurmState, SlurmUser};
use gha_slurm_service_kit::Readiness;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ledger::{Entry, Ledger};
use crate::waiting::Waiting;
use gha_slurm_policy::Live;
use gha_slurm_slurm::{JobUsage, Queue, Slurm, SlurmJob};

/// Accounting lags by seconds, and by as long as slurmdbd is away: slurmctld keeps what it has to tell it.
const USAGE_PATIENCE: TimeDelta = TimeDelta::days(1);
/// They are an argument, or part of a URL.
const MAX_USAGES_AT_ONCE: usize = 200;
/// What the launcher has not asked about for so many lists, it does not want to know any more.
const ASKED_LISTS: u64 = 20_000;
/// Between the agent and slurmctld.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// Every launch the agent remembers, and where its Slurm job stands.
#[derive(Default)]
pub struct Watch {
    known: Mutex<HashMap<LaunchId, Known>>,
    no_accounting: AtomicBool,
    /// How many lists were begun.
    begun: AtomicU64,
    /// How often Slurm was asked.
    looks: tokio::sync::watch::Sender<u64>,
    /// How many places were given back.
    freed: AtomicU64,
    /// Slurm jobs that are not ours, by user, as of the last list.
    others: Mutex<HashMap<String, u32>>,
    /// Locked last.
    strays: Mutex<Strays>,
    waiting: Mutex<Waiting>,
}

/// Launches whose Slurm job is not in the ledger: it was lost, or an answer of Slurm's. Their comment has to do, which anybody
/// may write into a Slurm job of their own.
#[derive(Default)]
struct Strays {
    /// As of the last list.
    listed: HashMap<LaunchId, Vec<SlurmJob>>,
    /// Those that the launcher has asked about, which knows that they were submitted.
    asked: HashMap<LaunchId, Asked>,
}

struct Asked {
    absence: Absence<u64>,
    /// How many lists were begun when it was asked last.
    last: u64,
}

struct Known {
    entry: Entry,
    status: Option<LaunchStatus>,
    /// slurmctld forgets Slurm jobs that are over, and may restart without its state.
    absence: Absence<u64>,
    since: DateTime<Utc>,
    usage_asked_at: Option<DateTime<Utc>>,
    place: Place,
}

/// Whether a launch without a known Slurm job takes one of the places that the policy has.
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
    launch: LaunchId,
}

impl Reservation<'_> {
    /// Slurm may have it, but did not say so.
    pub fn keep(self) {
        self.watch.set_place(self.launch, Place::Doubtful);
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.watch.set_place(self.launch, Place::None);
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
            entry.launch,
            Known {
                entry,
                status,
                absence: self.there_now(),
                since: Utc::now(),
                usage_asked_at: None,
                place: Place::None,
            },
        );
    }

    /// It is in Slurm now: lists that were begun before may be without it.
    fn there_now(&self) -> Absence<u64> {
        Absence::of_one_there(self.begun.load(Ordering::SeqCst))
    }

    /// Whatever is there now is in the list that is begun now. Its number, for [`take_in`](Watch::take_in).
    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What is remembered of a launch.
    pub fn entry(&self, launch: LaunchId) -> Option<Entry> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&launch).map(|known| known.entry.clone())
    }

    /// Takes a place for a launch that was remembered, if `allowed` says so of those that are taken beside it. Counting and
    /// taking are one step: two starts at the same moment never get the last place both. What others may have who wait longer
    /// counts as taken.
    pub fn reserve<E>(
        &self,
        launch: LaunchId,
        allowed: impl Fn(&Entry, Live) -> Result<(), E>,
    ) -> Result<Reservation<'_>, E> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.get(&launch).map(|known| known.entry.clone()) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let before = waiting.before(&own, now);
            let mut taken: Vec<&Entry> = known
                .values()
                .filter(|known| known.has_place() && known.entry.launch != launch)
                .map(|known| &known.entry)
                .collect();
            for other in &before {
                if allowed(other, self.live(&known, &taken, other)).is_ok() {
                    taken.push(other);
                }
            }
            if let Err(refusal) = allowed(&own, self.live(&known, &taken, &own)) {
                waiting.refused(own, now);
                return Err(refusal);
            }
            waiting.served(&own);
        }
        if let Some(own) = known.get_mut(&launch) {
            own.place = Place::Taken;
        }
        Ok(Reservation {
            watch: self,
            launch,
        })
    }

    /// What counts for `own`, when those places are taken.
    fn live(&self, known: &HashMap<LaunchId, Known>, taken: &[&Entry], own: &Entry) -> Live {
        let count = |counts: fn(&Entry, &Entry) -> bool| {
            taken.iter().filter(|entry| counts(entry, own)).count() as u32
        };
        let user = own.slurm_user.as_str();
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        // Of the user's alone: by such comments nobody shall take the places of others.
        let strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = |jobs: &[SlurmJob]| {
            let mut jobs = jobs.iter();
            jobs.any(|job| !job.state.is_over() && job.user == user)
        };
        let strays = strays.listed.iter();
        let has_place = |id| known.get(id).is_some_and(Known::has_place);
        let strays =
            strays.filter(|(id, jobs)| **id != own.launch && !has_place(*id) && of_user(jobs));
        Live {
            of_user: count(|entry, own| entry.slurm_user == own.slurm_user) + strays.count() as u32,
            of_users_own: others.get(user).copied().unwrap_or(0),
            of_repository: count(|entry, own| entry.repository_id == own.repository_id),
            total: taken.len() as u32,
        }
    }

    fn set_place(&self, launch: LaunchId, place: Place) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&launch) {
            known.place = place;
            known.absence = self.there_now();
            if place == Place::None && known.entry.slurm_job_id.is_none() {
                self.freed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// How many places of those that the policy has were given back: what waits for one may try when this has changed.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::SeqCst)
    }

    /// The Slurm job of a launch of `user` that is not in the ledger, as the last list has it. `None`: there was no list
    /// yet.
    pub fn stray(&self, launch: LaunchId, user: &SlurmUser) -> Option<Option<SlurmJobId>> {
        if *self.looks.borrow() == 0 {
            return None;
        }
        let strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        let mut jobs = strays.listed.get(&launch).into_iter().flatten();
        let of_user = jobs.find(|job| job.user == user.as_str());
        Some(of_user.map(|job| job.id.clone()))
    }

    /// Where the Slurm jobs stand that are not over of those that the launcher with this id had submitted.
    pub fn of_launcher(&self, launcher: Uuid) -> Vec<LaunchStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .values()
            .filter(|known| known.entry.launcher == Some(launcher) && known.entry.ended.is_none())
            .filter_map(|known| known.status.clone())
            .collect()
    }

    /// The launches of a user that have a Slurm job that is not over, the oldest first.
    pub fn of_user(&self, user: &SlurmUser) -> Vec<(Entry, SlurmJobId, Option<LaunchStatus>)> {
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

    /// Where these stand, which were submitted; nothing about those of which nothing is known yet, or which another launcher
    /// than this had submitted. Of those whose number is not known here, whatever Slurm job has their comment.
    pub fn states(&self, launches: &[LaunchId], launcher: Option<Uuid>) -> Vec<LaunchStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        let Strays { listed, asked } = &mut *strays;
        let accounting = !self.no_accounting.load(Ordering::Relaxed);
        let now = Utc::now();
        let mut states = Vec::new();
        for id in launches {
            let known = known.get(id);
            if known.is_some_and(|known| !known.entry.is_for(launcher)) {
                continue;
            }
            if let Some(known) = known.filter(|known| known.entry.slurm_job_id.is_some()) {
                states.extend(known.status.clone().map(|status| LaunchStatus {
                    usage_to_come: accounting && known.usage_to_come(now),
                    ..status
                }));
            } else if let Some(jobs) = listed.get(id) {
                states.extend(jobs.iter().map(status));
            } else {
                let asked = asked.entry(*id).or_insert_with(|| Asked {
                    absence: self.there_now(),
                    last: 0,
                });
                asked.last = self.begun.load(Ordering::SeqCst);
                states.extend(asked.absence.is_certain().then(|| gone(*id, None)));
            }
        }
        states
    }

    /// Where all stand of which something is known.
    pub fn all(&self) -> Vec<LaunchStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(|k| k.status.clone()).collect()
    }

    /// Changes each time Slurm was asked.
    pub fn looks(&self) -> tokio::sync::watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// Takes in a complete list that was begun as number `begun`. Gives the entries that have ended now, to be written down, and
    /// the Slurm jobs that it is without.
    fn take_in(&self, queue: Queue, begun: u64) -> (Vec<Entry>, Vec<SlurmJobId>) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = queue.others;
        let jobs = queue.ours;
        let mut listed: HashMap<LaunchId, Vec<SlurmJob>> = HashMap::new();
        for job in jobs {
            listed.entry(job.launch).or_default().push(job);
        }
        let (mut ended, mut missing) = (Vec::new(), Vec::new());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, known) in known.iter_mut() {
            let Some(slurm_job_id) = known.entry.slurm_job_id.clone() else {
                if known.place == Place::Doubtful && !listed.contains_key(id) {
                    known.absence.missed(begun);
                    if known.absence.is_certain() {
                        known.place = Place::None;
                        self.freed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                continue;
            };
            let jobs = listed.remove(id).unwrap_or_default();
            if known.entry.ended.is_some() {
                continue;
            }
            // Somebody may write our comment into a Slurm job of their own: the number is what we were told.
            match jobs.iter().find(|job| job.id == slurm_job_id) {
                Some(job) => {
                    known.absence.seen();
                    ended.extend(known.stands(status(job)));
                }
                None => missing.push(slurm_job_id),
            }
        }
        self.freed.fetch_add(ended.len() as u64, Ordering::SeqCst);
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        strays
            .asked
            .retain(|_, asked| begun.saturating_sub(asked.last) < ASKED_LISTS);
        for (id, asked) in &mut strays.asked {
            if listed.contains_key(id) {
                asked.absence.seen();
            } else {
                asked.absence.missed(begun);
            }
        }
        strays.listed = listed;
        (ended, missing)
    }

    /// Takes in what accounting knows of Slurm jobs that the list number `begun` was without: how they ended, or nothing. Gives
    /// the entries that have ended now.
    fn take_in_missing(&self, ids: &[SlurmJobId], jobs: &[JobUsage], begun: u64) -> Vec<Entry> {
        let mut ended = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, known) in known.iter_mut() {
            let Some(slurm_job_id) = known.entry.slurm_job_id.clone() else {
                continue;
            };
            if known.entry.ended.is_some() || !ids.contains(&slurm_job_id) {
                continue;
            }
            known.absence.missed(begun);
            let accounted = jobs.iter().find(|job| known.entry.is(job));
            if let Some(job) = accounted {
                ended.extend(known.stands(LaunchStatus {
                    state: job.state,
                    usage: Some(job.usage.clone()),
                    ..gone(*id, Some(&slurm_job_id))
                }));
            } else if known.absence.is_certain() {
                ended.extend(known.stands(gone(*id, Some(&slurm_job_id))));
            }
        }
        self.freed.fetch_add(ended.len() as u64, Ordering::SeqCst);
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
            if entry.ended.as_ref().is_none_or(|s| s.usage.is_some()) {
                continue;
            }
            let Some(job) = jobs.iter().find(|job| entry.is(job)) else {
                continue;
            };
            if let Some(status) = &mut entry.ended {
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
                let begun = self.begin();
                match slurm.list().await {
                    Ok(jobs) => {
                        readiness.ready("slurm");
                        let (ended, missing) = self.take_in(jobs, begun);
                        self.looks.send_modify(|looks| *looks += 1);
                        write(&ledger, ended).await;
                        self.look_for(missing, begun, &*slurm, &ledger).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "Slurm does not answer");
                        readiness.not_ready("slurm", error.to_string());
                    }
                }
                pause().await;
            }
        };
        // Beside it: a slow database shall not keep states back that are known.
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

    /// Asks accounting for the Slurm jobs that a list was without. Only where both have answered, it was complete.
    async fn look_for(
        &self,
        missing: Vec<SlurmJobId>,
        begun: u64,
        slurm: &dyn Slurm,
        ledger: &Arc<Ledger>,
    ) {
        for ids in missing.chunks(MAX_USAGES_AT_ONCE) {
            let answer = if self.no_accounting.load(Ordering::Relaxed) {
                Ok(None)
            } else {
                slurm.usage(ids).await
            };
            match answer {
                Ok(jobs) => {
                    let ended = self.take_in_missing(ids, &jobs.unwrap_or_default(), begun);
                    if !ended.is_empty() {
                        self.looks.send_modify(|looks| *looks += 1);
                    }
                    write(ledger, ended).await;
                }
                Err(error) => {
                    tracing::warn!(%error, missing = missing.len(), "Slurm jobs are in no list; how they ended is not known yet");
                    return;
                }
            }
        }
    }
}

impl Entry {
    /// Whether accounting tells of its Slurm job.
    fn is(&self, job: &JobUsage) -> bool {
        // slurmctld may have lost its state, and another Slurm job have had the number before.
        let earliest = self.intended_at - CLOCKS_DIFFER;
        self.slurm_job_id.as_ref() == Some(&job.id)
            && job.submitted_at.is_none_or(|at| at >= earliest)
    }

    /// Whether the launcher with this id may hear of it and cancel it. Those from before launchers had ids are everybody's.
    pub(crate) fn is_for(&self, launcher: Option<Uuid>) -> bool {
        self.launcher.is_none() || launcher.is_none() || self.launcher == launcher
    }
}

impl Known {
    /// One of those that the policy has.
    fn has_place(&self) -> bool {
        self.entry.ended.is_none()
            && (self.entry.slurm_job_id.is_some() || self.place != Place::None)
    }

    /// Where it stands now. Gives the entry, if it has ended.
    fn stands(&mut self, status: LaunchStatus) -> Option<Entry> {
        let is_over = status.state.is_over();
        if is_over {
            self.entry.ended = Some(status.clone());
        }
        self.status = Some(status);
        is_over.then(|| self.entry.clone())
    }

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

/// Without a number: whichever it had.
fn gone(launch: LaunchId, slurm_job_id: Option<&SlurmJobId>) -> LaunchStatus {
    let number = slurm_job_id.map(SlurmJobId::to_string).unwrap_or_default();
    LaunchStatus::new(launch, number, SlurmState::Gone)
}

fn status(job: &SlurmJob) -> LaunchStatus {
    LaunchStatus {
        reason: job.reason.clone(),
        starts_at: job.starts_at,
        ended_at: job.ended_at,
        nodes: job.nodes.clone(),
        exit_code: job.exit_code,
        ..LaunchStatus::new(job.launch, job.id.to_string(), job.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gha_slurm_domain::Usage;

    fn entry(id: u128) -> Entry {
        Entry {
            launch: LaunchId(uuid::Uuid::from_u128(id)),
            slurm_user: "alice".parse().unwrap(),
            repository_id: 1,
            repository_url: "https://github.com/acme/widgets".into(),
            intended_at: DateTime::UNIX_EPOCH,
            launcher: None,
            expires_at: None,
            slurm_job_id: Some(id.to_string().parse().unwrap()),
            ended: None,
        }
    }

    fn job(id: u128, number: &str, state: SlurmState) -> SlurmJob {
        SlurmJob {
            launch: LaunchId(uuid::Uuid::from_u128(id)),
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

    /// A list, complete at once, where there is no accounting. Those that have ended.
    fn list(watch: &Watch, jobs: Vec<SlurmJob>) -> Vec<Entry> {
        let begun = watch.begin();
        answered(watch, jobs, begun)
    }

    fn answered(watch: &Watch, jobs: Vec<SlurmJob>, begun: u64) -> Vec<Entry> {
        let (mut ended, missing) = watch.take_in(queue(jobs), begun);
        ended.extend(watch.take_in_missing(&missing, &[], begun));
        ended
    }

    fn states(watch: &Watch, ids: &[u128]) -> Vec<SlurmState> {
        let ids: Vec<_> = ids.iter().map(|id| entry(*id).launch).collect();
        watch.states(&ids, None).iter().map(|s| s.state).collect()
    }

    #[test]
    fn the_end_is_kept_and_a_miss_is_no_end() {
        use SlurmState::{Gone, NodeFailed, Running};
        let watch = Watch::new(vec![entry(1), entry(2)]);
        assert!(states(&watch, &[1, 2]).is_empty(), "not asked yet");
        let running = job(2, "2", Running);
        let ended = list(&watch, vec![job(1, "1", NodeFailed), running]);
        assert_eq!(ended.len(), 1);
        assert_eq!(states(&watch, &[1, 2]), [NodeFailed, Running]);
        assert!(list(&watch, vec![]).is_empty());
        assert_eq!(
            states(&watch, &[1, 2]),
            [NodeFailed, Running],
            "one list without it says nothing"
        );
        // Somebody else's Slurm job with our comment, or another one of ours with its number.
        let others = vec![job(2, "99", Running), job(3, "2", Running)];
        assert_eq!(list(&watch, others).len(), 1);
        assert_eq!(states(&watch, &[1, 2]), [NodeFailed, Gone]);
        assert_eq!(watch.freed(), 2);
        list(&watch, vec![]);
        // After a restart.
        let again = Watch::new(vec![watch.entry(entry(1).launch).unwrap()]);
        assert_eq!(states(&again, &[1]), [NodeFailed]);
        assert_eq!(seen(&watch, 1), Live::default(), "both are over");
    }

    #[test]
    fn a_list_from_before_the_submission_was_answered_says_nothing() {
        let watch = Watch::new(vec![intent(1)]);
        let before = watch.begin();
        let (also_before, after) = (watch.begin(), {
            watch.remember(entry(1));
            watch.begin()
        });
        assert!(answered(&watch, vec![], before).is_empty());
        assert!(answered(&watch, vec![], also_before).is_empty());
        assert!(answered(&watch, vec![], after).is_empty());
        assert_eq!(list(&watch, vec![]).len(), 1);
    }

    #[test]
    fn accounting_says_how_it_ended_and_without_its_answer_nothing_is_gone() {
        let watch = Watch::new(vec![entry(1), entry(2)]);
        let begun = watch.begin();
        for _ in 0..5 {
            let (ended, missing) = watch.take_in(queue(vec![]), watch.begin());
            assert!(ended.is_empty());
            assert_eq!(missing.len(), 2);
        }
        let accounted = JobUsage {
            id: "1".parse().unwrap(),
            submitted_at: None,
            state: SlurmState::OutOfMemory,
            usage: Usage::default(),
        };
        let both = ["1", "2"].map(|id| id.parse().unwrap());
        let ended = watch.take_in_missing(&both, &[accounted], begun);
        assert_eq!(ended.len(), 1);
        let told = watch.states(&[entry(1).launch], None);
        assert_eq!(told[0].state, SlurmState::OutOfMemory);
        assert!(told[0].usage.is_some());
        assert!(states(&watch, &[2]).is_empty());
        list(&watch, vec![]);
        assert_eq!(states(&watch, &[2]), [SlurmState::Gone]);
    }

    #[test]
    fn what_the_ledger_lost_is_looked_for_in_the_list() {
        use SlurmState::{Gone, Running};
        let watch = Watch::new(vec![]);
        let alice = "alice".parse().unwrap();
        let (one, two) = (entry(1).launch, entry(2).launch);
        assert_eq!(watch.stray(one, &alice), None, "not asked yet");
        assert!(states(&watch, &[1, 2]).is_empty());
        list(&watch, vec![job(1, "17", Running)]);
        watch.looks.send_modify(|looks| *looks += 1);
        assert_eq!(watch.stray(one, &alice), Some(Some("17".parse().unwrap())));
        assert_eq!(watch.stray(one, &"bob".parse().unwrap()), Some(None));
        assert_eq!(watch.stray(two, &alice), Some(None));
        assert_eq!(states(&watch, &[1, 2]), [Running], "one list says nothing");
        list(&watch, vec![job(1, "17", Running)]);
        assert_eq!(states(&watch, &[1, 2]), [Running, Gone]);
        let told = watch.states(&[one, two], None);
        assert_eq!((&*told[0].slurm_job_id, &*told[1].slurm_job_id), ("17", ""));
        // The place of its user is taken, and nobody else's.
        watch.remember(intent(3));
        assert_eq!((seen(&watch, 3).of_user, seen(&watch, 3).total), (1, 0));
        watch.remember(intent(1));
        let of_user = seen(&watch, 3).of_user;
        assert_eq!(of_user, 1, "its number was lost in a power cut");
        list(&watch, vec![]);
        assert_eq!(states(&watch, &[1]), []);
        list(&watch, vec![]);
        list(&watch, vec![]);
        assert_eq!(states(&watch, &[1]), [Gone]);
        // Nobody asks any more.
        for _ in 0..ASKED_LISTS {
            list(&watch, vec![]);
        }
        assert!(watch.strays.lock().unwrap().asked.is_empty());
    }

    #[test]
    fn a_launcher_hears_of_its_own() {
        let (ours, theirs) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let of = |id, launcher| Entry {
            launcher,
            ..entry(id)
        };
        let entries = vec![of(1, Some(ours)), of(2, Some(theirs)), of(3, None)];
        let watch = Watch::new(entries);
        let running = |id: u128| job(id, &id.to_string(), SlurmState::Running);
        list(&watch, vec![running(1), running(2), running(3)]);
        let listed = watch.of_launcher(ours);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].launch, entry(1).launch);
        let all = [1, 2, 3].map(|id| entry(id).launch);
        assert_eq!(watch.states(&all, Some(ours)).len(), 2);
        assert_eq!(watch.states(&all, None).len(), 3, "of an earlier version");
    }

    #[test]
    fn usage_is_asked_for_ever_more_rarely_and_then_no_more() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let watch = Watch::new(vec![entry(1), entry(2)]);
        let over = SlurmJob {
            ended_at: Some(at(1000)),
            ..job(1, "1", SlurmState::Completed)
        };
        list(&watch, vec![over, job(2, "2", SlurmState::Running)]);
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
            state: SlurmState::Completed,
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
        let told = watch.states(&[entry(1).launch], None);
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

    /// What a launch sees beside it.
    fn seen(watch: &Watch, id: u128) -> Live {
        let seen = std::cell::Cell::new(Live::default());
        let own = entry(id).launch;
        let _ = watch.reserve(own, |entry, live| {
            if entry.launch == own {
                seen.set(live);
            }
            Err::<(), ()>(())
        });
        seen.get()
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
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
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
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
            .unwrap();
        let before = watch.begin();
        first.keep();
        answered(&watch, vec![], before);
        list(&watch, vec![]);
        assert_eq!(seen(&watch, 2), taken);
        list(&watch, vec![]);
        assert_eq!(seen(&watch, 2), Live::default());
        assert_eq!(watch.freed(), 2);
        // One with a Slurm job counts, reserved or not.
        let first = watch
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
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
        watch.take_in(others, watch.begin());
        let expected = Live {
            of_users_own: 7,
            total: 1,
            ..Live::default()
        };
        assert_eq!(seen(&watch, 4), expected);
    }

    fn at_most(most: u32, live: Live) -> Result<(), ()> {
        if live.total < most { Ok(()) } else { Err(()) }
    }

    #[test]
    fn those_that_wait_take_places_in_turn() {
        let of = |id, launcher, user: &str| Entry {
            launcher: Some(Uuid::from_u128(launcher)),
            slurm_user: user.parse().unwrap(),
            ..intent(id)
        };
        let mut entries: Vec<Entry> = (10..20).map(|id| of(id, 1, "alice")).collect();
        entries.extend((20..30).map(|id| of(id, 2, "alice")));
        entries.extend((30..40).map(|id| of(id, 2, "bob")));
        let watch = Watch::new(entries);
        // Two places; of bob's at most one.
        let asks = |id| {
            let place = watch.reserve(intent(id).launch, |entry, live| {
                let bobs = entry.slurm_user.as_str() == "bob";
                if bobs && live.of_user > 0 {
                    return Err(());
                }
                at_most(2, live)
            });
            place.is_ok_and(|place| {
                place.keep();
                true
            })
        };
        let ends = |id| watch.set_place(intent(id).launch, Place::None);
        assert!(asks(30) && asks(10));
        assert!(!asks(31) && !asks(20) && !asks(11));
        // bob waits longest, but may not have a second one.
        ends(10);
        assert!(!asks(11), "it is the other launcher's turn");
        assert!(asks(20));
        ends(20);
        assert!(asks(12) && !asks(21));
        ends(30);
        assert!(asks(31), "now he may");
        assert!(!asks(21) && !asks(32));
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
                    let allowed = |_: &Entry, live| at_most(most, live);
                    if let Ok(place) = watch.reserve(intent(id).launch, allowed) {
                        got.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        place.keep();
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), most);
    }
}
