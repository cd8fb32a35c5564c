//! `gha-slurm-munge stop` and `resume`: the kill switch on the cluster's side, and what the running agent shows of it.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use gha_slurm_domain::{Clock, LaunchId, SlurmState, SlurmUser};
use gha_slurm_policy::{StopFile, StopFileError, Stops};
use gha_slurm_service_kit::Periodic;
use gha_slurm_slurm::settings::Backend;
use gha_slurm_slurm::{Cancellation, Numbers};
use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{self, IntGauge};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::answer::{complain, say};
use crate::backend;
use crate::ledger::{Entry, Ledger};
use crate::settings::Settings;

/// Between two looks of the running agent, for metric and log. Each start of a launch reads the file anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

const NOTHING: &str = "nothing is stopped";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Switch {
    /// Stop new Slurm jobs, of all users or of one, whatever launch tokens say. Takes effect at once and lasts until `resume`, over
    /// restarts. Launches wait, with the reason; running Slurm jobs continue.
    Stop(Stop),
    /// Allow new Slurm jobs again. A stop of all users and one of a single user do not lift each other.
    Resume {
        /// The user whose stop is lifted. Absent: the stop of all users.
        #[arg(long, value_name = "USER")]
        user: Option<SlurmUser>,
    },
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Only this user's.
    #[arg(long, value_name = "USER")]
    user: Option<SlurmUser>,
    /// Shown to the users whose launches wait.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "stopped by an administrator"
    )]
    reason: String,
    /// Also cancel gha-slurm's Slurm jobs that are pending. Run it as the agent's user, or as root.
    #[arg(long)]
    cancel: bool,
    /// Print what is stopped, and change nothing.
    #[arg(long, conflicts_with_all = ["user", "reason", "cancel"])]
    status: bool,
}

/// Does it, and prints what is stopped then.
pub(crate) async fn run(settings: Settings, switch: Switch) -> ExitCode {
    match switched(&settings, switch).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn switched(settings: &Settings, switch: Switch) -> anyhow::Result<()> {
    let file = settings.stop_file();
    let broken = "everything is stopped as long as this file cannot be read; fix or remove it";
    let cancel = match &switch {
        Switch::Stop(stop) if stop.cancel => Some(stop.user.clone()),
        _ => None,
    };
    let changed = tokio::task::spawn_blocking(move || match switch {
        Switch::Stop(Stop { status: true, .. }) => file.read(),
        Switch::Stop(stop) => file.stop(stop.user.as_ref(), &stop.reason),
        Switch::Resume { user } => file.resume(user.as_ref()),
    });
    for line in shown(&changed.await?.context(broken)?) {
        say(&line);
    }
    if let Some(user) = cancel {
        let cancelled = cancel_pending(settings, user.as_ref()).await?;
        say(&format!("pending Slurm jobs cancelled: {cancelled}"));
    }
    Ok(())
}

/// A line for each stop.
fn shown(stops: &Stops) -> Vec<String> {
    let mut lines = stops.lines(|_| "");
    if lines.is_empty() {
        lines.push(NOTHING.to_owned());
    }
    lines
}

/// Cancels the pending Slurm jobs that the ledger has, of one user or of all. Beside a running agent: the ledger is only read.
async fn cancel_pending(settings: &Settings, user: Option<&SlurmUser>) -> anyhow::Result<usize> {
    anyhow::ensure!(
        settings.slurm.backend != Backend::Local,
        "--cancel: the local backend belongs to its agent alone; what is pending stays so"
    );
    let state = settings.state.folder.clone();
    let entries = tokio::task::spawn_blocking(move || Ledger::read(&state)).await?;
    let entries = entries.context("state.folder")?.into_iter();
    let known: HashMap<LaunchId, Entry> = entries.map(|e| (e.launch, e)).collect();
    let slurm = backend::connect(settings, Clock::system())?;
    let live = known.values().filter(|entry| entry.ended.is_none());
    let numbers: Numbers = live.filter_map(Entry::submitted).collect();
    let queue = slurm.list(&numbers).await?;
    let pending = queue.ours.into_iter().filter_map(|job| {
        let entry = known.get(&job.launch)?;
        let is_its = job.is_of(&entry.slurm_user)
            && entry.slurm_job_id.as_ref().is_none_or(|id| *id == job.id);
        let is_meant = user.is_none_or(|user| entry.slurm_user == *user);
        (job.state == SlurmState::Pending && is_its && is_meant).then(|| Cancellation {
            launch: job.launch,
            id: Some(job.id),
            user: Some(entry.slurm_user.clone()),
            only_pending: true,
        })
    });
    let wanted: Vec<Cancellation> = pending.collect();
    Ok(slurm.cancel(&wanted, &numbers).await?.len())
}

/// What the running agent shows of the stop file.
pub(crate) struct Watch {
    file: StopFile,
    all: IntGauge,
    users: IntGauge,
}

impl Watch {
    /// Registers `gha_slurm_agent_stops{scope}`.
    pub(crate) fn register(file: StopFile, metrics: &Metrics) -> prometheus::Result<Self> {
        let stops = metrics.gauge(
            "gha_slurm_agent_stops",
            "Whether an administrator has stopped new Slurm jobs of all users (1; also while the stop file cannot be read), and of how \
             many single users",
            &["scope"],
        )?;
        Ok(Self {
            file,
            all: stops.with_label_values(&["all"]),
            users: stops.with_label_values(&["user"]),
        })
    }

    /// Looks until `stop`, and logs each change.
    pub(crate) async fn run(self, periodic: &Periodic, stop: CancellationToken) {
        let known = Mutex::new(vec![NOTHING.to_owned()]);
        let look = async || {
            let file = self.file.clone();
            let read = tokio::task::spawn_blocking(move || file.read()).await?;
            self.tell(&read, &mut *known.lock().await);
            anyhow::Ok(())
        };
        let looks = periodic.every("stop file", LOOK_AGAIN);
        looks.run(stop, look).await;
    }

    /// Sets the gauges, and logs what is not as `known`.
    fn tell(&self, read: &Result<Stops, StopFileError>, known: &mut Vec<String>) {
        let (all, users, lines) = match read {
            Ok(stops) => (stops.all.is_some(), stops.users.len(), shown(stops)),
            Err(error) => (true, 0, vec![format!("everything is stopped: {error}")]),
        };
        self.all.set(i64::from(all));
        self.users.set(i64::try_from(users).unwrap_or(i64::MAX));
        if lines != *known {
            tracing::warn!(stops = lines.join("; "), "the stop file has changed");
            *known = lines;
        }
    }
}
