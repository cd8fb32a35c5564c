//! Workflow jobs, for what webhooks did not say.

use chrono::{DateTime, Utc};
use gha_slurm_contract::event::WorkflowJobFacts;
use gha_slurm_domain::WorkflowJobId;
use serde::Deserialize;

use crate::client::{Call, Github, Purpose, Scope};
use crate::error::GithubError;
use crate::payloads::time;
use crate::repositories::PER_PAGE;

/// Runs that can hold a queued workflow job: with a matrix or `needs:`, a run in progress has some too.
const LIVE_RUNS: [&str; 2] = ["queued", "in_progress"];

/// A workflow job as GitHub describes it, in webhooks and in REST. What payloads of 2021 lack is optional.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WorkflowJob {
    /// GitHub's id.
    pub id: i64,
    /// Its run.
    pub run_id: i64,
    /// Attempt of the run.
    pub run_attempt: Option<i64>,
    /// Its name.
    pub name: String,
    /// Its workflow.
    pub workflow_name: Option<String>,
    /// Branch.
    pub head_branch: Option<String>,
    /// Commit.
    pub head_sha: Option<String>,
    /// `queued`, `in_progress`, `completed`, `waiting`, `requested` or `pending`.
    pub status: String,
    /// How it ended.
    pub conclusion: Option<String>,
    /// The strings of `runs-on`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Runner that has it.
    pub runner_id: Option<i64>,
    /// Name of that runner.
    pub runner_name: Option<String>,
    /// Its page.
    pub html_url: Option<String>,
    /// When it was created.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
    /// When it started; while queued, when it was created.
    #[serde(default, deserialize_with = "time")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, deserialize_with = "time")]
    pub completed_at: Option<DateTime<Utc>>,
}

/// As events carry it.
impl From<WorkflowJob> for WorkflowJobFacts {
    fn from(job: WorkflowJob) -> Self {
        Self {
            id: job.id,
            run_id: job.run_id,
            run_attempt: job.run_attempt,
            name: job.name,
            workflow_name: job.workflow_name,
            head_branch: job.head_branch,
            head_sha: job.head_sha,
            html_url: job.html_url,
            labels: job.labels,
            status: job.status,
            conclusion: job.conclusion,
            runner_id: job.runner_id,
            runner_name: job.runner_name,
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
        }
    }
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<WorkflowJob>,
}

impl Github {
    /// One workflow job; `None`: GitHub has forgotten it. `GET /repos/{owner}/{repo}/actions/jobs/{id}`.
    pub async fn workflow_job(
        &self,
        scope: &Scope,
        id: WorkflowJobId,
    ) -> Result<Option<WorkflowJob>, GithubError> {
        let call = Call::get(
            "read a workflow job",
            format!("/repos/{}/actions/jobs/{id}", scope.name),
            &[404],
        );
        let answer = self.as_scope(scope, Purpose::WorkflowJobs, &call).await?;
        if answer.status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.json().map(Some)
    }

    /// The newest workflow jobs of a run. `GET /repos/{owner}/{repo}/actions/runs/{run_id}/jobs`.
    pub async fn workflow_jobs_of_run(
        &self,
        scope: &Scope,
        run_id: i64,
    ) -> Result<Vec<WorkflowJob>, GithubError> {
        let mut all = Vec::new();
        for page in 1.. {
            let call = Call::get(
                "list the workflow jobs of a run",
                format!(
                    "/repos/{}/actions/runs/{run_id}/jobs?per_page={PER_PAGE}&page={page}",
                    scope.name
                ),
                &[404],
            );
            let answer = self.as_scope(scope, Purpose::WorkflowJobs, &call).await?;
            if answer.status == http::StatusCode::NOT_FOUND {
                break;
            }
            let found: Jobs = answer.json()?;
            let last = found.jobs.len() < PER_PAGE;
            all.extend(found.jobs);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Ids of the runs of a repository that are queued or in progress.
    /// `GET /repos/{owner}/{repo}/actions/runs?status=`.
    pub async fn live_runs(&self, scope: &Scope) -> Result<Vec<i64>, GithubError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
        }
        #[derive(Deserialize)]
        struct Runs {
            workflow_runs: Vec<Run>,
        }
        let mut all = Vec::new();
        for status in LIVE_RUNS {
            for page in 1.. {
                let call = Call::get(
                    "list the runs of a repository",
                    format!(
                        "/repos/{}/actions/runs?status={status}&per_page={PER_PAGE}&page={page}",
                        scope.name
                    ),
                    &[],
                );
                let found: Runs = self
                    .as_scope(scope, Purpose::WorkflowJobs, &call)
                    .await?
                    .json()?;
                let last = found.workflow_runs.len() < PER_PAGE;
                all.extend(found.workflow_runs.into_iter().map(|run| run.id));
                if last {
                    break;
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}
