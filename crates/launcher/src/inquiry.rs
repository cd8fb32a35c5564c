//! Asks GitHub's REST API about workflow jobs, and records what it says: what webhooks did not tell.

use chrono::{DateTime, Utc};
use gha_slurm_domain::{
    InstallationId, RepositoryFullName, RepositoryId, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_github::{Deletion, Github, GithubError, Scope, WorkflowJob as Told};
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::runners::Runner;
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use gha_slurm_storage::{AsyncConnection, AsyncPgConnection, Database, StorageError, lock_scope};

use crate::events;
use crate::planning::{self, Policy};
use std::sync::Arc;

/// Asks and records.
#[derive(Clone)]
pub struct Inquiry {
    /// What is known.
    pub database: Database,
    /// Who is asked.
    pub github: Github,
    /// For the planner, which acts on the answer.
    pub policy: Arc<Policy>,
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

    /// Has GitHub forget a runner. Where the App is not installed any more there is none.
    pub(crate) async fn deregister(
        &self,
        runner: &Runner,
        repository: RepositoryId,
    ) -> Result<Deletion, InquiryError> {
        let found = {
            let mut conn = self.database.connection().await?;
            repositories::find(&mut conn, repository).await?
        };
        let scope = match found {
            Some(found) => self.scope(&found).await?,
            None => None,
        };
        let Some(scope) = scope else {
            return Ok(Deletion::NotFound);
        };
        let (id, name) = (runner.github_runner_id, &runner.name);
        Ok(self.github.deregister(&scope, id, name).await?)
    }

    /// Asks about one workflow job. Gives its state afterwards; `None`: nobody knows it.
    pub async fn ask(&self, id: WorkflowJobId) -> Result<Option<WorkflowJobState>, InquiryError> {
        let (before, repository) = {
            let mut conn = self.database.connection().await?;
            let Some(job) = workflow_jobs::find(&mut conn, id).await? else {
                return Ok(None);
            };
            let repository = repositories::find(&mut conn, RepositoryId(job.repository_id)).await?;
            (job, repository)
        };
        let scope = match &repository {
            Some(repository) => self.scope(repository).await?,
            None => None,
        };
        let Some(scope) = scope else {
            // Its repository is out of our reach: admission sees to that.
            let mut conn = self.database.connection().await?;
            workflow_jobs::answered(&mut conn, id).await?;
            return Ok(Some(before.state()?));
        };
        let told = self.github.workflow_job(&scope, id).await?;
        let (policy, now) = (Arc::clone(&self.policy), Utc::now());
        let mut conn = self.database.connection().await?;
        let state = conn
            .transaction::<_, StorageError, _>(async |conn| {
                lock_scope(conn, scope.repository).await?;
                record(conn, &before, told.clone(), now).await?;
                workflow_jobs::answered(conn, id).await?;
                planning::replan(conn, scope.repository, &policy, now).await?;
                workflow_jobs::find(conn, id)
                    .await?
                    .map(|job| job.state())
                    .transpose()
            })
            .await?;
        Ok(state)
    }
}

/// Records an answer about a workflow job that was `before` when the question was put. The caller holds the scope's lock
/// and replans.
async fn record(
    conn: &mut AsyncPgConnection,
    before: &WorkflowJob,
    told: Option<Told>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let id = WorkflowJobId(before.id);
    let Some(current) = workflow_jobs::find(conn, id).await? else {
        return Ok(());
    };
    let Some(told) = told else {
        if current.state()? != WorkflowJobState::Completed {
            let reason = "GitHub does not know this workflow job any more";
            workflow_jobs::set_state(conn, id, WorkflowJobState::Completed, reason, now).await?;
        }
        return Ok(());
    };
    let Some(heard) = WorkflowJobState::parse(&told.status) else {
        return Ok(());
    };
    // A webhook that came after the question knows better.
    let is_newest = current.updated_at == before.updated_at;
    if is_newest
        && heard == WorkflowJobState::Waiting
        && current.state()? == WorkflowJobState::Queued
    {
        let reason = "GitHub says that it waits for an approval";
        return workflow_jobs::set_state(conn, id, heard, reason, now).await;
    }
    let scope = RepositoryId(before.repository_id);
    events::learn(conn, scope, None, &told.into(), heard, now).await
}
