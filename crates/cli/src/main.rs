#![doc = include_str!("../README.md")]

mod keys;
mod migrate;
mod runner_update;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "gha-slurm",
    version,
    about = "The command of gha-slurm's administrators."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Launch-token keys: make, rotate, list, retire.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Bring the database to this version's schema; its URL is in DATABASE_URL or in a file.
    Migrate(migrate::Arguments),
    /// Install a release of actions/runner for the nodes, or say how old the installed one is.
    RunnerUpdate(runner_update::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Keys(command) => keys::run(command),
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::RunnerUpdate(arguments) => runner_update::run(arguments).await,
    };
    match result {
        Ok(text) => {
            #[expect(clippy::print_stdout, reason = "the answer of a command")]
            {
                print!("{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the answer of a command")]
            {
                eprintln!("gha-slurm: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
