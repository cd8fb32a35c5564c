#![doc = include_str!("../README.md")]

pub mod absence;
pub mod admission;
pub mod clock;
pub mod ids;
pub mod labels;
pub mod naming;
pub mod planner;
pub mod release;
pub mod resources;
pub mod slurm_state;
pub mod state;
pub mod usage;

pub use absence::Absence;
pub use clock::Clock;
pub use ids::{
    InstallationId, LaunchId, RepositoryFullName, RepositoryId, RunnerId, SlurmJobId, SlurmUser,
    WorkflowJobId,
};
pub use labels::{LabelPolicy, LabelSet, LabelSettings, NotOurs};
pub use resources::ResourceRequest;
pub use slurm_state::SlurmState;
pub use state::{LaunchState, RunnerState, WorkflowJobState};
pub use usage::Usage;
