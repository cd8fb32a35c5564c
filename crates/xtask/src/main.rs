#![doc = include_str!("../README.md")]
#![expect(clippy::print_stdout, reason = "commands answer on the terminal")]

mod circles;
mod clocks;
mod crates;
mod demo;
mod label_table;
mod routes;
mod schemas;
mod servers;
mod skipped;
mod source;
mod string_errors;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What developers run beside cargo.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write proto-schemas/, docs/security/routes.md, and the table of labels in docs/workflows.md, from the code.
    Schemas {
        /// Only compare, and fail when a file differs.
        #[arg(long)]
        check: bool,
    },
    /// Check the table of crates in docs/architecture.md.
    Crates,
    /// Check that no more than two files of a crate use one another in a circle.
    Circles,
    /// Check that no error is a string.
    StringErrors,
    /// Check that only the system's `Clock` asks for the time.
    Clocks,
    /// Show one build from a signed webhook to a finished workflow job, on this machine.
    Demo(demo::Options),
    /// Ends what the demo leaves behind; started by it.
    #[command(hide = true)]
    DemoGuard {
        /// What is looked after.
        folder: PathBuf,
    },
    /// Run a command with a private PostgreSQL and RabbitMQ for the tests it runs, and report those that were skipped.
    WithServices {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let root = root();
    match Cli::parse().command {
        Command::Schemas { check: false } => {
            schemas::write(&root)?;
            label_table::write(&root)?;
            routes::write(&root)?;
        }
        Command::Schemas { check: true } => {
            schemas::check(&root)?;
            label_table::check(&root)?;
            routes::check(&root)?;
        }
        Command::Crates => {
            crates::check(&root)?;
            println!("every crate depends on what the table allows");
        }
        Command::Circles => {
            circles::check(&root)?;
            println!("no circle of modules is larger than two files");
        }
        Command::StringErrors => {
            string_errors::check(&root)?;
            println!("no error is a string");
        }
        Command::Clocks => {
            clocks::check(&root)?;
            println!("the time comes from a Clock");
        }
        Command::Demo(options) => return demo::run(&root, &options),
        Command::DemoGuard { folder } => demo::watch(&folder)?,
        Command::WithServices { command } => return servers::run_with(&command),
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of the workspace this was built from.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}
