//! The token signer's process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gha_slurm_domain::Clock;
use gha_slurm_settings::{Loaded, Settings as _, describe_source, load_checked};
use gha_slurm_token_signer::{Settings, TokenSigner, check_ready};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Gives the Slurm agent short-lived Slurm tokens of users who opted in; the one process that reads Slurm's JWT key.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    /// TOML file with the settings; environment variables go before it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the settings, open the key that they name, say whether all is fine, and exit.
    #[arg(long)]
    check_config: bool,
    /// Connect to the socket of the signer that runs here with these settings, and exit.
    #[arg(long, conflicts_with = "check_config")]
    check_ready: bool,
}

const NAME: &str = "gha-slurm-token-signer";

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "where the log goes, too")]
            {
                eprintln!("{NAME}: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    // It calls nobody, so there is no address to warn about.
    let Loaded::<Settings> { settings, .. } =
        load_checked(cli.config.as_deref(), std::env::vars())?;
    if cli.check_config {
        #[expect(clippy::print_stdout, reason = "the answer of --check-config")]
        {
            println!("{}", describe_source(cli.config.as_ref(), Settings::PREFIX));
        }
        return Ok(());
    }
    if cli.check_ready {
        return check_ready(&settings);
    }
    settings.log.start()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{NAME} starts");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let stop = CancellationToken::new();
            stop_on_signals(stop.clone())?;
            TokenSigner::build(settings, Clock::system())?
                .run_until_stopped(stop)
                .await
        })
        .inspect_err(|error| tracing::error!("{NAME} failed: {error:#}"))?;
    tracing::info!("{NAME} has stopped");
    Ok(())
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stop.cancel();
    });
    Ok(())
}
