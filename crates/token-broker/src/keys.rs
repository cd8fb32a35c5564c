//! The public launch-token keys: one that was added or removed counts two seconds later.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gha_slurm_auth::{KeyFolder, KeySet, KeysError, TokenError, verify};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::AUDIENCE_BROKER;
use tokio::sync::Mutex;

/// Anybody can ask for the keys, and send tokens: the folder is read at most this often.
const REREAD: Duration = Duration::from_secs(2);

/// The keys of a folder.
#[derive(Clone)]
pub(crate) struct Keys {
    folder: KeyFolder,
    issuer: String,
    read: Arc<RwLock<(KeySet, Instant)>>,
    reading: Arc<Mutex<()>>,
}

impl Keys {
    /// Reads the folder once; it must hold a key.
    pub(crate) fn load(path: PathBuf, issuer: String) -> Result<Self, KeysError> {
        let set = KeySet::read_some(&path)?;
        Ok(Self {
            folder: KeyFolder::new(path),
            issuer,
            read: Arc::new(RwLock::new((set, Instant::now()))),
            reading: Arc::default(),
        })
    }

    /// The set, read again if that was long enough ago: by one caller, while the others wait for it.
    pub(crate) async fn current(&self) -> KeySet {
        let _one = self.reading.lock().await;
        let (held, read_at) = self.held();
        if read_at.elapsed() < REREAD {
            return held;
        }
        let folder = self.folder.clone();
        let set = match tokio::task::spawn_blocking(move || folder.key_set()).await {
            Ok(Ok(set)) => set,
            Ok(Err(error)) => {
                tracing::error!(%error, "the launch-token keys cannot be read; the last ones are used");
                held
            }
            Err(_) => held,
        };
        let mut held = self.read.write().unwrap_or_else(PoisonError::into_inner);
        *held = (set.clone(), Instant::now());
        set
    }

    fn held(&self) -> (KeySet, Instant) {
        self.read
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Verifies a launch token for us.
    pub(crate) async fn verify(&self, token: &str) -> Result<LaunchClaims, TokenError> {
        verify(token, &self.current().await, AUDIENCE_BROKER, &self.issuer)
    }
}
