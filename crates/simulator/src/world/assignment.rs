//! Which runner gets which workflow job. GitHub ties none to the runner that was started for it: any idle runner with all
//! of its labels may get it (actions/runner#2147).

use chrono::TimeDelta;

use super::{Now, World};
use crate::model::{Status, WorkflowJob};
use crate::request::ControlError;

/// Why a runner does not get the workflow job it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcquireRefusal {
    /// Another one has it, or it is over.
    Gone,
    /// The service lost the assignment.
    Lost,
}

/// All of the workflow job's labels are the runner's, ignoring case. No label at all (a runner group) matches nothing.
pub(crate) fn serves(runner_labels: &[crate::model::RunnerLabel], wanted: &[String]) -> bool {
    !wanted.is_empty()
        && wanted.iter().all(|label| {
            runner_labels
                .iter()
                .any(|offered| offered.name.eq_ignore_ascii_case(label))
        })
}

impl World {
    pub(crate) fn pause_assignment(&mut self, paused: bool) {
        self.assignment.paused = paused;
    }

    /// From now on only this runner may get this workflow job, and gets no other; works while assignment is paused.
    pub(crate) fn pin(&mut self, id: i64, runner: &str) -> Result<(), ControlError> {
        let workflow_job = self.workflow_job(id)?;
        if workflow_job.status != Status::Queued || workflow_job.offered_to.is_some() {
            return Err(ControlError::Conflict(format!(
                "workflow job {id} does not wait for a runner"
            )));
        }
        self.assignment.pins.insert(id, runner.to_owned());
        Ok(())
    }

    /// The runner that takes this workflow job next will be told that it is gone, and listens on as a ghost.
    pub(crate) fn lose_next_offer(&mut self, id: i64) -> Result<(), ControlError> {
        self.workflow_job(id)?;
        self.assignment.lose.push(id);
        Ok(())
    }

    /// Offers every queued workflow job, oldest first, to the runner that has been idle longest among those that may
    /// have it.
    pub(crate) fn assign(&mut self, now: Now) {
        let waiting: Vec<i64> = self
            .workflow_jobs
            .values()
            .filter(|job| job.status == Status::Queued && job.offered_to.is_none())
            .map(|job| job.id)
            .collect();
        for id in waiting {
            let Some(runner_id) = self.choose_runner(id) else {
                continue;
            };
            if let Some(runner) = self.runners.get_mut(&runner_id) {
                runner.facts.workflow_job_id = Some(id);
            }
            if let Some(workflow_job) = self.workflow_jobs.get_mut(&id) {
                workflow_job.offered_to = Some(runner_id);
            }
            self.assignment.pins.remove(&id);
            self.assignment.offered_at.insert(id, now);
        }
    }

    fn choose_runner(&self, id: i64) -> Option<i64> {
        let workflow_job = self.workflow_jobs.get(&id)?;
        let pinned_to = self.assignment.pins.get(&id);
        if pinned_to.is_none() && self.assignment.paused {
            return None;
        }
        self.runners
            .values()
            .filter(|runner| {
                let name = &runner.facts.name;
                let may = match pinned_to {
                    Some(wanted) => wanted == name,
                    None => !self.assignment.pins.values().any(|pinned| pinned == name),
                };
                may && runner.is_listening()
                    && runner.facts.repository_id == workflow_job.repository_id
                    && serves(&runner.facts.labels, &workflow_job.labels)
            })
            .min_by_key(|runner| runner.session.as_ref().map(|session| session.idle_since))
            .map(|runner| runner.facts.id)
    }

    /// The workflow job a session was offered and has not taken yet.
    pub(crate) fn offer_for(&mut self, session_id: &str) -> Option<i64> {
        let runner = self.with_session(session_id)?;
        let runner_id = runner.facts.id;
        let id = runner.facts.workflow_job_id?;
        self.workflow_jobs
            .get(&id)
            .filter(|job| job.status == Status::Queued && job.offered_to == Some(runner_id))
            .map(|job| job.id)
    }

    /// The runner takes the workflow job it was offered: from here on it is in progress.
    pub(crate) fn acquire(
        &mut self,
        runner_id: i64,
        id: i64,
        now: Now,
    ) -> Result<WorkflowJob, AcquireRefusal> {
        let offered = self
            .workflow_jobs
            .get(&id)
            .is_some_and(|job| job.status == Status::Queued && job.offered_to == Some(runner_id));
        if !offered {
            return Err(AcquireRefusal::Gone);
        }
        self.assignment.offered_at.remove(&id);
        if let Some(at) = self.assignment.lose.iter().position(|lost| *lost == id) {
            self.assignment.lose.remove(at);
            self.withdraw_offer(id);
            if let Some(runner) = self.runners.get_mut(&runner_id) {
                runner.ghost = true;
            }
            return Err(AcquireRefusal::Lost);
        }
        self.start(id, runner_id, now).ok_or(AcquireRefusal::Gone)
    }

    pub(crate) fn withdraw_offer(&mut self, id: i64) {
        self.assignment.offered_at.remove(&id);
        let Some(workflow_job) = self.workflow_jobs.get_mut(&id) else {
            return;
        };
        if let Some(runner_id) = workflow_job.offered_to.take()
            && let Some(runner) = self.runners.get_mut(&runner_id)
        {
            runner.facts.workflow_job_id = None;
        }
    }

    /// What was not taken within the pick-up time is offered again.
    pub(crate) fn withdraw_stale_offers(&mut self, now: Now) -> bool {
        let limit = TimeDelta::from_std(self.timing.pick_up).unwrap_or(TimeDelta::MAX);
        let stale: Vec<i64> = self
            .assignment
            .offered_at
            .iter()
            .filter(|(_, at)| now - **at > limit)
            .map(|(id, _)| *id)
            .collect();
        for id in &stale {
            self.withdraw_offer(*id);
        }
        !stale.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crate::model::RunnerLabel;

    #[test]
    fn labels_are_a_subset_without_case() {
        let offered = ["self-hosted", "Linux", "slurm"].map(|name| RunnerLabel {
            id: 1,
            name: name.to_owned(),
            kind: "custom".to_owned(),
        });
        let serves = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|l| (*l).to_owned()).collect();
            super::serves(&offered, &wanted)
        };
        assert!(serves(&["self-hosted"]));
        assert!(serves(&["SLURM", "linux"]));
        assert!(!serves(&["slurm", "gpu"]));
        assert!(!serves(&[]));
    }
}
