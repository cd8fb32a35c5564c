#![doc = include_str!("../README.md")]

pub mod absence;
pub mod admission;
pub mod bounded;
pub mod clock;
pub mod ids;
pub mod labels;
pub mod launch;
pub mod naming;
pub mod nul;
pub mod planner;
pub mod release;
pub mod resources;
pub mod runner_class;
pub mod slurm_reason;
pub mod slurm_state;
pub mod status;
pub mod stop;
mod text;
pub mod timeline;
pub mod usage;
pub mod workflow_job;

pub use absence::Absence;
pub use clock::Clock;
pub use ids::{
    ClassId, InstallationId, LaunchId, RepositoryFullName, RepositoryId, RunnerId, SlurmJobId,
    SlurmUser, WorkflowJobId,
};
pub use labels::{Asked, LabelPolicy, LabelSet, LabelSettings, NotOurs};
pub use launch::{Launch, LaunchState};
pub use resources::ResourceRequest;
pub use slurm_state::SlurmState;
pub use stop::Stop;
pub use usage::Usage;
pub use workflow_job::{WorkflowJob, WorkflowJobFacts, WorkflowJobState};
