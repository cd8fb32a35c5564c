//! A service of the workspace as a process of its own, which tests kill, stop and start again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::process::{Process, binary};
use crate::server::free_port;
use crate::wait::try_wait_until;

/// How long a service may take to be ready; it takes a fraction of a second once its servers are there.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long a service may take to finish what is in hand.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// One of the services: its settings by environment, its log in a file, its operations port on a free port.
pub struct ServiceProcess {
    name: String,
    command: Command,
    log: PathBuf,
    operations_port: u16,
    within: bool,
    process: Option<Process>,
}

impl ServiceProcess {
    /// The service whose binary is `program`; its log goes to `<folder>/<program>.log`. Not started yet.
    pub fn new(program: &str, folder: &Path) -> Self {
        let operations_port = free_port();
        let service = Self {
            name: program.to_owned(),
            command: Command::new(binary(program)),
            log: folder.join(format!("{program}.log")),
            operations_port,
            within: false,
            process: None,
        };
        service.setting("OPERATIONS__LISTEN", format!("127.0.0.1:{operations_port}"))
    }

    /// Starts it by another program: the first of `words`, with the others before the service's own command line.
    #[must_use]
    pub fn through(mut self, words: &[String]) -> Self {
        if let Some((program, arguments)) = words.split_first() {
            let mut command = Command::new(program);
            command.args(arguments).arg(self.command.get_program());
            command.args(self.command.get_args());
            let variables = self.command.get_envs();
            command.envs(variables.filter_map(|(key, value)| Some((key, value?))));
            self.command = command;
        }
        self
    }

    /// Gives one setting, named without the service's prefix, such as `HTTP__LISTEN`.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        let prefix = self.name.to_uppercase().replace('-', "_");
        self.command.env(format!("{prefix}__{key}"), value.as_ref());
        self
    }

    /// Gives a settings file, for what is no single value.
    #[must_use]
    pub fn config(mut self, path: &Path) -> Self {
        self.command.arg("--config").arg(path);
        self
    }

    /// Gives one environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value.as_ref());
        self
    }

    /// As [`ServiceProcess::through`], such as `nsenter --net=…`, which is also used to ask the service whether it is ready:
    /// it may have a loopback of its own.
    #[must_use]
    pub fn within(mut self, starter: &[String]) -> Self {
        self.within = !starter.is_empty();
        self.through(starter)
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.ready().await
    }

    /// Starts it, without waiting.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let process = Process::start(&self.name, &self.command, &self.log)
            .with_context(|| self.name.clone())?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it says that it is ready; an error when it ends instead.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        if self.within {
            return self.ready_within().await;
        }
        let url = format!("{}/health/ready", self.operations_url());
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .no_proxy()
            .build()?;
        let Self { name, process, .. } = self;
        let process = process.as_mut().context("not started")?;
        let ended = try_wait_until(&format!("{name} is ready"), READY_DEADLINE, || {
            let ended = process.exited();
            let call = http.get(&url).send();
            async move {
                if ended.is_some() {
                    return Ok(ended);
                }
                match call.await {
                    Ok(answer) if answer.status().is_success() => Ok(None),
                    Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await
        .with_context(|| process.log_tail())?;
        if let Some(status) = ended {
            bail!("{name} ended with {status}:\n{}", process.log_tail());
        }
        Ok(())
    }

    async fn ready_within(&mut self) -> anyhow::Result<()> {
        let Self {
            name,
            command,
            process,
            ..
        } = self;
        let process = process.as_mut().context("not started")?;
        let ended = try_wait_until(&format!("{name} is ready"), READY_DEADLINE, || {
            let ended = process.exited();
            let mut ask = tokio::process::Command::new(command.get_program());
            ask.args(command.get_args()).arg("--check-ready");
            let variables = command.get_envs();
            ask.envs(variables.filter_map(|(key, value)| Some((key, value?))));
            async move {
                if ended.is_some() {
                    return Ok(ended);
                }
                match ask.output().await {
                    Ok(output) if output.status.success() => Ok(None),
                    Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await
        .with_context(|| process.log_tail())?;
        if let Some(status) = ended {
            bail!("{name} ended with {status}:\n{}", process.log_tail());
        }
        Ok(())
    }

    /// Ends it as a crash would: this process alone, not its children.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
            // Dropping it would end its process group too.
            process.forget();
        }
    }

    /// Kills it with its process group.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.ask_to_stop();
        }
    }

    /// Asks it to stop, unless it was asked already, and waits. `None`: it was not running, or had to be killed.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.process.take()?.stop(STOP_DEADLINE)
    }

    /// Sends it a signal, such as `STOP` and `CONT`.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.exited().is_none())
    }

    /// `http://127.0.0.1:<port>` of its operations port.
    pub fn operations_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.operations_port)
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its binary's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has written so far, in all its lives.
    pub fn log(&self) -> String {
        crate::process::read_log(&self.log)
    }

    /// The end of what it has written.
    pub fn log_tail(&self) -> String {
        crate::process::tail(&self.log())
    }
}
