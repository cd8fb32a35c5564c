//! Slurm jobs of the local backend outlive the agent, as they do in Slurm. They must not outlive the demo, however it
//! ends: a process of its own waits on a pipe to the demo, and ends them when the demo is gone.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use gha_slurm_test_support::{end_processes_marked, processes_marked, try_wait_until};

/// How long processes may take to die of SIGKILL.
const DEADLINE: Duration = Duration::from_secs(10);

/// The process that waits, and the folder of this run: everything that works for a Slurm job has its path in its
/// environment, as work root, home or temporary folder.
pub(super) struct Guard {
    process: Child,
    folder: PathBuf,
}

impl Guard {
    /// Makes the folder of this run, in `runs` or where Slurm users reach it, and starts to watch over it.
    pub(super) fn start(runs: &Path, for_slurm_users: bool) -> Result<Self> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let folder = if for_slurm_users {
            std::env::temp_dir().join(format!("gha-slurm-demo-{name}"))
        } else {
            runs.join(name)
        };
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let process = Command::new(std::env::current_exe()?)
            .arg("demo-guard")
            .arg(&folder)
            // Ctrl-C is for the demo, which tells this one by going away.
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .context("the demo's guard")?;
        Ok(Self { process, folder })
    }

    /// What Slurm jobs use.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What the guard does: waits for the end of the demo, then ends whatever still works in `folder`, and removes it.
pub(crate) fn watch(folder: &Path) -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mark = folder.to_str().context("a folder that is UTF-8")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(try_wait_until("Slurm jobs end", DEADLINE, || {
        end_processes_marked(mark);
        let left = processes_marked(mark);
        async move { if left.is_empty() { Ok(()) } else { Err(left) } }
    }));
    fs::remove_dir_all(folder)?;
    ended
}
