//! Workflow jobs that no webhook told of, or whose later webhooks were lost: GitHub lists them.

use std::collections::{HashSet, VecDeque};

use chrono::Utc;
use gha_slurm_domain::{RepositoryId, WorkflowJobId, WorkflowJobState};
use gha_slurm_github::WorkflowJob as Told;
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{AsyncConnection, StorageError, lock_scope, workflow_jobs};

use super::{Reconciler, is_for_all};
use crate::inquiry::InquiryError;
use crate::{events, planning};

/// Repositories compared at one look, so that other work is not kept waiting.
const AT_ONCE: usize = 4;
/// Runs of one repository whose workflow jobs are listed.
const MOST_RUNS: usize = 200;

/// Mapped repositories that are still to be compared in this round.
#[derive(Default)]
pub(super) struct Repositories {
    open: VecDeque<Repository>,
}

impl Repositories {
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Begins a round.
    pub(super) async fn begin(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let mut conn = reconciler.inquiry.database.connection().await?;
        self.open = repositories::mapped(&mut conn).await?.into();
        Ok(0)
    }

    /// Compares the next ones. Gives how many workflow jobs were found that nobody had told of.
    pub(super) async fn next(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let mut found = 0;
        for _ in 0..AT_ONCE {
            let Some(repository) = self.open.pop_front() else {
                break;
            };
            match compare(reconciler, &repository).await {
                Ok(new) => found += new,
                Err(error) if is_for_all(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, repository = repository.id, "a repository could not be compared with GitHub");
                }
            }
        }
        Ok(found)
    }
}

async fn compare(reconciler: &Reconciler, repository: &Repository) -> Result<usize, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let Some(scope) = inquiry.scope(repository).await? else {
        return Ok(0);
    };
    let id = RepositoryId(repository.id);
    // Before the list is made: what becomes known meanwhile is not missing in it.
    let unfinished = {
        let mut conn = inquiry.database.connection().await?;
        workflow_jobs::unfinished_in_scope(&mut conn, id).await?
    };
    let mut listed: Vec<Told> = Vec::new();
    let runs = inquiry.github.live_runs(&scope).await?;
    if runs.len() > MOST_RUNS {
        tracing::warn!(
            repository = repository.id,
            runs = runs.len(),
            "too many live runs; the newest are compared"
        );
    }
    for run in runs.into_iter().rev().take(MOST_RUNS) {
        listed.extend(inquiry.github.workflow_jobs_of_run(&scope, run).await?);
    }
    let seen: HashSet<i64> = listed.iter().map(|job| job.id).collect();
    let missing: Vec<WorkflowJobId> = unfinished
        .into_iter()
        .filter(|job| !seen.contains(&job.0))
        .collect();
    let now = Utc::now();
    let mut conn = inquiry.database.connection().await?;
    let found = conn
        .transaction::<_, StorageError, _>(async |conn| {
            lock_scope(conn, id).await?;
            let mut found = 0;
            for job in &listed {
                let Some(heard) = WorkflowJobState::parse(&job.status) else {
                    continue;
                };
                let known = workflow_jobs::find(conn, WorkflowJobId(job.id)).await?;
                if known.is_none() {
                    if heard == WorkflowJobState::Completed {
                        continue;
                    }
                    found += 1;
                }
                events::learn(
                    conn,
                    id,
                    Some(scope.installation.0),
                    &job.clone().into(),
                    heard,
                    now,
                )
                .await?;
            }
            workflow_jobs::ask(conn, &missing, now).await?;
            planning::replan(conn, id, &inquiry.policy, now).await?;
            Ok(found)
        })
        .await?;
    Ok(found)
}
