//! Verifies launch tokens and assertions with keys that are read again when a token names a key we do not know.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gha_slurm_auth::{KeySet, TokenError, verify};
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::settings::KeySource;

/// Anybody can name an unknown key: they are read again at most this often,
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// or this often while that fails.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// Why a launch token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is wrong: 401.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The keys could not be read, so nothing can be said: 503.
    #[error("the public keys of launch tokens cannot be read: {0}")]
    Keys(#[from] KeysUnreadable),
}

/// The public keys cannot be read, from the file, the folder or the URL that the settings name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysUnreadable(String);

/// Verifies launch tokens and assertions of one issuer.
pub struct Verifier {
    source: KeySource,
    issuer: String,
    http: reqwest::Client,
    keys: RwLock<Arc<KeySet>>,
    refresh: Mutex<Refresh>,
}

struct Refresh {
    last: Option<Instant>,
    failure: Option<KeysUnreadable>,
}

impl Verifier {
    /// A verifier that knows no key yet.
    pub fn new(source: KeySource, issuer: &str) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder().timeout(FETCH_DEADLINE);
        if let KeySource::Jwks { tls, .. } = &source {
            http = tls.apply(http, "keys.tls")?;
        }
        Ok(Self {
            source,
            issuer: issuer.to_owned(),
            http: http.build()?,
            keys: RwLock::default(),
            refresh: Mutex::new(Refresh {
                last: None,
                failure: None,
            }),
        })
    }

    /// Verifies; a token that names an unknown key makes the keys be read again, at most every ten seconds.
    pub async fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, VerifyError> {
        match self.check(token) {
            Err(TokenError::UnknownKey) => {
                self.refresh().await?;
                Ok(self.check(token)?)
            }
            other => Ok(other?),
        }
    }

    fn check<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        verify(token, &keys, AUDIENCE_AGENT, &self.issuer)
    }

    /// Reads the keys, unless that was tried just now: then that attempt's outcome counts. One caller reads, the others
    /// wait for it.
    pub async fn refresh(&self) -> Result<(), KeysUnreadable> {
        let mut refresh = self.refresh.lock().await;
        let pause = if refresh.failure.is_some() {
            RETRY_PAUSE
        } else {
            REFRESH_PAUSE
        };
        if refresh.last.is_none_or(|last| last.elapsed() >= pause) {
            refresh.failure = match self.read().await {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    None
                }
                Err(error) => Some(KeysUnreadable(format!("{error:#}"))),
            };
            refresh.last = Some(Instant::now());
        }
        refresh.failure.clone().map_or(Ok(()), Err)
    }

    async fn read(&self) -> anyhow::Result<KeySet> {
        let keys = match &self.source {
            KeySource::Path(path) => KeySet::read(path)?,
            KeySource::Jwks { url, .. } => {
                let response = self
                    .http
                    .get(url.as_str())
                    .send()
                    .await?
                    .error_for_status()?;
                KeySet::from_jwks(&response.text().await?)?
            }
        };
        anyhow::ensure!(!keys.is_empty(), "there is no key");
        Ok(keys)
    }
}
