//! A whole deployment: every service as a process, wired to the others, to its backing services and to Slurm.

mod credentials;
mod settings;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use credentials::Credentials;

use crate::certificates::TestCa;
use crate::process::binary;
use crate::server::free_port;
use crate::service::ServiceProcess;
use crate::slurm::PrivateSlurm;

/// The App's id, which the simulated GitHub must know.
pub const APP_ID: u64 = 4242;
/// The App's client id, which the simulated GitHub must know, too.
pub const CLIENT_ID: &str = "Iv23li00000000004242";
/// The name of the one cluster.
pub const CLUSTER: &str = "main";
/// Every process of a deployment, and what it starts without clearing the environment, has the folder that the nodes use
/// in this variable, by which processes that are left behind are found.
const MARK: &str = "GHA_SLURM_TEST_DEPLOYMENT";

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// `webhook-ingest`
    WebhookIngest,
    /// `launcher`
    Launcher,
    /// `token-broker`
    TokenBroker,
    /// `repo-mapping`
    RepoMapping,
    /// `gha-slurm-munge`
    Agent,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::WebhookIngest,
        Self::Launcher,
        Self::TokenBroker,
        Self::RepoMapping,
        Self::Agent,
    ];

    /// The name of its binary.
    pub fn program(self) -> &'static str {
        match self {
            Self::WebhookIngest => "webhook-ingest",
            Self::Launcher => "launcher",
            Self::TokenBroker => "token-broker",
            Self::RepoMapping => "repo-mapping",
            Self::Agent => "gha-slurm-munge",
        }
    }
}

/// How the agent speaks to a real Slurm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlurmBackend {
    /// `sbatch`, `squeue`, `scancel`.
    Sbatch,
    /// slurmrestd.
    Slurmrestd,
}

impl SlurmBackend {
    /// As in the agent's settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sbatch => "sbatch",
            Self::Slurmrestd => "slurmrestd",
        }
    }
}

/// The servers that a deployment uses.
#[derive(Debug, Clone, Copy)]
pub struct BackingServices<'a> {
    /// `postgres://…` of a database as its owner, on which [`migrate`](crate::migrate) has run. The services use their roles.
    pub database_url: &'a str,
    /// `amqp://…` of a virtual host.
    pub amqp_url: &'a str,
    /// Base URL of GitHub's API and of its pages.
    pub github_url: &'a str,
}

/// What the agent decodes MUNGE credentials with, and the host they must come from.
struct SelfService {
    unmunge: PathBuf,
    login_node: String,
}

struct Slurm {
    conf: PathBuf,
    rest_url: String,
    backend: SlurmBackend,
}

/// The options of a deployment. Without any, the agent runs Slurm jobs itself (its local backend), every service listens
/// on a free port of 127.0.0.1, and the launcher calls the agent without TLS.
pub struct DeploymentBuilder {
    name: String,
    host: Ipv4Addr,
    ports: BTreeMap<Service, u16>,
    slurm: Option<Slurm>,
    poll_each_second: bool,
    outbound: bool,
    mutual_tls: bool,
    self_service: Option<SelfService>,
    agent_host: Option<String>,
    agent_starter: Vec<String>,
    starters: Vec<(Service, Vec<String>)>,
    node_folder: Option<PathBuf>,
    settings: Vec<(Service, String, OsString)>,
    environment: Vec<(String, OsString)>,
}

impl DeploymentBuilder {
    /// Overrides one setting of one service, named as in its environment but without the prefix: `RUNNER__MODE`.
    #[must_use]
    pub fn setting(mut self, service: Service, key: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_owned();
        self.settings.push((service, key.to_owned(), value));
        self
    }

    /// Sets one environment variable of every service.
    #[must_use]
    pub fn environment(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_owned();
        self.environment.push((key.to_owned(), value));
        self
    }

    /// Uses a real Slurm instead of the agent's local backend.
    #[must_use]
    pub fn slurm(mut self, slurm: &PrivateSlurm, backend: SlurmBackend) -> Self {
        self.slurm = Some(Slurm {
            conf: slurm.conf(),
            rest_url: slurm.rest_url(),
            backend,
        });
        self
    }

    /// Lets the agent ask Slurm, and the launcher the agent, each second instead of at the intervals for a site.
    #[must_use]
    pub fn poll_each_second(mut self) -> Self {
        self.poll_each_second = true;
        self
    }

    /// Outbound mode: the agent calls the launcher, and listens only as the relay through which nodes reach token-broker.
    #[must_use]
    pub fn outbound(mut self) -> Self {
        self.outbound = true;
        self
    }

    /// Launcher and agent show each other certificates of a private CA.
    #[must_use]
    pub fn mutual_tls(mut self) -> Self {
        self.mutual_tls = true;
        self
    }

    /// The agent lets users on this login node manage their repositories, and decodes their credentials with this program.
    #[must_use]
    pub fn self_service(mut self, unmunge: &Path, login_node: &str) -> Self {
        self.self_service = Some(SelfService {
            unmunge: unmunge.to_owned(),
            login_node: login_node.to_owned(),
        });
        self
    }

    /// The host by which launcher or agent calls the other, if not its address: for a proxy that alone knows it.
    #[must_use]
    pub fn agent_host(mut self, host: &str) -> Self {
        self.agent_host = Some(host.to_owned());
        self
    }

    /// Starts the agent through another program, such as `nsenter --net=…`.
    #[must_use]
    pub fn agent_within(mut self, starter: Vec<String>) -> Self {
        self.agent_starter = starter;
        self
    }

    /// Starts a service by another program, such as `env LD_PRELOAD=…`.
    #[must_use]
    pub fn through(mut self, service: Service, starter: Vec<String>) -> Self {
        self.starters.push((service, starter));
        self
    }

    /// The address on which the services listen.
    #[must_use]
    pub fn host(mut self, host: Ipv4Addr) -> Self {
        self.host = host;
        self
    }

    /// The port of a service, if not any free one.
    #[must_use]
    pub fn port(mut self, service: Service, port: u16) -> Self {
        self.ports.insert(service, port);
        self
    }

    /// Where the runner, the work directories and the output of Slurm jobs are, if not in the deployment's folder. With a
    /// real Slurm its users must reach it.
    #[must_use]
    pub fn node_folder(mut self, folder: &Path) -> Self {
        self.node_folder = Some(folder.to_owned());
        self
    }

    /// Writes everything that the services need to `folder`. Starts none of them.
    pub fn build(
        self,
        folder: &Path,
        credentials: &Credentials,
        backing: &BackingServices<'_>,
    ) -> Result<Deployment> {
        let node_folder = self.node_folder.as_deref().unwrap_or(folder).to_owned();
        let (logs, files) = (folder.join("logs"), folder.join("settings"));
        for new in [&logs, &files] {
            fs::create_dir_all(new).with_context(|| new.display().to_string())?;
        }
        prepare_nodes(&node_folder, self.slurm.is_some())?;
        if self.mutual_tls {
            let ca = TestCa::new(folder, "ca");
            ca.issue("called", self.agent_host.as_deref().as_slice());
            ca.issue("caller", &[]);
        }
        let ports = Service::ALL.into_iter().map(|service| {
            let given = self.ports.get(&service).copied();
            (service, given.unwrap_or_else(free_port))
        });
        let ports = ports.collect();
        let wiring = settings::Wiring {
            builder: &self,
            ports: &ports,
            folder,
            node_folder: &node_folder,
            credentials,
            backing,
        };
        let mut services = BTreeMap::new();
        for service in Service::ALL {
            let program = service.program();
            let file = settings_file(&files, program);
            credentials::write_private(&file, &toml::to_string(&wiring.of(service))?)?;
            let mut process = process(program, &logs, &files, self.host, &node_folder);
            for (key, value) in &self.environment {
                process = process.env(key, value);
            }
            for (_, key, value) in self.settings.iter().filter(|(s, ..)| *s == service) {
                process = process.setting(key, value);
            }
            for (_, starter) in self.starters.iter().filter(|(s, _)| *s == service) {
                process = process.through(starter);
            }
            if service == Service::Agent {
                process = process.within(&self.agent_starter);
            }
            services.insert(service, process);
        }
        Ok(Deployment {
            services,
            host: self.host,
            ports,
            logs,
            files,
            node_folder,
        })
    }
}

/// The processes of a deployment. Killed when dropped.
pub struct Deployment {
    services: BTreeMap<Service, ServiceProcess>,
    host: Ipv4Addr,
    ports: BTreeMap<Service, u16>,
    logs: PathBuf,
    files: PathBuf,
    node_folder: PathBuf,
}

impl Deployment {
    /// A deployment of this name (`deployment.name`), to be given options.
    pub fn builder(name: &str) -> DeploymentBuilder {
        DeploymentBuilder {
            name: name.to_owned(),
            host: Ipv4Addr::LOCALHOST,
            ports: BTreeMap::new(),
            slurm: None,
            poll_each_second: false,
            outbound: false,
            mutual_tls: false,
            self_service: None,
            agent_host: None,
            agent_starter: Vec::new(),
            starters: Vec::new(),
            node_folder: None,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Starts every service at once, and waits until all are ready.
    pub async fn start(&mut self) -> Result<()> {
        for service in self.services.values_mut() {
            service.spawn()?;
        }
        for service in self.services.values_mut() {
            service.ready().await?;
        }
        Ok(())
    }

    /// Fails with the name of a service that is not running, and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for service in self.services.values_mut() {
            if !service.is_running() {
                bail!("{} has ended:\n{}", service.name(), service.log_tail());
            }
        }
        Ok(())
    }

    /// Asks all running services to stop, and waits. Fails with the name of one that had to be killed, or that did not exit
    /// with status 0.
    pub fn stop(&mut self) -> Result<()> {
        for service in self.services.values_mut() {
            service.ask_to_stop();
        }
        let mut failed = Vec::new();
        for service in self.services.values_mut().filter(|s| s.id().is_some()) {
            match service.stop() {
                Some(status) if status.success() => {}
                Some(status) => failed.push(format!("{} stopped with {status}", service.name())),
                None => failed.push(format!("{} had to be killed", service.name())),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{}", failed.join("; "))
    }

    /// Kills what is running, with its process group.
    pub fn kill(&mut self) {
        self.services.values_mut().for_each(ServiceProcess::kill);
    }

    /// A second process of a service that only calls others, with the settings of the first. Not started yet.
    pub fn second(&self, service: Service) -> Result<ServiceProcess> {
        let program = service.program();
        let logs = self.logs.join("second");
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let (files, nodes) = (&self.files, &self.node_folder);
        Ok(process(program, &logs, files, self.host, nodes))
    }

    /// The process of a service.
    pub fn service(&self, service: Service) -> &ServiceProcess {
        &self.services[&service]
    }

    /// The process of a service, to change its state.
    pub fn service_mut(&mut self, service: Service) -> &mut ServiceProcess {
        self.services.get_mut(&service).expect("all are there")
    }

    /// All processes.
    pub fn services(&self) -> impl Iterator<Item = &ServiceProcess> {
        self.services.values()
    }

    /// The port of a service.
    pub fn port(&self, service: Service) -> u16 {
        self.ports[&service]
    }

    /// `host:port` of a service.
    pub fn address(&self, service: Service) -> String {
        address(self.host, &self.ports, service)
    }

    /// The base URL of a service; HTTPS is not considered.
    pub fn url(&self, service: Service) -> String {
        format!("http://{}", self.address(service))
    }

    /// Where GitHub's deliveries go.
    pub fn webhook_url(&self) -> String {
        format!("{}/api/github/webhooks", self.url(Service::WebhookIngest))
    }

    /// Where GitHub sends people back to who sign in.
    pub fn callback_url(&self) -> String {
        format!(
            "{}/api/sign-in/github/callback",
            self.url(Service::RepoMapping)
        )
    }

    /// Where Slurm jobs work.
    pub fn work_root(&self) -> PathBuf {
        self.node_folder.join("work")
    }

    /// Where a real Slurm writes the output of Slurm jobs.
    pub fn output_folder(&self) -> PathBuf {
        self.node_folder.join("output")
    }
}

fn settings_file(files: &Path, program: &str) -> PathBuf {
    files.join(format!("{program}.toml"))
}

/// The process of a service, with its settings file and what every service gets.
fn process(
    program: &str,
    logs: &Path,
    files: &Path,
    host: Ipv4Addr,
    node_folder: &Path,
) -> ServiceProcess {
    ServiceProcess::new(program, logs)
        .config(&settings_file(files, program))
        .env("NO_PROXY", format!("127.0.0.1,{host}"))
        .env("NO_COLOR", "1")
        .env(MARK, node_folder)
}

fn address(host: Ipv4Addr, ports: &BTreeMap<Service, u16>, service: Service) -> String {
    format!("{host}:{}", ports[&service])
}

/// Makes the folders that nodes use, with the stand-in runner where a release of the runner has its program.
fn prepare_nodes(folder: &Path, for_slurm_users: bool) -> Result<()> {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let bin = folder.join("runner/bin");
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    let runner = bin.join("Runner.Listener");
    if runner.symlink_metadata().is_ok() {
        fs::remove_file(&runner)?;
    }
    let built = binary("gha-slurm-standin-runner");
    for name in ["work", "output"] {
        fs::create_dir_all(folder.join(name))?;
    }
    if !for_slurm_users {
        return Ok(std::os::unix::fs::symlink(built, &runner)?);
    }
    // Slurm users may reach neither the folder that it was built in nor, without this, the folder of the test.
    fs::copy(built, &runner)?;
    for path in [folder, &folder.join("runner"), &bin, &runner] {
        mode(path, 0o755)?;
    }
    for name in ["work", "output"] {
        mode(&folder.join(name), 0o1777)?;
    }
    Ok(())
}
