//! Workflow jobs that no webhook reported, or whose later webhooks were lost: GitHub lists them.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, Utc};
use gha_slurm_domain::{WorkflowJobFacts, WorkflowJobId, WorkflowJobState};
use gha_slurm_github::Scope;
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{ScopeLock, StorageError, workflow_jobs};

use super::registrations::Registrations;
use super::shared::{Reconciler, is_for_all};
use crate::inquiry::InquiryError;

/// Workflow jobs recorded in one transaction.
const LEARNED_AT_ONCE: usize = 100;
/// Repositories compared at one look, so that other work is not kept waiting.
const AT_ONCE: usize = 4;
/// Runs of one repository whose workflow jobs are listed.
const MOST_RUNS: usize = 200;

/// Mapped repositories that are still to be compared in this round.
#[derive(Default)]
pub(super) struct Repositories {
    open: VecDeque<Repository>,
    registrations: Registrations,
}

impl Repositories {
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Begins a round.
    pub(super) async fn begin(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let mut conn = reconciler.inquiry.database.connection().await?;
        repositories::doubt_all(&mut conn, reconciler.inquiry.clock.now()).await?;
        self.open = repositories::mapped(&mut conn).await?.into();
        Ok(0)
    }

    /// Compares the next repositories. Returns how many workflow jobs were found that no webhook had reported.
    pub(super) async fn next(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let mut found = 0;
        for _ in 0..AT_ONCE {
            let Some(repository) = self.open.pop_front() else {
                break;
            };
            match self.compare(reconciler, &repository).await {
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

impl Repositories {
    async fn compare(
        &mut self,
        reconciler: &Reconciler,
        repository: &Repository,
    ) -> Result<usize, InquiryError> {
        let Some(scope) = reconciler.inquiry.scope(repository).await? else {
            return Ok(0);
        };
        let deleted = self.registrations.look(reconciler, &scope).await?;
        let what = reconciler.found.with_label_values(&["registrations"]);
        what.inc_by(deleted as u64);
        compare(reconciler, scope).await
    }
}

async fn compare(reconciler: &Reconciler, scope: Scope) -> Result<usize, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let id = scope.repository;
    // Before the list is made: what becomes known meanwhile is not missing in it.
    let unfinished = {
        let mut conn = inquiry.database.connection().await?;
        workflow_jobs::unfinished(&mut conn, id).await?
    };
    let mut listed: Vec<WorkflowJobFacts> = Vec::new();
    let runs = inquiry.github.live_runs(&scope).await?;
    if runs.len() > MOST_RUNS {
        tracing::warn!(
            repository = id.0,
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
    let now = inquiry.clock.now();
    let mut found = 0;
    // In batches, so that the scope's lock is given back in between.
    for some in listed.chunks(LEARNED_AT_ONCE) {
        found += inquiry
            .database
            .in_scope(
                "compare a repository",
                id,
                async |mut lock: ScopeLock<'_>| {
                    learn_new(reconciler, &mut lock, &scope, some, now).await
                },
            )
            .await?;
    }
    let mut conn = inquiry.database.connection().await?;
    workflow_jobs::ask(&mut conn, &missing, now).await?;
    if found > 0 {
        // Events about it are lost; one of them may have been the first that reported it public.
        repositories::doubt(&mut conn, id, now).await?;
    }
    Ok(found)
}

/// Records what GitHub lists. Returns how many workflow jobs no webhook had reported.
async fn learn_new(
    reconciler: &Reconciler,
    lock: &mut ScopeLock<'_>,
    scope: &Scope,
    listed: &[WorkflowJobFacts],
    now: DateTime<Utc>,
) -> Result<usize, StorageError> {
    let ids = listed.iter().map(|job| WorkflowJobId(job.id));
    let known = workflow_jobs::known(lock.conn(), ids).await?;
    let mut found = 0;
    let mut answers = Vec::new();
    for job in listed {
        let Some(state) = WorkflowJobState::from_github(&job.status) else {
            continue;
        };
        if !known.contains(&WorkflowJobId(job.id)) {
            if state == WorkflowJobState::Completed {
                continue;
            }
            found += 1;
        }
        answers.push((job.clone(), state));
    }
    let installation = Some(scope.installation);
    reconciler
        .inquiry
        .learn_all(lock, answers, installation, now)
        .await?;
    Ok(found)
}
