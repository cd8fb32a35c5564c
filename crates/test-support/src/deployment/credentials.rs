//! The keys and secrets of a deployment, each in a file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use gha_slurm_auth::KeyFolder;

/// What the services of a deployment, its GitHub and its administrator prove themselves with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Folder of launch-token keys.
    pub launch_keys: PathBuf,
    /// Folder of the keys by which the agent identifies itself in outbound mode.
    pub agent_keys: PathBuf,
    /// The App's private key (PEM).
    pub app_private_key_file: PathBuf,
    /// The webhook secret.
    pub webhook_secret_file: PathBuf,
    /// The administrator's bearer token for repo-mapping.
    pub bearer_token_file: PathBuf,
    /// The bearer token of repo-mapping for token-broker.
    pub service_token_file: PathBuf,
    /// The App's client secret, with which repo-mapping lets people sign in.
    pub client_secret_file: PathBuf,
}

impl Credentials {
    /// Opens those in `folder`, and makes each that is missing: the App's private key with `app_private_key`, because the
    /// simulator makes it, the secrets at random.
    pub fn open(folder: &Path, app_private_key: impl FnOnce() -> Result<String>) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let random = || Ok(uuid::Uuid::new_v4().simple().to_string());
        Ok(Self {
            launch_keys: keys(folder.join("launch-keys"))?,
            agent_keys: keys(folder.join("agent-keys"))?,
            app_private_key_file: kept(folder.join("app.private-key.pem"), app_private_key)?,
            webhook_secret_file: kept(folder.join("webhook-secret"), random)?,
            bearer_token_file: kept(folder.join("bearer-token"), random)?,
            service_token_file: kept(folder.join("service-token"), random)?,
            client_secret_file: kept(folder.join("client-secret"), random)?,
        })
    }

    /// The webhook secret itself.
    pub fn webhook_secret(&self) -> Result<String> {
        read(&self.webhook_secret_file)
    }

    /// The App's client secret itself.
    pub fn client_secret(&self) -> Result<String> {
        read(&self.client_secret_file)
    }

    /// One of token-broker's service tokens.
    pub fn service_token(&self) -> Result<String> {
        read(&self.service_token_file)
    }

    /// The administrator's bearer token itself.
    pub fn bearer_token(&self) -> Result<String> {
        read(&self.bearer_token_file)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The folder, with at least one key.
fn keys(folder: PathBuf) -> Result<PathBuf> {
    let keys = KeyFolder::new(&folder);
    if keys.list().map_or(true, |ids| ids.is_empty()) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        keys.generate(now.as_secs().try_into()?)?;
    }
    Ok(folder)
}

/// The file, which is made first if it is missing; never half written.
fn kept(path: PathBuf, make: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    if !path.is_file() {
        let new = path.with_extension("new");
        write_private(&new, &make()?)?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}
