//! Decides about the workflow jobs of a scope, and carries the planner's plans out. Runs under the scope's lock, in the transaction
//! that changed what is known.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::admission::{NotAdmitted, Standing, admit, for_class};
use gha_slurm_domain::launch::{Happening, NewLaunch, Why};
use gha_slurm_domain::planner::{Plan, PlannerLimits, SURPLUS_ORDER, plan};
use gha_slurm_domain::timeline::{Entry, Kind};
use gha_slurm_domain::workflow_job::Decision;
use gha_slurm_domain::{
    ClassId, LabelPolicy, LabelSet, Launch, LaunchId, LaunchState, WorkflowJob, WorkflowJobId,
};
use gha_slurm_storage::classes::{self, Which};
use gha_slurm_storage::{
    Database, ScopeLock, StorageError, launches, replan, repositories, stops, workflow_jobs,
};

/// Launches planned, or done without, for one class in one transaction; the rest follows in the next, so that the scope's lock is
/// given back in between.
const LAUNCHES_AT_ONCE: usize = 500;
/// Workflow jobs decided again in one transaction.
const DECIDED_AT_ONCE: i64 = 500;

/// What the site's settings say.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The cluster. Mappings to users of others are not served.
    pub cluster: String,
    /// Which labels are served.
    pub labels: LabelPolicy,
    /// Bounds.
    pub limits: PlannerLimits,
}

/// Decides about a workflow job and saves it, if that is news. Returns it, and the class that it newly belongs to.
pub(crate) async fn decide(
    lock: &mut ScopeLock<'_>,
    job: WorkflowJob,
    standing: &Standing,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(WorkflowJob, Option<ClassId>, Option<Entry>), StorageError> {
    let decision = match policy.labels.classify(&job.facts.labels) {
        Err(reason) if reason.is_mistake() => Decision::Refused(reason.to_string()),
        Err(reason) => Decision::NotOurs(reason.to_string()),
        Ok(asked) => match admit(standing, Some(&policy.cluster)) {
            Ok(mapping) => match mapping.charge.complete(asked) {
                Ok(resources) => {
                    let labels: LabelSet = job.facts.labels.iter().collect();
                    let class = classes::ensure(lock, &mapping.user, &labels, &resources).await?;
                    Decision::Ours(class)
                }
                Err(reason) => Decision::Refused(reason.to_string()),
            },
            Err(reason @ NotAdmitted::Unmapped) => Decision::WaitingForMapping(reason.to_string()),
            Err(reason) => Decision::Refused(reason.to_string()),
        },
    };
    Ok(match job.decided(decision, now) {
        Some((decided, entry)) => {
            let class = decided.class;
            (decided, class, entry)
        }
        None => (job, None, None),
    })
}

/// What happened that a plan may be based upon.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Classes whose demand or supply may have changed.
    pub(crate) classes: BTreeSet<ClassId>,
    /// Classes that a workflow job newly belongs to: one that was stopped gets one more attempt.
    pub(crate) fresh: BTreeSet<ClassId>,
    /// Classes that a workflow job belongs to no longer.
    pub(crate) left: BTreeSet<ClassId>,
    /// A workflow job that has caused no launch yet, with its trace.
    pub(crate) cause: Option<(ClassId, WorkflowJobId, Option<String>)>,
}

/// Plans the classes that something happened to.
pub(crate) async fn plan_classes(
    lock: &mut ScopeLock<'_>,
    news: &News,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let classes: Vec<ClassId> = news.classes.union(&news.fresh).copied().collect();
    plan_which(lock, Which::These(&classes), news, policy, now).await
}

async fn plan_which(
    lock: &mut ScopeLock<'_>,
    which: Which<'_>,
    news: &News,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let deadline = now + policy.limits.token_margin;
    for mut class in classes::standings(lock, which, deadline).await? {
        let failures = &mut class.view.failures;
        if news.fresh.contains(&class.id) && failures.are_too_many(&policy.limits) {
            failures.one_more_attempt(&policy.limits);
            classes::set_failures(lock, class.id, failures).await?;
        }
        let plan = plan(&class.view, &policy.limits, now);
        carry_out(lock, &class, &plan, news, policy, now).await?;
    }
    Ok(())
}

async fn carry_out(
    lock: &mut ScopeLock<'_>,
    class: &classes::Standing,
    plan: &Plan,
    news: &News,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    for id in &plan.expired {
        let why = Happening::NotWanted(Why::TokenExpiring);
        if let Some(before) = launches::load(lock, *id).await? {
            apply(lock, &before, why, now).await?;
        }
    }
    Box::pin(do_without(lock, class, plan.surplus, news, policy, now)).await?;
    if class.stopped != plan.stopped {
        classes::set_stopped(lock, class.id, plan.stopped.as_deref()).await?;
    }
    let launched = plan.launch.min(LAUNCHES_AT_ONCE);
    if launched > 0 {
        launch(lock, class.id, launched, plan, news, now).await?;
    }
    if plan.launch.max(plan.surplus) > LAUNCHES_AT_ONCE {
        let repository = lock.repository();
        replan::request(lock.conn(), repository, false, "more launches to plan").await?;
    }
    Ok(())
}

/// Withdraws what is surplus and has no runner token, and has idle runners released: those of `surplus`, and no others.
async fn do_without(
    lock: &mut ScopeLock<'_>,
    class: &classes::Standing,
    surplus: usize,
    news: &News,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let mut left = surplus.min(LAUNCHES_AT_ONCE);
    let mut releasing: Vec<LaunchId> = Vec::new();
    let repository = lock.repository();
    let standing = match (left, &class.view.stop) {
        (0, _) | (_, Some(_)) => None,
        _ => repositories::standing(lock.conn(), repository).await?,
    };
    let stopped = class.view.stop.as_ref();
    let stopped = stopped.map(|stop| Why::Stopped { stop: stop.clone() });
    for states in SURPLUS_ORDER {
        if left == 0 {
            break;
        }
        let found = launches::newest(lock, class.id, states, left).await?;
        left = left.saturating_sub(found.len());
        for before in found {
            let why = standing
                .as_ref()
                .and_then(|(_, standing)| {
                    let user = &before.class.slurm_user;
                    for_class(standing, user, Some(&policy.cluster))
                })
                .or_else(|| stopped.clone())
                .or_else(|| news.left.contains(&class.id).then_some(Why::Reassigned))
                .unwrap_or(Why::NoDemand);
            let is_idle = before.launch.state.stage() >= LaunchState::Registered;
            let happening = if is_idle {
                Happening::ReleaseWanted(why)
            } else {
                Happening::NotWanted(why)
            };
            let is_kept = apply(lock, &before, happening, now).await?;
            if is_kept {
                // Only GitHub knows whether it has work.
                releasing.push(before.launch.id);
            }
        }
    }
    for id in class.releasing.iter().filter(|id| !releasing.contains(id)) {
        if let Some(before) = launches::load(lock, *id).await? {
            apply(lock, &before, Happening::ReleaseNotWanted, now).await?;
        }
    }
    Ok(())
}

/// The class is being planned already, so nothing more has to be requested. Returns whether the launch still counts as supply.
async fn apply(
    lock: &mut ScopeLock<'_>,
    before: &launches::Loaded,
    happening: Happening,
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    let Ok(applied) = before.apply(happening, now) else {
        return Ok(before.launch.is_supply());
    };
    let _ = launches::save(lock, before, &applied, now).await?;
    Ok(applied.launch.is_supply())
}

async fn launch(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    count: usize,
    plan: &Plan,
    news: &News,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    // Which workflow job is the cause matters only for display: the one that just came is known already.
    let causes = match &news.cause {
        Some((of, job, trace)) if *of == class && count == 1 => vec![(*job, trace.clone())],
        _ => workflow_jobs::causes(lock, class, count as i64).await?,
    };
    let repository = lock.repository();
    let not_before = plan.not_before.unwrap_or(now);
    let new: Vec<Launch> = causes
        .into_iter()
        .map(|(cause, traceparent)| {
            let new = NewLaunch {
                id: LaunchId(uuid::Uuid::now_v7()),
                class,
                repository,
                cause,
                traceparent,
                not_before,
                verify_demand: plan.verify_demand,
            };
            Launch::planned(new, now)
        })
        .collect();
    let wait: TimeDelta = not_before - now;
    let detail = if wait > TimeDelta::zero() {
        format!(
            "A launch is planned, to be submitted in {} s",
            wait.num_seconds()
        )
    } else {
        "A launch is planned".to_owned()
    };
    let entry = Entry::new(Kind::Planned, now, detail);
    launches::plan(lock, &new, &entry, now).await
}

/// Takes the request to look at a scope again, and acts on it.
pub async fn take_replan_request(
    database: &Database,
    policy: &Policy,
    repository: gha_slurm_domain::RepositoryId,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    database
        .in_scope("replan", repository, async |mut lock: ScopeLock<'_>| {
            let Some(request) = replan::take(&mut lock).await? else {
                return Ok(());
            };
            let mut news = News::default();
            if request.forgive {
                if request.decided_through.0 == 0 {
                    classes::forgive(&mut lock).await?;
                }
                decide_again(&mut lock, request.decided_through, policy, &mut news, now).await?;
            }
            plan_which(&mut lock, Which::Active, &news, policy, now).await?;
            cancel_running(&mut lock, now).await
        })
        .await
}

/// Where an administrator stopped all launches and wants what runs to end, too, it is marked to be cancelled.
async fn cancel_running(lock: &mut ScopeLock<'_>, now: DateTime<Utc>) -> Result<(), StorageError> {
    let stop = stops::current(lock.conn()).await?;
    if !stop.is_some_and(|stop| stop.cancel_running) {
        return Ok(());
    }
    for before in launches::busy(lock).await? {
        apply(lock, &before, Happening::CancelWanted, now).await?;
    }
    Ok(())
}

/// Decides again about the next open workflow jobs after `done`. If there are more, the request is put back.
async fn decide_again(
    lock: &mut ScopeLock<'_>,
    done: WorkflowJobId,
    policy: &Policy,
    news: &mut News,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let repository = lock.repository();
    let Some((_, standing)) = repositories::standing(lock.conn(), repository).await? else {
        return Ok(());
    };
    let open = workflow_jobs::open(lock, done, DECIDED_AT_ONCE).await?;
    let last = open.last().map(WorkflowJob::id);
    let is_last_batch = (open.len() as i64) < DECIDED_AT_ONCE;
    for before in open {
        let (after, fresh, entry) = decide(lock, before.clone(), &standing, policy, now).await?;
        if after.class != before.class {
            news.left.extend(before.class);
        }
        if after != before {
            workflow_jobs::save(lock, Some(&before), &after, entry.as_slice(), now).await?;
        }
        news.fresh.extend(fresh);
    }
    match last {
        Some(last) if !is_last_batch => replan::put_back(lock, last).await,
        _ => Ok(()),
    }
}
