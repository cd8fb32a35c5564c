//! "Cleaning up orphan processes": what a workflow job left running, found by the tracking id in its environment
//! (JobExtension.cs).

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// How long it looks again for processes that could not be read, since execve(2) may wait for a busy disk, and the pause between.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Ends every process that carries the tracking id.
pub(crate) async fn end(tracking_id: &str) {
    let mark = format!("RUNNER_TRACKING_ID={tracking_id}");
    let start = Instant::now();
    while end_those_with(&mark) > 0 && start.elapsed() < PATIENCE {
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many there were: those that were ended, which may have started another meanwhile, and those that could not be told, because they
/// are between two programs.
fn end_those_with(mark: &str) -> usize {
    let mut found = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
        {
            let _ = kill_process(pid, Signal::KILL);
            found += 1;
        } else if environment.is_empty() && is_in_execve(&process.path()) {
            found += 1;
        }
    }
    found
}

/// Whether the process has a program but not its arguments and environment yet: execve(2) writes both at its end, and may
/// wait for the disk before.
fn is_in_execve(process: &Path) -> bool {
    std::fs::read_link(process.join("exe")).is_ok()
        && std::fs::read(process.join("cmdline")).is_ok_and(|words| words.is_empty())
}
