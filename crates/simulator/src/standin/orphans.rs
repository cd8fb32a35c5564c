//! "Cleaning up orphan processes": what a workflow job left running, found by the tracking id in its environment
//! (JobExtension.cs).

use rustix::process::{Pid, Signal, kill_process};

/// Ends every process that carries the tracking id.
pub(crate) fn end(tracking_id: &str) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    let mark = format!("RUNNER_TRACKING_ID={tracking_id}");
    for process in processes.flatten() {
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
        }
    }
}
