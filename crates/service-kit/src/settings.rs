//! Settings: how they are loaded, and the sections that several services have.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};

use gha_slurm_domain::naming::{MAX_PREFIX_AND_DEPLOYMENT_LENGTH, is_valid_prefix};
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use crate::client_address::TrustedProxies;
use crate::tls::{ClientTlsSettings, ServerTlsSettings, certificates};

use gha_slurm_settings::DatabaseUrl;
pub use gha_slurm_settings::{
    Address, AddressError, Loaded, Pem, Problems, Settings, SettingsError, WeakSecret,
    check_secret, describe_source, load, load_checked, secret, secrets, token, words,
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
    /// How many connections one address may have at the same time, an IPv6 network of 64 bits as one; trusted proxies have no bound. Nodes
    /// behind one NAT are one address.
    #[serde(default = "connections_per_address")]
    pub connections_per_address: NonZeroU16,
}

fn connections_per_address() -> NonZeroU16 {
    const { NonZeroU16::new(512).unwrap() }
}

impl HttpSettings {
    /// Plain HTTP at this address.
    pub fn plain(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            trusted_proxies: TrustedProxies::default(),
            connections_per_address: connections_per_address(),
        }
    }

    /// Opens the files of `[section.tls]`.
    pub fn check(&self, section: &str, problems: &mut Problems) {
        if let Some(tls) = &self.tls {
            check_server_tls(tls, &format!("{section}.tls"), problems);
        }
    }
}

/// Opens the certificate and key of a server.
pub fn check_server_tls(tls: &ServerTlsSettings, section: &str, problems: &mut Problems) {
    let key = |name: &str| format!("{section}.{name}");
    let mut fine = pem_file(
        &key("certificate"),
        &tls.certificate,
        Pem::Certificate,
        problems,
    );
    fine &= pem_file(&key("key"), &tls.key, Pem::PrivateKey, problems);
    if let Some(path) = &tls.client_ca {
        fine &= pem_file(&key("client_ca"), path, Pem::Certificate, problems);
    }
    if fine {
        problems.note(section, tls.config(section));
    }
}

/// Opens the CA, certificate and key of a client.
pub fn check_client_tls(tls: &ClientTlsSettings, section: &str, problems: &mut Problems) {
    let files = [
        ("ca_file", &tls.ca_file, Pem::Certificate),
        (
            "client_certificate",
            &tls.client_certificate,
            Pem::Certificate,
        ),
        ("client_key", &tls.client_key, Pem::PrivateKey),
    ];
    let mut fine = true;
    for (name, path, wanted) in files {
        if let Some(path) = path {
            fine &= pem_file(&format!("{section}.{name}"), path, wanted, problems);
        }
    }
    if fine {
        problems.note(section, tls.apply(reqwest::Client::builder(), section));
    }
}

/// Opens a file of CAs.
pub fn check_ca_file(path: Option<&Path>, key: &str, problems: &mut Problems) {
    if let Some(path) = path
        && pem_file(key, path, Pem::Certificate, problems)
    {
        problems.note(key, certificates(path));
    }
}

/// Notes why launch-token keys, or an agent's, could not be used: `opened` is the attempt. `path` is one of their files, or a folder of
/// them as `gha-slurm keys generate` names them.
pub fn check_keys<T, E: std::fmt::Display>(
    key: &str,
    path: &Path,
    wanted: Pem,
    opened: Result<T, E>,
    problems: &mut Problems,
) {
    let Err(error) = opened else { return };
    let ending = match wanted {
        Pem::PrivateKey => ".key.pem",
        Pem::PublicKey | Pem::Certificate => ".pub.pem",
    };
    let in_folder = std::fs::read_dir(path).into_iter().flatten().flatten();
    let files = in_folder.map(|entry| entry.path()).chain([path.to_owned()]);
    for file in files.filter(|file| file.to_string_lossy().ends_with(ending)) {
        pem_file(key, &file, wanted, problems);
    }
    // Only the first problem of a key is kept.
    problems.add(key, error);
}

/// Whether the file has no usual mistake; otherwise that is a problem.
fn pem_file(key: &str, path: &Path, wanted: Pem, problems: &mut Problems) -> bool {
    problems.note(key, wanted.check_file(path)).is_some()
}

/// `[deployment]`: names that others see, for the services that name runners. They must be the same in all of them.
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
    if is_valid_prefix(&text) {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(
            "write 1 to 24 lower-case letters, digits and hyphens, starting with a letter",
        ))
    }
}

impl DeploymentSettings {
    /// The names of runners must be short enough for GitHub.
    pub fn check(&self, problems: &mut Problems) {
        let together = self.prefix.len() + self.name.len();
        if together > MAX_PREFIX_AND_DEPLOYMENT_LENGTH {
            problems.add(
                "deployment.name",
                format_args!(
                    "has {together} characters together with deployment.prefix; only {MAX_PREFIX_AND_DEPLOYMENT_LENGTH} fit into the 64 \
                     characters of a runner name, beside the id of its launch"
                ),
            );
        }
    }
}

/// Two ports of a process cannot be the same address.
pub fn check_listens(listens: &[(&str, SocketAddr)], problems: &mut Problems) {
    for (index, (key, listen)) in listens.iter().enumerate() {
        let earlier = listens.iter().take(index);
        if let Some((other, _)) = earlier
            .into_iter()
            .find(|(_, at)| at == listen && at.port() != 0)
        {
            problems.add(*key, format_args!("{listen} is {other} already"));
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

impl DatabaseSettings {
    /// Opens `ca_file`; a pool needs a connection.
    pub fn check(&self, problems: &mut Problems) {
        check_ca_file(self.ca_file.as_deref(), "database.ca_file", problems);
        problems.note(
            "database.url",
            self.url.expose_secret().parse::<DatabaseUrl>(),
        );
        if self.connections == 0 {
            problems.add("database.connections", "must be at least 1");
        }
    }
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

impl AmqpSettings {
    /// Opens `ca_file`.
    pub fn check(&self, problems: &mut Problems) {
        check_ca_file(self.ca_file.as_deref(), "amqp.ca_file", problems);
        let url = self.url.expose_secret();
        if !["amqp://", "amqps://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            problems.add(
                "amqp.url",
                "write amqps://USER:PASSWORD@HOST:PORT/VHOST, or amqp:// on this machine",
            );
        }
    }
}

/// The `[github]` section of services that hold the App's private key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GithubSettings {
    /// REST API, `https://api.github.com` unless this is a GitHub Enterprise Server.
    #[serde(default = "default_api_url")]
    pub api_url: Address,
    /// Web pages, `https://github.com`.
    #[serde(default = "default_web_url")]
    pub web_url: Address,
    /// Numeric id of the App.
    pub app_id: u64,
    /// The App's private key, PEM.
    #[serde(deserialize_with = "secret")]
    pub private_key: SecretString,
    /// PEM file of CAs that are trusted beside the system's: that of a GitHub Enterprise Server, or of a proxy.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// GitHub's secondary limit of an installation, in points a minute: a call that reads costs 1, one that changes something 5. It
    /// concerns all services together: each learns from the primary limit what the others use.
    #[serde(default = "default_points_per_minute")]
    pub points_per_minute: NonZeroU32,
}

impl GithubSettings {
    /// Opens the private key and `ca_file`.
    pub fn check(&self, problems: &mut Problems) {
        check_ca_file(self.ca_file.as_deref(), "github.ca_file", problems);
        problems.note(
            "github.private_key",
            check_private_key(self.private_key.expose_secret()),
        );
    }
}

/// Why the App's private key cannot be used. It never repeats the key.
#[derive(Debug, thiserror::Error)]
enum AppKeyError {
    #[error("the App's private key: {0}")]
    Pem(#[from] gha_slurm_settings::PemError),
    #[error("the App's private key cannot be read: it is damaged")]
    Damaged,
    #[error("not the App's private key: GitHub's are RSA keys")]
    NotRsa,
}

fn check_private_key(text: &str) -> Result<(), AppKeyError> {
    Pem::PrivateKey.check(text)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| AppKeyError::Damaged)?;
    let key = any_supported_type(&key).map_err(|_| AppKeyError::Damaged)?;
    if key.algorithm() == SignatureAlgorithm::RSA {
        Ok(())
    } else {
        Err(AppKeyError::NotRsa)
    }
}

/// <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>
fn default_points_per_minute() -> NonZeroU32 {
    NonZeroU32::new(900).unwrap_or(NonZeroU32::MIN)
}

/// `https://api.github.com`.
pub fn default_api_url() -> Address {
    fixed("https://api.github.com")
}

/// GitHub's web pages.
pub fn default_web_url() -> Address {
    fixed("https://github.com")
}

#[expect(clippy::expect_used, reason = "a constant")]
fn fixed(address: &str) -> Address {
    address.parse().expect("an address")
}
