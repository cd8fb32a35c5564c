//! Rows that a launcher and a token-broker would have written: workflow jobs, launches and runners at the step that a test needs.

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{
    Admission, Applied, Caller, Happening, NewLaunch, Rejected, RunnerMode, SlurmReport,
};
use gha_slurm_domain::timeline::{Entry, Kind};
use gha_slurm_domain::workflow_job::{Decision, Heard};
use gha_slurm_domain::{
    Launch, LaunchId, RepositoryId, ResourceRequest, RunnerId, SlurmState, SlurmUser, WorkflowJob,
    WorkflowJobFacts, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_storage::transaction::Work;
use gha_slurm_storage::{Database, ScopeLock, StorageError, classes, launches, workflow_jobs};

/// The facts of a queued workflow job with these labels.
pub fn facts(id: i64, labels: &[&str], queued_at: Option<DateTime<Utc>>) -> WorkflowJobFacts {
    WorkflowJobFacts {
        id,
        run_id: 100 + id,
        run_attempt: Some(1),
        name: "test".into(),
        workflow_name: Some("CI".into()),
        head_branch: None,
        head_sha: None,
        html_url: None,
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        status: "queued".into(),
        conclusion: None,
        runner_id: None,
        runner_name: None,
        created_at: queued_at,
        started_at: None,
        completed_at: None,
    }
}

/// Writes rows of one repository.
pub struct Seed<'a> {
    /// The database.
    pub database: &'a Database,
    /// The repository; it is there already.
    pub repository: RepositoryId,
    /// Whose account is spent.
    pub user: SlurmUser,
}

impl Seed<'_> {
    /// A queued workflow job that gets a runner.
    pub async fn queued(&self, facts: &WorkflowJobFacts, now: DateTime<Utc>) -> WorkflowJob {
        self.in_scope(async |mut lock: ScopeLock<'_>| {
            let labels = facts.labels.iter().collect();
            let resources = ResourceRequest::default();
            let class = classes::ensure(&mut lock, &self.user, &labels, &resources).await?;
            let heard = Heard {
                facts: facts.clone(),
                state: WorkflowJobState::Queued,
                repository: self.repository,
                installation: None,
                traceparent: None,
            };
            let learned = WorkflowJob::learn(None, heard, now);
            let job = learned.job.decided(Decision::Ours(class), now);
            let job = job
                .map(|(job, _)| job)
                .ok_or(StorageError::Unknown("decision"))?;
            workflow_jobs::save(&mut lock, None, &job, learned.entry.as_slice(), now).await?;
            Ok(job)
        })
        .await
    }

    /// GitHub says that a workflow job is over.
    pub async fn completed(&self, id: i64, now: DateTime<Utc>) {
        self.in_scope(async |mut lock: ScopeLock<'_>| {
            let before = workflow_jobs::find(lock.conn(), WorkflowJobId(id)).await?;
            let before = before.ok_or(StorageError::Unknown("workflow_jobs.id"))?;
            let heard = Heard {
                facts: WorkflowJobFacts {
                    status: "completed".into(),
                    ..before.facts.clone()
                },
                state: WorkflowJobState::Completed,
                repository: self.repository,
                installation: None,
                traceparent: None,
            };
            let learned = WorkflowJob::learn(Some(&before), heard, now);
            let entries = learned.entry.as_slice();
            workflow_jobs::save(&mut lock, Some(&before), &learned.job, entries, now).await
        })
        .await;
    }

    /// A planned launch that a workflow job caused.
    pub async fn planned(&self, cause: &WorkflowJob, now: DateTime<Utc>) -> LaunchId {
        let id = LaunchId(uuid::Uuid::now_v7());
        self.in_scope(async |mut lock: ScopeLock<'_>| {
            let class = cause.class.ok_or(StorageError::Unknown("class"))?;
            let new = NewLaunch {
                id,
                class,
                repository: self.repository,
                cause: cause.id(),
                traceparent: None,
                not_before: now,
                verify_demand: false,
            };
            let launch = Launch::planned(new, now);
            let entry = Entry::new(Kind::Planned, now, "A launch is planned");
            launches::plan(&mut lock, &[launch], &entry, now).await
        })
        .await;
        id
    }

    /// The agent has a launch.
    pub async fn submitted(&self, launch: LaunchId, slurm_job: Option<&str>, now: DateTime<Utc>) {
        let happening = Happening::Accepted {
            cluster: "main".into(),
            slurm_job: slurm_job.and_then(|job| job.parse().ok()),
            token_expires_at: now + TimeDelta::hours(25),
        };
        self.happen(launch, happening, now).await;
    }

    /// Slurm reports of a launch's Slurm job.
    pub async fn reported(&self, launch: LaunchId, state: SlurmState, now: DateTime<Utc>) {
        let report = SlurmReport::new(state);
        let happening = Happening::SlurmReported {
            report,
            slurm_job: None,
            exit_code: None,
            ended_at: None,
        };
        self.happen(launch, happening, now).await;
    }

    /// A launch's node called back and its runner is registered.
    pub async fn registered(
        &self,
        launch: LaunchId,
        slurm_job: &str,
        name: &str,
        (github_id, hash): (Option<i64>, &[u8]),
        now: DateTime<Utc>,
    ) -> Applied {
        let called_back = Happening::CalledBack {
            caller: Caller {
                slurm_job: slurm_job.parse().ok(),
                restart_count: 0,
                node: Some("n1".into()),
            },
            mode: RunnerMode::Jit,
            admission: Admission {
                refusal: None,
                demand: 1,
                redeemed: 0,
            },
            runner: RunnerId(uuid::Uuid::now_v7()),
            name: name.to_owned(),
        };
        let called = self
            .database
            .happen("seed", self.repository, launch, &called_back, now)
            .await;
        if let Ok(Err(Rejected::NotStarted(_))) = called {
            self.reported(launch, SlurmState::Running, now).await;
            self.happen(launch, called_back, now).await;
        } else if !matches!(called, Ok(Ok(_))) {
            panic!("{called_back:?}: {called:?}");
        }
        let attempt = self.attempts(launch).await;
        let minted = Happening::Minted {
            attempt,
            github_id,
            progress_token_hash: hash.to_vec(),
        };
        self.happen(launch, minted, now).await
    }

    /// How often the node of a launch has called back.
    async fn attempts(&self, launch: LaunchId) -> u32 {
        let loaded = async {
            let mut conn = self.database.connection().await?;
            launches::peek_all(&mut conn, &[launch]).await
        };
        match loaded.await {
            Ok(found) => {
                let runner = found.first().and_then(|found| found.launch.runner());
                runner.map_or(0, |runner| runner.mint_attempt)
            }
            Err(error) => panic!("{launch}: {error}"),
        }
    }

    /// GitHub gave a workflow job to a launch's runner.
    pub async fn attributed(&self, launch: LaunchId, workflow_job: i64, now: DateTime<Utc>) {
        let happening = Happening::Attributed(WorkflowJobId(workflow_job));
        self.happen(launch, happening, now).await;
    }

    /// Something happens to a launch, which the domain must not refuse.
    pub async fn happen(
        &self,
        launch: LaunchId,
        happening: Happening,
        now: DateTime<Utc>,
    ) -> Applied {
        self.database
            .happen("seed", self.repository, launch, &happening, now)
            .await
            .unwrap_or_else(|error| panic!("{happening:?}: {error}"))
            .unwrap_or_else(|rejected| panic!("{happening:?}: {rejected:?}"))
    }

    async fn in_scope<T: Send>(
        &self,
        work: impl for<'r> Work<ScopeLock<'r>, Result<T, StorageError>, Fut: Send> + Send + Sync,
    ) -> T {
        self.database
            .in_scope("seed", self.repository, work)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }
}
