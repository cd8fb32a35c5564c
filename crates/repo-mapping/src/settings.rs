//! repo-mapping's settings; `deploy/config/repo-mapping.toml` is a commented sample.

use std::net::SocketAddr;
use std::path::PathBuf;

use gha_slurm_service_kit::settings::{
    DatabaseSettings, GithubSettings, HttpSettings, OperationsSettings, Pem, Problems, check_keys,
    check_listens, secrets,
};
use gha_slurm_telemetry::LogSettings;
use secrecy::SecretString;
use serde::Deserialize;

use crate::web_application::WebApplication;

pub use crate::access::AgentSettings;

/// repo-mapping's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Accept addresses without TLS beyond this machine, though whoever is on the way can read and change what is sent.
    #[serde(default)]
    pub insecure: bool,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where people and programs call.
    #[serde(default = "default_http")]
    pub http: HttpSettings,
    /// Liveness, readiness, metrics.
    #[serde(default = "default_operations")]
    pub operations: OperationsSettings,
    /// Postgres.
    pub database: DatabaseSettings,
    /// GitHub and the App.
    pub github: GithubSettings,
    /// Who may call.
    pub access: AccessSettings,
    /// Slurm agents whose word about Slurm users is taken.
    #[serde(default)]
    pub agents: Vec<AgentSettings>,
    /// The web application.
    #[serde(default)]
    pub web: WebSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "REPO_MAPPING";
    const SECRETS: &'static [&'static str] =
        &["database.url", "github.private_key", "access.tokens"];

    fn check(&self, problems: &mut Problems) {
        self.github.check(problems);
        self.database.check(problems);
        self.http.check("http", problems);
        for (index, agent) in self.agents.iter().enumerate() {
            let key = format!("agents[{index}].public_keys");
            check_keys(
                &key,
                &agent.public_keys,
                Pem::PublicKey,
                agent.keys(),
                problems,
            );
        }
        if let Some(folder) = &self.web.folder {
            problems.note("web.folder", WebApplication::load(folder.clone()));
        }
        let listens = [
            ("operations.listen", self.operations.listen),
            ("http.listen", self.http.listen),
        ];
        check_listens(&listens, problems);
    }
}

fn default_http() -> HttpSettings {
    HttpSettings::plain(SocketAddr::from(([127, 0, 0, 1], 8004)))
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 9004)),
    }
}

/// `[access]`: bearer tokens of administrators and services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSettings {
    /// Each of them may do everything; several, for rotation.
    #[serde(deserialize_with = "secrets")]
    pub tokens: Vec<SecretString>,
}

/// `[web]`: the built web application.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSettings {
    /// Its folder (`web/dist` after `npm run build`); none is served without.
    pub folder: Option<PathBuf>,
}
