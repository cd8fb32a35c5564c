//! MUNGE credentials: who calls, from where, and for what. Decoded by unmunge(1), which asks the cluster's munged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gha_slurm_contract::self_service::{CREDENTIAL_LIFETIME_S, CredentialPayload};
use nix::unistd::{Uid, User};
use tokio::process::Command;
use tokio::sync::Semaphore;

use gha_slurm_slurm::program;

/// Longest credential that is looked at.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;
/// munged answers at once, or not at all.
const DEADLINE: Duration = Duration::from_secs(5);
/// Programs that run at once: whoever reaches the port could start any number.
const AT_ONCE: usize = 8;
/// How long a call waits to be one of them.
const PATIENCE: Duration = Duration::from_secs(2);

const NO_CREDENTIAL: &str = "this is no MUNGE credential of this cluster";

/// Why a credential is not accepted. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    /// unmunge or munged does not work here.
    #[error("{0}")]
    Unavailable(String),
    /// munged says no.
    #[error("{0}")]
    Refused(&'static str),
    /// It is for another call.
    #[error("the credential is for another call than this one")]
    OtherCall,
    /// Somebody else could have decoded it.
    #[error(
        "the credential is not restricted to the agent's user: make it with `munge --restrict-uid`"
    )]
    NotRestricted,
    /// It comes from a host that is no login node.
    #[error("the credential comes from {0}, which is no login node")]
    NotALoginNode(String),
    /// It is used a second time.
    #[error("the credential was used before")]
    Replayed,
    /// The uid has no name.
    #[error("uid {0} is no user of this system")]
    NoSuchUser(u32),
}

/// A text that looks like a credential: `MUNGE:`, base64 and `:`. Nothing else is worth a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Credential<'a>(&'a str);

impl<'a> Credential<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, CredentialError> {
        let text = text.trim();
        if text.len() > MAX_CREDENTIAL_BYTES {
            return Err(CredentialError::Refused("the credential is too long"));
        }
        let base64 = text
            .strip_prefix("MUNGE:")
            .and_then(|rest| rest.strip_suffix(':'))
            .and_then(|base64| STANDARD.decode(base64).ok());
        if base64.is_none_or(|bytes| bytes.is_empty()) {
            return Err(CredentialError::Refused(NO_CREDENTIAL));
        }
        Ok(Self(text))
    }
}

/// Decodes credentials.
pub(crate) struct Munge {
    program: PathBuf,
    socket: Option<PathBuf>,
    login_nodes: Vec<String>,
    places: Semaphore,
    /// SHA-256 of what was accepted, and when it was made. munged remembers too, but not over its own restart.
    used: Mutex<HashMap<[u8; 32], i64>>,
}

impl Munge {
    pub(crate) fn new(program: PathBuf, socket: Option<PathBuf>, login_nodes: Vec<String>) -> Self {
        Self {
            program,
            socket,
            login_nodes,
            places: Semaphore::new(AT_ONCE),
            used: Mutex::default(),
        }
    }

    /// Opens a credential that was made for us, on a login node, now. `now_s`: seconds since the epoch.
    pub(crate) async fn open(
        &self,
        credential: Credential<'_>,
        now_s: i64,
    ) -> Result<Opened, CredentialError> {
        let decoded = self.decode(credential).await?;
        if decoded.restricted_to != Some(Uid::effective().as_raw()) {
            return Err(CredentialError::NotRestricted);
        }
        if !self.is_login_node(&decoded) {
            return Err(CredentialError::NotALoginNode(decoded.host));
        }
        if (now_s - decoded.encoded_at_s).abs() > CREDENTIAL_LIFETIME_S {
            return Err(CredentialError::Refused(
                "the credential is too old, or a clock is wrong",
            ));
        }
        let made_for =
            serde_json::from_slice(&decoded.payload).map_err(|_| CredentialError::OtherCall)?;
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, credential.0.as_bytes()).as_ref());
        Ok(Opened {
            id,
            made_for,
            encoded_at_s: decoded.encoded_at_s,
            uid: decoded.uid,
        })
    }

    /// The user whose credential it is, if they made it for `call`. It is good for one call.
    pub(crate) async fn accept(
        &self,
        opened: Opened,
        call: &CredentialPayload,
        now_s: i64,
    ) -> Result<User, CredentialError> {
        if opened.made_for != *call {
            return Err(CredentialError::OtherCall);
        }
        self.use_up(&opened, now_s)?;
        let user = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(opened.uid)))
            .await
            .map_err(|e| CredentialError::Unavailable(e.to_string()))?
            .map_err(|e| CredentialError::Unavailable(format!("the user database: {e}")))?;
        user.ok_or(CredentialError::NoSuchUser(opened.uid))
    }

    fn is_login_node(&self, decoded: &Decoded) -> bool {
        let address: Option<IpAddr> = decoded.address.parse().ok();
        self.login_nodes
            .iter()
            .any(|node| match node.parse::<IpAddr>() {
                Ok(allowed) => address == Some(allowed),
                Err(_) => node.eq_ignore_ascii_case(&decoded.host),
            })
    }

    fn use_up(&self, opened: &Opened, now_s: i64) -> Result<(), CredentialError> {
        let mut used = self
            .used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        used.retain(|_, at| (now_s - *at).abs() <= CREDENTIAL_LIFETIME_S);
        if used.insert(opened.id, opened.encoded_at_s).is_some() {
            return Err(CredentialError::Replayed);
        }
        Ok(())
    }

    async fn decode(&self, credential: Credential<'_>) -> Result<Decoded, CredentialError> {
        let unavailable =
            |what: &dyn std::fmt::Display| CredentialError::Unavailable(format!("unmunge: {what}"));
        let _place = tokio::time::timeout(PATIENCE, self.places.acquire())
            .await
            .map_err(|_| unavailable(&"too many credentials come at once"))?
            .map_err(|closed| unavailable(&closed))?;
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir("/");
        if let Some(socket) = &self.socket {
            command.arg("--socket").arg(socket);
        }
        let output = program::answer(&mut command, credential.0, DEADLINE, program::SHORT)
            .await
            .map_err(|error| unavailable(&error))?;
        // The exit code is munge_err_t: munge(7), ERRORS.
        match output.status.code() {
            Some(0) => Decoded::read(&output.stdout)
                .ok_or_else(|| unavailable(&"its answer is not understood")),
            Some(15) => Err(CredentialError::Refused(
                "the credential has expired: check the clocks of login node and agent",
            )),
            Some(16) => Err(CredentialError::Refused(
                "the credential comes from the future: check the clocks of login node and agent",
            )),
            Some(17) => Err(CredentialError::Replayed),
            Some(18) => Err(CredentialError::NotRestricted),
            Some(6) => Err(unavailable(&"munged does not answer")),
            _ => Err(CredentialError::Refused(NO_CREDENTIAL)),
        }
    }
}

/// A credential that munged vouches for, of which it is still to be seen that it was made for this call.
pub(crate) struct Opened {
    /// SHA-256 of the credential.
    id: [u8; 32],
    made_for: CredentialPayload,
    encoded_at_s: i64,
    uid: u32,
}

/// What unmunge says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Name of the host that made it, `???` without one.
    pub(crate) host: String,
    /// Its address.
    pub(crate) address: String,
    pub(crate) encoded_at_s: i64,
    pub(crate) uid: u32,
    pub(crate) restricted_to: Option<u32>,
    pub(crate) payload: Vec<u8>,
}

impl Decoded {
    /// `KEY: value` lines, an empty line, then the payload: unmunge(1).
    pub(crate) fn read(output: &[u8]) -> Option<Self> {
        let end = output.windows(2).position(|two| two == b"\n\n")?;
        let (head, payload) = output.split_at_checked(end)?;
        let head = std::str::from_utf8(head).ok()?;
        let mut values: HashMap<&str, &str> = HashMap::new();
        for line in head.lines() {
            let (key, value) = line.split_once(':')?;
            // No key comes twice; a host name cannot add one.
            if values.insert(key.trim(), value.trim()).is_some() {
                return None;
            }
        }
        let in_parentheses = |key: &str| -> Option<(&str, &str)> {
            let (name, rest) = values.get(key)?.rsplit_once(" (")?;
            Some((name, rest.strip_suffix(')')?))
        };
        let (host, address) = in_parentheses("ENCODE_HOST")?;
        Some(Self {
            host: if host == "???" { address } else { host }.to_owned(),
            address: address.to_owned(),
            encoded_at_s: in_parentheses("ENCODE_TIME")?.1.parse().ok()?,
            uid: in_parentheses("UID")?.1.parse().ok()?,
            restricted_to: if values.contains_key("UID_RESTRICTION") {
                Some(in_parentheses("UID_RESTRICTION")?.1.parse().ok()?)
            } else {
                None
            },
            payload: payload.get(2..)?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "STATUS:          Success (0)\nENCODE_HOST:     login1 (10.0.0.5)\n\
        ENCODE_TIME:     2026-11-24 16:42:14 +0000 (1795538534)\nUID:             alice (1001)\n\
        UID_RESTRICTION: gha-slurm-munge (998)\nLENGTH:          5\n\nhe\n\nllo";

    #[test]
    fn what_unmunge_says_is_read() {
        let decoded = Decoded::read(SAID.as_bytes()).unwrap();
        let expected = Decoded {
            host: "login1".into(),
            address: "10.0.0.5".into(),
            encoded_at_s: 1_795_538_534,
            uid: 1001,
            restricted_to: Some(998),
            payload: b"he\n\nllo".to_vec(),
        };
        assert_eq!(decoded, expected);
        let nameless = SAID.replace("login1 (", "??? (");
        assert_eq!(Decoded::read(nameless.as_bytes()).unwrap().host, "10.0.0.5");
        let free = SAID.replace("UID_RESTRICTION: gha-slurm-munge (998)\n", "");
        assert_eq!(Decoded::read(free.as_bytes()).unwrap().restricted_to, None);
        for broken in ["", "garbage", "UID: x", &SAID.replace("(1001)", "1001")] {
            assert_eq!(Decoded::read(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn login_nodes_are_named_by_address_or_name() {
        let munge = |nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            Munge::new("unmunge".into(), None, nodes)
        };
        let decoded = Decoded::read(SAID.as_bytes()).unwrap();
        for (nodes, allowed) in [
            (vec!["10.0.0.5"], true),
            (vec!["LOGIN1"], true),
            (vec!["10.0.0.50", "login10", "login"], false),
            (vec![], false),
        ] {
            assert_eq!(munge(&nodes).is_login_node(&decoded), allowed, "{nodes:?}");
        }
    }

    #[test]
    fn only_what_looks_like_a_credential_is_one() {
        for text in ["MUNGE:AwQFAAD/+w==:", " MUNGE:AwQF: "] {
            assert_eq!(Credential::new(text), Ok(Credential(text.trim())), "{text}");
        }
        let long = format!("MUNGE:{}:", "AAAA".repeat(MAX_CREDENTIAL_BYTES / 4));
        for text in [
            "",
            "x",
            "MUNGE:",
            "MUNGE::",
            "MUNGE:AwQF",
            "munge:AwQF:",
            "MUNGE:AwQ:",
            "MUNGE:Aw F:",
            "MUNGE:AwQF:\nMUNGE:AwQF:",
            "--version",
            &long,
        ] {
            assert!(Credential::new(text).is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_not_wait_for_long() {
        let munge = Munge::new("/nonexistent".into(), None, vec![]);
        let _all = munge.places.acquire_many(8).await.unwrap();
        let refused = munge.open(Credential::new("MUNGE:AwQF:").unwrap(), 0).await;
        assert!(
            matches!(&refused, Err(CredentialError::Unavailable(why)) if why.contains("at once")),
            "{:?}",
            refused.err()
        );
    }

    #[test]
    fn a_credential_is_used_once() {
        let munge = Munge::new("unmunge".into(), None, vec![]);
        let opened = |id: u8, encoded_at_s| Opened {
            id: [id; 32],
            made_for: CredentialPayload {
                method: "GET".into(),
                path: "/config/repos".into(),
                body_sha256: String::new(),
            },
            encoded_at_s,
            uid: 1000,
        };
        assert_eq!(munge.use_up(&opened(1, 100), 100), Ok(()));
        assert_eq!(
            munge.use_up(&opened(1, 100), 130),
            Err(CredentialError::Replayed)
        );
        assert_eq!(munge.use_up(&opened(2, 130), 130), Ok(()));
        assert_eq!(munge.use_up(&opened(3, 500), 500), Ok(()));
        assert_eq!(munge.used.lock().unwrap().len(), 1, "the old are forgotten");
    }
}
