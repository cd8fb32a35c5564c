//! Settings: how they are loaded, and the sections that several services have.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::client_address::TrustedProxies;
use crate::tls::ServerTlsSettings;

pub use gha_slurm_settings::{
    Settings, SettingsError, describe_source, load, secret, secrets, texts,
};

/// The `[http]` section: where a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// HTTPS instead of HTTP.
    #[serde(default)]
    pub tls: Option<ServerTlsSettings>,
    /// Networks of reverse proxies, whose `X-Forwarded-For` says who the client is; this host, if it is not set.
    #[serde(default)]
    pub trusted_proxies: TrustedProxies,
}

impl HttpSettings {
    /// Plain HTTP at this address.
    pub fn plain(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

/// The `[operations]` section: liveness, readiness, metrics.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationsSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The `[database]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/database`; `?sslmode=disable` or `require` says whether TLS is used.
    #[serde(deserialize_with = "secret")]
    pub url: SecretString,
    /// PEM file of CAs that are trusted beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Most connections of this process.
    #[serde(default = "default_connections")]
    pub connections: usize,
}

fn default_connections() -> usize {
    8
}

/// The `[amqp]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…`.
    #[serde(deserialize_with = "secret")]
    pub url: SecretString,
    /// PEM file of CAs that are trusted beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// The `[github]` section of services that hold the App's private key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GithubSettings {
    /// REST API, `https://api.github.com` unless this is a GitHub Enterprise Server.
    #[serde(default = "default_api_url")]
    pub api_url: String,
    /// Web pages, `https://github.com`.
    #[serde(default = "default_web_url")]
    pub web_url: String,
    /// Numeric id of the App.
    pub app_id: u64,
    /// The App's private key, PEM.
    #[serde(deserialize_with = "secret")]
    pub private_key: SecretString,
    /// PEM file of CAs that are trusted beside the system's: that of a GitHub Enterprise Server, or of a proxy.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn default_api_url() -> String {
    "https://api.github.com".into()
}

/// GitHub's web pages.
pub fn default_web_url() -> String {
    "https://github.com".into()
}
