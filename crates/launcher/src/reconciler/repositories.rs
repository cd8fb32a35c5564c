//! Workflow jobs that no webhook reported, or whose later webhooks were lost: GitHub lists them.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use gha_slurm_domain::{
    InstallationId, RepositoryId, WorkflowJobFacts, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_github::{Github, Scope, Urgency};
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{ScopeLock, StorageError, workflow_jobs};

use super::registrations::Registrations;
use super::shared::{Reconciler, has_to_wait, is_for_all};
use crate::inquiry::{Inquiry, InquiryError};

/// Workflow jobs recorded in one transaction.
const LEARNED_AT_ONCE: usize = 100;
/// Repositories compared at one look, so that other work is not kept waiting.
const AT_ONCE: usize = 12;
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
    listing: Option<Listing>,
}

/// What was listed of a repository's workflow jobs so far: a comparison that has to wait for GitHub's rate limits goes on where it
/// was.
struct Listing {
    /// What was known before the list was made: what becomes known meanwhile is not missing in it.
    unfinished: Vec<WorkflowJobId>,
    /// Live runs that are still to be listed, the newest last.
    runs: Vec<i64>,
    listed: Vec<WorkflowJobFacts>,
}

/// Mapped repositories that are still to be compared in this round.
#[derive(Default)]
pub(super) struct Repositories {
    open: VecDeque<Open>,
    registrations: Registrations,
}

impl Repositories {
    /// Whether nothing can be compared now: the next round may begin.
    pub(super) async fn is_done(&self, reconciler: &Reconciler) -> bool {
        let github = comparing(reconciler);
        let mut waits = HashMap::new();
        for open in &self.open {
            if !must_wait(&github, &mut waits, &open.repository).await {
                return false;
            }
        }
        true
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
        // Those of the last round that wait for GitHub's rate limits keep their place.
        let waiting: HashSet<i64> = self.open.iter().map(|open| open.repository.id).collect();
        mapped.retain(|repository| !waiting.contains(&repository.id));
        for repository in mapped {
            let installation = repository.installation_id.map(InstallationId);
            let is_due = which == Which::All
                || (last(&repository).is_some()
                    && github.percent_left(installation).await > FAR_FROM_THE_LIMIT);
            if is_due {
                self.open.push_back(Open {
                    repository,
                    tries: 0,
                    listing: None,
                });
            }
        }
        Ok(0)
    }

    /// Compares the next repositories. Returns how many workflow jobs were found that no webhook had reported.
    pub(super) async fn next(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let github = comparing(reconciler);
        let mut found = 0;
        for _ in 0..AT_ONCE / TOGETHER {
            let mut some = self.take(&github).await;
            let compared = {
                let registrations = &self.registrations;
                let compare = |open| Box::pin(compare(reconciler, &github, registrations, open));
                join_all(some.iter_mut().map(compare)).await
            };
            let mut fatal = None;
            // Those that failed come first again, in their order.
            for (open, result) in some.into_iter().zip(compared).rev() {
                match result {
                    Ok(new) => found += new,
                    // Behind those of other installations.
                    Err(error) if has_to_wait(&error) => self.open.push_back(open),
                    Err(error) if is_for_all(&error) => {
                        self.open.push_front(open);
                        fatal = Some(error);
                    }
                    Err(error) => {
                        tracing::warn!(%error, repository = open.repository.id, "a repository could not be compared with GitHub");
                        let tries = open.tries + 1;
                        if tries < MOST_TRIES {
                            self.open.push_back(Open {
                                tries,
                                listing: None,
                                ..open
                            });
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

    /// Takes the next repositories whose installations' rate limits leave something for comparisons.
    async fn take(&mut self, github: &Github) -> Vec<Open> {
        let mut waits = HashMap::new();
        let mut taken = Vec::new();
        let mut waiting = VecDeque::new();
        while taken.len() < TOGETHER
            && let Some(open) = self.open.pop_front()
        {
            if must_wait(github, &mut waits, &open.repository).await {
                waiting.push_back(open);
            } else {
                taken.push(open);
            }
        }
        waiting.append(&mut self.open);
        self.open = waiting;
        taken
    }
}

/// Comparisons leave what is left of GitHub's limits to launches.
fn comparing(reconciler: &Reconciler) -> Github {
    reconciler.inquiry.github.for_calls(Urgency::Comparison)
}

/// Whether the rate limits of a repository's installation leave nothing for comparisons now. `waits`: the answers so far.
async fn must_wait(
    github: &Github,
    waits: &mut HashMap<Option<i64>, bool>,
    repository: &Repository,
) -> bool {
    let installation = repository.installation_id;
    if let Some(waits) = waits.get(&installation) {
        return *waits;
    }
    let wait = github.wait(installation.map(InstallationId)).await;
    waits.insert(installation, wait.is_some());
    wait.is_some()
}

/// Compares a repository. Returns how many workflow jobs no webhook had reported.
async fn compare(
    reconciler: &Reconciler,
    github: &Github,
    registrations: &Registrations,
    open: &mut Open,
) -> Result<usize, InquiryError> {
    let Some(scope) = reconciler.inquiry.scope(&open.repository).await? else {
        return Ok(0);
    };
    if open.listing.is_none() {
        open.listing = Some(Listing::begin(reconciler, github, &scope).await?);
    }
    let mut found = 0;
    if let Some(listing) = &mut open.listing {
        listing.complete(github, &scope).await?;
        found = listing.learn(reconciler, &scope).await?;
    }
    let deleted = registrations.look(reconciler, github, &scope).await?;
    let what = reconciler.found.with_label_values(&["registrations"]);
    what.inc_by(deleted as u64);
    Ok(found)
}

impl Listing {
    async fn begin(
        reconciler: &Reconciler,
        github: &Github,
        scope: &Scope,
    ) -> Result<Self, InquiryError> {
        let id = scope.repository;
        let unfinished = {
            let mut conn = reconciler.inquiry.database.connection().await?;
            workflow_jobs::unfinished(&mut conn, id).await?
        };
        let mut runs = github.live_runs(scope).await?;
        if runs.len() > MOST_RUNS {
            tracing::warn!(
                repository = id.0,
                runs = runs.len(),
                "too many live runs; the newest are compared"
            );
            runs.drain(..runs.len() - MOST_RUNS);
        }
        Ok(Self {
            unfinished,
            runs,
            listed: Vec::new(),
        })
    }

    async fn complete(&mut self, github: &Github, scope: &Scope) -> Result<(), InquiryError> {
        while let Some(run) = self.runs.last() {
            let jobs = github.workflow_jobs_of_run(scope, *run).await?;
            self.listed.extend(jobs);
            self.runs.pop();
        }
        Ok(())
    }

    async fn learn(&self, reconciler: &Reconciler, scope: &Scope) -> Result<usize, InquiryError> {
        let inquiry = &reconciler.inquiry;
        let id = scope.repository;
        let seen: HashSet<i64> = self.listed.iter().map(|job| job.id).collect();
        let unfinished = self.unfinished.iter().copied();
        let missing: Vec<WorkflowJobId> = unfinished.filter(|job| !seen.contains(&job.0)).collect();
        let now = inquiry.clock.now();
        let mut found = 0;
        // In batches, so that the scope's lock is given back in between.
        for some in self.listed.chunks(LEARNED_AT_ONCE) {
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
