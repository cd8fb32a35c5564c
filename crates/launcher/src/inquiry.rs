//! Asks GitHub's REST API about workflow jobs, and records what no webhook reported.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gha_slurm_domain::launch::Runner;
use gha_slurm_domain::naming::names_of_attempts;
use gha_slurm_domain::workflow_job::Heard;
use gha_slurm_domain::{
    Clock, InstallationId, RepositoryFullName, RepositoryId, WorkflowJob, WorkflowJobFacts,
    WorkflowJobId, WorkflowJobState,
};
use gha_slurm_github::{Deletion, Github, GithubError, Scope};
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{Database, ScopeLock, StorageError, workflow_jobs};

use crate::events;
use crate::planning::{self, News, Policy};

/// Asks and records.
#[derive(Clone)]
pub struct Inquiry {
    /// What is known.
    pub database: Database,
    /// Who is asked.
    pub github: Github,
    /// For the planner, which acts on the answer.
    pub policy: Arc<Policy>,
    /// The time.
    pub clock: Clock,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// GitHub failed, or refused.
    #[error(transparent)]
    Github(#[from] GithubError),
}

impl Inquiry {
    /// Where a repository's workflow jobs are at GitHub. `None`: the App is not installed on it.
    pub(crate) async fn scope(
        &self,
        repository: &Repository,
    ) -> Result<Option<Scope>, InquiryError> {
        let name = RepositoryFullName::new(&repository.owner, &repository.name)
            .map_err(|_| StorageError::Unknown("repositories.name"))?;
        let known = repository.installation_id.map(InstallationId);
        Ok(self
            .github
            .scope(RepositoryId(repository.id), name, known)
            .await?)
    }

    /// Asks GitHub to deregister a runner, by its id, and by every other name that a registration attempt of it may have used: a broker
    /// that was killed while it registered one could not store which, and the deletion of an earlier one may have failed. Where the App is
    /// not installed any more there is none.
    pub(crate) async fn deregister(
        &self,
        runner: &Runner,
        repository: &Repository,
    ) -> Result<Deletion, InquiryError> {
        let Some(scope) = self.scope(repository).await? else {
            return Ok(Deletion::NotFound);
        };
        let mut all = match runner.github_id {
            Some(id) => self.github.delete_runner(&scope, id).await?,
            None => Deletion::NotFound,
        };
        if all == Deletion::Busy {
            return Ok(Deletion::Busy);
        }
        // The newest is the one that has the id.
        let is_known = usize::from(runner.github_id.is_some());
        let names = names_of_attempts(&runner.name, runner.mint_attempt);
        for name in names.into_iter().skip(is_known) {
            match self.github.deregister(&scope, None, &name).await? {
                Deletion::Busy => return Ok(Deletion::Busy),
                Deletion::Deleted => all = Deletion::Deleted,
                Deletion::NotFound => {}
            }
        }
        Ok(all)
    }

    /// Asks about one workflow job. Returns its state afterwards; `None`: it is unknown.
    pub async fn ask(&self, id: WorkflowJobId) -> Result<Option<WorkflowJobState>, InquiryError> {
        let (before, repository) = {
            let mut conn = self.database.connection().await?;
            let Some(job) = workflow_jobs::find(&mut conn, id).await? else {
                return Ok(None);
            };
            let repository = repositories::find(&mut conn, job.repository).await?;
            (job, repository)
        };
        let scope = match &repository {
            Some(repository) => self.scope(repository).await?,
            None => None,
        };
        let Some(scope) = scope else {
            // Its repository is out of reach: admission sees to that.
            let mut conn = self.database.connection().await?;
            workflow_jobs::answered(&mut conn, id).await?;
            return Ok(Some(before.state));
        };
        let answer = self.github.workflow_job(&scope, id).await?;
        let now = self.clock.now();
        let state = self
            .database
            .in_scope(
                "record an answer",
                scope.repository,
                async |mut lock: ScopeLock<'_>| {
                    self.record(&mut lock, &before, answer.as_ref(), now)
                        .await?;
                    workflow_jobs::answered(lock.conn(), id).await?;
                    let job = workflow_jobs::find(lock.conn(), id).await?;
                    Ok::<_, StorageError>(job.map(|job| job.state))
                },
            )
            .await?;
        Ok(state)
    }

    /// Records an answer about a workflow job that was `before` when the question was put, and plans what follows.
    async fn record(
        &self,
        lock: &mut ScopeLock<'_>,
        before: &WorkflowJob,
        answer: Option<&WorkflowJobFacts>,
        now: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        let Some(current) = workflow_jobs::find(lock.conn(), before.id()).await? else {
            return Ok(());
        };
        // A webhook that came after the question knows better.
        let is_newest = current.updated_at == before.updated_at;
        let corrected = match answer {
            None => (current.state != WorkflowJobState::Completed).then(|| current.forgotten(now)),
            Some(facts) => match WorkflowJobState::from_github(&facts.status) {
                None => return Ok(()),
                Some(WorkflowJobState::Waiting)
                    if is_newest && current.state == WorkflowJobState::Queued =>
                {
                    Some(current.waits_after_all(now))
                }
                Some(state) => {
                    return self
                        .learn_all(lock, [(facts.clone(), state)], None, now)
                        .await;
                }
            },
        };
        if let Some((job, entry)) = corrected {
            workflow_jobs::save(lock, Some(&current), &job, &[entry], now).await?;
        }
        let news = News {
            classes: current.class.into_iter().collect(),
            ..News::default()
        };
        planning::plan_classes(lock, &news, &self.policy, now).await
    }

    /// Records what GitHub's REST API says of workflow jobs of the scope, and plans what follows.
    pub(crate) async fn learn_all(
        &self,
        lock: &mut ScopeLock<'_>,
        answers: impl IntoIterator<Item = (WorkflowJobFacts, WorkflowJobState)>,
        installation: Option<InstallationId>,
        now: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        let repository = lock.repository();
        let Some((_, standing)) = repositories::standing(lock.conn(), repository).await? else {
            return Ok(());
        };
        let mut news = News::default();
        for (facts, state) in answers {
            let heard = Heard {
                facts,
                state,
                repository,
                installation,
                traceparent: gha_slurm_telemetry::current_traceparent(),
            };
            events::learn(
                lock,
                heard,
                events::By::Rest,
                &standing,
                &self.policy,
                &mut news,
                now,
            )
            .await?;
        }
        planning::plan_classes(lock, &news, &self.policy, now).await
    }
}
