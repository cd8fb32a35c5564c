//! Certificates for tests of TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::server::give;

/// A CA of one test's own, in a folder of its own.
pub struct TestCa {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone)]
pub struct TestCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TestCa {
    /// Makes one; `<folder>/<name>.pem` is its certificate.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        let folder = folder.to_owned();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a folder");
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for this machine (127.0.0.1 and localhost), and for `names`; files that are there are replaced as
    /// programs that renew certificates do it.
    pub fn issue(&self, name: &str, names: &[&str]) -> TestCertificate {
        let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        all.extend(names.iter().map(|name| (*name).to_owned()));
        let mut params = CertificateParams::new(all).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |suffix: &str, text: String| {
            let path = self.folder.join(format!("{name}{suffix}"));
            let new = self.folder.join(format!("{name}{suffix}.new"));
            fs::write(&new, text)
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o600)))
                // PostgreSQL and RabbitMQ read it as themselves.
                .and_then(|()| give(&new))
                .and_then(|()| fs::rename(&new, &path))
                .expect("a file");
            path
        };
        TestCertificate {
            key: write(".key.pem", key.serialize_pem()),
            certificate: write(".pem", certificate.pem()),
        }
    }
}
