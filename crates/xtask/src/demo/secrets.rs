//! What the demo's processes prove themselves with. Made once, and kept.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gha_slurm_auth::KeyFolder;
use gha_slurm_simulator::AppKey;

/// Where the secrets are; all but one are handed on as files.
pub(super) struct Secrets {
    /// Folder of launch-token keys.
    pub(super) launch_keys: PathBuf,
    /// The App's RSA key.
    pub(super) app_private_key: PathBuf,
    /// The webhook secret.
    pub(super) webhook_secret: PathBuf,
    /// File with what the page and this demo say to repo-mapping.
    pub(super) bearer_token_file: PathBuf,
    /// Its text.
    pub(super) bearer_token: String,
}

impl Secrets {
    /// Reads them from `folder`, after making what is not there.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let random = || Ok(uuid::Uuid::new_v4().simple().to_string());
        let launch_keys = folder.join("launch-keys");
        let keys = KeyFolder::new(&launch_keys);
        if keys.list().map_or(true, |kids| kids.is_empty()) {
            keys.generate(chrono::Utc::now().timestamp())?;
        }
        let bearer_token_file = kept(folder, "bearer-token", random)?;
        let bearer_token = fs::read_to_string(&bearer_token_file)?;
        Ok(Self {
            launch_keys,
            app_private_key: kept(folder, "app.private-key.pem", || {
                Ok(AppKey::generate_private_pem()?)
            })?,
            webhook_secret: kept(folder, "webhook-secret", random)?,
            bearer_token,
            bearer_token_file,
        })
    }
}

/// The file, which is made first if it is not there; never half written.
fn kept(folder: &Path, name: &str, make: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    let path = folder.join(name);
    if !path.is_file() {
        let new = folder.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options
            .open(&new)
            .with_context(|| new.display().to_string())?;
        file.write_all(make()?.as_bytes())?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}
