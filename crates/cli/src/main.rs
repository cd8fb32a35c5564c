#![doc = include_str!("../README.md")]

mod agent;
mod client;
mod database;
mod dead_letters;
mod doctor;
mod explain;
mod keys;
mod migrate;
mod panic;
mod repos;
mod retry;
mod runner_update;
mod runners;
mod secret_url;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "gha-slurm",
    version,
    about = "Manage gha-slurm, as an administrator or as a user on a login node."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what the Slurm agent needs on its host and, with --node, on a compute node.
    Doctor(doctor::Arguments),
    /// Show what a workflow job with these labels would request, or why it is not for this cluster.
    Explain(explain::Arguments),
    /// Manage launch-token keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Manage your repositories on this cluster, from a login node.
    #[command(subcommand)]
    Repos(repos::Command),
    /// List your runners on this cluster and why they wait, from a login node.
    Runners(runners::Arguments),
    /// Bring the database to this version's schema and rights, as its owner. Reads its URL from DATABASE_URL or a file.
    Migrate(migrate::Arguments),
    /// Stop everything at once: launch nothing, withdraw what has no workflow job, revoke launch tokens. Reads DATABASE_URL as `migrate`.
    Panic(panic::Arguments),
    /// Let launches go on after `gha-slurm panic`.
    Resume(panic::ResumeArguments),
    /// Try again what was refused or failed too often, of all repositories or of one. Reads DATABASE_URL as `migrate`.
    Retry(retry::Arguments),
    /// Look at events that the launcher could not handle, and put them back. Reads RabbitMQ's URL from AMQP_URL or a file.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Install a release of actions/runner for the nodes, or check the age of the installed one.
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
        Command::Panic(arguments) => panic::run(arguments).await,
        Command::Resume(arguments) => panic::resume(arguments).await,
        Command::Retry(arguments) => retry::run(arguments).await,
        Command::DeadLetters(command) => dead_letters::run(command).await,
        Command::RunnerUpdate(arguments) => runner_update::run(arguments).await,
    };
    match result {
        Ok(text) => {
            #[expect(clippy::print_stdout, reason = "the output of a command")]
            {
                print!("{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the output of a command")]
            {
                eprintln!("gha-slurm: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
