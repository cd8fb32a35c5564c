//! What is wrong with a text that should be PEM (RFC 7468), in words that help.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a PEM text must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pem {
    /// A private key, without a passphrase.
    PrivateKey,
    /// A public key.
    PublicKey,
    /// A certificate.
    Certificate,
}

/// Why a PEM text cannot be used. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// What a sample says.
    #[error("it is still a placeholder")]
    Placeholder,
    /// `\` and `n` where lines end.
    #[error(r"it has the two characters \n where lines end: write real line ends, or keep the key in a file")]
    EscapedLines,
    /// Spaces where lines end.
    #[error("its lines have become one: write real line ends, or keep the key in a file")]
    OneLine,
    /// `"-----BEGIN…"`.
    #[error("it has quotes around it: remove them")]
    Quotes,
    /// A PEM in base64.
    #[error("it is base64 of a PEM text: decode it (base64 --decode)")]
    Base64,
    /// A path.
    #[error("it is the path of a file, not what the file holds: give the path as KEY_file")]
    Path,
    /// No `-----BEGIN`.
    #[error("it is not PEM: it has no line `-----BEGIN …-----`")]
    NotPem,
    /// No `-----END`.
    #[error("its end is missing: there is no line `-----END …-----`")]
    Cut,
    /// A passphrase is needed.
    #[error("it has a passphrase, which nobody could enter: remove that")]
    Passphrase,
    /// OpenSSH's own format.
    #[error("it is a key of OpenSSH, not PEM")]
    OpenSsh,
    /// Something else than what is wanted.
    #[error("it is {found}, and {wanted} is needed")]
    Other {
        /// What is in it.
        found: &'static str,
        /// What should be.
        wanted: &'static str,
    },
}

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemFileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its text is wrong.
    #[error("{path}: {source}")]
    Wrong {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
}

impl Pem {
    /// As [`Pem::check`], of a file.
    pub fn check_file(self, path: &Path) -> Result<(), PemFileError> {
        let text = std::fs::read(path).map_err(|source| PemFileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        self.check(&String::from_utf8_lossy(&text))
            .map_err(|source| PemFileError::Wrong {
                path: path.to_owned(),
                source,
            })
    }

    fn name(self) -> &'static str {
        match self {
            Self::PrivateKey => "a private key",
            Self::PublicKey => "a public key",
            Self::Certificate => "a certificate",
        }
    }

    /// What a PEM label says. Those of parameters say nothing.
    fn of(label: &str) -> Option<Self> {
        [
            ("PRIVATE KEY", Self::PrivateKey),
            ("PUBLIC KEY", Self::PublicKey),
            ("CERTIFICATE", Self::Certificate),
        ]
        .into_iter()
        .find_map(|(end, pem)| label.ends_with(end).then_some(pem))
    }

    /// Finds the usual mistakes. `Ok` is no promise: whether the key itself is right is for whoever uses it.
    pub fn check(self, text: &str) -> Result<(), PemError> {
        let text = text.trim();
        let Some(begin) = text.find("-----BEGIN ") else {
            return Err(without_begin(text));
        };
        if text.contains("\\n") || text.contains("\\r") {
            return Err(PemError::EscapedLines);
        }
        if text.starts_with(['"', '\'']) {
            return Err(PemError::Quotes);
        }
        let text = text.get(begin..).unwrap_or_default();
        let labels: Vec<&str> = text.lines().filter_map(label).collect();
        if labels.is_empty() {
            return Err(PemError::OneLine);
        }
        if let Some(found) = labels.iter().find(|label| Self::of(label) == Some(self)) {
            return if self == Self::PrivateKey && encrypted(found, text) {
                Err(PemError::Passphrase)
            } else if found.contains("OPENSSH") {
                Err(PemError::OpenSsh)
            } else if !text.contains(&format!("-----END {found}-----")) {
                Err(PemError::Cut)
            } else {
                Ok(())
            };
        }
        let found = labels.iter().find_map(|label| Self::of(label));
        Err(PemError::Other {
            found: found.map_or("something else", Self::name),
            wanted: self.name(),
        })
    }
}

/// RFC 7468, section 11; and RFC 1421's header, which OpenSSL writes into keys of the older kind.
fn encrypted(label: &str, text: &str) -> bool {
    label.starts_with("ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn label(line: &str) -> Option<&str> {
    let label = line
        .trim()
        .strip_prefix("-----BEGIN ")?
        .strip_suffix("-----")?;
    (!label.contains("-----")).then_some(label)
}

fn without_begin(text: &str) -> PemError {
    let unquoted = text.trim_matches(['"', '\'']);
    let packed: String = unquoted.split_whitespace().collect();
    let decoded = STANDARD.decode(packed).unwrap_or_default();
    if text.is_empty() {
        PemError::Empty
    } else if String::from_utf8_lossy(&decoded).contains("-----BEGIN ") {
        PemError::Base64
    } else if crate::secret::is_placeholder(text) {
        PemError::Placeholder
    } else if unquoted.lines().count() == 1
        && (unquoted.starts_with(['/', '~', '.'])
            || std::path::Path::new(unquoted)
                .extension()
                .is_some_and(|of| of == "pem"))
    {
        PemError::Path
    } else {
        PemError::NotPem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n";
    const RSA: &str = "-----BEGIN RSA PRIVATE KEY-----\nMC4CAQ==\n-----END RSA PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQ==\n-----END PUBLIC KEY-----\n";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    #[test]
    fn the_usual_mistakes_are_named() {
        use Pem::{Certificate, PrivateKey, PublicKey};
        let other = |found, wanted| Err(PemError::Other { found, wanted });
        for (text, wanted, expected) in [
            (PRIVATE.into(), PrivateKey, Ok(())),
            (RSA.into(), PrivateKey, Ok(())),
            (RSA.replace('\n', "\r\n"), PrivateKey, Ok(())),
            (format!("{CERTIFICATE}{PRIVATE}"), PrivateKey, Ok(())),
            (format!("{CERTIFICATE}{PRIVATE}"), Certificate, Ok(())),
            (PUBLIC.into(), PublicKey, Ok(())),
            (String::new(), PrivateKey, Err(PemError::Empty)),
            (
                "change me: the App's key".into(),
                PrivateKey,
                Err(PemError::Placeholder),
            ),
            ("change-me".into(), PrivateKey, Err(PemError::Placeholder)),
            (
                RSA.replace('\n', "\\n"),
                PrivateKey,
                Err(PemError::EscapedLines),
            ),
            (
                format!("\"{}\"", RSA.replace('\n', "\\n")),
                PrivateKey,
                Err(PemError::EscapedLines),
            ),
            (RSA.replace('\n', " "), PrivateKey, Err(PemError::OneLine)),
            (format!("\"{RSA}\""), PrivateKey, Err(PemError::Quotes)),
            (format!("'{RSA}'"), PrivateKey, Err(PemError::Quotes)),
            (STANDARD.encode(RSA), PrivateKey, Err(PemError::Base64)),
            (
                format!("\"{}\"", STANDARD.encode(RSA)),
                PrivateKey,
                Err(PemError::Base64),
            ),
            (
                "/etc/gha-slurm/app.pem".into(),
                PrivateKey,
                Err(PemError::Path),
            ),
            ("MC4CAQ==".into(), PrivateKey, Err(PemError::NotPem)),
            (RSA.replace("-----END", ""), PrivateKey, Err(PemError::Cut)),
            (
                RSA.replace("RSA", "ENCRYPTED"),
                PrivateKey,
                Err(PemError::Passphrase),
            ),
            (
                RSA.replace("MC4", "Proc-Type: 4,ENCRYPTED\n\nMC4"),
                PrivateKey,
                Err(PemError::Passphrase),
            ),
            (
                RSA.replace("RSA", "OPENSSH"),
                PrivateKey,
                Err(PemError::OpenSsh),
            ),
            (
                PUBLIC.into(),
                PrivateKey,
                other("a public key", "a private key"),
            ),
            (
                CERTIFICATE.into(),
                PrivateKey,
                other("a certificate", "a private key"),
            ),
            (
                PRIVATE.into(),
                PublicKey,
                other("a private key", "a public key"),
            ),
            (
                PRIVATE.into(),
                Certificate,
                other("a private key", "a certificate"),
            ),
        ] {
            let text: String = text;
            assert_eq!(wanted.check(&text), expected, "{text}");
        }
    }
}
