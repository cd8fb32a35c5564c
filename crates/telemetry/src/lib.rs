#![doc = include_str!("../README.md")]

mod logs;
mod metrics;
mod panics;
mod trace_context;

pub use logs::{Guard, LogFormat, LogSettings, TelemetryError, init};
pub use metrics::Metrics;
pub use panics::panic_message;
pub use prometheus;
pub use trace_context::{current_traceparent, set_parent};
