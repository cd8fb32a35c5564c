//! What the services need: PostgreSQL, RabbitMQ, GitHub, keys; and the services.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gha_slurm_auth::KeyFolder;
use gha_slurm_domain::InstallationId;
use gha_slurm_simulator::request::NewInstallation;
use gha_slurm_simulator::{AppKey, Handle, Settings, Simulator};
use gha_slurm_test_support::{Folder, PrivatePostgres, PrivateRabbitMq, ServiceProcess, free_port};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::site::OWNER;

/// The App's number at the simulator.
const APP_ID: u64 = 4242;
/// Issuer of launch tokens.
pub(crate) const DEPLOYMENT: &str = "bench";
pub(crate) const CLUSTER: &str = "main";
/// The webhook secret.
pub(crate) const SECRET: &str = "It's a Secret to Everybody";

/// Everything that is measured runs in these.
pub(crate) struct Surroundings {
    folder: TempDir,
    postgres: PrivatePostgres,
    rabbitmq: PrivateRabbitMq,
    database_url: String,
    pub(crate) github: Handle,
    /// Of the App, on [`OWNER`].
    pub(crate) installation: InstallationId,
    _github_stops: DropGuard,
}

impl Surroundings {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        KeyFolder::new(folder.path().join("keys")).generate(chrono::Utc::now().timestamp())?;
        let pem = AppKey::generate_private_pem()?;
        fs::write(folder.path().join("app.pem"), &pem)?;
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
        gha_slurm_storage::run_migrations(&database_url).await?;
        Ok(Self {
            folder,
            database_url,
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

    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Another database, empty and migrated.
    pub(crate) async fn new_database(&self, name: &str) -> Result<String> {
        let url = self.postgres.database(name).await?;
        gha_slurm_storage::run_migrations(&url).await?;
        Ok(url)
    }

    pub(crate) fn amqp_url(&self) -> String {
        self.rabbitmq.amqp_url()
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.folder().join("keys")
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

    fn service(&self, program: &str) -> ServiceProcess {
        ServiceProcess::new(program, self.folder()).env("NO_PROXY", "127.0.0.1")
    }

    fn with_github(&self, service: ServiceProcess) -> ServiceProcess {
        service
            .setting("GITHUB__API_URL", self.github.api_url())
            .setting("GITHUB__WEB_URL", self.github.web_url())
            .setting("GITHUB__APP_ID", APP_ID.to_string())
            .setting("GITHUB__PRIVATE_KEY_FILE", self.folder().join("app.pem"))
    }

    pub(crate) fn webhook_ingest(&self, port: u16) -> ServiceProcess {
        self.service("webhook-ingest")
            .setting("HTTP__LISTEN", loopback(port))
            .setting("AMQP__URL", self.amqp_url())
            .setting("WEBHOOK__SECRET", SECRET)
    }

    pub(crate) fn launcher(&self) -> ServiceProcess {
        self.with_github(self.service("launcher"))
            .setting("DATABASE__URL", self.database_url())
            .setting("AMQP__URL", self.amqp_url())
            .setting("DEPLOYMENT__NAME", DEPLOYMENT)
            .setting("KEYS__FOLDER", self.keys())
            .setting("CLUSTER__NAME", CLUSTER)
            // Nothing is submitted.
            .setting("CLUSTER__AGENT_URL", "http://127.0.0.1:1")
            .setting("CLUSTER__TOKEN_URL", "http://127.0.0.1:1")
    }

    pub(crate) fn token_broker(&self, port: u16) -> ServiceProcess {
        self.with_github(self.service("token-broker"))
            .setting("HTTP__LISTEN", loopback(port))
            .setting("DATABASE__URL", self.database_url())
            .setting("DEPLOYMENT__NAME", DEPLOYMENT)
            .setting("KEYS__FOLDER", self.keys())
    }

    pub(crate) fn repo_mapping(&self, port: u16) -> ServiceProcess {
        self.with_github(self.service("repo-mapping"))
            .setting("HTTP__LISTEN", loopback(port))
            .setting("DATABASE__URL", self.database_url())
            .setting("ACCESS__TOKENS", SECRET)
    }

    pub(crate) fn agent(&self, port: u16) -> Result<ServiceProcess> {
        let runner = self.folder().join("runner");
        fs::create_dir_all(runner.join("bin"))?;
        // Never started: nothing is submitted.
        fs::write(runner.join("bin/Runner.Listener"), "")?;
        Ok(self
            .service("gha-slurm-munge")
            .setting("HTTP__LISTEN", loopback(port))
            .setting("DEPLOYMENT__NAME", DEPLOYMENT)
            .setting("CLUSTER__NAME", CLUSTER)
            .setting("KEYS__PUBLIC_KEYS", self.keys())
            .setting("STATE__FOLDER", self.folder().join("agent"))
            .setting("RUNNER__FOLDER", runner)
            .setting("SLURM__BACKEND", "local"))
    }
}

pub(crate) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
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
