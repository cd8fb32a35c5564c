//! repo-mapping's settings; `deploy/config/repo-mapping.toml` is a commented sample.

use std::net::SocketAddr;
use std::path::PathBuf;

use gha_slurm_service_kit::settings::{
    Address, DatabaseSettings, HttpSettings, OperationsSettings, Pem, Problems, check_client_tls,
    check_keys, check_listens, default_web_url, secrets,
};
use gha_slurm_telemetry::LogSettings;
use secrecy::SecretString;
use serde::Deserialize;

use crate::web_application::WebApplication;

pub use crate::access::AgentSettings;
pub use crate::sign_in_settings::SignInSettings;
pub use crate::token_broker::TokenBrokerSettings;

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
    /// GitHub's pages.
    #[serde(default)]
    pub github: GithubSettings,
    /// Who asks GitHub.
    pub token_broker: TokenBrokerSettings,
    /// Who may call.
    pub access: AccessSettings,
    /// How people sign in; they cannot, if it is not set.
    pub sign_in: Option<SignInSettings>,
    /// Slurm agents whose word about Slurm users is taken.
    #[serde(default)]
    pub agents: Vec<AgentSettings>,
    /// The web application.
    #[serde(default)]
    pub web: WebSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "REPO_MAPPING";
    const SECRETS: &'static [&'static str] = &[
        "database.url",
        "token_broker.service_token",
        "access.tokens",
        "sign_in.client_secret",
    ];

    fn check(&self, problems: &mut Problems) {
        check_client_tls(&self.token_broker.tls, "token_broker.tls", problems);
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
        if let Some(sign_in) = &self.sign_in {
            sign_in.check(&self.github.web_url, problems);
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

/// `[github]`: where repositories have their pages. GitHub itself is asked by token-broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GithubSettings {
    /// Web pages, `https://github.com`.
    pub web_url: Address,
    #[serde(rename = "api_url")]
    _api_url: Moved,
    #[serde(rename = "app_id")]
    _app_id: Moved,
    #[serde(rename = "private_key")]
    _private_key: Moved,
    #[serde(rename = "private_key_file")]
    _private_key_file: Moved,
    #[serde(rename = "ca_file")]
    _ca_file: Moved,
}

impl Default for GithubSettings {
    fn default() -> Self {
        Self {
            web_url: default_web_url(),
            _api_url: Moved,
            _app_id: Moved,
            _private_key: Moved,
            _private_key_file: Moved,
            _ca_file: Moved,
        }
    }
}

/// A setting of earlier versions, which called GitHub themselves.
#[derive(Debug, Clone)]
struct Moved;

impl<'de> Deserialize<'de> for Moved {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "repo-mapping no longer calls GitHub and needs no key of the App: remove this setting (and the key from this host), and set \
             token_broker.url and token_broker.service_token",
        ))
    }
}

/// `[access]`: bearer tokens of administrators and services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSettings {
    /// Each of them may do everything; several, for rotation.
    #[serde(deserialize_with = "secrets")]
    pub tokens: Vec<SecretString>,
    /// GitHub's numeric ids of the accounts that may do everything once they have signed in: logins change hands.
    #[serde(default, deserialize_with = "ids")]
    pub administrators: Vec<i64>,
}

/// A list of ids, or a text with commas: an environment variable holds no list.
fn ids<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        List(Vec<i64>),
        One(i64),
        Text(String),
    }
    let wrong = || {
        serde::de::Error::custom(
            "write GitHub's numeric ids of accounts, not logins: `gh api users/LOGIN --jq .id` prints one",
        )
    };
    match Ids::deserialize(deserializer).map_err(|_| wrong())? {
        Ids::List(ids) => Ok(ids),
        Ids::One(id) => Ok(vec![id]),
        Ids::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(|id| id.parse().map_err(|_| wrong()))
            .collect(),
    }
}

/// `[web]`: the built web application.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSettings {
    /// Its folder (`web/dist` after `npm run build`); none is served without.
    pub folder: Option<PathBuf>,
}
