//! Repositories that are mapped, and workflow jobs with planned launches in them: what a launcher would have written.

use anyhow::Result;
use chrono::Utc;
use gha_slurm_domain::{InstallationId, LaunchId, RepositoryId};
use gha_slurm_simulator::Handle;
use gha_slurm_simulator::request::NewRepository;
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
    workflow_jobs: i64,
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
            workflow_jobs: 0,
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

    /// The id of a workflow job that there was not yet.
    pub(crate) fn next_workflow_job(&mut self) -> i64 {
        self.workflow_jobs += 1;
        self.workflow_jobs
    }

    /// Queues `count` workflow jobs in `repositories`, each with a planned launch.
    pub(crate) async fn plan(
        &mut self,
        user: &str,
        repositories: &[Repository],
        count: u32,
    ) -> Result<Vec<Planned>> {
        let now = Utc::now();
        let mut planned = Vec::new();
        for repository in (0..count as usize).map(|n| n % repositories.len().max(1)) {
            let Some(repository) = repositories.get(repository) else {
                break;
            };
            let seed = Seed {
                database: &self.database,
                repository: repository.0,
                user: user.parse()?,
            };
            self.workflow_jobs += 1;
            let id = self.workflow_jobs;
            let job = seed.queued(&facts(id, &LABELS, Some(now)), now).await;
            planned.push(Planned {
                workflow_job: id,
                launch: seed.planned(&job, now).await,
                repository: repository.clone(),
            });
        }
        Ok(planned)
    }
}
