//! Workflow jobs and runs, from queued to completed.

use chrono::TimeDelta;

use super::{Ids, Now, World, tokens};
use crate::model::{
    Conclusion, HeadRepository, Repository, Status, Step, WorkflowJob, WorkflowRun,
};
use crate::request::{ControlError, NewWorkflowJob};

/// What a step does when nobody says.
const DEFAULT_SCRIPT: &str = "echo \"Hello from $RUNNER_NAME\"\nsleep 0.2";

/// How a runner says a workflow job ended.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) conclusion: Conclusion,
    pub(crate) steps: Vec<Step>,
    pub(crate) output: String,
}

impl World {
    pub(crate) fn workflow_job(&self, id: i64) -> Result<&WorkflowJob, ControlError> {
        self.workflow_jobs
            .get(&id)
            .ok_or_else(|| ControlError::NotFound(format!("workflow job {id}")))
    }

    pub(crate) fn queue(
        &mut self,
        new: NewWorkflowJob,
        now: Now,
    ) -> Result<WorkflowJob, ControlError> {
        let repository = self.repository_named(&new.repository)?;
        let run_id = match new.run_id {
            Some(id) => self.run_of(&repository, id)?.id,
            None => self.start_run(&repository, &new, now),
        };
        let status = if new.waiting {
            Status::Waiting
        } else {
            Status::Queued
        };
        let workflow_job = WorkflowJob {
            id: Ids::next(&mut self.ids.passing),
            run_id,
            repository_id: repository.id,
            name: new.name.unwrap_or_else(|| "build".to_owned()),
            labels: new.labels,
            status,
            conclusion: None,
            runner_id: None,
            runner_name: None,
            offered_to: None,
            created_at: now,
            started_at: None,
            completed_at: None,
            steps: Vec::new(),
            output: String::new(),
            script: new.script.unwrap_or_else(|| DEFAULT_SCRIPT.to_owned()),
            set_up_ms: new.set_up_ms,
            container: new.container,
            services: new.services,
            cancel_requested: false,
        };
        self.workflow_jobs
            .insert(workflow_job.id, workflow_job.clone());
        self.emit_workflow_job(status.as_str(), &workflow_job, now);
        Ok(workflow_job)
    }

    /// The run with this id, if it is the repository's.
    pub(crate) fn run_of(
        &self,
        repository: &Repository,
        id: i64,
    ) -> Result<&WorkflowRun, ControlError> {
        self.runs
            .get(&id)
            .filter(|run| run.repository_id == repository.id)
            .ok_or_else(|| ControlError::NotFound(format!("workflow run {id}")))
    }

    fn start_run(&mut self, repository: &Repository, new: &NewWorkflowJob, now: Now) -> i64 {
        let head_repository = match &new.fork {
            Some(full_name) => HeadRepository {
                id: Ids::next(&mut self.ids.repository),
                full_name: full_name.clone(),
                fork: true,
            },
            None => HeadRepository {
                id: repository.id,
                full_name: repository.full_name(),
                fork: false,
            },
        };
        let actor = match &new.actor {
            Some(login) => self.account(login, false),
            None => repository.owner.clone(),
        };
        let run = WorkflowRun {
            id: Ids::next(&mut self.ids.passing),
            repository_id: repository.id,
            run_number: 1 + self
                .runs
                .values()
                .filter(|r| r.repository_id == repository.id)
                .count() as i64,
            event: new.event.clone().unwrap_or_else(|| "push".to_owned()),
            head_repository: Some(head_repository),
            head_branch: new.head_branch.clone().unwrap_or_else(|| "main".to_owned()),
            head_sha: tokens::noise(40),
            actor,
            created_at: now,
        };
        let id = run.id;
        self.runs.insert(id, run);
        id
    }

    /// An environment's protection rules let it go on.
    pub(crate) fn approve(&mut self, id: i64, now: Now) -> Result<WorkflowJob, ControlError> {
        if self.workflow_job(id)?.status != Status::Waiting {
            return Err(ControlError::Conflict(format!(
                "workflow job {id} does not wait for an approval"
            )));
        }
        self.move_to("queued", id, now, |job| job.status = Status::Queued)
    }

    /// Cancels: at once while no runner has it, through the runner otherwise.
    pub(crate) fn cancel(&mut self, id: i64, now: Now) -> Result<WorkflowJob, ControlError> {
        match self.workflow_job(id)?.status {
            Status::Completed => Err(ControlError::Conflict(format!(
                "workflow job {id} is completed"
            ))),
            Status::InProgress => {
                let workflow_job = self
                    .workflow_jobs
                    .get_mut(&id)
                    .ok_or_else(|| ControlError::NotFound(format!("workflow job {id}")))?;
                workflow_job.cancel_requested = true;
                Ok(workflow_job.clone())
            }
            Status::Queued | Status::Waiting => {
                self.withdraw_offer(id);
                self.conclude(id, Conclusion::Cancelled, now)
            }
        }
    }

    /// Ends a workflow job that no runner has, for example as skipped.
    pub(crate) fn conclude(
        &mut self,
        id: i64,
        conclusion: Conclusion,
        now: Now,
    ) -> Result<WorkflowJob, ControlError> {
        self.move_to("completed", id, now, |job| {
            job.status = Status::Completed;
            job.conclusion = Some(conclusion);
            job.completed_at = Some(now);
        })
    }

    /// A runner took it.
    pub(crate) fn start(&mut self, id: i64, runner_id: i64, now: Now) -> Option<WorkflowJob> {
        let runner_name = self.runners.get(&runner_id)?.facts.name.clone();
        self.heard(runner_id, now);
        self.move_to("in_progress", id, now, |job| {
            job.status = Status::InProgress;
            job.offered_to = None;
            job.runner_id = Some(runner_id);
            job.runner_name = Some(runner_name);
            job.started_at = Some(now);
        })
        .ok()
    }

    /// Its runner says how it ended. Only the runner that has it may.
    pub(crate) fn finish(
        &mut self,
        id: i64,
        runner_id: i64,
        report: Report,
        now: Now,
    ) -> Result<(), ControlError> {
        let workflow_job = self.workflow_job(id)?;
        if workflow_job.status != Status::InProgress || workflow_job.runner_id != Some(runner_id) {
            return Err(ControlError::Conflict(format!(
                "workflow job {id} is not this runner's"
            )));
        }
        self.free_runner(runner_id, now);
        self.move_to("completed", id, now, |job| {
            job.status = Status::Completed;
            job.conclusion = Some(report.conclusion);
            job.completed_at = Some(now);
            job.steps = report.steps;
            job.output = report.output;
        })?;
        Ok(())
    }

    /// A sign of life of a runner that works.
    pub(crate) fn heard(&mut self, runner_id: i64, now: Now) {
        if let Some(session) = self
            .runners
            .get_mut(&runner_id)
            .and_then(|runner| runner.session.as_mut())
        {
            session.heard_at = now;
        }
    }

    /// Workflow jobs whose runner was not heard of for too long fail, as GitHub's do ("lost communication").
    pub(crate) fn fail_lost(&mut self, now: Now) -> bool {
        let limit = TimeDelta::from_std(self.timing.lost_runner).unwrap_or(TimeDelta::MAX);
        let lost: Vec<(i64, i64)> = self
            .workflow_jobs
            .values()
            .filter(|job| job.status == Status::InProgress)
            .filter_map(|job| job.runner_id.map(|runner_id| (job.id, runner_id)))
            .filter(|(_, runner_id)| {
                self.runners
                    .get(runner_id)
                    .and_then(|runner| runner.session.as_ref())
                    .is_none_or(|session| session.polls == 0 && now - session.heard_at > limit)
            })
            .collect();
        for (id, runner_id) in &lost {
            if let Some(runner) = self.runners.get_mut(runner_id) {
                runner.session = None;
            }
            let report = Report {
                conclusion: Conclusion::Failure,
                steps: Vec::new(),
                output: "The self-hosted runner lost communication with the server.".to_owned(),
            };
            // It is in progress and this runner's: it was just looked up.
            let _ = self.finish(*id, *runner_id, report, now);
        }
        !lost.is_empty()
    }

    fn move_to(
        &mut self,
        action: &str,
        id: i64,
        now: Now,
        change: impl FnOnce(&mut WorkflowJob),
    ) -> Result<WorkflowJob, ControlError> {
        let workflow_job = self
            .workflow_jobs
            .get_mut(&id)
            .ok_or_else(|| ControlError::NotFound(format!("workflow job {id}")))?;
        change(workflow_job);
        let workflow_job = workflow_job.clone();
        self.emit_workflow_job(action, &workflow_job, now);
        Ok(workflow_job)
    }

    /// Where a run stands, by its workflow jobs.
    pub(crate) fn run_status(&self, run_id: i64) -> (Status, Option<Conclusion>) {
        let jobs: Vec<&WorkflowJob> = self
            .workflow_jobs
            .values()
            .filter(|job| job.run_id == run_id)
            .collect();
        if jobs.iter().all(|job| job.status == Status::Completed) {
            let worst = [Conclusion::Failure, Conclusion::Cancelled]
                .into_iter()
                .find(|bad| jobs.iter().any(|job| job.conclusion == Some(*bad)));
            return (
                Status::Completed,
                Some(worst.unwrap_or(Conclusion::Success)),
            );
        }
        let none_started = jobs
            .iter()
            .all(|job| matches!(job.status, Status::Queued | Status::Waiting));
        if !none_started {
            return (Status::InProgress, None);
        }
        let queued = jobs.iter().any(|job| job.status == Status::Queued);
        (
            if queued {
                Status::Queued
            } else {
                Status::Waiting
            },
            None,
        )
    }
}
