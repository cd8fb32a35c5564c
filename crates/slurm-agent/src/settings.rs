//! The agent's settings; `deploy/config/gha-slurm-munge.toml` is a commented sample.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use gha_slurm_auth::{KeyFolder, KeySet, Signer};
use gha_slurm_domain::ResourceRequest;
use gha_slurm_policy::{PolicySettings, StopFile};
use gha_slurm_service_kit::settings::{
    Address, HttpSettings, OperationsSettings, Pem, Problems, check_client_tls, check_keys,
    check_listens, check_server_tls, words,
};
use gha_slurm_service_kit::tls::{ClientTlsSettings, ServerTlsSettings};
use gha_slurm_slurm::settings::{Backend, LocalSettings, SbatchSettings, SlurmrestdSettings};
use gha_slurm_telemetry::LogSettings;
use serde::{Deserialize, Deserializer};

use crate::original::file::SiteFile;
use crate::runner::{
    ApptainerSettings, NetworkSettings, PodmanSettings, default_github_hosts, github_hosts, hook,
};

/// The agent's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Accept addresses without TLS beyond this machine, though whoever is on the way can read and change what is sent.
    #[serde(default)]
    pub insecure: bool,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where launchers reach it. When absent 127.0.0.1:5011; in outbound mode nowhere.
    #[serde(default)]
    pub http: Option<HttpSettings>,
    /// Liveness, readiness, metrics.
    #[serde(default = "default_operations")]
    pub operations: OperationsSettings,
    /// Whose launch tokens are accepted.
    pub deployment: DeploymentSettings,
    /// This cluster.
    pub cluster: ClusterSettings,
    /// Public keys of launch tokens.
    #[serde(deserialize_with = "key_source")]
    pub keys: KeySource,
    /// Where nodes may send launch tokens.
    #[serde(default)]
    pub token_broker: TokenBrokerSettings,
    /// The agent's own keys.
    #[serde(default)]
    pub identity: Option<IdentitySettings>,
    /// For clusters that accept no connection: the agent calls launchers.
    #[serde(default)]
    pub outbound: Option<OutboundSettings>,
    /// For nodes that reach only the agent.
    #[serde(default)]
    pub relay: Option<RelaySettings>,
    /// What the agent remembers.
    pub state: StateSettings,
    /// What is allowed.
    #[serde(default)]
    pub policy: PolicySettings,
    /// What runs in a launch.
    pub runner: RunnerSettings,
    /// How Slurm is spoken to.
    pub slurm: SlurmSettings,
    /// The backend that uses Slurm's own programs.
    #[serde(default)]
    pub sbatch: SbatchSettings,
    /// The backend that uses slurmrestd.
    #[serde(default)]
    pub slurmrestd: Option<SlurmrestdSettings>,
    /// The local backend.
    #[serde(default)]
    pub local: LocalSettings,
    /// The original contract; off when absent.
    #[serde(default)]
    pub original: Option<OriginalSettings>,
    /// Users manage their repositories from a login node.
    #[serde(default)]
    pub self_service: Option<SelfServiceSettings>,
}

impl Settings {
    /// Where nodes may send launch tokens: base URLs, of which there is at least one unless nodes call the relay.
    pub fn token_broker_urls(&self) -> Result<Vec<Address>, UnknownTokenBroker> {
        let from_keys = match &self.keys {
            KeySource::Jwks { url, .. } => url.strip_suffix("/.well-known/jwks.json"),
            KeySource::Path(_) => None,
        };
        let from_keys = from_keys.and_then(|url| url.parse().ok());
        match (self.token_broker.urls.as_slice(), from_keys) {
            ([], Some(url)) => Ok(vec![url]),
            ([], None) if self.relay.is_none() => Err(UnknownTokenBroker),
            (urls, _) => Ok(urls.to_vec()),
        }
    }

    /// The kill switch.
    pub fn stop_file(&self) -> StopFile {
        let default = || StopFile::of_state(&self.state.folder);
        let named = self.policy.stop_file.clone();
        named.map_or_else(default, StopFile::new)
    }

    /// Where nodes write what job scripts print. `None`: the local backend keeps it with its own state.
    pub fn output_folder(&self) -> Option<&Path> {
        match self.slurm.backend {
            Backend::Sbatch => Some(&self.sbatch.output_folder),
            Backend::Slurmrestd => self.slurmrestd.as_ref().map(|s| s.output_folder.as_path()),
            Backend::Local => None,
        }
    }
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "GHA_SLURM_MUNGE";
    // They may hold a password.
    const SECRETS: &'static [&'static str] =
        &["runner.network.https_proxy", "runner.network.http_proxy"];
    // TLS goes through a proxy as it is; and `http://` before a host of GitHub's accepts the risk for that host.
    const MAY_BE_PLAIN: &'static [&'static str] = &[
        "runner.network.https_proxy",
        "runner.network.http_proxy",
        "runner.github_hosts",
    ];

    fn check(&self, problems: &mut Problems) {
        self.check_keys(problems);
        self.check_tls(problems);
        self.check_sums(problems);
    }
}

impl Settings {
    fn check_keys(&self, problems: &mut Problems) {
        match &self.keys {
            KeySource::Path(path) => {
                check_keys(
                    "keys.public_keys",
                    path,
                    Pem::PublicKey,
                    KeySet::read_some(path),
                    problems,
                );
            }
            KeySource::Jwks { tls, .. } => check_client_tls(tls, "keys.tls", problems),
        }
        if let Some(identity) = &self.identity {
            let signer = Signer::load(&KeyFolder::new(&identity.keys));
            check_keys(
                "identity.keys",
                &identity.keys,
                Pem::PrivateKey,
                signer,
                problems,
            );
        } else if self.outbound.is_some() {
            problems.add(
                "identity.keys",
                "must be given for [outbound]: the agent signs its calls",
            );
        } else if self.self_service.is_some() {
            problems.add(
                "identity.keys",
                "must be given for [self_service]: the agent signs its calls",
            );
        }
        if let Some(original) = &self.original {
            problems.note("original.file", SiteFile::read(&original.file));
        }
        problems.note("token_broker.urls", self.token_broker_urls());
    }

    fn check_tls(&self, problems: &mut Problems) {
        let mut listens = vec![("operations.listen", self.operations.listen)];
        if let Some(http) = &self.http {
            http.check("http", problems);
            listens.push(("http.listen", http.listen));
        }
        if let Some(outbound) = &self.outbound {
            check_client_tls(&outbound.tls, "outbound.tls", problems);
        }
        if let Some(relay) = &self.relay {
            listens.push(("relay.listen", relay.listen));
            check_client_tls(&relay.upstream_tls, "relay.upstream_tls", problems);
            if let Some(tls) = &relay.tls {
                check_server_tls(tls, "relay.tls", problems);
            }
        }
        if let Some(self_service) = &self.self_service {
            check_client_tls(&self_service.tls, "self_service.tls", problems);
        }
        match (&self.slurmrestd, self.slurm.backend) {
            (Some(slurmrestd), _) => {
                check_client_tls(&slurmrestd.tls, "slurmrestd.tls", problems);
                if slurmrestd.url.is_some() == slurmrestd.socket.is_some() {
                    problems.add(
                        "slurmrestd",
                        "give either url (http://host:port) or socket (a path)",
                    );
                }
            }
            (None, Backend::Slurmrestd) => {
                problems.add(
                    "slurmrestd",
                    "must be given for slurm.backend = \"slurmrestd\"",
                );
            }
            (None, _) => {}
        }
        check_listens(&listens, problems);
    }

    /// Settings that are fine alone, but with which every launch, or every one of a kind, would be refused or ended.
    fn check_sums(&self, problems: &mut Problems) {
        // What is submitted for a workflow job without labels that ask for something.
        let usual = self.policy.check_resources(&ResourceRequest::default());
        let usual = problems.note("policy.defaults", usual);
        let (key, signal_s) = match (self.slurm.backend, &self.slurmrestd) {
            (Backend::Slurmrestd, Some(slurmrestd)) => (
                "slurmrestd.signal_before_end_s",
                slurmrestd.signal_before_end_s.into(),
            ),
            _ => (
                "sbatch.signal_before_end_s",
                self.sbatch.signal_before_end_s,
            ),
        };
        if signal_s > MAX_SIGNAL_S {
            problems.add(key, format_args!("must be at most {MAX_SIGNAL_S}"));
        }
        let minutes = usual.and_then(|usual| usual.time_minutes);
        let real = !matches!(self.slurm.backend, Backend::Local);
        if let Some(minutes) = minutes.filter(|m| real && u64::from(*m) * 60 <= u64::from(signal_s))
        {
            problems.add(
                key,
                format_args!("the job script would be told to end as soon as it starts: the usual time limit is {minutes} min (policy)"),
            );
        }
        for (key, seconds) in [
            ("runner.idle_deadline_s", self.runner.idle_deadline_s),
            ("runner.set_up_deadline_s", self.runner.set_up_deadline_s),
        ] {
            if seconds == 0 {
                problems.add(
                    key,
                    "must be more than 0: every runner would be ended at once",
                );
            }
        }
    }
}

/// sbatch(1), `--signal`: "sig_time must have an integer value between 0 and 65535".
const MAX_SIGNAL_S: u32 = 65535;
/// The original program's port.
const DEFAULT_PORT: u16 = 5011;

pub(crate) fn default_http() -> HttpSettings {
    HttpSettings::plain(SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 9011)),
    }
}

/// `[deployment]`: whose launch tokens are accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSettings {
    /// The launcher's `deployment.name`: the issuer of its launch tokens.
    pub name: String,
}

/// `[cluster]`: this cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// The launcher's `cluster.name`: a launch token meant for another cluster is refused.
    pub name: String,
}

/// `[outbound]`: the agent calls launchers, which do not call it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundSettings {
    /// Base URL of each launcher: a list, or a text with spaces between.
    #[serde(deserialize_with = "addresses")]
    pub launchers: Vec<Address>,
    /// TLS on the way there.
    #[serde(default)]
    pub tls: ClientTlsSettings,
}

/// `[relay]`: nodes call token-broker through the agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// Address and port for the nodes.
    pub listen: SocketAddr,
    /// HTTPS for the nodes.
    #[serde(default)]
    pub tls: Option<ServerTlsSettings>,
    /// Its base URL as the nodes reach it; replaces the launcher's `cluster.token_url`.
    pub public_url: Address,
    /// Base URL of token-broker.
    pub upstream: Address,
    /// TLS on the way there.
    #[serde(default)]
    pub upstream_tls: ClientTlsSettings,
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let urls = words(deserializer)?;
    if urls.is_empty() {
        return Err(serde::de::Error::custom("name at least one"));
    }
    let address = |url: String| url.parse().map_err(serde::de::Error::custom);
    urls.into_iter().map(address).collect()
}

/// `[keys]`: where the public keys of launch tokens come from. Exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `public_keys`: a `<kid>.pub.pem` file, or a folder of them.
    Path(PathBuf),
    /// `jwks_url`: token-broker's `/.well-known/jwks.json`.
    Jwks {
        /// Where.
        url: Address,
        /// `keys.tls`: TLS on the way there.
        tls: ClientTlsSettings,
    },
}

fn key_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeySource, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        public_keys: Option<PathBuf>,
        jwks_url: Option<Address>,
        #[serde(default)]
        tls: ClientTlsSettings,
    }
    match Raw::deserialize(deserializer)? {
        Raw {
            public_keys: Some(path),
            jwks_url: None,
            ..
        } => Ok(KeySource::Path(path)),
        Raw {
            public_keys: None,
            jwks_url: Some(url),
            tls,
        } => Ok(KeySource::Jwks { url, tls }),
        _ => Err(serde::de::Error::custom(
            "give either public_keys (a <kid>.pub.pem file or a folder of them) or jwks_url",
        )),
    }
}

/// `[token_broker]`: where nodes may send launch tokens. What answers them says what runs as the user, so a launch token does not decide
/// it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBrokerSettings {
    /// Base URLs of token-broker as the nodes reach it (the launcher's `cluster.token_url`, and the app's of the original contract): a
    /// list, or a text with spaces between. When absent, that of `keys.jwks_url`.
    #[serde(default, deserialize_with = "addresses")]
    pub urls: Vec<Address>,
}

/// Nothing says where nodes may send launch tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("name token-broker's base URL as the nodes reach it: the launcher's cluster.token_url")]
pub struct UnknownTokenBroker;

/// `[identity]`: the agent's own key, for what it asserts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    /// Folder of keys made by `gha-slurm keys generate`; the newest signs.
    pub keys: PathBuf,
}

/// `[state]`: what the agent remembers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// A folder of its own, on a disk that survives a restart.
    pub folder: PathBuf,
}

/// `[runner]`: what runs in a launch; handed to the job script as environment variables.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerSettings {
    /// Folder of the unpacked runner release (`bin/Runner.Listener`), a symlink to it, or its archive, as the nodes see it.
    pub folder: PathBuf,
    /// Hosts of the GitHub that runners may belong to, and of its Actions service: a name, or `*.` and a name for its subdomains. Only
    /// HTTPS, unless `http://` stands before it. GitHub.com's when absent; for GitHub Enterprise Server, its host.
    #[serde(default = "default_github_hosts", deserialize_with = "github_hosts")]
    pub github_hosts: Vec<String>,
    /// The job script; the built-in one when absent. Read at each submission. Slurm keeps nothing of what it prints: it opens a file
    /// of its own, whose path begins with `GHA_SLURM_OUTPUT`.
    #[serde(default)]
    pub job_script: Option<PathBuf>,
    /// Where private work directories are made on the node; its `TMPDIR` or `/tmp` when absent.
    #[serde(default)]
    pub work_root: Option<PathBuf>,
    /// Seconds a runner may listen without a workflow job.
    #[serde(default = "default_idle_deadline")]
    pub idle_deadline_s: u32,
    /// Seconds until a runner must listen.
    #[serde(default = "default_set_up_deadline")]
    pub set_up_deadline_s: u32,
    /// `container:` and `services:` of workflow jobs by rootless Podman. Without it and `container_hooks` they are refused.
    #[serde(default)]
    pub podman: Option<PodmanSettings>,
    /// Runner container hooks of the site's own (their `index.js`, or a `.sh`), as the nodes see them.
    #[serde(default, deserialize_with = "hook")]
    pub container_hooks: Option<PathBuf>,
    /// How runners run in a profile's container. Without it such profiles are refused.
    #[serde(default)]
    pub apptainer: Option<ApptainerSettings>,
    /// The way out of the cluster.
    #[serde(default)]
    pub network: NetworkSettings,
}

fn default_idle_deadline() -> u32 {
    120
}

fn default_set_up_deadline() -> u32 {
    600
}

/// `[slurm]`: how Slurm is spoken to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmSettings {
    /// Which backend.
    pub backend: Backend,
    /// Seconds between two lists of Slurm's queue.
    #[serde(default = "default_interval")]
    pub interval_s: NonZeroU32,
    /// Seconds between two looks at Slurm's configuration: when it changes, what was refused is tried again.
    #[serde(default = "default_configuration_interval")]
    pub configuration_interval_s: NonZeroU32,
}

fn default_configuration_interval() -> NonZeroU32 {
    NonZeroU32::new(300).unwrap_or(NonZeroU32::MIN)
}

fn default_interval() -> NonZeroU32 {
    NonZeroU32::new(10).unwrap_or(NonZeroU32::MIN)
}

/// `[original]`: the original contract, a shared secret instead of signed launch tokens. Weaker: only for a site that still has
/// the original app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginalSettings {
    /// The original program's YAML file: `ghaSharedSecret`, `repositories`, `jobTemplate`. Holds a secret; read at start and by
    /// `POST /api/reload`.
    pub file: PathBuf,
}

/// `[self_service]`: users manage their repositories from a login node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfServiceSettings {
    /// Where repo-mapping answers.
    pub repo_mapping_url: Address,
    /// TLS on the way there.
    #[serde(default)]
    pub tls: ClientTlsSettings,
    /// Hosts from which credentials are accepted, by the address or the name that munged writes into them. Never a compute
    /// node: workflow code runs there as the user.
    pub login_nodes: Vec<String>,
    /// The program.
    #[serde(default = "default_unmunge")]
    pub unmunge: PathBuf,
    /// munged's socket, where it is not MUNGE's default.
    #[serde(default)]
    pub munge_socket: Option<PathBuf>,
}

fn default_unmunge() -> PathBuf {
    "/usr/bin/unmunge".into()
}
