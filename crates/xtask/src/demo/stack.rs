//! The demo's processes: the deployment, and the simulator in place of GitHub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gha_slurm_simulator::FIRST_ACCOUNT;
use gha_slurm_test_support::{
    APP_ID, BackingServices, CLIENT_ID, Credentials, Deployment, Process, Service, ServiceProcess,
    SlurmBackend, binary, try_wait_until,
};

use super::folder::Folder;
use super::ports::Ports;
use super::servers::Servers;

/// The repository, at the simulator.
pub(super) const REPOSITORY: &str = "octo-org/demo";

/// Who signs in as an administrator.
pub(super) const ADMINISTRATOR: &str = "grace";
/// Who signs in as the Slurm user of the build that is shown.
pub(super) const USER: &str = "ada";

/// Everything that runs. Killed when dropped.
pub(super) struct Stack {
    pub(super) deployment: Deployment,
    simulator: Process,
    /// Base URL of the simulator.
    pub(super) github_url: String,
}

impl Stack {
    /// Starts everything, and waits until all are ready.
    pub(super) async fn start(
        root: &Path,
        folder: &Folder,
        ports: &Ports,
        credentials: &Credentials,
        servers: &Servers,
        node_folder: &Path,
    ) -> Result<Self> {
        let logs = folder.path("logs");
        for log in fs::read_dir(&logs)? {
            fs::remove_file(log?.path())?;
        }
        let mut builder = Deployment::builder("demo")
            .poll_each_second()
            .setting(
                Service::RepoMapping,
                "ACCESS__ADMINISTRATORS",
                FIRST_ACCOUNT.to_string(),
            )
            .node_folder(node_folder);
        for (service, port) in ports.services {
            builder = builder.port(service, port);
        }
        if let Some(page) = page(root) {
            builder = builder.setting(Service::RepoMapping, "WEB__FOLDER", page);
        }
        builder = match &servers.slurm {
            Some(slurm) => builder.slurm(slurm, SlurmBackend::Sbatch),
            None => builder.setting(Service::Agent, "LOCAL__END_CHILDREN_ON_STOP", "true"),
        };
        let listen = format!("127.0.0.1:{}", ports.simulator);
        let github_url = format!("http://{listen}");
        let backing = BackingServices {
            database_url: &servers.database_url,
            amqp_url: &servers.amqp_url,
            github_url: &github_url,
        };
        let deployment = builder.build(folder.root(), credentials, &backing)?;
        let mut stack = Self {
            simulator: simulator(&listen, &deployment, credentials, &logs)?,
            deployment,
            github_url,
        };
        stack.simulator_answers().await?;
        stack.deployment.start().await?;
        Ok(stack)
    }

    async fn simulator_answers(&mut self) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let health = format!("{}/simulator/health", self.github_url);
        try_wait_until("the simulator answers", Duration::from_secs(30), || {
            let ended = self.simulator.exited().is_some();
            let call = http.get(&health).send();
            async move { ended || call.await.is_ok() }
        })
        .await?;
        self.check_simulator()
    }

    /// For people.
    pub(super) fn names(&self) -> String {
        let services = self.deployment.services().map(ServiceProcess::name);
        let names: Vec<&str> = services.chain(["the simulator"]).collect();
        names.join(", ")
    }

    /// Fails with the name of what has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.check_simulator()?;
        self.deployment.check()
    }

    fn check_simulator(&mut self) -> Result<()> {
        if let Some(status) = self.simulator.exited() {
            let log = self.simulator.log_tail();
            bail!("the simulator ended with {status}:\n{log}");
        }
        Ok(())
    }

    /// Asks all of them to stop, and waits.
    pub(super) fn stop(&mut self) {
        if let Err(error) = self.deployment.stop() {
            println!("{error:#}");
        }
        self.simulator.stop(Duration::from_secs(5));
    }
}

fn simulator(
    listen: &str,
    deployment: &Deployment,
    credentials: &Credentials,
    logs: &Path,
) -> Result<Process> {
    let (webhook_url, callback_url) = (&deployment.webhook_url(), &deployment.callback_url());
    let mut command = Command::new(binary("gha-slurm-simulator"));
    command
        .args(["--listen", listen])
        .args(["--app-id", &APP_ID.to_string()])
        .arg("--app-private-key-file")
        .arg(&credentials.app_private_key_file)
        .args(["--webhook-url", webhook_url])
        .arg("--webhook-secret-file")
        .arg(&credentials.webhook_secret_file)
        .args(["--repository", REPOSITORY])
        .args(["--client-id", CLIENT_ID])
        .arg("--client-secret-file")
        .arg(&credentials.client_secret_file)
        .args(["--callback-url", callback_url])
        // The first, whose id is known.
        .args(["--person", ADMINISTRATOR])
        .args(["--person", &format!("{USER}:{REPOSITORY}=admin")])
        .env("NO_PROXY", "127.0.0.1")
        .env("NO_COLOR", "1");
    Process::start("simulator", &command, &logs.join("simulator.log")).context("the simulator")
}

/// The built page, if it has been built.
pub(super) fn page(root: &Path) -> Option<PathBuf> {
    let page = root.join("web/dist");
    page.join("index.html").is_file().then_some(page)
}
