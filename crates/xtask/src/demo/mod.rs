//! `demo`: one build from a signed webhook to a finished workflow job, on this machine, as it happens.

mod build;
mod folder;
mod guard;
mod people;
mod ports;
mod servers;
mod stack;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use gha_slurm_simulator::AppKey;
use gha_slurm_test_support::{Credentials, Service};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use guard::watch;

/// What a person may choose.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// End when the workflow job has completed: exit code 0, or 1 with the reason.
    #[arg(long)]
    once: bool,
    /// First of the ports that the demo listens on, one after the other, on loopback; 0 takes any free ones.
    #[arg(long, default_value_t = 8400, value_name = "PORT")]
    ports_from: u16,
    /// Where everything is kept [default: .demo at the root of the workspace].
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Runs the demo until it is told to stop.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    // One thread: what it starts is ended by the kernel when the thread that started it is gone.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(show(root, options))
}

async fn show(root: &Path, options: &Options) -> Result<ExitCode> {
    let mut told_to_stop = std::pin::pin!(told_to_stop());
    let mut demo = tokio::select! {
        demo = Demo::start(root, options) => demo?,
        told = &mut told_to_stop => {
            told?;
            bail!("stopped before everything was up");
        }
    };
    let over = tokio::select! {
        over = demo.show_build() => over,
        told = &mut told_to_stop => {
            told?;
            demo.stack.stop();
            bail!("stopped before the workflow job had completed");
        }
    };
    if let Ok(conclusion) = &over {
        println!("\nThe workflow job has completed: {conclusion}.");
    }
    if options.once {
        demo.stack.stop();
        return over.map(|_| ExitCode::SUCCESS);
    }
    if let Err(error) = over {
        println!("\n{error:#}");
    }
    let url = demo.stack.deployment.url(Service::RepoMapping);
    match stack::page(root) {
        Some(_) => println!(
            "\nThe page: {url}/\n  Sign in with GitHub: as {} (administrator) or {} (Slurm user {})",
            stack::ADMINISTRATOR,
            stack::USER,
            build::SLURM_USER
        ),
        None => println!("\nThe page is not built (that takes Node.js); its API: {url}/api/builds"),
    }
    let bearer_token = demo.credentials.bearer_token()?;
    println!("  Or use its bearer token: {bearer_token}");
    println!("Another build: {}", build::command_for_another(&demo.stack));
    let kept = demo.folder.path("");
    println!("Settings, secrets and logs: {}", kept.display());
    println!("Ctrl-C ends the demo.");
    let told = told_to_stop.await;
    println!("\nstopping");
    demo.stack.stop();
    told.map(|()| ExitCode::SUCCESS)
}

/// Everything that is up. Dropped from top to bottom.
struct Demo {
    stack: stack::Stack,
    _guard: guard::Guard,
    servers: servers::Servers,
    credentials: Credentials,
    folder: folder::Folder,
}

impl Demo {
    async fn start(root: &Path, options: &Options) -> Result<Self> {
        let begin = Instant::now();
        let folder = options.folder.clone().unwrap_or(root.join(".demo"));
        let folder = folder::Folder::open(&folder)?;
        let ports = ports::Ports::from(options.ports_from);
        ports.check().await?;
        let credentials = Credentials::open(&folder.path("secrets"), || {
            Ok(AppKey::generate_private_pem()?)
        })?;
        let servers = servers::Servers::start(&folder, &ports).await?;
        let guard = guard::Guard::start(&folder.path("runs"), servers.slurm.is_some())?;
        let work = guard.folder();
        let stack =
            stack::Stack::start(root, &folder, &ports, &credentials, &servers, work).await?;
        println!(
            "{} are up after {:.1} s; their logs are in {}\n",
            stack.names(),
            begin.elapsed().as_secs_f64(),
            folder.path("logs").display()
        );
        Ok(Self {
            stack,
            _guard: guard,
            servers,
            credentials,
            folder,
        })
    }

    /// Answers the workflow job's conclusion.
    async fn show_build(&mut self) -> Result<String> {
        let bearer_token = self.credentials.bearer_token()?;
        people::link(&self.stack, &bearer_token, build::SLURM_USER)
            .await
            .context("somebody signs in")?;
        let build = build::Build::begin(&self.stack, bearer_token).await?;
        build
            .follow(&mut self.stack, self.servers.slurm.as_ref())
            .await
    }
}

async fn told_to_stop() -> Result<()> {
    let mut signals = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        signals.push(signal(kind)?);
    }
    std::future::poll_fn(|context| {
        let mut ready = signals.iter_mut().map(|signal| signal.poll_recv(context));
        if ready.any(|polled| polled.is_ready()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    Ok(())
}
