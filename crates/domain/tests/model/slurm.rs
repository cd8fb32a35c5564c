//! Slurm and its agent: at most `LIMIT` Slurm jobs, `NODES` of them at once; jobs fail, are requeued, cancelled or forgotten.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gha_slurm_domain::{LaunchId, SlurmState};

use crate::node::Process;

/// The agent's quota.
pub const LIMIT: usize = 5;
/// Slurm jobs that run at once.
pub const NODES: usize = 3;

/// A Slurm job.
#[derive(Debug)]
pub struct SlurmJob {
    pub launch: LaunchId,
    pub state: SlurmState,
    pub restarts: i32,
    /// When its launch token expires.
    pub token_expires_at: DateTime<Utc>,
    /// The job script, while it runs.
    pub process: Option<Process>,
}

/// What the agent answers to a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted(i64),
    Limit,
    Refused,
    Unavailable,
}

#[derive(Debug, Default)]
pub struct Slurm {
    pub jobs: BTreeMap<i64, SlurmJob>,
    /// The agent's ledger: the first answer stands.
    ledger: BTreeMap<LaunchId, i64>,
    /// How often something ended.
    pub freed: u64,
    /// The cluster's policy refuses everything.
    pub refuses: bool,
}

impl Slurm {
    pub fn active(&self) -> usize {
        self.jobs
            .values()
            .filter(|job| !job.state.is_over())
            .count()
    }

    pub fn in_state(&self, state: SlurmState) -> Vec<i64> {
        let jobs = self.jobs.iter().filter(|(_, job)| job.state == state);
        jobs.map(|(number, _)| *number).collect()
    }

    /// `POST /runner/start`.
    pub fn submit(&mut self, launch: LaunchId, token_expires_at: DateTime<Utc>) -> Answer {
        if let Some(number) = self.ledger.get(&launch) {
            return Answer::Accepted(*number);
        }
        if self.refuses {
            return Answer::Refused;
        }
        if self.active() >= LIMIT {
            return Answer::Limit;
        }
        let number = self.jobs.len() as i64 + 1;
        let job = SlurmJob {
            launch,
            state: SlurmState::Pending,
            restarts: 0,
            token_expires_at,
            process: None,
        };
        self.jobs.insert(number, job);
        self.ledger.insert(launch, number);
        Answer::Accepted(number)
    }

    /// What the agent reports of a launch.
    pub fn report(&self, launch: LaunchId) -> Option<(i64, SlurmState)> {
        let number = self.ledger.get(&launch)?;
        self.jobs.get(number).map(|job| (*number, job.state))
    }

    /// Ends a Slurm job. Returns its process.
    pub fn end(&mut self, number: i64, state: SlurmState) -> Option<Process> {
        let job = self.jobs.get_mut(&number)?;
        if !job.state.is_over() {
            job.state = state;
            self.freed += 1;
        }
        job.process.take()
    }
}
