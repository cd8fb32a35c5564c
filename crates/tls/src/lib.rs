#![doc = include_str!("../README.md")]

pub mod http;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_platform_verifier::Verifier;
use serde::Deserialize;

/// Whether a certificate was renewed is looked at no more often than this, when somebody connects.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// TLS of a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsSettings {
    /// PEM file of the certificate, those of intermediate CAs after it.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of CAs: only clients that show a certificate of one of them are let in. Read at the start.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// TLS of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsSettings {
    /// PEM file of CAs that are trusted beside the system's. Read at the start.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that is shown to a server that asks for one; with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub client_key: Option<PathBuf>,
}

impl ServerTlsSettings {
    /// What a server needs. `section` is where these settings are, for errors.
    pub fn config(&self, section: &str) -> anyhow::Result<ServerConfig> {
        let provider = provider();
        let files = [
            (format!("{section}.certificate"), self.certificate.clone()),
            (format!("{section}.key"), self.key.clone()),
        ];
        let certificate = Renewed::load(files)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let key = format!("{section}.client_ca");
                let mut roots = RootCertStore::empty();
                for certificate in certificates_of(&key, path)? {
                    roots
                        .add(certificate)
                        .with_context(|| format!("{key}: {}", path.display()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().context(key)?)
            }
        };
        Ok(builder.with_cert_resolver(Arc::new(certificate)))
    }
}

impl ClientTlsSettings {
    /// A client with these settings. `section` is where they are, for errors.
    pub fn apply(
        &self,
        client: reqwest::ClientBuilder,
        section: &str,
    ) -> anyhow::Result<reqwest::ClientBuilder> {
        if *self == Self::default() {
            return Ok(client);
        }
        let provider = provider();
        let roots = match &self.ca_file {
            Some(path) => certificates_of(&format!("{section}.ca_file"), path)?,
            None => Vec::new(),
        };
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
            .with_context(|| format!("{section}.ca_file"))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.client_certificate, &self.client_key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let files = [
                    (format!("{section}.client_certificate"), certificate.clone()),
                    (format!("{section}.client_key"), key.clone()),
                ];
                builder.with_client_cert_resolver(Arc::new(Renewed::load(files)?))
            }
            _ => {
                anyhow::bail!("{section}: give both client_certificate and client_key, or neither")
            }
        };
        config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
        Ok(client.tls_backend_preconfigured(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&std::fs::read(path)?).collect::<Result<_, _>>()?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate (PEM) in it");
    Ok(found)
}

/// Those of the file that the setting `key` names.
fn certificates_of(key: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    certificates(path).with_context(|| format!("{key}: {}", path.display()))
}

/// A certificate and its key, read again when one of the two files is another one. Until they fit each other, the last
/// that did stays in use.
#[derive(Debug)]
struct Renewed {
    /// Each with the settings key that names it.
    files: [(String, PathBuf); 2],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<CertifiedKey>,
    seen: Stamp,
    looked: Instant,
}

/// Tells a file from the one that was there before.
type Stamp = [Option<(u64, i64, i64)>; 2];

impl Renewed {
    fn load(files: [(String, PathBuf); 2]) -> anyhow::Result<Self> {
        let seen = stamp(&files);
        let state = State {
            current: Arc::new(read(&files)?),
            seen,
            looked: Instant::now(),
        };
        Ok(Self {
            files,
            state: Mutex::new(state),
        })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            state.looked = Instant::now();
            let found = stamp(&self.files);
            if found != state.seen {
                state.seen = found;
                match read(&self.files) {
                    Ok(renewed) => {
                        state.current = Arc::new(renewed);
                        tracing::info!("{} was renewed", self.files[0].0);
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::error!(
                            error,
                            "a renewed certificate is not usable; the old one stays"
                        );
                    }
                }
            }
        }
        Arc::clone(&state.current)
    }
}

fn stamp(files: &[(String, PathBuf); 2]) -> Stamp {
    files.each_ref().map(|(_, path)| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec()))
    })
}

fn read(
    [(key_of_certificate, certificate), (key_of_key, key)]: &[(String, PathBuf); 2],
) -> anyhow::Result<CertifiedKey> {
    let chain = certificates_of(key_of_certificate, certificate)?;
    let in_key = || format!("{key_of_key}: {}", key.display());
    let text = std::fs::read(key).with_context(in_key)?;
    let private = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| anyhow::anyhow!("there is no private key (PEM) in it"))
        .with_context(in_key)?;
    CertifiedKey::from_der(chain, private, &provider()).with_context(|| {
        format!(
            "{key_of_key}: {} does not fit {}",
            key.display(),
            certificate.display()
        )
    })
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
