//! Runners, workflow jobs and runs.

use serde_json::{Value, json};

use super::{account, example, maybe_time, node_id, put, time};
use crate::model::{Conclusion, Repository, Runner, Status, WorkflowJob, WorkflowRun};
use crate::world::{Addresses, World};

pub(super) const JOB: &str = include_str!("../../payloads/rest/job.json");
pub(super) const RUN: &str = include_str!("../../payloads/rest/run.json");

impl World {
    pub(crate) fn runner_body(runner: &Runner) -> Value {
        json!({
            "id": runner.id,
            "runner_group_id": 1,
            "name": runner.name,
            "os": runner.os,
            "status": if runner.online { "online" } else { "offline" },
            "busy": runner.workflow_job_id.is_some(),
            "labels": runner.labels,
            "ephemeral": runner.ephemeral,
            "version": runner.version,
        })
    }

    pub(crate) fn workflow_job_body(&self, workflow_job: &WorkflowJob) -> Value {
        let full_name = self
            .repositories
            .get(&workflow_job.repository_id)
            .map(Repository::full_name)
            .unwrap_or_default();
        let owner = full_name.split('/').next().unwrap_or_default();
        let mut body = example(JOB, &self.addresses, owner, &full_name);
        put(
            &mut body,
            self.workflow_job_fields(workflow_job, &full_name),
        );
        body
    }

    /// What REST answers and webhooks write alike about a workflow job.
    pub(crate) fn workflow_job_fields(&self, job: &WorkflowJob, full_name: &str) -> Value {
        let Addresses { api, web } = &self.addresses;
        let (id, run_id) = (job.id, job.run_id);
        let run = self.runs.get(&run_id);
        let group = job.runner_id.map(|_| ("Default", 1));
        json!({
            "id": id,
            "node_id": node_id("CheckRun", id),
            "run_id": run_id,
            "run_url": format!("{api}/repos/{full_name}/actions/runs/{run_id}"),
            "run_attempt": 1,
            "head_sha": run.map(|run| run.head_sha.as_str()).unwrap_or_default(),
            "head_branch": run.map(|run| run.head_branch.as_str()),
            "workflow_name": "CI",
            "url": format!("{api}/repos/{full_name}/actions/jobs/{id}"),
            "html_url": format!("{web}/{full_name}/actions/runs/{run_id}/job/{id}"),
            "check_run_url": format!("{api}/repos/{full_name}/check-runs/{id}"),
            "name": job.name,
            "labels": job.labels,
            "status": job.status.as_str(),
            "conclusion": job.conclusion.map(Conclusion::as_str),
            "created_at": time(job.created_at),
            // GitHub fills it in for queued ones too, with the time of creation.
            "started_at": time(job.started_at.unwrap_or(job.created_at)),
            "completed_at": maybe_time(job.completed_at),
            "steps": steps(job),
            "runner_id": job.runner_id,
            "runner_name": job.runner_name,
            "runner_group_id": group.map(|(_, id)| id),
            "runner_group_name": group.map(|(name, _)| name),
        })
    }

    pub(crate) fn run_body(&self, run: &WorkflowRun) -> Value {
        let Some(repository) = self.repositories.get(&run.repository_id) else {
            return Value::Null;
        };
        let Addresses { api, web } = &self.addresses;
        let full_name = repository.full_name();
        let (status, conclusion) = self.run_status(run.id);
        let url = format!("{api}/repos/{full_name}/actions/runs/{}", run.id);
        let mut body = example(RUN, &self.addresses, &repository.owner.login, &full_name);
        let head = run.head_repository.as_ref().map(|head| {
            let mut body = self.repository_body(repository);
            if head.id != repository.id {
                put(
                    &mut body,
                    json!({
                        "id": head.id,
                        "full_name": head.full_name,
                        "name": head.full_name.split('/').next_back(),
                        "fork": head.fork,
                    }),
                );
            }
            body
        });
        put(
            &mut body,
            json!({
                "id": run.id,
                "name": "CI",
                "node_id": node_id("WorkflowRun", run.id),
                "run_number": run.run_number,
                "run_attempt": 1,
                "event": run.event,
                "display_title": "CI",
                "path": ".github/workflows/ci.yml",
                "status": status.as_str(),
                "conclusion": conclusion.map(Conclusion::as_str),
                "head_branch": run.head_branch,
                "head_sha": run.head_sha,
                "url": url,
                "html_url": format!("{web}/{full_name}/actions/runs/{}", run.id),
                "jobs_url": format!("{url}/jobs"),
                "logs_url": format!("{url}/logs"),
                "artifacts_url": format!("{url}/artifacts"),
                "cancel_url": format!("{url}/cancel"),
                "rerun_url": format!("{url}/rerun"),
                "previous_attempt_url": null,
                "created_at": time(run.created_at),
                "updated_at": time(run.created_at),
                "run_started_at": time(run.created_at),
                "actor": account(&run.actor, &self.addresses),
                "triggering_actor": account(&run.actor, &self.addresses),
                "repository": self.repository_body(repository),
                "head_repository": head,
            }),
        );
        if let Some(commit) = body.get_mut("head_commit") {
            put(
                commit,
                json!({ "id": run.head_sha, "timestamp": time(run.created_at) }),
            );
        }
        body
    }
}

fn steps(job: &WorkflowJob) -> Vec<Value> {
    if job.status == Status::InProgress {
        return vec![json!({
            "name": "Set up job", "status": "in_progress", "conclusion": null, "number": 1,
            "started_at": maybe_time(job.started_at), "completed_at": null,
        })];
    }
    let numbered = job.steps.iter().zip(1..);
    numbered
        .map(|(step, number)| {
            json!({
                "name": step.name, "status": "completed", "conclusion": step.conclusion.as_str(), "number": number,
                "started_at": time(step.started_at), "completed_at": time(step.completed_at),
            })
        })
        .collect()
}
