//! Repositories that are mapped, and workflow jobs with planned launches in them: what a launcher would have written.

use std::collections::HashMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use gha_slurm_domain::{InstallationId, LaunchId, RepositoryId, WorkflowJobFacts};
use gha_slurm_simulator::Handle;
use gha_slurm_simulator::model::WorkflowJob;
use gha_slurm_simulator::request::{NewRepository, NewWorkflowJob};
use gha_slurm_storage::{Database, mappings, repositories};
use gha_slurm_test_support::seed::{Seed, facts};
use secrecy::SecretString;

use crate::surroundings::Surroundings;

pub(crate) const OWNER: &str = "acme";
pub(crate) const LABELS: [&str; 2] = ["self-hosted", "slurm"];
/// What is done in one repository is done one after the other, under its lock.
const REPOSITORIES: i64 = 16;

/// A repository's id and name.
pub(crate) type Repository = (RepositoryId, String);

pub(crate) struct Site {
    pub(crate) database: Database,
    github: Handle,
    installation: InstallationId,
    /// The workflow run of each repository.
    runs: HashMap<RepositoryId, i64>,
}

/// A workflow job and its launch.
pub(crate) struct Planned {
    pub(crate) workflow_job: i64,
    pub(crate) launch: LaunchId,
    pub(crate) repository: Repository,
}

impl Site {
    pub(crate) fn new(around: &Surroundings, database_url: &str) -> Result<Self> {
        let url = SecretString::from(database_url);
        Ok(Self {
            database: Database::new(&url, None, "bench", 1)?,
            github: around.github.clone(),
            installation: around.installation,
            runs: HashMap::new(),
        })
    }

    /// Maps new repositories to `user`.
    pub(crate) async fn repositories(&self, user: &str) -> Result<Vec<Repository>> {
        let mut made = Vec::new();
        for _ in 0..REPOSITORIES {
            let name = format!("widgets-{}", uuid::Uuid::now_v7().simple());
            let new = NewRepository::named(&format!("{OWNER}/{name}"));
            made.push((RepositoryId(self.github.create_repository(&new)?.id), name));
        }
        let now = Utc::now();
        let mut conn = self.database.connection().await?;
        for (id, name) in &made {
            let (installation, private) = (Some(self.installation), Some(true));
            repositories::upsert(&mut conn, *id, installation, OWNER, name, private, now).await?;
        }
        let entries: Vec<mappings::Entry> = made.iter().map(|(id, _)| (*id).into()).collect();
        mappings::replace(&mut conn, &user.parse()?, &entries, None, now).await?;
        Ok(made)
    }

    /// Queues a workflow job at GitHub, of which no webhook is sent: without it, the reconciler would find that GitHub has forgotten it.
    pub(crate) fn queue(&mut self, (id, name): &Repository) -> Result<WorkflowJob> {
        let job = self.github.queue(NewWorkflowJob {
            run_id: self.runs.get(id).copied(),
            ..NewWorkflowJob::of(&format!("{OWNER}/{name}"), &LABELS)
        })?;
        self.runs.insert(*id, job.run_id);
        Ok(job)
    }

    /// Queues `count` workflow jobs in `repositories`, each with a launch that is planned for `at`.
    pub(crate) async fn plan(
        &mut self,
        user: &str,
        repositories: &[Repository],
        count: u32,
        at: DateTime<Utc>,
    ) -> Result<Vec<Planned>> {
        let mut planned = Vec::new();
        for repository in repositories.iter().cycle().take(count as usize) {
            let WorkflowJob { id, run_id, .. } = self.queue(repository)?;
            let seed = Seed {
                database: &self.database,
                repository: repository.0,
                user: user.parse()?,
            };
            let facts = WorkflowJobFacts {
                run_id,
                ..facts(id, &LABELS, Some(at))
            };
            let job = seed.queued(&facts, at).await;
            planned.push(Planned {
                workflow_job: id,
                launch: seed.planned(&job, at).await,
                repository: repository.clone(),
            });
        }
        Ok(planned)
    }
}
