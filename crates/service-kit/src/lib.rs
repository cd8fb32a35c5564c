#![doc = include_str!("../README.md")]

pub mod authentication;
pub mod every;
pub mod http;
pub mod operations;
pub mod problem;
pub mod process;
pub mod settings;

pub use every::{Every, Pause, Periodic};
pub use gha_slurm_tls as tls;
pub use http::HttpService;
pub use operations::{Operations, Readiness};
pub use problem::ApiError;
pub use process::{ServiceInfo, Task, run, run_or};
pub use settings::{Settings, SettingsError};
pub use tokio_util::sync::CancellationToken;
