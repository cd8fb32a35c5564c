//! Workflow jobs, for what webhooks did not say.

use gha_slurm_domain::{WorkflowJobFacts, WorkflowJobId};
use serde::Deserialize;

use crate::client::{Call, Github, PER_PAGE, Purpose, Scope};
use crate::error::GithubError;

/// Runs that can hold a queued workflow job: with a matrix or `needs:`, a run in progress has some too, and one that waits for an
/// approval may have other workflow jobs that do not.
const LIVE_RUNS: [&str; 3] = ["queued", "in_progress", "waiting"];

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<WorkflowJobFacts>,
}

impl Github {
    /// One workflow job; `None`: GitHub has forgotten it. `GET /repos/{owner}/{repo}/actions/jobs/{id}`.
    pub async fn workflow_job(
        &self,
        scope: &Scope,
        id: WorkflowJobId,
    ) -> Result<Option<WorkflowJobFacts>, GithubError> {
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
    ) -> Result<Vec<WorkflowJobFacts>, GithubError> {
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

    /// Ids of the runs of a repository that are queued, in progress or waiting for an approval.
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
