//! What a runner class remembers of its failures, and when it is stopped because of them.

use chrono::{DateTime, TimeDelta, Utc};

use crate::planner::PlannerLimits;

/// Failures of a class in a row: launches that ended without a workflow job although one waited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last one ended.
    pub last_at: Option<DateTime<Utc>>,
    /// Why the last one ended, for people.
    pub last_reason: Option<String>,
    /// The agent or Slurm refused the class for good: another attempt needs a change of policy or mapping.
    pub is_refused: bool,
}

impl Failures {
    /// One more launch failed.
    pub fn failed(&mut self, reason: &str, now: DateTime<Utc>) {
        self.count = self.count.saturating_add(1);
        self.last_at = Some(now);
        self.last_reason = Some(reason.to_owned());
    }

    /// Slurm lost a launch. Unless another failure was counted since it was planned: what takes one with it (a node fails, slurmctld
    /// comes back without its state) often takes many, and is one failure.
    pub fn lost(&mut self, planned_at: DateTime<Utc>, reason: &str, now: DateTime<Utc>) {
        let is_counted = self.count > 0 && self.last_at.is_some_and(|last| last >= planned_at);
        if !is_counted {
            self.failed(reason, now);
        }
    }

    /// Refused for good.
    pub fn refused(&mut self, reason: &str, now: DateTime<Utc>) {
        self.failed(reason, now);
        self.is_refused = true;
    }

    /// A workflow job started, or policy or mapping changed: a fresh start. The last reason stays for people.
    pub fn forgive(&mut self) {
        self.count = 0;
        self.is_refused = false;
    }

    /// Something new arrived for a class that was stopped: one more attempt.
    pub fn one_more_attempt(&mut self, limits: &PlannerLimits) {
        if self.are_too_many(limits) {
            self.count = limits.max_failures.saturating_sub(1);
            self.is_refused = false;
        }
    }

    /// Whether nothing is launched for the class any more.
    pub fn are_too_many(&self, limits: &PlannerLimits) -> bool {
        self.is_refused || self.count >= limits.max_failures
    }

    /// The earliest time of the next attempt, where that is still to come.
    pub fn next_attempt_at(
        &self,
        limits: &PlannerLimits,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        if self.count == 0 {
            return None;
        }
        let doublings = self.count.saturating_sub(1).min(20);
        let wait = limits
            .backoff_base
            .checked_mul(1 << doublings)
            .unwrap_or(TimeDelta::MAX)
            .min(limits.backoff_cap);
        self.last_at.map(|at| at + wait).filter(|at| *at > now)
    }

    /// Why nothing is launched, for people.
    pub fn explained(&self) -> String {
        let last = self.last_reason.as_deref().unwrap_or("unknown");
        if self.is_refused {
            format!("Refused: {last}")
        } else {
            format!(
                "Stopped after {} failed attempts. Last error: {last}",
                self.count
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + s, 0).unwrap()
    }

    #[test]
    fn what_is_lost_together_counts_once() {
        let mut failures = Failures::default();
        failures.lost(at(0), "node failed", at(10));
        failures.lost(at(1), "node failed", at(11));
        assert_eq!(failures.count, 1);
        failures.lost(at(12), "node failed", at(20));
        assert_eq!(failures.count, 2);
    }

    #[test]
    fn a_refusal_stops_at_once_and_something_new_gets_one_attempt() {
        let limits = PlannerLimits::default();
        let mut failures = Failures::default();
        failures.refused("no such partition", at(0));
        assert!(failures.are_too_many(&limits));
        assert_eq!(failures.explained(), "Refused: no such partition");
        failures.one_more_attempt(&limits);
        assert!(!failures.are_too_many(&limits));
        failures.failed("no such partition", at(1));
        assert!(failures.are_too_many(&limits));
        failures.forgive();
        assert_eq!(failures.next_attempt_at(&limits, at(2)), None);
    }

    #[test]
    fn attempts_are_further_and_further_apart() {
        let limits = PlannerLimits::default();
        let mut failures = Failures::default();
        let mut last = TimeDelta::zero();
        for _ in 0..40 {
            failures.failed("x", at(0));
            let wait = failures.next_attempt_at(&limits, at(0)).unwrap() - at(0);
            assert!(wait >= last && wait <= limits.backoff_cap);
            last = wait;
        }
        assert_eq!(last, limits.backoff_cap);
    }
}
