//! The demo's processes: the simulator, the services, the agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gha_slurm_test_support::{Process, ServiceProcess, binary, try_wait_until};

use super::folder::Folder;
use super::ports::Ports;
use super::secrets::Secrets;
use super::servers::Servers;

/// The simulator's repository.
pub(super) const REPOSITORY: &str = "octo-org/demo";
/// The App's number at the simulator.
const APP_ID: &str = "1";
const DEPLOYMENT: &str = "demo";
const CLUSTER: &str = "demo";

/// Everything that runs. Killed when dropped.
pub(super) struct Stack {
    services: Vec<ServiceProcess>,
    simulator: Process,
}

impl Stack {
    /// Starts everything at once and waits until all are ready.
    pub(super) async fn start(
        root: &Path,
        folder: &Folder,
        ports: &Ports,
        secrets: &Secrets,
        servers: &Servers,
        work_root: &Path,
    ) -> Result<Self> {
        let logs = folder.path("logs");
        for log in fs::read_dir(&logs)? {
            fs::remove_file(log?.path())?;
        }
        // Slurm users need not get to the demo's own folder.
        let runner = match servers.slurm {
            Some(_) => work_root.join("runner"),
            None => folder.path("runner"),
        };
        install_runner(&runner)?;
        let mut stack = Self {
            simulator: simulator(ports, secrets, &logs)?,
            services: services(root, folder, ports, secrets, servers, work_root, &runner),
        };
        for service in &mut stack.services {
            service.spawn()?;
        }
        let http = reqwest::Client::builder().no_proxy().build()?;
        let health = format!("http://127.0.0.1:{}/simulator/health", ports.simulator);
        try_wait_until("the simulator answers", Duration::from_secs(30), || {
            let ended = stack.simulator.exited();
            let call = http.get(&health).send();
            async move {
                if ended.is_some() {
                    true
                } else {
                    call.await.is_ok()
                }
            }
        })
        .await?;
        stack.check()?;
        for service in &mut stack.services {
            service.ready().await?;
        }
        Ok(stack)
    }

    /// For people.
    pub(super) fn names(&self) -> String {
        let mut names: Vec<&str> = self.services.iter().map(ServiceProcess::name).collect();
        names.push("the simulator");
        names.join(", ")
    }

    /// An error that names what has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.simulator.exited() {
            bail!(
                "the simulator ended with {status}:\n{}",
                self.simulator.log_tail()
            );
        }
        for service in &mut self.services {
            if !service.is_running() {
                bail!("{} has ended:\n{}", service.name(), service.log_tail());
            }
        }
        Ok(())
    }

    /// Asks all of them to stop, and waits.
    pub(super) fn stop(&mut self) {
        for service in &mut self.services {
            service.ask_to_stop();
        }
        for service in &mut self.services {
            service.stop();
        }
        self.simulator.stop(Duration::from_secs(5));
    }
}

fn simulator(ports: &Ports, secrets: &Secrets, logs: &Path) -> Result<Process> {
    let mut command = Command::new(binary("gha-slurm-simulator"));
    command
        .args(["--listen", &loopback(ports.simulator)])
        .args(["--app-id", APP_ID])
        .arg("--app-private-key-file")
        .arg(&secrets.app_private_key)
        .arg("--webhook-url")
        .arg(format!(
            "http://{}/api/github/webhooks",
            loopback(ports.webhook_ingest)
        ))
        .arg("--webhook-secret-file")
        .arg(&secrets.webhook_secret)
        .args(["--repository", REPOSITORY])
        .env("NO_PROXY", "127.0.0.1")
        .env("NO_COLOR", "1");
    Process::start("simulator", &command, &logs.join("simulator.log")).context("the simulator")
}

fn services(
    root: &Path,
    folder: &Folder,
    ports: &Ports,
    secrets: &Secrets,
    servers: &Servers,
    work_root: &Path,
    runner: &Path,
) -> Vec<ServiceProcess> {
    let logs = folder.path("logs");
    let service = |program: &str| {
        ServiceProcess::new(program, &logs)
            .env("NO_PROXY", "127.0.0.1")
            .env("NO_COLOR", "1")
            .setting("LOG__FORMAT", "human")
    };
    let http = |port: u16| format!("http://{}", loopback(port));
    let with_github = |service: ServiceProcess| {
        service
            .setting("GITHUB__API_URL", http(ports.simulator))
            .setting("GITHUB__WEB_URL", http(ports.simulator))
            .setting("GITHUB__APP_ID", APP_ID)
            .setting("GITHUB__PRIVATE_KEY_FILE", &secrets.app_private_key)
    };
    let mut repo_mapping = with_github(service("repo-mapping"))
        .setting("HTTP__LISTEN", loopback(ports.repo_mapping))
        .setting("DATABASE__URL", &servers.database_url)
        .setting("ACCESS__TOKENS_FILE", &secrets.bearer_token_file);
    if let Some(page) = page(root) {
        repo_mapping = repo_mapping.setting("WEB__FOLDER", page);
    }
    let agent = service("gha-slurm-munge")
        .setting("HTTP__LISTEN", loopback(ports.agent))
        .setting("DEPLOYMENT__NAME", DEPLOYMENT)
        .setting("CLUSTER__NAME", CLUSTER)
        .setting("KEYS__PUBLIC_KEYS", &secrets.launch_keys)
        .setting("STATE__FOLDER", folder.path("agent"))
        .setting("RUNNER__FOLDER", runner)
        .setting("RUNNER__WORK_ROOT", work_root)
        .setting("SLURM__INTERVAL_S", "1");
    let agent = match &servers.slurm {
        Some(slurm) => agent
            .setting("SLURM__BACKEND", "sbatch")
            .setting("SBATCH__RUN_AS", "root")
            .setting("SBATCH__CONF", slurm.conf())
            .setting("SBATCH__OUTPUT_FOLDER", work_root)
            .setting("POLICY__MIN_UID", "1"),
        None => agent
            .setting("SLURM__BACKEND", "local")
            .setting("LOCAL__END_CHILDREN_ON_STOP", "true"),
    };
    vec![
        service("webhook-ingest")
            .setting("HTTP__LISTEN", loopback(ports.webhook_ingest))
            .setting("AMQP__URL", &servers.amqp_url)
            .setting("WEBHOOK__SECRET_FILE", &secrets.webhook_secret),
        with_github(service("launcher"))
            .setting("DATABASE__URL", &servers.database_url)
            .setting("AMQP__URL", &servers.amqp_url)
            .setting("DEPLOYMENT__NAME", DEPLOYMENT)
            .setting("KEYS__FOLDER", &secrets.launch_keys)
            .setting("CLUSTER__NAME", CLUSTER)
            .setting("CLUSTER__AGENT_URL", http(ports.agent))
            .setting("CLUSTER__TOKEN_URL", http(ports.token_broker))
            .setting("CLUSTER__STATES_INTERVAL_S", "1"),
        with_github(service("token-broker"))
            .setting("HTTP__LISTEN", loopback(ports.token_broker))
            .setting("DATABASE__URL", &servers.database_url)
            .setting("DEPLOYMENT__NAME", DEPLOYMENT)
            .setting("KEYS__FOLDER", &secrets.launch_keys),
        repo_mapping,
        agent,
    ]
}

/// The built page, if it has been built.
pub(super) fn page(root: &Path) -> Option<PathBuf> {
    let page = root.join("web/dist");
    page.join("index.html").is_file().then_some(page)
}

/// The stand-in, where the runner's release has its program. A copy: Slurm users need not get to where it was built.
fn install_runner(folder: &Path) -> Result<()> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let program = bin.join("Runner.Listener");
    if program.is_symlink() {
        fs::remove_file(&program)?;
    }
    fs::copy(binary("gha-slurm-standin-runner"), &program)?;
    for path in [folder, &bin, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
