//! What is refused for good depends on the agent's policy, on a few of its other settings, and on Slurm's configuration. When one of them
//! changes, launchers ask again for what was refused.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gha_slurm_policy::file;
use gha_slurm_service_kit::Periodic;
use gha_slurm_slurm::Slurm;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Of the state folder: without it, each start of the agent would look like a change.
const FILE: &str = "slurm-configuration";
const MODE: u32 = 0o600;

/// What final refusals depend on besides the policy.
pub(crate) struct Configuration {
    /// Of the agent's settings.
    settings: String,
    file: PathBuf,
    /// The hash of Slurm's, as it was seen last; empty while it was never seen.
    seen: Mutex<String>,
}

impl Configuration {
    /// With what an earlier agent saw. `settings`: a text that changes with those that matter. Blocks: reads a file.
    pub(crate) fn open(state: &Path, settings: String) -> io::Result<Self> {
        let file = state.join(FILE);
        let seen = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            settings,
            file,
            seen: Mutex::new(seen),
        })
    }

    /// The version of all that final refusals depend on, where `policy` is the policy's.
    pub(crate) fn version(&self, policy: &str) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{policy}-{}", hash(&format!("{}\n{seen}", self.settings)))
    }

    /// Looks each `interval`, until `stop`.
    pub(crate) async fn watch(
        self: Arc<Self>,
        slurm: Arc<dyn Slurm>,
        periodic: &Periodic,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let look = async || {
            let text = slurm.configuration().await?;
            let configuration = Arc::clone(&self);
            tokio::task::spawn_blocking(move || configuration.saw(&text)).await??;
            anyhow::Ok(())
        };
        let looks = periodic.every("slurm configuration", interval);
        looks.run(stop, look).await;
    }

    /// Blocks: writes a file.
    fn saw(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let hash = hash(text);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != hash {
            file::replace(&self.file, &hash, MODE)?;
            if !seen.is_empty() {
                tracing::info!("Slurm's configuration changed: what was refused is tried again");
            }
            *seen = hash;
        }
        Ok(())
    }
}

/// The same in every version of Rust.
fn hash(text: &str) -> String {
    let mut hash = hex::encode(Sha256::digest(text));
    hash.truncate(16);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_configuration_is_another_version_also_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let open = |settings: &str| Configuration::open(state.path(), settings.to_owned()).unwrap();
        let first = open("s");
        let never_seen = first.version("p");
        first.saw("").unwrap();
        assert_eq!(first.version("p"), never_seen);
        first.saw("main|up").unwrap();
        let version = first.version("p");
        assert_ne!(version, never_seen);
        let again = open("s");
        assert_eq!(again.version("p"), version);
        again.saw("main|up").unwrap();
        assert_eq!(again.version("p"), version);
        assert_ne!(open("t").version("p"), version);
        again.saw("main|up\ngpu|up").unwrap();
        assert_ne!(again.version("p"), version);
        assert_ne!(first.version("q"), version);
    }
}
