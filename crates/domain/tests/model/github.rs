//! GitHub: gives any idle runner to any queued workflow job whose labels the runner has, and refuses to delete a busy one.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::workflow_job::WorkflowJobFacts;
use gha_slurm_domain::{LaunchId, WorkflowJobState};

/// A set of labels, one bit each.
pub type Labels = u8;

/// The labels that workflow jobs ask for: each set contains the one before.
pub const LABELS: [(Labels, &[&str]); 3] = [
    (1, &["slurm"]),
    (3, &["slurm", "gpu"]),
    (7, &["slurm", "gpu", "big"]),
];

/// A workflow job as GitHub has it.
#[derive(Debug, Clone)]
pub struct Job {
    pub repository: i64,
    pub labels: Labels,
    pub state: WorkflowJobState,
    pub runner: Option<String>,
}

/// A registered runner.
#[derive(Debug, Clone)]
pub struct Registration {
    pub name: String,
    pub launch: LaunchId,
    pub repository: i64,
    pub labels: Labels,
    /// Connected: it can be given a workflow job.
    pub is_online: bool,
    pub job: Option<i64>,
    pub seen_at: DateTime<Utc>,
    /// The broker was killed between registering it and storing that: only GitHub's own clean-up finds it.
    pub is_orphan: bool,
}

/// A webhook that is on its way.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub action: WorkflowJobState,
    pub job: i64,
    pub repository: i64,
    pub facts: WorkflowJobFacts,
}

/// What GitHub answers when asked to delete a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    Busy,
    NotFound,
}

#[derive(Debug, Default)]
pub struct Github {
    pub jobs: BTreeMap<i64, Job>,
    pub registrations: BTreeMap<i64, Registration>,
    pub webhooks: Vec<Webhook>,
    next_id: i64,
}

impl Github {
    fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn queue(&mut self, repository: i64, labels: Labels, state: WorkflowJobState) -> i64 {
        let id = self.id();
        let job = Job {
            repository,
            labels,
            state: WorkflowJobState::Waiting,
            runner: None,
        };
        self.jobs.insert(id, job);
        self.becomes(id, state);
        id
    }

    /// The workflow job changes, and a webhook says so.
    pub fn becomes(&mut self, id: i64, state: WorkflowJobState) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.state = state;
        }
        if let Some((repository, facts)) = self.facts(id) {
            self.webhooks.push(Webhook {
                action: state,
                job: id,
                repository,
                facts,
            });
        }
    }

    /// What GitHub says of a workflow job, in webhooks and when asked.
    pub fn facts(&self, id: i64) -> Option<(i64, WorkflowJobFacts)> {
        let job = self.jobs.get(&id)?;
        let labels = LABELS.iter().find(|(bits, _)| *bits == job.labels);
        let facts = WorkflowJobFacts {
            id,
            run_id: id,
            run_attempt: Some(1),
            name: String::new(),
            workflow_name: None,
            head_branch: None,
            head_sha: None,
            html_url: None,
            labels: labels.map_or_else(Vec::new, |(_, words)| {
                words.iter().map(|word| (*word).to_owned()).collect()
            }),
            status: job.state.as_str().to_owned(),
            conclusion: None,
            runner_id: None,
            runner_name: job.runner.clone(),
            created_at: None,
            started_at: None,
            completed_at: None,
        };
        Some((job.repository, facts))
    }

    pub fn register(&mut self, registration: Registration) -> i64 {
        let id = self.id();
        self.registrations.insert(id, registration);
        id
    }

    pub fn find(&self, name: &str) -> Option<i64> {
        let mut all = self.registrations.iter();
        all.find(|(_, runner)| runner.name == name)
            .map(|(id, _)| *id)
    }

    /// `DELETE …/runners/{id}`: 204, 422 or 404.
    pub fn delete(&mut self, id: Option<i64>, name: &str) -> Deletion {
        let Some(id) = id.or_else(|| self.find(name)) else {
            return Deletion::NotFound;
        };
        match self.registrations.get(&id) {
            None => Deletion::NotFound,
            Some(runner) if runner.job.is_some() => Deletion::Busy,
            Some(_) => {
                self.registrations.remove(&id);
                Deletion::Deleted
            }
        }
    }

    /// Which idle runner may be given which queued workflow job.
    pub fn matches(&self) -> Vec<(i64, i64)> {
        let idle = self
            .registrations
            .iter()
            .filter(|(_, r)| r.is_online && r.job.is_none());
        let mut matches = Vec::new();
        for (runner, registration) in idle {
            for (job, wanted) in &self.jobs {
                let is_eligible = wanted.state == WorkflowJobState::Queued
                    && wanted.repository == registration.repository
                    && wanted.labels & !registration.labels == 0;
                if is_eligible {
                    matches.push((*runner, *job));
                }
            }
        }
        matches
    }

    pub fn assign(&mut self, runner: i64, job: i64) {
        let Some(registration) = self.registrations.get_mut(&runner) else {
            return;
        };
        registration.job = Some(job);
        if let Some(wanted) = self.jobs.get_mut(&job) {
            wanted.runner = Some(registration.name.clone());
        }
        self.becomes(job, WorkflowJobState::InProgress);
    }

    /// The runner's workflow job is over, and with it the registration: it was for one.
    pub fn complete(&mut self, runner: i64) {
        if let Some(job) = self.registrations.remove(&runner).and_then(|r| r.job) {
            self.becomes(job, WorkflowJobState::Completed);
        }
    }

    /// Removes runners that have not been connected for a day.
    pub fn forget(&mut self, now: DateTime<Utc>) {
        self.registrations
            .retain(|_, r| r.is_online || r.job.is_some() || r.seen_at + TimeDelta::days(1) > now);
    }

    pub fn is_busy(&self, launch: LaunchId) -> bool {
        self.registrations
            .values()
            .any(|r| r.launch == launch && r.job.is_some())
    }
}
