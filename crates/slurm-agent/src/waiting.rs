//! Whose turn it is when a place is free that several wait for: otherwise who hears of it first would have all of them.

use std::time::{Duration, Instant};

use crate::ledger::Entry;
use crate::start::LIMIT_RETRY_AFTER_S;

/// Who waits asks again in this time, or waits no more. Some seconds are for the way.
const PATIENCE: Duration = Duration::from_secs(LIMIT_RETRY_AFTER_S + 5);

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
