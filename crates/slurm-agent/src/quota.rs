//! Places that the policy has, and whose turn it is when several wait for one: otherwise whoever asks first would have all.

use std::time::{Duration, Instant};

use gha_slurm_domain::LaunchId;
use gha_slurm_policy::Live;

use crate::book::Book;
use crate::ledger::Entry;

/// Seconds after which a launcher asks again where a limit is reached: until something of the user's ends.
pub(crate) const RETRY_AFTER_S: u64 = 30;
/// Who waits asks again in this time, or waits no more. Some seconds are for the way.
const PATIENCE: Duration = Duration::from_secs(RETRY_AFTER_S + 5);

/// Whether a launch may have a place, if `allowed` says so of those that are taken beside it. What others may have who wait
/// longer counts as taken. The caller marks the place in the book before anybody else asks.
pub(crate) fn admit<E>(
    book: &Book,
    waiting: &mut Waiting,
    launch: LaunchId,
    allowed: impl Fn(&Entry, Live) -> Result<(), E>,
) -> Result<(), E> {
    let Some(own) = book.entry(launch) else {
        return Ok(());
    };
    let now = Instant::now();
    let before = waiting.before(own, now);
    let mut taken: Vec<&Entry> = book.live().filter(|entry| entry.launch != launch).collect();
    for other in &before {
        if allowed(other, live(book, &taken, other)).is_ok() {
            taken.push(other);
        }
    }
    if let Err(refusal) = allowed(own, live(book, &taken, own)) {
        waiting.refused(own.clone(), now);
        return Err(refusal);
    }
    waiting.served(own);
    Ok(())
}

/// What counts for `own`, when those places are taken.
fn live(book: &Book, taken: &[&Entry], own: &Entry) -> Live {
    let count = |counts: fn(&Entry, &Entry) -> bool| {
        taken.iter().filter(|entry| counts(entry, own)).count() as u32
    };
    // Of the user's alone: such comments must not take the places of others.
    let strays = book.strays_of(&own.slurm_user, own.launch) as u32;
    Live {
        of_user: count(|entry, own| entry.slurm_user == own.slurm_user) + strays,
        of_users_own: book.others_of(&own.slurm_user),
        of_repository: count(|entry, own| entry.repository_id == own.repository_id),
        total: taken.len() as u32,
    }
}

/// Launchers, Slurm users and repositories that wait for a place, the longest first: each as the launch that asked for it last.
#[derive(Default)]
pub(crate) struct Waiting(Vec<(Entry, Instant)>);

impl Waiting {
    /// Those that wait longer than whoever `entry` is for.
    pub(crate) fn before(&mut self, entry: &Entry, now: Instant) -> Vec<Entry> {
        self.0
            .retain(|(_, asked)| now.duration_since(*asked) < PATIENCE);
        let waiting = self.0.iter().map(|(waiting, _)| waiting);
        waiting
            .take_while(|waiting| !is_for_the_same(waiting, entry))
            .cloned()
            .collect()
    }

    /// It has no place yet.
    pub(crate) fn refused(&mut self, entry: Entry, now: Instant) {
        let same = |(waiting, _): &&mut (Entry, Instant)| is_for_the_same(waiting, &entry);
        match self.0.iter_mut().find(same) {
            Some(waiting) => *waiting = (entry, now),
            None => self.0.push((entry, now)),
        }
    }

    /// It has a place: the next one is for somebody else.
    pub(crate) fn served(&mut self, entry: &Entry) {
        self.0
            .retain(|(waiting, _)| !is_for_the_same(waiting, entry));
    }
}

fn is_for_the_same(one: &Entry, other: &Entry) -> bool {
    one.launcher == other.launcher
        && one.slurm_user == other.slurm_user
        && one.repository_id == other.repository_id
}
