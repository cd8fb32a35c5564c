#![doc = include_str!("../README.md")]

mod api_version;
mod backend;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod local;
mod options;
mod process;
pub mod program;
mod rest;
mod sacct;
mod sbatch;
pub mod settings;
mod spelling;
mod squeue;
mod submission;
pub mod token_signer;

pub use api_version::ApiVersion;
pub use backend::{
    Cancellation, CannotAct, Found, JobUsage, Numbers, Queue, Slurm, SlurmJob, SlurmUnavailable,
    SubmitError, Submitted, Survey, is_output_file,
};
pub use local::LocalSlurm;
pub use rest::RestSlurm;
pub use sbatch::SbatchSlurm;
pub use submission::Submission;
