//! What a deployment needs: PostgreSQL, RabbitMQ, GitHub, keys.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gha_slurm_domain::InstallationId;
use gha_slurm_simulator::request::NewInstallation;
use gha_slurm_simulator::{AppKey, Handle, Settings, Simulator};
use gha_slurm_test_support::{
    APP_ID, BackingServices, Credentials, Deployment, Folder, PrivatePostgres, PrivateRabbitMq,
    Service, free_port, migrate,
};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::site::OWNER;

/// Issuer of launch tokens.
pub(crate) const DEPLOYMENT: &str = "bench";

/// Everything that is measured runs in these.
pub(crate) struct Surroundings {
    folder: TempDir,
    postgres: PrivatePostgres,
    rabbitmq: PrivateRabbitMq,
    database_url: String,
    amqp_url: String,
    github_url: String,
    pub(crate) credentials: Credentials,
    pub(crate) github: Handle,
    /// Of the App, on [`OWNER`].
    pub(crate) installation: InstallationId,
    _github_stops: DropGuard,
}

impl Surroundings {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pem = AppKey::generate_private_pem()?;
        let credentials = Credentials::open(folder.path(), || Ok(pem.clone()))?;
        let mut settings = Settings::new(APP_ID, AppKey::from_pem(pem.as_bytes())?);
        // Not what is measured.
        settings.timing.rate_limit = 1_000_000_000;
        let simulator = Simulator::build(settings)?;
        let github = simulator.handle();
        let installation = github.create_installation(NewInstallation::on(OWNER))?;
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));
        // What is written is on the disk, as it would be at a site.
        let scratch = Folder::temporary("gha-slurm-postgres-")?;
        let (postgres, rabbitmq) = tokio::join!(
            PrivatePostgres::open(scratch, free_port(), true),
            PrivateRabbitMq::start()
        );
        let postgres = postgres?;
        let database_url = postgres.database("bench").await?;
        migrate(&database_url).await?;
        Ok(Self {
            folder,
            credentials,
            database_url,
            amqp_url: rabbitmq.amqp_url(),
            github_url: github.api_url(),
            postgres,
            rabbitmq,
            github,
            installation: InstallationId(installation.id),
            _github_stops: stop.drop_guard(),
        })
    }

    /// Ends RabbitMQ in an orderly way; the rest ends when it is dropped.
    pub(crate) async fn stop(self) {
        self.rabbitmq.stop().await;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another database, empty and migrated.
    pub(crate) async fn new_database(&self, name: &str) -> Result<String> {
        let url = self.postgres.database(name).await?;
        migrate(&url).await?;
        Ok(url)
    }

    /// Where this is measured, and with what.
    pub(crate) async fn machine(&self) -> Result<Vec<String>> {
        let cores = std::thread::available_parallelism()?;
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let load = fs::read_to_string("/proc/loadavg")?;
        let rabbitmq = self.rabbitmq.ctl(&["version"]).await;
        Ok(vec![
            format!("Cores: {cores} ({})", model.unwrap_or_default()),
            format!("PostgreSQL: {}", self.postgres_version().await?),
            format!("RabbitMQ: {}", rabbitmq.trim()),
            format!(
                "Load average before: {}",
                load.split(' ').next().unwrap_or_default()
            ),
        ])
    }

    async fn postgres_version(&self) -> Result<String> {
        let url = self.postgres.url("postgres");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let row = client.query_one("SHOW server_version", &[]).await?;
        Ok(row.try_get(0)?)
    }

    /// The services, with everything of theirs in the folder of the surroundings.
    pub(crate) fn deployment(&self) -> Result<Deployment> {
        let builder = Deployment::builder(DEPLOYMENT).setting(
            Service::TokenBroker,
            "RUNNERS__REGISTRATION_TOKENS",
            "true",
        );
        builder.build(self.folder(), &self.credentials, &self.backing())
    }

    /// What a deployment uses here.
    pub(crate) fn backing(&self) -> BackingServices<'_> {
        BackingServices {
            database_url: &self.database_url,
            amqp_url: &self.amqp_url,
            github_url: &self.github_url,
        }
    }
}

/// Resident memory of a process, KiB.
pub(crate) fn resident_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .with_context(|| format!("{path} names no VmRSS"))
}

/// Processor time a process has used so far, seconds.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name before it may contain anything; utime and stime are fields 14 and 15 (proc_pid_stat(5)).
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
