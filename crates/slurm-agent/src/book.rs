//! What the agent remembers of launches, and where their Slurm jobs stand. Values alone: no lock, no file, no call. `launches`
//! shares it, `ledger` keeps it on disk, `polling` feeds it.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::{Absence, Clock, LaunchId, SlurmJobId, SlurmState, SlurmUser};
use gha_slurm_slurm::{JobUsage, Numbers, Queue, SlurmJob, Submitted};
use uuid::Uuid;

use crate::ledger::Entry;

/// Accounting lags by seconds, or by as long as slurmdbd is down: slurmctld keeps the records for it meanwhile.
pub(crate) const USAGE_PATIENCE: TimeDelta = TimeDelta::days(1);
/// They are an argument, or part of a URL.
pub(crate) const MAX_USAGES_AT_ONCE: usize = 200;
/// What the launcher has not asked about for so many lists, it does not want to know any more.
pub(crate) const ASKED_LISTS: u64 = 20_000;
/// How long accounting is believed that a Slurm job is not over which is in no list. When slurmctld loses its state, such records are left
/// (`sacctmgr show runaway`), and launches that are lost must be replaced.
const RECORDS_COUNT: TimeDelta = TimeDelta::hours(1);

/// Every launch the agent remembers, and where its Slurm job stands.
pub struct Book {
    clock: Clock,
    known: HashMap<LaunchId, Known>,
    /// Those of `known` that have one of the places that the policy has.
    live: HashSet<LaunchId>,
    /// Those of `known` that ended, and whose usage is not known.
    unaccounted: HashSet<LaunchId>,
    /// Those of `known` that have a status, by the number of its last change.
    changes: BTreeMap<u64, LaunchId>,
    /// The number of the last change of a status.
    changed: u64,
    /// Launches whose Slurm job is not in the ledger, as of the last list: it was lost, or an answer of Slurm's. Their comment
    /// has to do, which anybody may write into a Slurm job of their own.
    strays: HashMap<LaunchId, Vec<SlurmJob>>,
    /// Launches in neither, that the launcher has asked about: it knows that they were submitted.
    asked: HashMap<LaunchId, Asked>,
    /// How many Slurm jobs are not gha-slurm's, by user, as of the last list, with those that only have the comment of a launch.
    others: HashMap<String, u32>,
    /// Users who had Slurm jobs in a list. Where Slurm may hide some of others, their Slurm jobs are not hidden.
    seen: HashSet<String>,
    /// Slurm is known to show everybody's Slurm jobs, as of the last list.
    shows_everybody: bool,
    /// How many lists were begun.
    begun: u64,
    /// Whether there was a list.
    listed: bool,
    /// How many places were given back.
    freed: u64,
    has_accounting: bool,
}

struct Asked {
    absence: Absence<u64>,
    /// How many lists were begun when it was asked last.
    last: u64,
}

struct Known {
    entry: Entry,
    status: Option<LaunchStatus>,
    /// The number of the last change of `status`; 0 while there is none.
    change: u64,
    /// slurmctld forgets Slurm jobs that are over, and may restart without its state.
    absence: Absence<u64>,
    /// A list had it.
    was_listed: bool,
    /// Since when no list has it that had it before, or could have.
    unlisted_since: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    usage_asked_at: Option<DateTime<Utc>>,
    place: Place,
}

/// Whether a launch without a known Slurm job takes one of the places that the policy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// No.
    None,
    /// It is being submitted.
    Taken,
    /// Slurm did not answer: it may have a Slurm job. Until lists show that it has none, or the launcher asks again.
    Doubtful,
}

impl Book {
    /// With what is in the ledger.
    pub fn new(entries: Vec<Entry>, clock: Clock) -> Self {
        let mut book = Self {
            clock,
            known: HashMap::new(),
            live: HashSet::new(),
            unaccounted: HashSet::new(),
            changes: BTreeMap::new(),
            changed: 0,
            strays: HashMap::new(),
            asked: HashMap::new(),
            others: HashMap::new(),
            seen: HashSet::new(),
            shows_everybody: false,
            begun: 0,
            listed: false,
            freed: 0,
            has_accounting: true,
        };
        for entry in entries {
            book.remember(entry);
        }
        book
    }

    /// Takes in what was just written to the ledger.
    pub fn remember(&mut self, entry: Entry) {
        let launch = entry.launch;
        let known = Known {
            entry,
            status: None,
            change: 0,
            absence: self.there_now(),
            was_listed: false,
            unlisted_since: None,
            since: self.clock.now(),
            usage_asked_at: None,
            place: Place::None,
        };
        if let Some(former) = self.known.insert(launch, known) {
            self.changes.remove(&former.change);
        }
        self.change(launch, |known| known.status = known.entry.ended.clone());
    }

    /// Changes what is known of a launch, and the indexes with it.
    fn change<T>(&mut self, launch: LaunchId, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let known = self.known.get_mut(&launch)?;
        let (status, had_place) = (known.status.clone(), known.has_place());
        let result = change(known);
        if known.status != status {
            self.changes.remove(&known.change);
            self.changed += 1;
            known.change = self.changed;
            self.changes.insert(known.change, launch);
        }
        if known.has_place() {
            self.live.insert(launch);
        } else {
            self.live.remove(&launch);
            self.freed += u64::from(had_place);
        }
        if known.lacks_usage() {
            self.unaccounted.insert(launch);
        } else {
            self.unaccounted.remove(&launch);
        }
        Some(result)
    }

    /// It is in Slurm now: lists that were begun before may be without it.
    fn there_now(&self) -> Absence<u64> {
        Absence::of_one_there(self.begun)
    }

    /// Launches that can be forgotten: over, and nobody can ask for them again since `before`.
    pub(crate) fn past(&self, before: DateTime<Utc>) -> Vec<LaunchId> {
        let past = self.known.values().filter(|known| known.is_past(before));
        past.map(|known| known.entry.launch).collect()
    }

    /// Forgets those of `launches` that still can be forgotten.
    pub(crate) fn forget(&mut self, launches: &[LaunchId], before: DateTime<Utc>) {
        for launch in launches {
            if self.known.get(launch).is_some_and(|k| k.is_past(before))
                && let Some(known) = self.known.remove(launch)
            {
                self.changes.remove(&known.change);
                self.live.remove(launch);
                self.unaccounted.remove(launch);
            }
        }
    }

    /// What is remembered of a launch.
    pub fn entry(&self, launch: LaunchId) -> Option<&Entry> {
        self.known.get(&launch).map(|known| &known.entry)
    }

    /// Launches that have one of the places that the policy has.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.live.iter().filter_map(|launch| self.entry(*launch))
    }

    /// The Slurm jobs that are not over and whose numbers are known: they are recognised by these.
    pub(crate) fn numbers(&self) -> Numbers {
        self.live().filter_map(Entry::submitted).collect()
    }

    /// How many Slurm jobs of `user` the last list has that are in no ledger and over in no list, besides those of `except`.
    pub(crate) fn strays_of(&self, user: &SlurmUser, except: LaunchId) -> usize {
        let strays = self.strays.iter();
        let others = strays.filter(|(id, _)| **id != except && !self.live.contains(id));
        others
            .flat_map(|(_, jobs)| jobs)
            .filter(|job| !job.state.is_over() && job.is_of(user))
            .count()
    }

    /// How many Slurm jobs of `user` the last list has that are not gha-slurm's.
    pub(crate) fn others_of(&self, user: &SlurmUser) -> u32 {
        self.others.get(user.as_str()).copied().unwrap_or(0)
    }

    pub(crate) fn set_place(&mut self, launch: LaunchId, place: Place) {
        let absence = self.there_now();
        self.change(launch, |known| {
            known.place = place;
            known.absence = absence;
        });
    }

    /// How many places of those that the policy has were given back: what waits for one may try when this has changed.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// The Slurm job of a launch of `user` that is not in the ledger, as the last list has it. `None`: there was no list
    /// yet.
    pub fn stray(&self, launch: LaunchId, user: &SlurmUser) -> Option<Option<SlurmJobId>> {
        if !self.listed {
            return None;
        }
        let mut jobs = self.strays.get(&launch).into_iter().flatten();
        let of_user = jobs.find(|job| job.is_of(user));
        Some(of_user.map(|job| job.id.clone()))
    }

    /// Where the Slurm jobs stand that are not over of those that the launcher with this id had submitted.
    pub fn of_launcher(&self, launcher: Uuid) -> Vec<LaunchStatus> {
        let live = self.live.iter().filter_map(|id| self.known.get(id));
        live.filter(|known| known.entry.launcher == Some(launcher))
            .filter_map(|known| known.status.clone())
            .collect()
    }

    /// The launches of a user that have a Slurm job that is not over, the oldest first.
    pub fn of_user(&self, user: &SlurmUser) -> Vec<(Entry, SlurmJobId, Option<LaunchStatus>)> {
        let live = self.live.iter().filter_map(|id| self.known.get(id));
        let mut own: Vec<_> = live
            .filter(|known| known.entry.slurm_user == *user)
            .filter_map(|known| {
                let id = known.entry.slurm_job_id.clone()?;
                Some((known.entry.clone(), id, known.status.clone()))
            })
            .collect();
        own.sort_by_key(|(entry, ..)| entry.intended_at);
        own
    }

    /// Last known status of each submitted launch; nothing about those of which nothing is known yet, or which another launcher
    /// than this had submitted. Of those whose number is not known here, whatever Slurm job of their user has their comment;
    /// of those that are not known at all, whatever Slurm job has it.
    pub fn states(&mut self, launches: &[LaunchId], launcher: Option<Uuid>) -> Vec<LaunchStatus> {
        let now = self.clock.now();
        let there_now = self.there_now();
        // Whose they are is not known here.
        let can_see = self.shows_everybody || !self.seen.is_empty();
        let mut states = Vec::new();
        for id in launches {
            let known = self.known.get(id);
            if known.is_some_and(|known| !known.entry.is_for(launcher)) {
                continue;
            }
            if let Some(known) = known.filter(|known| known.entry.slurm_job_id.is_some()) {
                states.extend(known.status.clone().map(|status| LaunchStatus {
                    usage_to_come: self.has_accounting && known.usage_to_come(now),
                    ..status
                }));
            } else if let Some(jobs) = self.strays.get(id) {
                let is_its = |job: &&SlurmJob| known.is_none_or(|k| job.is_of(&k.entry.slurm_user));
                states.extend(jobs.iter().filter(is_its).map(status));
            } else {
                let asked = self.asked.entry(*id).or_insert(Asked {
                    absence: there_now,
                    last: 0,
                });
                asked.last = self.begun;
                let is_gone = asked.absence.is_certain() && can_see;
                states.extend(is_gone.then(|| gone(*id, None)));
            }
        }
        states
    }

    /// At most `most` statuses that changed after the change number `since`, the oldest change first, and the number of the
    /// last one.
    pub(crate) fn changed_since(&self, since: u64, most: usize) -> (Vec<LaunchStatus>, u64) {
        let mut last = since;
        let mut statuses = Vec::new();
        for (number, launch) in self.changes.range(since + 1..).take(most) {
            last = *number;
            statuses.extend(self.known.get(launch).and_then(|k| k.status.clone()));
        }
        (statuses, last)
    }

    /// Whatever is there now is in the list that is begun now. Returns its number, for [`take_in`](Self::take_in).
    pub(crate) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Takes in a complete list that was begun as number `begun`. Returns the entries that have ended now, to be written down,
    /// and the Slurm jobs that it is without.
    pub(crate) fn take_in(&mut self, queue: Queue, begun: u64) -> (Vec<Entry>, Vec<SlurmJobId>) {
        self.listed = true;
        let now = self.clock.now();
        let mut others = queue.others;
        self.shows_everybody = queue.shows_everybody;
        let users = queue.ours.iter().map(|job| &job.user);
        for user in users.chain(others.keys()) {
            if !self.seen.contains(user) {
                self.seen.insert(user.clone());
            }
        }
        let mut listed: HashMap<LaunchId, Vec<SlurmJob>> = HashMap::new();
        for job in queue.ours {
            listed.entry(job.launch).or_default().push(job);
        }
        let (mut ended, mut missing) = (Vec::new(), Vec::new());
        let live: Vec<LaunchId> = self.live.iter().copied().collect();
        for id in live {
            let jobs = listed.get(&id).map_or(&[][..], Vec::as_slice);
            self.change(id, |known| match known.entry.slurm_job_id.clone() {
                None => {
                    if known.place == Place::Doubtful
                        && !jobs.iter().any(|job| job.is_of(&known.entry.slurm_user))
                    {
                        known.absence.missed(begun);
                        if known.absence.is_certain() {
                            known.place = Place::None;
                        }
                    }
                }
                // The backend recognised it by its number, whatever its comment. A user may copy that into a Slurm job of their own.
                Some(number) => {
                    let mut jobs = jobs.iter();
                    let its =
                        jobs.find(|job| job.id == number && job.is_of(&known.entry.slurm_user));
                    if let Some(job) = its {
                        known.absence.seen();
                        known.was_listed = true;
                        known.unlisted_since = None;
                        ended.extend(known.stands(status(job)));
                    } else {
                        known.unlisted_since.get_or_insert(now);
                        missing.push(number);
                    }
                }
            });
        }
        listed.retain(|id, jobs| match self.entry(*id) {
            Some(entry) if entry.slurm_job_id.is_some() => {
                // Copies of the comment, or its own Slurm job that its user had requeued after its end.
                let its = |job: &SlurmJob| {
                    entry.ended.is_none()
                        && entry.slurm_job_id.as_ref() == Some(&job.id)
                        && job.is_of(&entry.slurm_user)
                };
                for job in jobs.iter().filter(|job| !job.state.is_over() && !its(job)) {
                    *others.entry(job.user.clone()).or_default() += 1;
                }
                false
            }
            Some(entry) => {
                jobs.retain(|job| job.is_of(&entry.slurm_user));
                !jobs.is_empty()
            }
            // Whose it is, is not known here: the launcher compares the number.
            None => true,
        });
        self.asked
            .retain(|_, asked| begun.saturating_sub(asked.last) < ASKED_LISTS);
        for (id, asked) in &mut self.asked {
            if listed.contains_key(id) {
                asked.absence.seen();
            } else {
                asked.absence.missed(begun);
            }
        }
        self.strays = listed;
        self.others = others;
        (ended, missing)
    }

    /// Takes in what accounting knows of Slurm jobs that the list number `begun` was without: how they ended, or nothing.
    /// Returns the entries that have ended now.
    pub(crate) fn take_in_missing(
        &mut self,
        ids: &[SlurmJobId],
        jobs: &[JobUsage],
        begun: u64,
    ) -> Vec<Entry> {
        let missing: Vec<(LaunchId, SlurmJobId)> = self
            .live()
            .filter_map(|entry| Some((entry.launch, entry.slurm_job_id.clone()?)))
            .filter(|(_, number)| ids.contains(number))
            .collect();
        let now = self.clock.now();
        let mut ended = Vec::new();
        for (launch, number) in missing {
            let is_shown = self.is_shown(launch);
            self.change(launch, |known| {
                known.absence.missed(begun);
                if let Some(job) = jobs.iter().find(|job| is_end_of(job, &known.entry)) {
                    ended.extend(known.stands(LaunchStatus {
                        state: job.state,
                        usage: Some(job.usage.clone()),
                        ..gone(launch, Some(&number))
                    }));
                } else if jobs.iter().any(|job| known.is_counted_by(job, now)) {
                    known.absence.seen();
                } else if known.absence.is_certain() && (is_shown || known.entry.has_expired(now)) {
                    ended.extend(known.stands(gone(launch, Some(&number))));
                }
            });
        }
        ended
    }

    /// Whether lists would have a launch's Slurm job if Slurm had it: one had it, or a Slurm job of its user, or Slurm shows everybody's.
    fn is_shown(&self, launch: LaunchId) -> bool {
        self.shows_everybody
            || self.known.get(&launch).is_some_and(|known| {
                known.was_listed || self.seen.contains(known.entry.slurm_user.as_str())
            })
    }

    /// How many Slurm jobs were submitted that no list has, although none of their end is known: `PrivateData` may hide them.
    pub(crate) fn hidden(&self) -> usize {
        let live = self.live.iter().filter(|id| !self.is_shown(**id));
        live.filter_map(|id| self.known.get(id))
            .filter(|known| known.entry.slurm_job_id.is_some() && known.absence.is_certain())
            .count()
    }

    /// Ended Slurm jobs whose usage is to be asked for now: the longer ago they ended, the more rarely. No more than one
    /// call may name.
    pub(crate) fn usage_due(&mut self) -> Vec<SlurmJobId> {
        let now = self.clock.now();
        let mut due: Vec<(Option<DateTime<Utc>>, LaunchId)> = self
            .unaccounted
            .iter()
            .filter_map(|id| self.known.get(id))
            .filter(|known| known.usage_to_come(now))
            .filter(|known| {
                known
                    .usage_asked_at
                    .is_none_or(|at| now - at >= known.age(now) / 4)
            })
            .map(|known| (known.usage_asked_at, known.entry.launch))
            .collect();
        due.sort_by_key(|(asked_at, _)| *asked_at);
        due.truncate(MAX_USAGES_AT_ONCE);
        due.into_iter()
            .filter_map(|(_, id)| {
                let known = self.known.get_mut(&id)?;
                known.usage_asked_at = Some(now);
                known.entry.slurm_job_id.clone()
            })
            .collect()
    }

    /// Takes in what Slurm jobs used. Returns the entries that have it now, to be written down.
    pub(crate) fn take_in_usage(&mut self, jobs: &[JobUsage]) -> Vec<Entry> {
        let unaccounted: Vec<LaunchId> = self.unaccounted.iter().copied().collect();
        let changed = unaccounted.into_iter().filter_map(|launch| {
            self.change(launch, |known| {
                let job = jobs.iter().find(|job| is_end_of(job, &known.entry))?;
                let status = known.entry.ended.as_mut()?;
                status.usage = Some(job.usage.clone());
                known.status = Some(status.clone());
                Some(known.entry.clone())
            })
        });
        changed.flatten().collect()
    }

    /// Slurm keeps no accounting.
    pub(crate) fn has_no_accounting(&mut self) {
        self.has_accounting = false;
    }

    /// Whether Slurm may keep accounting.
    pub(crate) fn has_accounting(&self) -> bool {
        self.has_accounting
    }
}

/// How much a book holds.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) known: usize,
    pub(crate) live: usize,
    pub(crate) unaccounted: usize,
    pub(crate) changes: usize,
    pub(crate) strays: usize,
    pub(crate) asked: usize,
}

#[cfg(test)]
impl Book {
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            known: self.known.len(),
            live: self.live.len(),
            unaccounted: self.unaccounted.len(),
            changes: self.changes.len(),
            strays: self.strays.len(),
            asked: self.asked.len(),
        }
    }
}

/// Whether an accounting record is about the Slurm job of this entry.
fn is_of(job: &JobUsage, entry: &Entry, requeued: bool) -> bool {
    let is_its =
        |its: &Submitted| its.id == job.id && its.was_submitted(job.submitted_at, requeued);
    entry.submitted().as_ref().is_some_and(is_its)
}

/// Whether an accounting record says how the Slurm job of this entry ended. It may have been requeued before.
fn is_end_of(job: &JobUsage, entry: &Entry) -> bool {
    job.state.is_over() && is_of(job, entry, true)
}

impl Known {
    /// One of those that the policy has.
    fn has_place(&self) -> bool {
        self.entry.ended.is_none()
            && (self.entry.slurm_job_id.is_some() || self.place != Place::None)
    }

    /// Where it stands now. Returns the entry, if it has ended.
    fn stands(&mut self, status: LaunchStatus) -> Option<Entry> {
        let is_over = status.state.is_over();
        if is_over {
            self.entry.ended = Some(status.clone());
        }
        self.status = Some(status);
        is_over.then(|| self.entry.clone())
    }

    /// Whether a record of accounting counts as a list that has it.
    fn is_counted_by(&self, job: &JobUsage, now: DateTime<Utc>) -> bool {
        let unlisted = self.unlisted_since.map(|since| now - since);
        unlisted.is_none_or(|time| time < RECORDS_COUNT)
            && !job.state.is_over()
            && is_of(job, &self.entry, false)
    }

    fn lacks_usage(&self) -> bool {
        let ended = self.entry.ended.as_ref();
        ended.is_some_and(|status| status.usage.is_none()) && self.entry.slurm_job_id.is_some()
    }

    /// Whether what it used is not known yet, and still asked for.
    fn usage_to_come(&self, now: DateTime<Utc>) -> bool {
        self.lacks_usage() && self.age(now) < USAGE_PATIENCE
    }

    /// How long ago it ended, or how long it has been known where its end was not seen.
    fn age(&self, now: DateTime<Utc>) -> TimeDelta {
        let ended = self.entry.ended.as_ref().and_then(|s| s.ended_at);
        now - ended.unwrap_or(self.since)
    }

    fn is_past(&self, before: DateTime<Utc>) -> bool {
        self.place == Place::None && self.entry.is_past(before)
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
