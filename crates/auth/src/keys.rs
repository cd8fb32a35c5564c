//! Ed25519 keys: a folder of them for whoever signs, a set of public halves for whoever verifies.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

/// Why keys cannot be used. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds no private key.
    #[error("{0}: no *.key.pem here; make one with `gha-slurm keys generate`")]
    NoKey(PathBuf),
    /// The folder holds no public key.
    #[error(
        "{0}: no *.pub.pem here; make a key with `gha-slurm keys generate`, or copy this file of one"
    )]
    NoPublicKey(PathBuf),
    /// Not an Ed25519 key in PEM.
    #[error("{0}: not an Ed25519 key in PEM")]
    NotAKey(String),
    /// No key of this name in the folder.
    #[error("{folder}: no key `{kid}` here")]
    NoSuchKey {
        /// Which was asked for.
        kid: String,
        /// Where.
        folder: PathBuf,
    },
    /// The key that signs cannot go.
    #[error("`{0}` is the key that signs: make a new one with `gha-slurm keys rotate` first")]
    Signs(String),
    /// Not a key set.
    #[error("the key set is not a JWK set (RFC 7517): {0}")]
    NotAKeySet(String),
}

/// SubjectPublicKeyInfo of Ed25519 (RFC 8410): this prefix, then the 32 bytes.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What the files of a key end with.
const PRIVATE: &str = ".key.pem";
const PUBLIC: &str = ".pub.pem";

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeysError + '_ {
    move |source| KeysError::Io {
        path: path.to_owned(),
        source,
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

fn der(text: &str) -> Option<Vec<u8>> {
    let body: String = text
        .lines()
        .filter(|l| !l.starts_with("-----"))
        .map(str::trim)
        .collect();
    STANDARD.decode(body).ok()
}

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    path: PathBuf,
}

impl KeyFolder {
    /// The folder at `path`; it need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes a key; it is the newest and signs from now on. Returns its `kid`. `now_s` (seconds since the epoch) orders
    /// the keys. The private half is only for its owner; where a key signed before, for those who may read that one,
    /// as far as this process may give files away.
    pub fn generate(&self, now_s: i64) -> Result<String, KeysError> {
        fs::create_dir_all(&self.path).map_err(io(&self.path))?;
        let unusable = |_| KeysError::NotAKey("a new key".into());
        let pair = Ed25519KeyPair::generate().map_err(unusable)?;
        let private = pair.to_pkcs8v1().map_err(unusable)?;
        let mut public = SPKI_PREFIX.to_vec();
        public.extend_from_slice(pair.public_key().as_ref());
        let suffix: String = hex::encode(pair.public_key().as_ref())
            .chars()
            .take(8)
            .collect();
        let kid = format!("{now_s:010}-{suffix}");
        // The private half last: whoever sees it can rely on the public one.
        self.write(
            &format!("{kid}{PUBLIC}"),
            &pem("PUBLIC KEY", &public),
            0o644,
        )?;
        self.write(
            &format!("{kid}{PRIVATE}"),
            &pem("PRIVATE KEY", private.as_ref()),
            0o600,
        )?;
        Ok(kid)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), KeysError> {
        let path = self.path.join(name);
        // Under another name until it is whole: services read the folder at any time.
        let unfinished = self.path.join(format!(".{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&unfinished)
            .map_err(io(&unfinished))?;
        if let Some(before) = self.list()?.pop() {
            let before = self.path.join(format!("{before}{PRIVATE}"));
            let before = fs::metadata(&before).map_err(io(&before))?;
            // Only root may: anybody else makes keys for itself.
            let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
            if name.ends_with(PRIVATE) {
                // Perhaps for the group, never for all.
                let mode = 0o600 | before.mode() & 0o640;
                file.set_permissions(Permissions::from_mode(mode))
                    .map_err(io(&unfinished))?;
            }
        }
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io(&unfinished))?;
        fs::rename(&unfinished, &path).map_err(io(&path))
    }

    /// The `kid`s that have a private half, oldest first; the last one signs.
    pub fn list(&self) -> Result<Vec<String>, KeysError> {
        self.kids(PRIVATE)
    }

    /// The `kid`s that have a public half, oldest first: what they signed is accepted.
    pub fn accepted(&self) -> Result<Vec<String>, KeysError> {
        self.kids(PUBLIC)
    }

    fn kids(&self, suffix: &str) -> Result<Vec<String>, KeysError> {
        let mut kids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io(&self.path))? {
            let name = entry.map_err(io(&self.path))?.file_name();
            if let Some(kid) = name.to_str().and_then(|n| n.strip_suffix(suffix)) {
                kids.push(kid.to_owned());
            }
        }
        kids.sort();
        Ok(kids)
    }

    /// Removes a key, both halves: what it signed is not accepted any more. Not the one that signs.
    pub fn retire(&self, kid: &str) -> Result<(), KeysError> {
        if !self.accepted()?.iter().any(|k| k == kid) {
            return Err(KeysError::NoSuchKey {
                kid: kid.to_owned(),
                folder: self.path.clone(),
            });
        }
        if self.list()?.last().is_some_and(|newest| newest == kid) {
            return Err(KeysError::Signs(kid.to_owned()));
        }
        self.remove(kid)
    }

    /// Makes a new key, as [`KeyFolder::generate`] does, and removes all others, both halves: whatever they signed is not accepted any
    /// more. Returns the `kid` of the new one, and those that are gone.
    pub fn replace_all(&self, now_s: i64) -> Result<(String, Vec<String>), KeysError> {
        let mut old = self.list()?;
        if old.is_empty() {
            return Err(KeysError::NoKey(self.path.clone()));
        }
        old.extend(self.accepted()?);
        old.sort();
        old.dedup();
        let new = self.generate(now_s)?;
        for kid in &old {
            self.remove(kid)?;
        }
        Ok((new, old))
    }

    fn remove(&self, kid: &str) -> Result<(), KeysError> {
        for suffix in [PRIVATE, PUBLIC] {
            let path = self.path.join(format!("{kid}{suffix}"));
            match fs::remove_file(&path) {
                // The private half may live elsewhere.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(io(&path))?,
            }
        }
        Ok(())
    }

    /// The newest private key: its `kid` and its PEM.
    pub(crate) fn newest(&self) -> Result<(String, String), KeysError> {
        let kid = self
            .list()?
            .pop()
            .ok_or_else(|| KeysError::NoKey(self.path.clone()))?;
        let path = self.path.join(format!("{kid}.key.pem"));
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        Ok((kid, text))
    }

    /// Every public half in the folder.
    pub fn key_set(&self) -> Result<KeySet, KeysError> {
        let mut set = KeySet::default();
        for entry in fs::read_dir(&self.path).map_err(io(&self.path))? {
            let path = entry.map_err(io(&self.path))?.path();
            let kid = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_suffix(".pub.pem"));
            if let Some(kid) = kid {
                let kid = kid.to_owned();
                set.add_pem(&kid, &fs::read_to_string(&path).map_err(io(&path))?)?;
            }
        }
        Ok(set)
    }
}

/// Public keys by `kid`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: BTreeMap<String, [u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    x: String,
    #[serde(rename = "use", default)]
    usage: String,
    #[serde(default)]
    alg: String,
}

impl KeySet {
    /// Adds a public key in PEM.
    pub fn add_pem(&mut self, kid: &str, text: &str) -> Result<(), KeysError> {
        let not_a_key = || KeysError::NotAKey(format!("{kid}.pub.pem"));
        let der = der(text).ok_or_else(not_a_key)?;
        let raw = der.strip_prefix(&SPKI_PREFIX).ok_or_else(not_a_key)?;
        self.keys
            .insert(kid.to_owned(), raw.try_into().map_err(|_| not_a_key())?);
        Ok(())
    }

    /// Reads a `<kid>.pub.pem` file, or every one of a folder.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        if path.is_dir() {
            KeyFolder::new(path).key_set()
        } else {
            Self::from_file(path)
        }
    }

    /// As [`KeySet::read`]; there must be a key.
    pub fn read_some(path: &Path) -> Result<Self, KeysError> {
        let keys = Self::read(path)?;
        if keys.is_empty() {
            return Err(KeysError::NoPublicKey(path.to_owned()));
        }
        Ok(keys)
    }

    /// Reads one `<kid>.pub.pem` file.
    pub fn from_file(path: &Path) -> Result<Self, KeysError> {
        let kid = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".pub.pem"))
            .ok_or_else(|| {
                KeysError::NotAKey(format!("{}: name it <kid>.pub.pem", path.display()))
            })?;
        let mut set = Self::default();
        set.add_pem(kid, &fs::read_to_string(path).map_err(io(path))?)?;
        Ok(set)
    }

    /// Reads a JWK set (RFC 7517, RFC 8037), as served at `/.well-known/jwks.json`. Keys of other types are skipped.
    pub fn from_jwks(json: &str) -> Result<Self, KeysError> {
        let set: JwkSet =
            serde_json::from_str(json).map_err(|e| KeysError::NotAKeySet(e.to_string()))?;
        let mut keys = BTreeMap::new();
        for key in set
            .keys
            .into_iter()
            .filter(|k| k.kty == "OKP" && k.crv == "Ed25519" && !k.kid.is_empty())
        {
            let raw = URL_SAFE_NO_PAD
                .decode(&key.x)
                .ok()
                .and_then(|raw| raw.try_into().ok())
                .ok_or_else(|| {
                    KeysError::NotAKeySet(format!("key `{}`: x is not 32 bytes", key.kid))
                })?;
            keys.insert(key.kid, raw);
        }
        Ok(Self { keys })
    }

    /// The set as JSON, for `/.well-known/jwks.json`.
    pub fn to_jwks(&self) -> serde_json::Value {
        let keys: Vec<serde_json::Value> = self
            .keys
            .iter()
            .map(|(kid, raw)| {
                serde_json::json!({
                    "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                    "kid": kid, "x": URL_SAFE_NO_PAD.encode(raw),
                })
            })
            .collect();
        serde_json::json!({ "keys": keys })
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn decoding_key(&self, kid: &str) -> Option<DecodingKey> {
        self.keys.get(kid).map(|raw| DecodingKey::from_ed_der(raw))
    }
}
