#![doc = include_str!("../README.md")]

pub mod absence;
pub mod admission;
pub mod ids;
pub mod labels;
pub mod naming;
pub mod planner;
pub mod release;
pub mod resources;
pub mod state;
pub mod usage;

pub use absence::Absence;
pub use ids::{
    AllocationId, InstallationId, RepositoryFullName, RepositoryId, RunnerId, SlurmJobId,
    SlurmUser, WorkflowJobId,
};
pub use labels::{LabelPolicy, LabelSet, LabelSettings, NotOurs};
pub use resources::ResourceRequest;
pub use state::{AllocationState, RunnerState, SlurmState, WorkflowJobState};
pub use usage::Usage;
