//! The launcher's settings; `deploy/config/launcher.toml` is a commented sample.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use gha_slurm_auth::token::LONGEST_LIFETIME_S;
use gha_slurm_auth::{KeyFolder, KeySet, Signer};
use gha_slurm_domain::launch::RunnerMode;
use gha_slurm_domain::planner::PlannerLimits;
use gha_slurm_domain::{LabelSettings, RepositoryFullName, SlurmUser};
use gha_slurm_service_kit::settings::{
    Address, AmqpSettings, DatabaseSettings, GithubSettings, HttpSettings, OperationsSettings, Pem,
    Problems, check_client_tls, check_keys, check_listens, check_secret,
};
use gha_slurm_service_kit::tls::ClientTlsSettings;
use gha_slurm_storage::launches::Weights;
use gha_slurm_telemetry::LogSettings;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use gha_slurm_service_kit::settings::DeploymentSettings;

/// The launcher's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Accept addresses without TLS beyond this machine, though whoever is on the way can read and change what is sent.
    #[serde(default)]
    pub insecure: bool,
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
    /// Whose launches are submitted first.
    #[serde(default)]
    pub fairness: FairnessSettings,
    /// How long rows are kept.
    #[serde(default)]
    pub retention: RetentionSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "LAUNCHER";
    const SECRETS: &'static [&'static str] = &[
        "database.url",
        "amqp.url",
        "github.private_key",
        "cluster.original_secret",
    ];

    fn check(&self, problems: &mut Problems) {
        self.github.check(problems);
        self.database.check(problems);
        self.amqp.check(problems);
        self.deployment.check(problems);
        let folder = &self.keys.folder;
        let signer = Signer::load(&KeyFolder::new(folder));
        check_keys("keys.folder", folder, Pem::PrivateKey, signer, problems);
        if !(1..=LONGEST_LIFETIME_S).contains(&self.keys.lifetime_s) {
            problems.add(
                "keys.lifetime_s",
                format!("must be from 1 to {LONGEST_LIFETIME_S} (seven days)"),
            );
        }
        let mut listens = vec![("operations.listen", self.operations.listen)];
        if let Some(http) = &self.http {
            http.check("http", problems);
            listens.push(("http.listen", http.listen));
        }
        check_listens(&listens, problems);
        check_client_tls(&self.cluster.tls, "cluster.tls", problems);
        match self.way_to_the_agent() {
            Ok(WayToAgent::Called(_)) => {}
            Ok(WayToAgent::Calls(keys)) => {
                check_keys(
                    "cluster.agent_public_keys",
                    keys,
                    Pem::PublicKey,
                    KeySet::read_some(keys),
                    problems,
                );
            }
            Err(wrong) => problems.add(wrong.key(), wrong),
        }
        self.check_original(problems);
        self.planner.check(problems);
        self.fairness.check(problems);
        let reconciler = &self.reconciler;
        if reconciler.unattributed_limit_s < reconciler.unattributed_s {
            problems.add(
                "reconciler.unattributed_limit_s",
                "must not be less than reconciler.unattributed_s: GitHub would never be asked",
            );
        }
    }
}

/// Who calls whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WayToAgent<'a> {
    /// The launcher calls the agent at this address.
    Called(&'a Address),
    /// The agent, which has these public keys, calls the launcher.
    Calls(&'a Path),
}

/// `[cluster]` and `[http]` do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWay {
    #[error("must be given for cluster.agent_public_keys: the agent calls there")]
    NoPort,
    #[error("nobody calls the launcher where cluster.agent_url is given")]
    NeedlessPort,
    #[error(
        "give either agent_url (the launcher calls the agent) or agent_public_keys (the agent calls the launcher)"
    )]
    NeitherOrBoth,
}

impl NoWay {
    /// The key that is wrong.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::NoPort => "http.listen",
            Self::NeedlessPort => "http",
            Self::NeitherOrBoth => "cluster",
        }
    }
}

impl Settings {
    /// An original agent is called, and its nodes know nothing but registration tokens.
    fn check_original(&self, problems: &mut Problems) {
        const KEY: &str = "cluster.original_secret";
        let Some(secret) = &self.cluster.original_secret else {
            return;
        };
        let secret = secret.expose_secret();
        if let Err(weak) = check_secret(secret) {
            problems.add(KEY, weak);
        }
        if !secret.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            problems.add(KEY, "must consist of printable ASCII characters");
        }
        if self.cluster.agent_url.is_none() {
            problems.add(KEY, "needs cluster.agent_url: an original agent is called");
        }
        if self.runners.mode != RunnerMode::Registration {
            problems.add(
                "runners.mode",
                "must be \"registration\" with cluster.original_secret: an original agent's nodes know no other runner token",
            );
        }
    }

    /// Who calls whom.
    pub(crate) fn way_to_the_agent(&self) -> Result<WayToAgent<'_>, NoWay> {
        let cluster = &self.cluster;
        match (&cluster.agent_url, &cluster.agent_public_keys, &self.http) {
            (Some(url), None, None) => Ok(WayToAgent::Called(url)),
            (None, Some(keys), Some(_)) => Ok(WayToAgent::Calls(keys)),
            (None, Some(_), None) => Err(NoWay::NoPort),
            (Some(_), None, Some(_)) => Err(NoWay::NeedlessPort),
            _ => Err(NoWay::NeitherOrBoth),
        }
    }
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 9002)),
    }
}

/// `[keys]`: what signs launch tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// Folder made by `gha-slurm keys generate`.
    pub folder: PathBuf,
    /// Seconds a launch token is valid, at most seven days: GitHub's 24 h queue limit and an hour.
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
    pub agent_url: Option<Address>,
    /// TLS on the way to `agent_url`.
    #[serde(default)]
    pub tls: ClientTlsSettings,
    /// Shared secret of an original agent at `agent_url`, which accepts no launch without it. Not for gha-slurm's own agent, which verifies
    /// launch tokens.
    #[serde(default)]
    pub original_secret: Option<SecretString>,
    /// Public keys of its Slurm agent, which calls the launcher (outbound mode): a `<kid>.pub.pem` file, or a folder of them.
    #[serde(default)]
    pub agent_public_keys: Option<PathBuf>,
    /// Base URL of token-broker as the compute nodes reach it.
    pub token_url: Address,
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
    fn check(&self, problems: &mut Problems) {
        if self.max_failures == 0 {
            problems.add(
                "planner.max_failures",
                "must be at least 1: nothing would ever be launched",
            );
        }
        if self.backoff_base_s <= 0 {
            problems.add("planner.backoff_base_s", "must be more than 0");
        }
        if self.backoff_cap_s < self.backoff_base_s {
            problems.add(
                "planner.backoff_cap_s",
                "must not be less than planner.backoff_base_s",
            );
        }
    }

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

/// `[fairness]`: while more launches wait than can be submitted at once, repositories are served in turn, with one launch at a turn, or as
/// many as are set here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FairnessSettings {
    /// By `owner/name`, whatever the capitals. Goes before `users`.
    pub repositories: BTreeMap<String, NonZeroU16>,
    /// By Slurm user: for each of the repositories that are charged to that user's account.
    pub users: BTreeMap<String, NonZeroU16>,
}

impl FairnessSettings {
    fn check(&self, problems: &mut Problems) {
        for name in self.repositories.keys() {
            if let Err(error) = RepositoryFullName::try_from(name.clone()) {
                problems.add("fairness.repositories", format!("{name}: {error}"));
            }
        }
        for user in self.users.keys() {
            if let Err(error) = user.parse::<SlurmUser>() {
                problems.add("fairness.users", format!("{user}: {error}"));
            }
        }
    }

    /// As storage sees them.
    pub fn weights(&self) -> Weights {
        let repositories = self.repositories.iter();
        let users = self.users.iter();
        Weights {
            repositories: repositories
                .map(|(name, weight)| (name.to_lowercase(), weight.get()))
                .collect(),
            users: users
                .map(|(user, weight)| (user.clone(), weight.get()))
                .collect(),
        }
    }
}

/// `[reconciler]`: what was missed is found again. In seconds, if nothing else is said.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcilerSettings {
    /// Between two looks at what is due.
    pub interval_s: NonZeroU32,
    /// Between two looks for webhook deliveries that failed.
    pub deliveries_s: NonZeroU32,
    /// Failed deliveries that GitHub is asked to repeat in a minute. GitHub's secondary limit allows an App 180 calls a minute that
    /// change something (docs.github.com, "Rate limits for the REST API").
    pub redeliveries_per_minute: NonZeroU32,
    /// Between two comparisons of a mapped repository with GitHub's list of its workflow jobs.
    pub repositories_s: NonZeroU32,
    /// The same of a repository that had workflow jobs in the last day, while more than nine tenths of its installation's rate limit are
    /// left.
    pub active_repositories_s: NonZeroU32,
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
            deliveries_s: seconds(30),
            redeliveries_per_minute: seconds(180),
            repositories_s: seconds(600),
            active_repositories_s: seconds(60),
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
