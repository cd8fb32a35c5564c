//! The launcher's settings; `deploy/config/launcher.toml` is a commented sample.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use gha_slurm_domain::LabelSettings;
use gha_slurm_domain::launch::RunnerMode;
use gha_slurm_domain::planner::PlannerLimits;
use gha_slurm_service_kit::settings::{
    AmqpSettings, DatabaseSettings, GithubSettings, HttpSettings, OperationsSettings,
};
use gha_slurm_service_kit::tls::ClientTlsSettings;
use gha_slurm_telemetry::LogSettings;
use serde::{Deserialize, Deserializer};

/// The launcher's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where an agent in outbound mode calls; nothing else calls the launcher.
    #[serde(default)]
    pub http: Option<HttpSettings>,
    /// Liveness, readiness, metrics.
    #[serde(default = "default_operations")]
    pub operations: OperationsSettings,
    /// Postgres.
    pub database: DatabaseSettings,
    /// RabbitMQ.
    pub amqp: AmqpSettings,
    /// GitHub and the App.
    pub github: GithubSettings,
    /// What this deployment is called.
    pub deployment: DeploymentSettings,
    /// Launch-token keys.
    pub keys: KeySettings,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Runner tokens.
    #[serde(default)]
    pub runners: RunnerSettings,
    /// Which workflow jobs are for this cluster.
    #[serde(default)]
    pub labels: LabelSettings,
    /// Bounds of the planner.
    #[serde(default)]
    pub planner: PlannerSettings,
    /// Comparing what is known with GitHub.
    #[serde(default)]
    pub reconciler: ReconcilerSettings,
    /// How long rows are kept.
    #[serde(default)]
    pub retention: RetentionSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "LAUNCHER";
    const SECRETS: &'static [&'static str] = &["database.url", "amqp.url", "github.private_key"];
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 9002)),
    }
}

/// `[deployment]`: names that others see.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSettings {
    /// Short name; part of runner names and the issuer of launch tokens.
    #[serde(deserialize_with = "short_name")]
    pub name: String,
    /// Prefix of runner names.
    #[serde(default = "default_prefix", deserialize_with = "short_name")]
    pub prefix: String,
}

fn default_prefix() -> String {
    "gha-slurm".into()
}

fn short_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if gha_slurm_domain::naming::is_valid_prefix(&text) {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(
            "write 1 to 24 lower-case letters, digits and hyphens, starting with a letter",
        ))
    }
}

/// `[keys]`: what signs launch tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// Folder made by `gha-slurm keys generate`.
    pub folder: PathBuf,
    /// Seconds a launch token is valid: GitHub's 24 h queue limit and an hour.
    #[serde(default = "default_lifetime")]
    pub lifetime_s: i64,
}

fn default_lifetime() -> i64 {
    gha_slurm_auth::token::DEFAULT_LIFETIME_S
}

/// `[cluster]`: where Slurm jobs go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Its name, in tokens and timelines.
    pub name: String,
    /// Base URL of its Slurm agent, which the launcher calls. Or `agent_public_keys`.
    #[serde(default)]
    pub agent_url: Option<String>,
    /// TLS on the way to `agent_url`.
    #[serde(default)]
    pub tls: ClientTlsSettings,
    /// Public keys of its Slurm agent, which calls the launcher (outbound mode): a `<kid>.pub.pem` file, or a folder of them.
    #[serde(default)]
    pub agent_public_keys: Option<PathBuf>,
    /// Base URL of token-broker as the compute nodes reach it.
    pub token_url: String,
    /// Seconds between two questions where Slurm jobs stand.
    #[serde(default = "default_states_interval")]
    pub states_interval_s: NonZeroU32,
}

fn default_states_interval() -> NonZeroU32 {
    NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN)
}

/// `[runners]`: what launch tokens are redeemed for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunnerSettings {
    /// Which runner token; `registration` must also be allowed by token-broker (`runners.registration_tokens`).
    pub mode: RunnerMode,
}

/// `[planner]`: bounds, so that a class that always fails is not launched forever.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlannerSettings {
    /// Runners in a row that may end without a workflow job before a class is given up.
    pub max_failures: u32,
    /// Seconds before the second attempt; doubled for each further one.
    pub backoff_base_s: i64,
    /// Longest seconds between attempts.
    pub backoff_cap_s: i64,
}

impl Default for PlannerSettings {
    fn default() -> Self {
        let limits = PlannerLimits::default();
        Self {
            max_failures: limits.max_failures,
            backoff_base_s: limits.backoff_base.num_seconds(),
            backoff_cap_s: limits.backoff_cap.num_seconds(),
        }
    }
}

impl PlannerSettings {
    /// As the domain sees them.
    pub fn limits(&self) -> PlannerLimits {
        PlannerLimits {
            max_failures: self.max_failures,
            backoff_base: TimeDelta::seconds(self.backoff_base_s),
            backoff_cap: TimeDelta::seconds(self.backoff_cap_s),
            ..PlannerLimits::default()
        }
    }
}

/// `[reconciler]`: what was missed is found again. All in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcilerSettings {
    /// Between two looks at what is due.
    pub interval_s: NonZeroU32,
    /// Between two looks for webhook deliveries that failed.
    pub deliveries_s: NonZeroU32,
    /// Between two comparisons of a mapped repository with GitHub's list of its workflow jobs.
    pub repositories_s: NonZeroU32,
    /// A runner is busy and no webhook has said with which workflow job: GitHub is asked after this, and again each time
    /// it has passed.
    pub unattributed_s: NonZeroU32,
    /// GitHub does not know a workflow job of such a runner either: it stops counting as supply after this.
    pub unattributed_limit_s: NonZeroU32,
    /// A runner that does not listen for so long after its node called back is given up: its node is silent. Longer than
    /// the agent's `runner.set_up_deadline_s` and the time that a node tries to reach token-broker.
    pub set_up_limit_s: NonZeroU32,
    /// A runner that listens for so long without a workflow job is given up: its node is silent. Longer than the agent's
    /// `runner.idle_deadline_s`.
    pub listening_limit_s: NonZeroU32,
    /// A pending Slurm job that this launcher had submitted and that has had no row in the database for so long is cancelled: the
    /// database was restored from an older state.
    pub rowless_s: NonZeroU32,
}

impl Default for ReconcilerSettings {
    fn default() -> Self {
        let seconds = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            interval_s: seconds(5),
            deliveries_s: seconds(60),
            repositories_s: seconds(600),
            unattributed_s: seconds(60),
            unattributed_limit_s: seconds(600),
            set_up_limit_s: seconds(1800),
            listening_limit_s: seconds(900),
            rowless_s: seconds(600),
        }
    }
}

/// `[retention]`: how long launches, workflow jobs and their timelines are kept after their end. Sums of usage stay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Days.
    pub days: NonZeroU32,
    /// Seconds between two looks for what is old.
    pub interval_s: NonZeroU32,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            days: NonZeroU32::new(90).unwrap_or(NonZeroU32::MIN),
            interval_s: NonZeroU32::new(3600).unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// A setting as a time span.
pub(crate) fn span(seconds: NonZeroU32) -> Duration {
    Duration::from_secs(seconds.get().into())
}

/// A setting as a difference of times.
pub(crate) fn delta(seconds: NonZeroU32) -> TimeDelta {
    TimeDelta::seconds(seconds.get().into())
}
