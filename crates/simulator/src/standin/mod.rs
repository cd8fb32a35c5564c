//! The stand-in runner: the command line, environment, output lines, hooks, files, signals and exit codes of the real
//! runner's `bin/Runner.Listener` (actions/runner 2.336.0), with a bash script in place of a workflow's steps.

mod arguments;
mod client;
mod configure;
mod console;
mod containers;
mod install;
mod job_environment;
mod listener;
mod orphans;
mod root;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;
use tokio_util::sync::CancellationToken;

pub use install::install;

use arguments::{Arguments, Command};
use console::{Exit, VERSION, say};

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
