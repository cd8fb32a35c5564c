#![doc = include_str!("../README.md")]
#![expect(clippy::print_stdout, reason = "the answer is shown on the terminal")]
#![expect(clippy::print_stderr, reason = "and what makes it worthless")]

mod callbacks;
mod floor;
mod ingest;
mod load;
mod memory;
mod report;
mod rounds;
mod surroundings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use report::{Report, Table};
use surroundings::Surroundings;

/// Threads for load. The services and the servers need the cores.
const LOAD_THREADS: usize = 1;

/// Measures the services, as release processes, beside a floor in the same run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    effort: Effort,
    /// Show JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    floor: Option<Floor>,
}

/// How long is measured.
#[derive(Debug, Clone, clap::Args)]
struct Effort {
    /// Seconds of each stretch of load on webhook-ingest.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Callbacks of each stretch of load on token-broker.
    #[arg(long, default_value_t = 800)]
    callbacks: u32,
    /// How often each stretch is repeated, the floor and the service in turn; the middle one is shown.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

impl Effort {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// What the services are compared with, as processes of their own; started by the benchmark.
#[derive(Debug, Subcommand)]
enum Floor {
    #[command(hide = true)]
    FloorIngest {
        listen: SocketAddr,
        #[arg(long, env = floor::AMQP_URL, hide_env_values = true)]
        amqp_url: String,
        /// What is published for each request.
        message: PathBuf,
    },
    #[command(hide = true)]
    FloorCallbacks {
        listen: SocketAddr,
        #[arg(long, env = floor::DATABASE_URL, hide_env_values = true)]
        database_url: String,
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
    match cli.floor {
        Some(Floor::FloorIngest {
            listen,
            amqp_url,
            message,
        }) => runtime(floor::WORKERS)?.block_on(floor::ingest(listen, &amqp_url, &message)),
        Some(Floor::FloorCallbacks {
            listen,
            database_url,
        }) => runtime(floor::WORKERS)?.block_on(floor::callbacks(listen, database_url)),
        None => {
            let report = runtime(LOAD_THREADS)?.block_on(measure(&cli.effort, cli.json))?;
            if cli.json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            }
            Ok(())
        }
    }
}

/// Measures everything; shows each table when it is there unless `quiet`.
async fn measure(effort: &Effort, quiet: bool) -> Result<Report> {
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: its figures mean nothing.");
    }
    let around = Surroundings::start().await?;
    let machine = around.machine().await?;
    let mut tables = Vec::new();
    if !quiet {
        println!("{}", machine.join("\n"));
    }
    let mut show = |table: Table| {
        if !quiet {
            println!("\n{table}");
        }
        tables.push(table);
    };
    show(memory::measure(&around).await?);
    show(ingest::measure(&around, effort).await?);
    show(callbacks::measure(&around, effort).await?);
    around.stop().await;
    Ok(Report { machine, tables })
}
