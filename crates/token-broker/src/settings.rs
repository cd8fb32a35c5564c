//! token-broker's settings; `deploy/config/token-broker.toml` is a commented sample.

use std::net::SocketAddr;
use std::path::PathBuf;

use gha_slurm_auth::KeySet;
use gha_slurm_service_kit::settings::{
    DatabaseSettings, GithubSettings, HttpSettings, OperationsSettings, Pem, Problems, check_keys,
    check_listens, secrets,
};
use gha_slurm_telemetry::LogSettings;
use secrecy::SecretString;
use serde::Deserialize;

pub use gha_slurm_service_kit::settings::DeploymentSettings;

/// token-broker's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Accept addresses without TLS beyond this machine, though whoever is on the way can read and change what is sent.
    #[serde(default)]
    pub insecure: bool,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where nodes call.
    #[serde(default = "default_http")]
    pub http: HttpSettings,
    /// Liveness, readiness, metrics.
    #[serde(default = "default_operations")]
    pub operations: OperationsSettings,
    /// Postgres.
    pub database: DatabaseSettings,
    /// GitHub and the App.
    pub github: GithubSettings,
    /// The deployment's name; the same as in the launcher's settings.
    pub deployment: DeploymentSettings,
    /// Launch-token keys.
    pub keys: KeySettings,
    /// Runner tokens.
    #[serde(default)]
    pub runners: RunnerSettings,
    /// Programs that may ask.
    #[serde(default)]
    pub access: AccessSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "TOKEN_BROKER";
    const SECRETS: &'static [&'static str] = &[
        "database.url",
        "github.private_key",
        "access.service_tokens",
    ];

    fn check(&self, problems: &mut Problems) {
        self.github.check(problems);
        self.database.check(problems);
        self.deployment.check(problems);
        self.http.check("http", problems);
        let folder = &self.keys.folder;
        check_keys(
            "keys.folder",
            folder,
            Pem::PublicKey,
            KeySet::read_some(folder),
            problems,
        );
        let listens = [
            ("operations.listen", self.operations.listen),
            ("http.listen", self.http.listen),
        ];
        check_listens(&listens, problems);
    }
}

fn default_http() -> HttpSettings {
    HttpSettings::plain(SocketAddr::from(([127, 0, 0, 1], 8003)))
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 9003)),
    }
}

/// `[keys]`: what launch tokens are verified with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// Folder made by `gha-slurm keys generate`, or a copy of its `*.pub.pem` files.
    pub folder: PathBuf,
}

/// `[access]`: who may ask besides nodes with a launch token.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessSettings {
    /// Bearer tokens with which programs ask what the App sees: repo-mapping's, first of all; several, for rotation.
    #[serde(deserialize_with = "secrets")]
    pub service_tokens: Vec<SecretString>,
}

/// `[runners]`: which runner tokens are given out beside just-in-time configurations. A registration token is good for an hour and for
/// any number of runners with any labels, so whoever reads a launch token on a node could register one that stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunnerSettings {
    /// Give out registration tokens where the launch token says so (`runners.mode` of the launcher).
    pub registration_tokens: bool,
    /// Answer the original contract too: the raw launch token without a body gets a registration token, once, if the launch token is
    /// for one.
    pub original_contract: bool,
}
