//! The agent's settings; `deploy/config/gha-slurm-munge.toml` is a commented sample.

use std::net::SocketAddr;
use std::path::PathBuf;

use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_service_kit::settings::{HttpSettings, OperationsSettings};
use gha_slurm_telemetry::LogSettings;
use serde::{Deserialize, Deserializer};

/// Everything the agent can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where launchers reach it.
    #[serde(default = "default_http")]
    pub http: HttpSettings,
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
    /// What the agent remembers.
    pub state: StateSettings,
    /// What runs in an allocation.
    pub runner: RunnerSettings,
    /// How Slurm is spoken to.
    pub slurm: SlurmSettings,
    /// The local backend.
    #[serde(default)]
    pub local: LocalSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "GHA_SLURM_MUNGE";
    const SECRETS: &'static [&'static str] = &[];
}

/// The original program's port.
const DEFAULT_PORT: u16 = 5011;

fn default_http() -> HttpSettings {
    HttpSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
    }
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

/// `[keys]`: where the public keys of launch tokens come from. Exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `public_keys`: a `<kid>.pub.pem` file, or a folder of them.
    Path(PathBuf),
    /// `jwks_url`: token-broker's `/.well-known/jwks.json`.
    Jwks(String),
}

fn key_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeySource, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        public_keys: Option<PathBuf>,
        jwks_url: Option<String>,
    }
    match Raw::deserialize(deserializer)? {
        Raw {
            public_keys: Some(path),
            jwks_url: None,
        } => Ok(KeySource::Path(path)),
        Raw {
            public_keys: None,
            jwks_url: Some(url),
        } => Ok(KeySource::Jwks(url)),
        _ => Err(serde::de::Error::custom(
            "give either public_keys (a <kid>.pub.pem file or a folder of them) or jwks_url",
        )),
    }
}

/// `[state]`: what the agent remembers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSettings {
    /// A folder of its own, on a disk that survives a restart.
    pub folder: PathBuf,
}

/// `[runner]`: what runs in an allocation; handed to the job script as environment variables.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerSettings {
    /// Folder of the unpacked runner release (`bin/Runner.Listener`), as the nodes see it.
    pub folder: PathBuf,
    /// Which runner token is asked for.
    #[serde(default)]
    pub mode: RunnerMode,
    /// The job script; ours when absent. Read at each submission.
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
}

/// The ways of speaking to Slurm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// No Slurm at all: the job script runs beside the agent. For demos and tests.
    Local,
}

/// `[local]`: the local backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSettings {
    /// Most Slurm jobs that run at once; the others are pending. No limit when absent.
    pub max_running: Option<u32>,
    /// End running Slurm jobs when the agent stops, so that nothing is left. Otherwise they go on, as in Slurm.
    pub end_children_on_stop: bool,
}
