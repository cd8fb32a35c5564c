//! Repositories that are mapped, and workflow jobs with planned launches in them: what a launcher would have written.

use anyhow::Result;
use chrono::Utc;
use gha_slurm_domain::{
    InstallationId, LabelSet, LaunchId, RepositoryId, ResourceRequest, WorkflowJobId,
};
use gha_slurm_simulator::Handle;
use gha_slurm_simulator::request::NewRepository;
use gha_slurm_storage::launches::{self, NewLaunch};
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use gha_slurm_storage::{AsyncConnection, AsyncPgConnection, Database, mappings, repositories};
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
        let ids: Vec<i64> = (0..count).map(|_| self.next_workflow_job()).collect();
        let installation = self.installation;
        let mut conn = self.database.connection().await?;
        conn.transaction::<_, anyhow::Error, _>(async |conn| {
            let mut planned = Vec::new();
            for (id, repository) in ids.into_iter().zip(repositories.iter().cycle()) {
                planned.push(plan(conn, installation, user, repository, id).await?);
            }
            Ok(planned)
        })
        .await
    }
}

async fn plan(
    conn: &mut AsyncPgConnection,
    installation: InstallationId,
    user: &str,
    repository: &Repository,
    id: i64,
) -> Result<Planned> {
    let now = Utc::now();
    let labels: LabelSet = LABELS.into_iter().collect();
    let resources = ResourceRequest::default();
    let class =
        workflow_jobs::ensure_class(conn, repository.0, &user.parse()?, &labels, &resources)
            .await?;
    let waiting = WorkflowJob {
        id,
        repository_id: repository.0.0,
        installation_id: Some(installation.0),
        run_id: id,
        run_attempt: 1,
        name: "build".into(),
        workflow_name: None,
        html_url: None,
        head_branch: None,
        labels: LABELS.map(str::to_owned).to_vec(),
        state: "queued".into(),
        conclusion: None,
        verdict: "ours".into(),
        reason: None,
        class_id: Some(class.0),
        runner_name: None,
        queued_at: Some(now),
        started_at: None,
        completed_at: None,
        traceparent: None,
        updated_at: now,
    };
    workflow_jobs::save(conn, &waiting).await?;
    let launch = LaunchId(uuid::Uuid::now_v7());
    let new = NewLaunch {
        id: launch,
        class,
        repository: repository.0,
        cause: WorkflowJobId(id),
        not_before: now,
        verify_demand: false,
        traceparent: None,
    };
    launches::plan(conn, &[new], now).await?;
    Ok(Planned {
        workflow_job: id,
        launch,
        repository: repository.clone(),
    })
}
