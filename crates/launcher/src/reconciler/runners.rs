//! Runners of which too little is heard: those with a workflow job that no webhook names, and those whose node is silent.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;
use gha_slurm_domain::{RepositoryId, WorkflowJobId, WorkflowJobState};
use gha_slurm_github::{Deletion, Scope};
use gha_slurm_storage::runners::{self, Ending, Runner};
use gha_slurm_storage::{AsyncConnection, StorageError, lock_scope, repositories, workflow_jobs};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Reconciler, is_for_all};
use crate::inquiry::InquiryError;
use crate::settings::{delta, span};
use crate::{events, planning};

/// Runners looked at at once.
const AT_ONCE: i64 = 50;

/// When each runner shall be looked at again.
#[derive(Default)]
pub(super) struct Runners {
    next: HashMap<Uuid, Instant>,
}

impl Runners {
    /// Gives how many runners were cleared up.
    pub(super) async fn look(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let settings = &reconciler.settings;
        let now = Utc::now();
        let (unattributed, silent) = {
            let mut conn = reconciler.inquiry.database.connection().await?;
            let since = now - delta(settings.unattributed_s);
            let unattributed = runners::unattributed(&mut conn, since, AT_ONCE).await?;
            let created = now - delta(settings.set_up_limit_s);
            let listening = now - delta(settings.listening_limit_s);
            let silent = runners::overdue(&mut conn, created, listening, AT_ONCE).await?;
            (unattributed, silent)
        };
        let instant = Instant::now();
        let pause = span(settings.unattributed_s);
        self.next.retain(|_, next| *next > instant);
        let mut cleared = 0;
        for (runner, repository) in unattributed {
            if self.is_due(&runner, instant, pause) {
                cleared += noted(attribute(reconciler, &runner, repository).await, &runner)?;
            }
        }
        for (runner, repository) in silent {
            if self.is_due(&runner, instant, pause) {
                cleared += noted(give_up(reconciler, &runner, repository).await, &runner)?;
            }
        }
        Ok(cleared)
    }

    fn is_due(&mut self, runner: &Runner, now: Instant, pause: Duration) -> bool {
        let due = !self.next.contains_key(&runner.id);
        if due {
            self.next.insert(runner.id, now + pause);
        }
        due
    }
}

/// What one runner's turn gave; an error that concerns all of them ends the look.
fn noted(result: Result<bool, InquiryError>, runner: &Runner) -> Result<usize, InquiryError> {
    match result {
        Ok(cleared) => Ok(cleared.into()),
        Err(error) if is_for_all(&error) => Err(error),
        Err(error) => {
            tracing::warn!(%error, runner = runner.name, "a runner could not be looked up");
            Ok(0)
        }
    }
}

async fn scope_of(
    reconciler: &Reconciler,
    repository: RepositoryId,
) -> Result<Option<Scope>, InquiryError> {
    let found = {
        let mut conn = reconciler.inquiry.database.connection().await?;
        repositories::find(&mut conn, repository).await?
    };
    match found {
        Some(found) => reconciler.inquiry.scope(&found).await,
        None => Ok(None),
    }
}

/// Which workflow job has it? The run that its node named says so; else every queued workflow job of the scope may be the
/// one, and GitHub is asked about each.
async fn attribute(
    reconciler: &Reconciler,
    runner: &Runner,
    repository: RepositoryId,
) -> Result<bool, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let scope = scope_of(reconciler, repository).await?;
    let told = match (&scope, runner.run_id) {
        (Some(scope), Some(run)) => inquiry
            .github
            .workflow_jobs_of_run(scope, run)
            .await?
            .into_iter()
            .find(|job| job.runner_name.as_deref() == Some(runner.name.as_str())),
        _ => None,
    };
    let now = Utc::now();
    let mut conn = inquiry.database.connection().await?;
    if let Some(told) = told
        && let Some(heard) = WorkflowJobState::parse(&told.status)
    {
        let installation = scope.map(|scope| scope.installation.0);
        conn.transaction::<_, StorageError, _>(async |conn| {
            lock_scope(conn, repository).await?;
            let facts = told.clone().into();
            events::learn(conn, repository, installation, &facts, heard, now).await?;
            planning::replan(conn, repository, &inquiry.policy, now).await
        })
        .await?;
        return Ok(true);
    }
    let limit = delta(reconciler.settings.unattributed_limit_s);
    if runner.busy_at.is_some_and(|at| at + limit <= now) {
        tracing::warn!(
            runner = runner.name,
            "GitHub knows no workflow job of a busy runner"
        );
        conn.transaction::<_, StorageError, _>(async |conn| {
            runners::forget_unattributed(conn, repository, runner).await
        })
        .await?;
        return Ok(true);
    }
    let queued: Vec<WorkflowJobId> = workflow_jobs::open_in_scope(&mut conn, repository)
        .await?
        .into_iter()
        .map(|job| WorkflowJobId(job.id))
        .collect();
    workflow_jobs::ask(&mut conn, &queued, now).await?;
    Ok(false)
}

/// Its node is silent. What GitHub says of its registration decides: one that cannot be deleted has work.
async fn give_up(
    reconciler: &Reconciler,
    runner: &Runner,
    repository: RepositoryId,
) -> Result<bool, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let deletion = inquiry.deregister(runner, repository).await?;
    let now = Utc::now();
    let mut conn = inquiry.database.connection().await?;
    if deletion == Deletion::Busy {
        runners::busy(&mut conn, runner, None, now).await?;
        return Ok(true);
    }
    // Where GitHub does not know it, it may have had a workflow job all the same: that is looked up before another runner
    // is submitted for it.
    let reason = "its node was not heard of any more";
    conn.transaction::<_, StorageError, _>(async |conn| {
        runners::end(conn, repository, runner, &Ending::because(reason), now).await
    })
    .await?;
    Ok(true)
}
