//! Workflow jobs that no webhook reported, or whose later webhooks were lost: GitHub lists them.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use gha_slurm_domain::{
    InstallationId, RepositoryId, WorkflowJobFacts, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_github::Scope;
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{ScopeLock, StorageError, workflow_jobs};

use super::registrations::Registrations;
use super::shared::{Reconciler, is_for_all};
use crate::inquiry::{Inquiry, InquiryError};

/// Workflow jobs recorded in one transaction.
const LEARNED_AT_ONCE: usize = 100;
/// Repositories compared at one look, so that other work is not kept waiting, and GitHub's secondary limit (900 reads a minute) stays far.
const AT_ONCE: usize = 12;
/// The same while less than [`NEAR_THE_LIMIT`] percent of the rate limit is left.
const AT_ONCE_NEAR_THE_LIMIT: usize = 4;
/// Percent.
const NEAR_THE_LIMIT: u32 = 50;
/// Active repositories are compared more often while more than this percentage of the rate limit is left.
const FAR_FROM_THE_LIMIT: u32 = 90;
/// Repositories compared at a time.
const TOGETHER: usize = 4;
/// A repository had workflow jobs in this time.
const ACTIVE: TimeDelta = TimeDelta::days(1);
/// Comparisons of one repository in a round that may fail.
const MOST_TRIES: u8 = 3;
/// Runs of one repository whose workflow jobs are listed.
const MOST_RUNS: usize = 200;

/// Which repositories a round compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All that are mapped.
    All,
    /// Those that had workflow jobs lately, while the rate limit is far.
    Active,
}

/// A repository that is still to be compared.
struct Open {
    repository: Repository,
    tries: u8,
}

/// Mapped repositories that are still to be compared in this round.
#[derive(Default)]
pub(super) struct Repositories {
    open: VecDeque<Open>,
    registrations: Registrations,
}

impl Repositories {
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Begins a round. Those that were active last come first.
    pub(super) async fn begin(
        &mut self,
        reconciler: &Reconciler,
        which: Which,
    ) -> Result<usize, InquiryError> {
        let Inquiry {
            database,
            github,
            clock,
            ..
        } = &reconciler.inquiry;
        let now = clock.now();
        let (mut mapped, active) = {
            let mut conn = database.connection().await?;
            if which == Which::All {
                repositories::doubt_all(&mut conn, now).await?;
            }
            let mapped = repositories::mapped(&mut conn).await?;
            (
                mapped,
                repositories::active_since(&mut conn, now - ACTIVE).await?,
            )
        };
        let last = |repository: &Repository| active.get(&RepositoryId(repository.id)).copied();
        mapped.sort_by_key(|repository| Reverse(last(repository)));
        for repository in mapped {
            let installation = repository.installation_id.map(InstallationId);
            let is_due = which == Which::All
                || (last(&repository).is_some()
                    && github.percent_left(installation).await > FAR_FROM_THE_LIMIT);
            if is_due {
                let tries = 0;
                self.open.push_back(Open { repository, tries });
            }
        }
        Ok(0)
    }

    /// Compares the next repositories. Returns how many workflow jobs were found that no webhook had reported.
    pub(super) async fn next(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let Some(first) = self.open.front() else {
            return Ok(0);
        };
        let installation = first.repository.installation_id.map(InstallationId);
        let left = reconciler.inquiry.github.percent_left(installation).await;
        let most = if left < NEAR_THE_LIMIT {
            AT_ONCE_NEAR_THE_LIMIT
        } else {
            AT_ONCE
        };
        let mut found = 0;
        for _ in 0..most / TOGETHER {
            let some: Vec<Open> = self.open.drain(..TOGETHER.min(self.open.len())).collect();
            let mut compared = Vec::new();
            for open in &some {
                compared.push(Box::pin(self.compare(reconciler, &open.repository)));
            }
            let compared = join_all(compared).await;
            let mut fatal = None;
            // Those that failed come first again, in their order.
            for (open, result) in some.into_iter().zip(compared).rev() {
                match result {
                    Ok(new) => found += new,
                    Err(error) if is_for_all(&error) => {
                        self.open.push_front(open);
                        fatal = Some(error);
                    }
                    Err(error) => {
                        tracing::warn!(%error, repository = open.repository.id, "a repository could not be compared with GitHub");
                        let tries = open.tries + 1;
                        if tries < MOST_TRIES {
                            self.open.push_back(Open { tries, ..open });
                        }
                    }
                }
            }
            if let Some(error) = fatal {
                return Err(error);
            }
        }
        Ok(found)
    }

    async fn compare(
        &self,
        reconciler: &Reconciler,
        repository: &Repository,
    ) -> Result<usize, InquiryError> {
        let Some(scope) = reconciler.inquiry.scope(repository).await? else {
            return Ok(0);
        };
        let found = compare(reconciler, &scope).await?;
        let deleted = self.registrations.look(reconciler, &scope).await?;
        let what = reconciler.found.with_label_values(&["registrations"]);
        what.inc_by(deleted as u64);
        Ok(found)
    }
}

async fn compare(reconciler: &Reconciler, scope: &Scope) -> Result<usize, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let id = scope.repository;
    // Before the list is made: what becomes known meanwhile is not missing in it.
    let unfinished = {
        let mut conn = inquiry.database.connection().await?;
        workflow_jobs::unfinished(&mut conn, id).await?
    };
    let mut listed: Vec<WorkflowJobFacts> = Vec::new();
    let runs = inquiry.github.live_runs(scope).await?;
    if runs.len() > MOST_RUNS {
        tracing::warn!(
            repository = id.0,
            runs = runs.len(),
            "too many live runs; the newest are compared"
        );
    }
    for run in runs.into_iter().rev().take(MOST_RUNS) {
        listed.extend(inquiry.github.workflow_jobs_of_run(scope, run).await?);
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
                    learn_new(reconciler, &mut lock, scope, some, now).await
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
