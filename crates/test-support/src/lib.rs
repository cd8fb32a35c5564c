#![doc = include_str!("../README.md")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a broken set-up has to stop the test with its reason"
)]

mod accounting;
mod certificates;
mod deployment;
mod middleman;
mod postgres;
mod process;
mod rabbitmq;
mod samples;
pub mod seed;
mod server;
mod service;
mod sign_in;
mod skip;
mod slurm;
mod wait;

pub use certificates::{TestCa, TestCertificate};
pub use deployment::{
    APP_ID, BackingServices, CLIENT_ID, CLUSTER, Credentials, Deployment, DeploymentBuilder,
    Service, SlurmBackend,
};
pub use middleman::Middleman;
pub use postgres::{PrivatePostgres, TestDatabase, migrate};
pub use process::{Process, binary, end_processes_in, end_processes_marked, processes_marked};
pub use rabbitmq::{PrivateRabbitMq, SHARED_RABBITMQ, TestBroker};
pub use samples::Sample;
pub use server::{Folder, free_port};
pub use service::ServiceProcess;
pub use sign_in::sign_in;
pub use skip::{SKIPPED_FILE, skip, skip_for_kernel, skipped_without_root};
pub use slurm::{
    LOGIN_NODE, PrivateSlurm, SLURM_ACCOUNT, SLURM_USERS, SlurmMissing, output_file, output_of,
    slurm_api_versions,
};
pub use wait::{Condition, NotYet, try_wait_until, wait_until};
