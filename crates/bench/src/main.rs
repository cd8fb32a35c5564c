#![doc = include_str!("../README.md")]
#![expect(clippy::print_stdout, reason = "the answer is shown on the terminal")]
#![expect(clippy::print_stderr, reason = "and what makes it worthless")]

mod bare;
mod callbacks;
mod floor;
mod ingest;
mod load;
mod memory;
mod planner;
mod report;
mod rounds;
mod site;
mod slurm;
mod surroundings;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use report::{Report, Table};
use rounds::Effort;
use surroundings::Surroundings;

/// Threads for load. The services and the servers need the cores.
const LOAD_THREADS: usize = 1;

/// Measures the services, as release processes, beside a floor in the same run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    effort: Effort,
    /// Show JSON instead of Markdown.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else there is, beside webhook-ingest, token-broker, the planner and memory.
#[derive(Debug, Subcommand)]
enum What {
    /// Submissions to a private Slurm through launcher and agent, beside bare ones. Takes root.
    Slurm(slurm::Effort),
    /// What webhook-ingest is compared with, as a process of its own; started by the benchmark.
    #[command(hide = true)]
    FloorIngest {
        listen: SocketAddr,
        #[arg(long, env = floor::AMQP_URL, hide_env_values = true)]
        amqp_url: String,
        #[arg(long, env = floor::WEBHOOK_SECRET, hide_env_values = true)]
        webhook_secret: String,
        /// What is published for each request.
        message: PathBuf,
    },
    /// What token-broker is compared with.
    #[command(hide = true)]
    FloorCallbacks {
        listen: SocketAddr,
        #[arg(long, env = floor::DATABASE_URL, hide_env_values = true)]
        database_url: String,
        #[command(flatten)]
        github: floor::GithubArgs,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = |threads| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    };
    match cli.what {
        Some(What::FloorIngest {
            listen,
            amqp_url,
            webhook_secret,
            message,
        }) => {
            let floor = floor::ingest(listen, &amqp_url, &webhook_secret, &message);
            runtime(floor::WORKERS)?.block_on(floor)
        }
        Some(What::FloorCallbacks {
            listen,
            database_url,
            github,
        }) => runtime(floor::WORKERS)?.block_on(floor::callbacks(listen, database_url, github)),
        Some(What::Slurm(effort)) => {
            runtime(LOAD_THREADS)?.block_on(measure(cli.json, async |around, show| {
                for table in slurm::measure(around, &effort).await? {
                    show(table);
                }
                Ok(())
            }))
        }
        None => runtime(LOAD_THREADS)?.block_on(measure(cli.json, async |around, show| {
            show(memory::measure(around).await?);
            show(ingest::measure(around, &cli.effort).await?);
            show(callbacks::measure(around, &cli.effort).await?);
            show(planner::measure(around).await?);
            Ok(())
        })),
    }
}

/// Measures; shows each table when it is there, or at the end all of them as JSON.
async fn measure(
    json: bool,
    tables_of: impl AsyncFnOnce(&Surroundings, &mut dyn FnMut(Table)) -> Result<()>,
) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: its figures mean nothing.");
    }
    let around = Surroundings::start().await?;
    let machine = around.machine().await?;
    let mut tables = Vec::new();
    if !json {
        println!("{}", machine.join("\n"));
    }
    let mut show = |table: Table| {
        if !json {
            println!("\n{table}");
        }
        tables.push(table);
    };
    tables_of(&around, &mut show).await?;
    around.stop().await;
    if json {
        let report = Report { machine, tables };
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}
