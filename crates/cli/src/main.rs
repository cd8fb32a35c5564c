#![doc = include_str!("../README.md")]

mod agent;
mod client;
mod doctor;
mod explain;
mod keys;
mod migrate;
mod repos;
mod runner_update;
mod runners;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "gha-slurm",
    version,
    about = "The command of gha-slurm's users and administrators."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what the Slurm agent needs, on its host and, with --node, from a compute node.
    Doctor(doctor::Arguments),
    /// Say what a workflow job with these labels would get, or why it is not ours.
    Explain(explain::Arguments),
    /// Launch-token keys: make, rotate, list, retire.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Your repositories on this cluster; from a login node.
    #[command(subcommand)]
    Repos(repos::Command),
    /// Your runners on this cluster, with what they wait for; from a login node.
    Runners(runners::Arguments),
    /// Bring the database to this version's schema; its URL is in DATABASE_URL or in a file.
    Migrate(migrate::Arguments),
    /// Install a release of actions/runner for the nodes, or say how old the installed one is.
    RunnerUpdate(runner_update::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Keys(command) => keys::run(command),
        Command::Repos(command) => repos::run(command).await,
        Command::Runners(arguments) => runners::run(arguments).await,
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
