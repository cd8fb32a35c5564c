//! The public launch-token keys, read again when a token names a key that is new.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use gha_slurm_auth::{KeyFolder, KeySet, KeysError, TokenError, verify};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::AUDIENCE_BROKER;

/// A stranger's `kid` makes us read the folder at most this often.
const REREAD: Duration = Duration::from_secs(2);

/// The keys of a folder.
#[derive(Clone)]
pub(crate) struct Keys {
    folder: KeyFolder,
    issuer: String,
    read: Arc<RwLock<(KeySet, Instant)>>,
}

impl Keys {
    /// Reads the folder once; it must hold a key.
    pub(crate) fn load(path: PathBuf, issuer: String) -> Result<Self, KeysError> {
        let folder = KeyFolder::new(&path);
        let set = folder.key_set()?;
        if set.is_empty() {
            return Err(KeysError::NoKey(path));
        }
        Ok(Self {
            folder,
            issuer,
            read: Arc::new(RwLock::new((set, Instant::now()))),
        })
    }

    /// The set as it is on disk now.
    pub(crate) async fn reread(&self) -> KeySet {
        let folder = self.folder.clone();
        match tokio::task::spawn_blocking(move || folder.key_set()).await {
            Ok(Ok(set)) => {
                if let Ok(mut held) = self.read.write() {
                    *held = (set.clone(), Instant::now());
                }
                set
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the launch-token keys cannot be read; the last ones are used");
                self.held().0
            }
            Err(_) => self.held().0,
        }
    }

    fn held(&self) -> (KeySet, Instant) {
        match self.read.read() {
            Ok(held) => held.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// Verifies a launch token for us.
    pub(crate) async fn verify(&self, token: &str) -> Result<LaunchClaims, TokenError> {
        let (set, read_at) = self.held();
        match verify(token, &set, AUDIENCE_BROKER, &self.issuer) {
            Err(TokenError::UnknownKey) if read_at.elapsed() >= REREAD => {
                verify(token, &self.reread().await, AUDIENCE_BROKER, &self.issuer)
            }
            verdict => verdict,
        }
    }
}
