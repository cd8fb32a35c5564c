//! The life of a process: command line, settings, telemetry, signals, exit code.

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{Args, Parser};
use gha_slurm_telemetry::LogSettings;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::settings::{self, OperationsSettings, Settings};
use crate::{files, operations};

/// Threads of the runtime beside those of the HTTP servers.
const RUNTIME_WORKERS: usize = 2;

/// What a binary is called and for.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// Name of the binary.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// For `--version`.
    pub version: &'static str,
}

/// Something a binary does instead of running, and how the process ends then.
pub type Task = Pin<Box<dyn Future<Output = ExitCode>>>;

#[derive(Debug, Args)]
struct NoTasks {}

#[derive(Debug, Parser)]
struct Cli<A: Args> {
    /// TOML file with the settings; environment variables go before it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Read the settings, open the keys that they name, say whether all is fine, and exit.
    #[arg(long)]
    check_config: bool,
    /// Ask the operations port of the service that runs here with these settings whether it is ready, and exit.
    #[arg(long, conflicts_with = "check_config")]
    check_ready: bool,
    #[command(flatten)]
    tasks: A,
}

/// Runs a service: reads its settings, starts telemetry, and calls `service` with a token that is cancelled at the first
/// SIGTERM or SIGINT. A second signal ends the process at once.
pub fn run<S, F, Fut>(
    info: ServiceInfo,
    log: fn(&S) -> &LogSettings,
    operations: fn(&S) -> &OperationsSettings,
    service: F,
) -> ExitCode
where
    S: Settings,
    F: FnOnce(S, CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    run_or(info, log, operations, |_: NoTasks, _| None, service)
}

/// As [`run`], for a binary that has more to do than to run: `A` are its further arguments, and where `task` finds something
/// to do in them, that is done instead.
pub fn run_or<S, A, F, Fut>(
    info: ServiceInfo,
    log: fn(&S) -> &LogSettings,
    operations: fn(&S) -> &OperationsSettings,
    task: fn(A, &S) -> Option<Task>,
    service: F,
) -> ExitCode
where
    S: Settings,
    A: Args,
    F: FnOnce(S, CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    use clap::{CommandFactory, FromArgMatches};
    let command = Cli::<A>::command()
        .name(info.name)
        .about(info.about)
        .version(info.version);
    let cli = match Cli::<A>::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let loaded = match settings::load_checked::<S>(cli.config.as_deref(), std::env::vars()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(info.name, &error),
    };
    let settings::Loaded {
        settings,
        mut warnings,
    } = loaded;
    if cli.check_config {
        #[expect(clippy::print_stdout, reason = "the answer of --check-config")]
        {
            println!(
                "{}",
                settings::describe_source(cli.config.as_ref(), S::PREFIX)
            );
            for warning in warnings {
                println!("warning: {warning}");
            }
        }
        return ExitCode::SUCCESS;
    }
    // Fails only when somebody installed one before: then there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_WORKERS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(info.name, &error),
    };
    if cli.check_ready {
        return match runtime.block_on(operations::check_ready(operations(&settings))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(info.name, &format_args!("{error:#}")),
        };
    }
    if let Some(task) = task(cli.tasks, &settings) {
        return runtime.block_on(task);
    }
    match files::raise_limit() {
        Ok(warning) => warnings.extend(warning),
        Err(error) => return fail(info.name, &error),
    }
    let _telemetry = match gha_slurm_telemetry::init(info.name, log(&settings)) {
        Ok(guard) => guard,
        Err(error) => return fail(info.name, &error),
    };
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        tracing::info!(version = info.version, "{} starts", info.name);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        service(settings, stop).await
    });
    match result {
        Ok(()) => {
            tracing::info!("{} has stopped", info.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{} failed: {error:#}", info.name);
            ExitCode::FAILURE
        }
    }
}

fn fail(name: &str, error: &dyn std::fmt::Display) -> ExitCode {
    #[expect(clippy::print_stderr, reason = "there is no log yet")]
    {
        eprintln!("{name}: {error}");
    }
    ExitCode::FAILURE
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping: finishing what is in hand; a second signal stops at once");
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    Ok(())
}
