//! One workflow job: set-up, the started hook, containers, the step, the completed hook.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::model::{Conclusion, Step};
use crate::runner_protocol::messages::{Finished, Session, Work};
use crate::standin::containers::Containers;
use crate::standin::job_environment::{self, JobEnvironment};
use crate::standin::orphans;
use crate::standin::root::Root;

/// As much of the output as is sent.
const KEPT_OUTPUT: u64 = 1024 * 1024;
/// A step that is told to stop has so long before it is killed (ProcessInvoker.cs: 7.5 s for SIGINT).
const STOP_PATIENCE: Duration = Duration::from_millis(7500);

/// Runs it. `cancelled`: somebody cancelled it; `stop`: the runner itself is told to stop.
pub(crate) async fn run(
    root: &Root,
    session: &Session,
    work_folder: &str,
    work: &Work,
    cancelled: &CancellationToken,
    stop: &CancellationToken,
) -> Result<Finished> {
    let diagnostics = root.path("_diag");
    std::fs::create_dir_all(diagnostics.join("pages"))?;
    let log_name = format!("Worker_{}-utc.log", Utc::now().format("%Y%m%d-%H%M%S"));
    let mut log = File::create(diagnostics.join(log_name)).context("cannot write a Worker log")?;
    writeln!(log, "[{} INFO Worker] Job: {}", Utc::now(), work.name)?;
    let environment = job_environment::prepare(&root.path(work_folder), session, work)?;
    let page = diagnostics
        .join("pages")
        .join(format!("{}_1.log", work.workflow_job_id));
    let output = File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(page)?;
    let mut job = Job {
        environment,
        output,
        interrupted: [cancelled.clone(), stop.clone()],
        steps: Vec::new(),
        conclusion: Conclusion::Success,
    };
    let mut containers = Containers::of(work);
    job.set_up(Duration::from_millis(work.set_up_ms)).await;
    job.hook("ACTIONS_RUNNER_HOOK_JOB_STARTED", "Set up runner")
        .await?;
    if let Some(containers) = &mut containers {
        job.prepare(containers).await?;
    }
    job.step(&work.script, containers.as_ref()).await?;
    if let Some(containers) = &containers {
        job.clean_up(containers).await?;
    }
    // Skipped when the runner is stopped (actions/runner#2595).
    if !stop.is_cancelled() {
        job.hook_after("ACTIONS_RUNNER_HOOK_JOB_COMPLETED", "Complete runner")
            .await?;
    }
    orphans::end(&job.environment.tracking_id).await;
    let finished = Finished {
        conclusion: job.conclusion,
        output: tail(&mut job.output)?,
        steps: job.steps,
    };
    writeln!(
        log,
        "[{} INFO Worker] Job result: {:?}",
        Utc::now(),
        finished.conclusion
    )?;
    Ok(finished)
}

pub(super) struct Job {
    pub(super) environment: JobEnvironment,
    pub(super) output: File,
    interrupted: [CancellationToken; 2],
    steps: Vec<Step>,
    pub(super) conclusion: Conclusion,
}

impl Job {
    fn is_interrupted(&self) -> bool {
        self.interrupted.iter().any(CancellationToken::is_cancelled)
    }

    /// "Set up job": where the real runner downloads actions.
    async fn set_up(&mut self, duration: Duration) {
        let started_at = Utc::now();
        let [cancelled, stop] = self.interrupted.clone();
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = cancelled.cancelled() => {}
            () = stop.cancelled() => {}
        }
        self.note("Set up job", started_at, !self.is_interrupted());
    }

    async fn hook(&mut self, variable: &str, name: &str) -> Result<()> {
        if self.conclusion != Conclusion::Success {
            return Ok(());
        }
        self.hook_after(variable, name).await
    }

    /// A hook that runs whatever came before.
    async fn hook_after(&mut self, variable: &str, name: &str) -> Result<()> {
        let Some(script) = std::env::var_os(variable).filter(|script| !script.is_empty()) else {
            return Ok(());
        };
        let started_at = Utc::now();
        let succeeded = self.run(Path::new(&script), "").await?;
        self.note(name, started_at, succeeded);
        Ok(())
    }

    async fn step(&mut self, script: &str, containers: Option<&Containers>) -> Result<()> {
        if self.conclusion != Conclusion::Success {
            return Ok(());
        }
        let file = self.environment.temporary.join("step.sh");
        std::fs::write(&file, script)?;
        let started_at = Utc::now();
        let succeeded = match containers {
            None => self.run(&file, "").await?,
            Some(containers) => self.step_in(containers, &file).await?,
        };
        self.note("Run step", started_at, succeeded);
        Ok(())
    }

    pub(super) fn note(&mut self, name: &str, started_at: chrono::DateTime<Utc>, succeeded: bool) {
        let conclusion = if succeeded {
            Conclusion::Success
        } else if self.is_interrupted() {
            Conclusion::Cancelled
        } else {
            Conclusion::Failure
        };
        self.steps.push(Step {
            name: name.to_owned(),
            conclusion,
            started_at,
            completed_at: Utc::now(),
        });
        if self.conclusion == Conclusion::Success {
            self.conclusion = conclusion;
        }
    }

    /// Gives whether the script succeeded; it is stopped when the workflow job is. A `.js` is Node.js's, all else bash's
    /// (HostContext.cs, GetDefaultShellForScript).
    pub(super) async fn run(&self, script: &Path, input: &str) -> Result<bool> {
        let already = self.is_interrupted();
        let mut stdin = tempfile::tempfile()?;
        stdin.write_all(input.as_bytes())?;
        stdin.seek(SeekFrom::Start(0))?;
        let mut command = if script.extension().is_some_and(|end| end == "js") {
            Command::new("node")
        } else {
            let mut bash = Command::new("bash");
            bash.args(["--noprofile", "--norc", "-e", "-o", "pipefail"]);
            bash
        };
        let mut child = command
            .arg(script)
            .current_dir(&self.environment.workspace)
            .env_clear()
            .envs(&self.environment.variables)
            .stdin(stdin)
            .stdout(self.output.try_clone()?)
            .stderr(self.output.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", script.display()))?;
        if already {
            // The completed hook of a cancelled workflow job runs to its end.
            return Ok(child.wait().await?.success());
        }
        let [cancelled, stop] = &self.interrupted;
        tokio::select! {
            status = child.wait() => return Ok(status?.success()),
            () = cancelled.cancelled() => {}
            () = stop.cancelled() => {}
        }
        interrupt(&mut child).await;
        Ok(false)
    }
}

/// SIGINT, and SIGKILL for what does not listen.
async fn interrupt(child: &mut Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::INT);
    }
    if tokio::time::timeout(STOP_PATIENCE, child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

fn tail(output: &mut File) -> Result<String> {
    let length = output.metadata()?.len();
    output.seek(SeekFrom::Start(length.saturating_sub(KEPT_OUTPUT)))?;
    let mut kept = Vec::new();
    output.read_to_end(&mut kept)?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}
