//! Verifies launch tokens and assertions with keys that are read again every minute, and when a token names a key we do not know.

use std::io::ErrorKind;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gha_slurm_auth::{Claims, KeySet, KeysError, TokenError, verify};
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use gha_slurm_service_kit::tls::http;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::settings::KeySource;

/// Anybody can name an unknown key: they are read again at most this often,
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// or this often while that fails.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The keys are read again this often: a key that was removed is not accepted for longer, as long as they can be read.
pub const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Keys that cannot be read again are good for this long: an outage of token-broker stops nothing at once, but whoever has a stolen key
/// must not keep it valid by cutting the agent off.
pub const KEPT: Duration = Duration::from_secs(60 * 60);
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
    known: RwLock<Known>,
    refresh: Mutex<Refresh>,
}

/// The keys as they were read last.
#[derive(Clone, Default)]
struct Known {
    keys: Arc<KeySet>,
    read_at: Option<Instant>,
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
            known: RwLock::default(),
            refresh: Mutex::new(Refresh {
                last: None,
                failure: None,
            }),
        })
    }

    /// Verifies; a token that names an unknown key makes the keys be read again, at most every ten seconds.
    pub async fn verify<T: Claims>(&self, token: &str) -> Result<T, VerifyError> {
        match self.check(token) {
            Err(TokenError::UnknownKey) => {
                self.refresh().await?;
                Ok(self.check(token)?)
            }
            other => Ok(other?),
        }
    }

    fn check<T: Claims>(&self, token: &str) -> Result<T, TokenError> {
        verify(token, &self.good_keys(), AUDIENCE_AGENT, &self.issuer)
    }

    /// The keys that were read last; none where that is too long ago.
    fn good_keys(&self) -> Arc<KeySet> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.read_at {
            Some(at) if at.elapsed() < KEPT => Arc::clone(&known.keys),
            _ => Arc::default(),
        }
    }

    /// Whether there is a key to verify with.
    pub fn has_keys(&self) -> bool {
        !self.good_keys().is_empty()
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
                    let is_empty = keys.is_empty();
                    let known = Known {
                        keys: Arc::new(keys),
                        read_at: Some(Instant::now()),
                    };
                    *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                    is_empty.then(|| KeysUnreadable("there is no key".to_owned()))
                }
                Err(error) => Some(KeysUnreadable(format!("{error:#}"))),
            };
            refresh.last = Some(Instant::now());
        }
        refresh.failure.clone().map_or(Ok(()), Err)
    }

    /// A file or folder that is not there any more holds no key: somebody removed it.
    async fn read(&self) -> anyhow::Result<KeySet> {
        Ok(match &self.source {
            KeySource::Path(path) => match KeySet::read(path) {
                Err(KeysError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    KeySet::default()
                }
                read => read?,
            },
            KeySource::Jwks { url, .. } => {
                let response = self
                    .http
                    .get(url.as_str())
                    .send()
                    .await?
                    .error_for_status()?;
                let keys = http::body(response, http::SHORT).await?;
                KeySet::from_jwks(&String::from_utf8(keys)?)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use gha_slurm_auth::{KeyFolder, SigningKey};
    use gha_slurm_contract::agent::CallClaims;
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn token(folder: &KeyFolder) -> String {
        let now = gha_slurm_domain::Clock::system().now().timestamp();
        let claims = json!({"iss": "test", "aud": [AUDIENCE_AGENT], "sub": "list", "jti": uuid::Uuid::nil(),
            "iat": now, "nbf": now - 9, "exp": now + 60, "cluster": "main"});
        let signed = SigningKey::read(folder).unwrap().sign(&claims).unwrap();
        signed.expose_secret().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_key_is_dropped_and_unreadable_ones_are_kept_for_an_hour() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(home.path());
        folder.generate(1).unwrap();
        let source = KeySource::Path(home.path().to_owned());
        let verifier = Verifier::new(source, "test").unwrap();
        let old = token(&folder);
        assert!(verifier.verify::<CallClaims>(&old).await.is_ok());

        let (new, _) = folder.replace_all(2).unwrap();
        tokio::time::advance(REFRESH_EVERY).await;
        verifier.refresh().await.unwrap();
        assert!(verifier.verify::<CallClaims>(&old).await.is_err());
        let current = token(&folder);
        assert!(verifier.verify::<CallClaims>(&current).await.is_ok());

        // Unreadable: no word about which keys are good.
        let public = home.path().join(format!("{new}.pub.pem"));
        let pem = std::fs::read(&public).unwrap();
        std::fs::write(&public, "half of a key").unwrap();
        tokio::time::advance(KEPT.saturating_sub(REFRESH_EVERY)).await;
        assert!(verifier.refresh().await.is_err());
        assert!(verifier.verify::<CallClaims>(&current).await.is_ok());
        tokio::time::advance(REFRESH_EVERY).await;
        let too_old = verifier.verify::<CallClaims>(&current).await;
        assert!(matches!(too_old, Err(VerifyError::Keys(_))), "{too_old:?}");
        std::fs::write(&public, pem).unwrap();
        tokio::time::advance(REFRESH_EVERY).await;
        assert!(verifier.verify::<CallClaims>(&current).await.is_ok());

        // Removed, which is a word.
        std::fs::remove_file(&public).unwrap();
        tokio::time::advance(REFRESH_EVERY).await;
        assert!(verifier.refresh().await.is_err());
        assert!(verifier.verify::<CallClaims>(&current).await.is_err());
    }
}
