//! Decides about the workflow jobs of a scope, and carries the planner's plan out. Runs under the scope's lock, in the
//! transaction that changed what is known.

use chrono::{DateTime, Utc};
use gha_slurm_domain::admission::{NotAdmitted, Standing, admit};
use gha_slurm_domain::planner::{PlannerLimits, plan};
use gha_slurm_domain::{
    LabelPolicy, LabelSet, LaunchId, RepositoryId, ResourceRequest, SlurmUser, WorkflowJobId,
};
use gha_slurm_storage::launches::{self, NewLaunch, ScopeClass};
use gha_slurm_storage::timeline::{self, Entry};
use gha_slurm_storage::workflow_jobs::{self, ClassId, WorkflowJob};
use gha_slurm_storage::{AsyncPgConnection, StorageError, repositories};

/// What the site's settings say.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which labels are ours.
    pub labels: LabelPolicy,
    /// Bounds.
    pub limits: PlannerLimits,
}

/// What is decided about one workflow job.
enum Decision {
    Ours(Box<ResourceRequest>, SlurmUser),
    NotOurs(String),
    Waiting(String),
    Refused(String),
}

fn decide(job: &WorkflowJob, standing: &Standing, policy: &Policy) -> Decision {
    let resources = match policy.labels.classify(&job.labels) {
        Ok(resources) => resources,
        Err(reason) => return Decision::NotOurs(reason.to_string()),
    };
    match admit(standing) {
        Ok(mapping) => Decision::Ours(Box::new(mapping.complete(resources)), mapping.user),
        Err(reason @ NotAdmitted::Unmapped) => Decision::Waiting(reason.to_string()),
        Err(reason) => Decision::Refused(reason.to_string()),
    }
}

/// Looks at a scope again. The caller holds its lock. Harmless to repeat.
pub async fn replan(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let Some(standing) = repositories::standing(conn, scope).await? else {
        return Ok(());
    };
    let mut fresh = Vec::new();
    for job in workflow_jobs::open_in_scope(conn, scope).await? {
        if let Some(class) =
            record_decision(conn, scope, &job, decide(&job, &standing, policy), now).await?
        {
            fresh.push(class);
        }
    }
    for mut class in launches::scope_classes(conn, scope).await? {
        if fresh.contains(&class.id) && class.view.failures >= policy.limits.max_failures {
            // Something new came for a class that was given up: one more attempt.
            class.view.failures = policy.limits.max_failures.saturating_sub(1);
            workflow_jobs::set_failures(conn, class.id, class.view.failures as i32).await?;
        }
        carry_out(conn, scope, &class, policy, now).await?;
    }
    Ok(())
}

/// Records what changed; returns the class that a workflow job newly belongs to.
async fn record_decision(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    job: &WorkflowJob,
    decision: Decision,
    now: DateTime<Utc>,
) -> Result<Option<ClassId>, StorageError> {
    let id = WorkflowJobId(job.id);
    let (verdict, reason, class) = match decision {
        Decision::Ours(resources, user) => {
            let labels: LabelSet = job.labels.iter().collect();
            let class =
                workflow_jobs::ensure_class(conn, scope, &user, &labels, &resources).await?;
            ("ours", None, Some(class))
        }
        Decision::NotOurs(reason) => ("not_ours", Some(reason), None),
        Decision::Waiting(reason) => ("waiting_for_mapping", Some(reason), None),
        Decision::Refused(reason) => ("refused", Some(reason), None),
    };
    let same_class = job.class_id == class.map(|c| c.0);
    if job.verdict == verdict && same_class && (job.reason == reason || class.is_some()) {
        return Ok(None);
    }
    workflow_jobs::set_verdict(conn, id, verdict, reason.as_deref(), class, now).await?;
    if let Some(reason) = reason {
        timeline::append(conn, &[Entry::workflow_job(now, id, verdict, reason)]).await?;
    }
    Ok(class)
}

async fn carry_out(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    class: &ScopeClass,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let plan = plan(&class.view, &policy.limits, now);
    launches::withdraw(
        conn,
        &plan.expired,
        "its launch token is about to expire",
        now,
    )
    .await?;
    launches::withdraw(
        conn,
        &plan.withdraw,
        "no queued workflow job waits for it any more",
        now,
    )
    .await?;
    launches::want_released(conn, class.id, &plan.release, now).await?;
    if plan.given_up {
        let last = class.last_failure_reason.as_deref().unwrap_or("unknown");
        let reason = format!(
            "given up after {} runners in a row ended without a workflow job; the last: {last}",
            class.view.failures
        );
        for (id, _) in &class.queued {
            workflow_jobs::set_verdict(conn, *id, "ours", Some(&reason), Some(class.id), now)
                .await?;
        }
        return Ok(());
    }
    // Workflow jobs that caused nothing yet come first; which one it is matters only for display.
    let mut causes: Vec<&(WorkflowJobId, Option<String>)> = class
        .queued
        .iter()
        .filter(|(id, _)| !class.causes.contains(id))
        .collect();
    causes.extend(
        class
            .queued
            .iter()
            .filter(|(id, _)| class.causes.contains(id)),
    );
    let new: Vec<NewLaunch> = causes
        .into_iter()
        .take(plan.launch)
        .map(|(cause, traceparent)| NewLaunch {
            id: LaunchId(uuid::Uuid::now_v7()),
            class: class.id,
            repository: scope,
            cause: *cause,
            not_before: plan.not_before.unwrap_or(now),
            verify_demand: plan.verify_demand,
            traceparent: traceparent.clone(),
        })
        .collect();
    launches::plan(conn, &new, now).await
}
