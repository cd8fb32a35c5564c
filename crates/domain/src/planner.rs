//! Demand and supply of runner classes → what to launch and what to withdraw.
//!
//! GitHub gives *any* eligible runner to *any* eligible workflow job, so nothing binds a runner to "its" workflow job:
//! the planner only counts. For each class, supply must equal demand. It is level-triggered: it looks at how things
//! stand, never at what just happened, so running it once more is harmless and running it after a crash is the cure.

use chrono::{DateTime, TimeDelta, Utc};

use crate::ids::LaunchId;
use crate::launch::LaunchState;
use crate::runner_class::Failures;
use crate::stop::Stop;

/// How one runner class stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassView {
    /// Queued workflow jobs that may have a runner now (mapped, allowed, for this cluster).
    pub demand: usize,
    /// Launches that count as supply ([`Launch::is_supply`](crate::Launch::is_supply)).
    pub supply: usize,
    /// Those of them whose launch token is about to expire while they wait to start.
    pub expiring: Vec<LaunchId>,
    /// How often it failed.
    pub failures: Failures,
    /// All launches are stopped: none is wanted, whatever waits.
    pub stop: Option<Stop>,
}

/// Bounds of the planner, from the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannerLimits {
    /// After so many runners in a row that ended without a workflow job, a class is given up until something new
    /// arrives.
    pub max_failures: u32,
    /// Wait before the second attempt; doubled for each further one.
    pub backoff_base: TimeDelta,
    /// Longest wait between attempts.
    pub backoff_cap: TimeDelta,
    /// A launch whose launch token expires sooner than this is replaced, not counted.
    pub token_margin: TimeDelta,
}

impl Default for PlannerLimits {
    fn default() -> Self {
        Self {
            max_failures: 5,
            backoff_base: TimeDelta::seconds(10),
            backoff_cap: TimeDelta::minutes(15),
            token_margin: TimeDelta::minutes(5),
        }
    }
}

/// What to do for one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// New launches to plan.
    pub launch: usize,
    /// Not to be submitted before this time (backoff after failures).
    pub not_before: Option<DateTime<Utc>>,
    /// The class failed before: look the workflow jobs up at GitHub before submitting (it may have forgotten them).
    pub verify_demand: bool,
    /// Launches to do without, in [`SURPLUS_ORDER`]: withdrawn, or released where GitHub agrees.
    pub surplus: usize,
    /// Pending launches whose launch token is about to expire: withdrawn, too; `launch` counts their successors.
    pub expired: Vec<LaunchId>,
    /// Nothing is launched although there is demand: why, for people.
    pub stopped: Option<String>,
}

/// Which launches a class does without first: what never reached Slurm, then what waits there, then what has no runner token yet,
/// then idle runners, which GitHub must let go; the newest of each. Never a busy one: it is not here.
pub const SURPLUS_ORDER: [&[LaunchState]; 4] = [
    &[LaunchState::Planned],
    &[LaunchState::Submitted],
    &[LaunchState::Redeeming],
    &[LaunchState::Registered, LaunchState::Listening],
];

/// Plans one class at the time `now`.
pub fn plan(class: &ClassView, limits: &PlannerLimits, now: DateTime<Utc>) -> Plan {
    let mut result = Plan {
        expired: class.expiring.clone(),
        ..Plan::default()
    };
    let counted = class.supply.saturating_sub(class.expiring.len());
    if let Some(stop) = &class.stop {
        result.surplus = counted;
        result.stopped = (class.demand > 0).then(|| stop.explained());
        return result;
    }
    result.surplus = counted.saturating_sub(class.demand);
    let missing = class.demand.saturating_sub(counted);
    if missing == 0 {
        return result;
    }
    let failures = &class.failures;
    if failures.are_too_many(limits) {
        result.stopped = Some(failures.explained());
        return result;
    }
    result.launch = missing;
    result.verify_demand = failures.count > 0;
    result.not_before = failures.next_attempt_at(limits, now);
    result
}

/// Whether the broker may give out one more runner token for a class: only while the runners that were already given
/// one and have no workflow job yet are fewer than the queued workflow jobs.
pub fn may_issue(demand: usize, redeemed_and_unattributed: usize) -> bool {
    redeemed_and_unattributed < demand
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn class(demand: usize, supply: usize) -> ClassView {
        ClassView {
            demand,
            supply,
            ..ClassView::default()
        }
    }

    #[test]
    fn failures_back_off_and_stop() {
        let limits = PlannerLimits::default();
        let mut view = class(1, 0);
        view.failures.failed("x", now());
        view.failures.failed("node failed", now());
        let p = plan(&view, &limits, now());
        assert_eq!(
            (p.launch, p.verify_demand, p.not_before),
            (1, true, Some(now() + TimeDelta::seconds(20)))
        );
        view.failures.count = limits.max_failures;
        let p = plan(&view, &limits, now());
        assert_eq!(p.launch, 0);
        assert_eq!(
            p.stopped.as_deref(),
            Some("Stopped after 5 failed attempts. Last error: node failed")
        );
    }

    #[test]
    fn an_expiring_launch_token_is_replaced_not_counted() {
        let mut view = class(1, 1);
        view.expiring = vec![LaunchId(Uuid::nil())];
        let p = plan(&view, &PlannerLimits::default(), now());
        assert_eq!((p.launch, p.expired.len(), p.surplus), (1, 1, 0));
    }

    #[test]
    fn nothing_is_wanted_while_launches_are_stopped() {
        let stop = Stop {
            since: now(),
            reason: "a key was stolen".into(),
        };
        let stopped = |demand, supply| {
            let stop = Some(stop.clone());
            let view = ClassView {
                stop,
                ..class(demand, supply)
            };
            plan(&view, &PlannerLimits::default(), now())
        };
        let p = stopped(3, 2);
        assert_eq!((p.launch, p.surplus), (0, 2));
        assert_eq!(
            p.stopped.as_deref(),
            Some("all launches are stopped since 2027-01-15 08:00 UTC: a key was stolen")
        );
        assert_eq!(stopped(0, 0), Plan::default());
    }

    #[test]
    fn a_busy_runner_is_in_no_order_of_surplus() {
        for states in SURPLUS_ORDER {
            assert!(states.iter().all(|state| *state < LaunchState::Busy));
        }
    }

    proptest! {
        /// Rule 3: after a plan is carried out, supply equals demand, and a second look changes nothing.
        #[test]
        fn planning_converges(demand in 0usize..12, supply in 0usize..16) {
            let limits = PlannerLimits::default();
            let p = plan(&class(demand, supply), &limits, now());
            prop_assert!(p.launch == 0 || p.surplus == 0);
            let after = class(demand, supply + p.launch - p.surplus);
            prop_assert_eq!(after.supply, demand);
            prop_assert_eq!(plan(&after, &limits, now()), Plan::default());
        }
    }
}
