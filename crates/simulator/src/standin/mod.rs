//! The stand-in runner: the command line, environment, output lines, hooks, files, signals and exit codes of the real
//! runner's `bin/Runner.Listener` (actions/runner 2.336.0), with a bash script in place of a workflow's steps.

mod arguments;
mod client;
mod configure;
mod containers;
mod install;
mod job_environment;
mod listener;
mod orphans;
mod root;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;

use chrono::Utc;
use clap::Parser as _;
use tokio_util::sync::CancellationToken;

pub use install::install;

use arguments::{Arguments, Command};

/// The version it says it is.
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
    fn code(self) -> u8 {
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

/// Runs it with the command line and environment of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            say(&error.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(&format!(
                "Unrecognized command-line input arguments: {error}"
            ));
            return ExitCode::from(Exit::Terminated.code());
        }
    };
    if arguments.version {
        say(VERSION);
        return ExitCode::SUCCESS;
    }
    let exit = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let exit = runtime.block_on(run(arguments));
            runtime.shutdown_background();
            exit
        }
        Err(error) => Err(error.into()),
    };
    let exit = exit.unwrap_or_else(|error| {
        say(&format!("An error occurred: {error:#}"));
        Exit::Terminated
    });
    ExitCode::from(exit.code())
}

async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let root = root::Root::of_this_process()?;
    match arguments.command.unwrap_or_default() {
        Command::Run(options) => {
            let stop = CancellationToken::new();
            tokio::spawn(cancel_when_told(stop.clone()));
            listener::run(&root, options, stop).await
        }
        Command::Configure(options) => configure::configure(&root, options).await,
        Command::Remove(options) => configure::remove(&root, options).await,
        Command::Install { folder } => {
            install(&folder, &std::env::current_exe()?)?;
            Ok(Exit::Success)
        }
    }
}

/// SIGINT and SIGTERM both stop it gracefully.
async fn cancel_when_told(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say("Exiting...");
    stop.cancel();
}

/// A line on standard output. Whether anybody reads it is not our business.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A line with the time, as the real runner writes it.
fn say_with_time(line: &str) {
    say(&format!(
        "{}: {line}",
        Utc::now().format("%Y-%m-%d %H:%M:%SZ")
    ));
}

/// Whether an environment variable switches something on.
fn switched_on(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| {
        value
            .to_str()
            .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
    })
}
