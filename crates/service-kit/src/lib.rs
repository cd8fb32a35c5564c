#![doc = include_str!("../README.md")]

mod app_trouble;
pub mod authentication;
pub mod body;
pub mod client_address;
mod connection;
pub mod every;
mod files;
pub mod http;
mod loops;
pub mod operations;
mod places;
pub mod problem;
pub mod process;
mod server;
pub mod settings;
pub mod strangers;
mod unknown_tokens;

pub use app_trouble::AppTrouble;
pub use body::{Body, BodyLimits};
pub use client_address::client_address;
pub use every::{Every, Pause, Periodic};
pub use gha_slurm_tls as tls;
pub use http::HttpService;
pub use loops::{Pulse, Stuck};
pub use operations::{Operations, Readiness};
pub use problem::ApiError;
pub use process::{ServiceInfo, Task, run, run_or};
pub use settings::{Settings, SettingsError};
pub use strangers::{Strangers, Window};
pub use tokio_util::sync::CancellationToken;
pub use unknown_tokens::UnknownTokens;
