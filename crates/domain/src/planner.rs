//! Demand and supply of runner classes → what to launch and what to withdraw.
//!
//! GitHub gives *any* eligible runner to *any* eligible workflow job, so nothing binds a runner to "its" workflow job:
//! the planner only counts. For each class, supply shall equal demand. It is level-triggered: it looks at how things
//! stand, never at what just happened, so running it once more is harmless and running it after a crash is the cure.

use chrono::{DateTime, TimeDelta, Utc};

use crate::ids::LaunchId;

/// What stands between a runner and a workflow job, for one launch that still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupplyStage {
    /// Planned, not submitted.
    Planned,
    /// Submitted to Slurm, no callback yet.
    Submitted,
    /// Called back; the runner token is being minted.
    Redeeming,
    /// Has a runner token and says nothing of a workflow job. It may have one all the same: only GitHub can tell, by letting
    /// it be deregistered or not.
    Idle,
    /// A workflow job started in it; which one is not known yet. Never withdrawn by us.
    Busy,
}

/// One launch that counts as supply: it is on the way or has a runner, and no workflow job is attributed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supply {
    /// Which launch.
    pub launch: LaunchId,
    /// How far it is.
    pub stage: SupplyStage,
    /// When it was planned; the newest is withdrawn first.
    pub planned_at: DateTime<Utc>,
    /// When its launch token expires, once signed.
    pub token_expires_at: Option<DateTime<Utc>>,
}

/// How one runner class stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassView {
    /// Queued workflow jobs that may have a runner now (ours, mapped, allowed).
    pub demand: usize,
    /// What is on the way to them.
    pub supply: Vec<Supply>,
    /// Runners of this class that ended in a row without a workflow job.
    pub failures: u32,
    /// When the last of them ended.
    pub last_failure_at: Option<DateTime<Utc>>,
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
    /// Launches to withdraw, newest first.
    pub withdraw: Vec<LaunchId>,
    /// Launches whose runner shall be deregistered, newest first, and which are withdrawn if GitHub lets that happen.
    pub release: Vec<LaunchId>,
    /// Pending launches whose launch token is about to expire: withdraw them too; `launch` counts their successors.
    pub expired: Vec<LaunchId>,
    /// Nothing is launched although there is demand: too many failures in a row.
    pub given_up: bool,
}

/// Plans one class at the time `now`.
pub fn plan(class: &ClassView, limits: &PlannerLimits, now: DateTime<Utc>) -> Plan {
    let expiring = |s: &&Supply| {
        matches!(s.stage, SupplyStage::Planned | SupplyStage::Submitted)
            && s.token_expires_at
                .is_some_and(|at| at <= now + limits.token_margin)
    };
    let mut result = Plan {
        expired: class
            .supply
            .iter()
            .filter(expiring)
            .map(|s| s.launch)
            .collect(),
        ..Plan::default()
    };
    let counted: Vec<&Supply> = class.supply.iter().filter(|s| !expiring(s)).collect();
    if counted.len() < class.demand {
        if class.failures >= limits.max_failures {
            result.given_up = true;
            return result;
        }
        result.launch = class.demand - counted.len();
        if class.failures > 0 {
            result.verify_demand = true;
            let doublings = class.failures.saturating_sub(1).min(20);
            let wait = (limits.backoff_base * (1 << doublings)).min(limits.backoff_cap);
            result.not_before = class
                .last_failure_at
                .map(|at| at + wait)
                .filter(|at| *at > now);
        }
    } else if counted.len() > class.demand {
        let mut surplus: Vec<&Supply> = counted
            .iter()
            .copied()
            .filter(|s| s.stage != SupplyStage::Busy)
            .collect();
        // Cheapest first: what never reached Slurm, then what waits there; the newest of each.
        surplus.sort_by_key(|s| {
            (
                stage_order(s.stage),
                std::cmp::Reverse((s.planned_at, s.launch)),
            )
        });
        surplus.truncate(counted.len() - class.demand);
        let (idle, pending): (Vec<&Supply>, Vec<&Supply>) = surplus
            .into_iter()
            .partition(|s| s.stage == SupplyStage::Idle);
        result.withdraw = pending.iter().map(|s| s.launch).collect();
        result.release = idle.iter().map(|s| s.launch).collect();
    }
    result
}

fn stage_order(stage: SupplyStage) -> u8 {
    match stage {
        SupplyStage::Planned => 0,
        SupplyStage::Submitted => 1,
        SupplyStage::Redeeming => 2,
        SupplyStage::Idle => 3,
        SupplyStage::Busy => 4,
    }
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

    fn supply(n: u128, stage: SupplyStage, age: i64) -> Supply {
        Supply {
            launch: LaunchId(Uuid::from_u128(n)),
            stage,
            planned_at: now() - TimeDelta::seconds(age),
            token_expires_at: Some(now() + TimeDelta::hours(20)),
        }
    }

    #[test]
    fn demand_without_supply_is_launched() {
        let class = ClassView {
            demand: 3,
            ..Default::default()
        };
        assert_eq!(plan(&class, &PlannerLimits::default(), now()).launch, 3);
    }

    #[test]
    fn newest_pending_is_withdrawn_first_then_idle_ones_are_released_and_busy_ones_never() {
        let class = ClassView {
            demand: 2,
            supply: vec![
                supply(1, SupplyStage::Busy, 1),
                supply(2, SupplyStage::Submitted, 50),
                supply(3, SupplyStage::Submitted, 10),
                supply(4, SupplyStage::Planned, 90),
                supply(5, SupplyStage::Idle, 30),
                supply(6, SupplyStage::Idle, 20),
            ],
            ..Default::default()
        };
        let ids = |ids: &[LaunchId]| ids.iter().map(|a| a.0.as_u128()).collect::<Vec<_>>();
        let p = plan(&class, &PlannerLimits::default(), now());
        assert_eq!(ids(&p.withdraw), [4, 3, 2]);
        assert_eq!(ids(&p.release), [6]);
    }

    #[test]
    fn failures_back_off_and_end() {
        let limits = PlannerLimits::default();
        let mut class = ClassView {
            demand: 1,
            failures: 2,
            last_failure_at: Some(now()),
            ..Default::default()
        };
        let p = plan(&class, &limits, now());
        assert_eq!(
            (p.launch, p.verify_demand, p.not_before),
            (1, true, Some(now() + TimeDelta::seconds(20)))
        );
        class.failures = limits.max_failures;
        let p = plan(&class, &limits, now());
        assert_eq!((p.launch, p.given_up), (0, true));
    }

    #[test]
    fn an_expiring_launch_token_is_replaced_not_counted() {
        let mut old = supply(1, SupplyStage::Submitted, 90_000);
        old.token_expires_at = Some(now() + TimeDelta::seconds(30));
        let class = ClassView {
            demand: 1,
            supply: vec![old],
            ..Default::default()
        };
        let p = plan(&class, &PlannerLimits::default(), now());
        assert_eq!((p.launch, p.expired.len(), p.withdraw.len()), (1, 1, 0));
    }

    fn any_stage() -> impl Strategy<Value = SupplyStage> {
        prop_oneof![
            Just(SupplyStage::Planned),
            Just(SupplyStage::Submitted),
            Just(SupplyStage::Redeeming),
            Just(SupplyStage::Idle),
            Just(SupplyStage::Busy)
        ]
    }

    proptest! {
        /// Rule 3: after carrying a plan out, supply equals demand wherever it lawfully can, and a second look changes
        /// nothing.
        #[test]
        fn planning_converges(demand in 0usize..12, stages in proptest::collection::vec((any_stage(), 0i64..1000), 0..16)) {
            let limits = PlannerLimits::default();
            let class = ClassView {
                demand,
                supply: stages.iter().enumerate().map(|(i, (s, age))| supply(i as u128 + 1, *s, *age)).collect(),
                ..Default::default()
            };
            let p = plan(&class, &limits, now());
            prop_assert!(p.launch == 0 || p.withdraw.is_empty());
            let busy = class.supply.iter().filter(|s| s.stage == SupplyStage::Busy).count();
            let mut after = class.clone();
            after.supply.retain(|s| !p.withdraw.contains(&s.launch) && !p.release.contains(&s.launch));
            for i in 0..p.launch {
                after.supply.push(supply(1000 + i as u128, SupplyStage::Planned, 0));
            }
            prop_assert_eq!(after.supply.len(), demand.max(busy));
            prop_assert_eq!(plan(&after, &limits, now()), Plan::default());
        }

        #[test]
        fn what_may_have_work_is_withdrawn_only_if_github_agrees(demand in 0usize..6, stages in proptest::collection::vec(any_stage(), 0..10)) {
            let class = ClassView {
                demand,
                supply: stages.iter().enumerate().map(|(i, s)| supply(i as u128 + 1, *s, 5)).collect(),
                ..Default::default()
            };
            let stage_of = |id| class.supply.iter().find(|s| s.launch == id).unwrap().stage;
            let p = plan(&class, &PlannerLimits::default(), now());
            for gone in p.withdraw {
                prop_assert!(stage_order(stage_of(gone)) < stage_order(SupplyStage::Idle));
            }
            for idle in p.release {
                prop_assert_eq!(stage_of(idle), SupplyStage::Idle);
            }
        }
    }
}
