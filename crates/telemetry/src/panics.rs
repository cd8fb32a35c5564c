//! Panics: each one is logged with its place and counted, whatever becomes of the task it ended.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::LazyLock;

use prometheus::IntCounter;

/// Panics since the start of the process. In every registry of it, since a panic hook belongs to the process.
pub(crate) static PANICS: LazyLock<Option<IntCounter>> =
    LazyLock::new(|| IntCounter::new("gha_slurm_panics_total", "Panics in any task").ok());

/// Logs and counts every panic from now on, in place of the standard message on stderr.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        if let Some(panics) = &*PANICS {
            panics.inc();
        }
        let location = info.location().map(ToString::to_string);
        // Only where RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let message = panic_message(info.payload());
        tracing::error!(
            location,
            backtrace = backtrace.map(tracing::field::display),
            panic = message,
            "a task panicked"
        );
    }));
}

/// The text that a panic was raised with.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}
