#![doc = include_str!("../README.md")]

mod logs;
mod service;
mod settings;

pub use logs::{LogFormat, LogSettings};
pub use service::{TokenSigner, check_ready};
pub use settings::Settings;
