//! What the stand-in runner shows: its version, lines on standard output, exit codes.

use std::io::Write as _;

use chrono::Utc;

/// The version that the stand-in reports.
pub(crate) const VERSION: &str = "2.336.0";

/// Exit codes of `bin/Runner.Listener` (Constants.cs). 2 (try again), 3, 4 (self-update) and 6 (configuration refreshed)
/// are only there on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The workflow job is done, or it was told to stop.
    Success,
    /// No use in trying again.
    Terminated,
    /// Another listener has the runner's session.
    SessionConflict,
    /// Its version is too old, where the environment asks for this code.
    VersionDeprecated,
    /// 100 and the result, where the environment asks for it.
    JobResult(u8),
    /// What `STANDIN_RUNNER_EXIT_WITH` says.
    Asked(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Terminated => 1,
            Self::SessionConflict => 5,
            Self::VersionDeprecated => 7,
            Self::JobResult(result) => 100 + result,
            Self::Asked(code) => code,
        }
    }
}

/// A line on standard output. Errors are ignored: the reader may have gone.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A line with the time, as the real runner writes it.
pub(crate) fn say_with_time(line: &str) {
    say(&format!(
        "{}: {line}",
        Utc::now().format("%Y-%m-%d %H:%M:%SZ")
    ));
}
