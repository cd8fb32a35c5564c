//! The agent as a real process over real HTTP, and the job script against a broker that answers as told.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod agent_fixture;
mod containers;
mod crash;
mod doctor;
mod ends;
mod ghosts;
mod hooks;
mod job_script;
mod job_script_failures;
mod network;
mod node;
mod original;
mod podman;
mod proxy_fixture;
mod real_slurm;
mod relay;
mod rest;
mod rest_recorded;
mod sbatch;
mod script_fixture;
mod secrets;
mod self_service;
mod signals;
mod start;
mod stop;
mod sudo;
mod units;

use std::time::Duration;

/// For what takes a second or two on a machine of its own.
const DEADLINE: Duration = Duration::from_secs(60);
