//! Slurm tokens: JWTs that say who their bearer is to Slurm. Short-lived, one for each user.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gha_slurm_contract::slurm_token::{SlurmTokenAnswer, SlurmTokenRequest};
use gha_slurm_domain::Clock;
use moka::Expiry;
use moka::future::Cache;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::process::Command;

use crate::backend::{PATH, SlurmUnavailable, SubmitError};
use crate::settings::{SlurmrestdSettings, TokenSource};
use crate::{program, token_signer};

/// Users whose tokens are kept.
const CACHED: u64 = 1000;
/// A token is replaced so long before it expires, or when three quarters of its life are over.
const EARLY: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(8);

/// A token, and how long to use it.
#[derive(Clone)]
struct Token {
    text: SecretString,
    good_for: Duration,
}

struct UntilItExpires;

impl Expiry<String, Token> for UntilItExpires {
    fn expire_after_create(&self, _: &String, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.good_for)
    }
}

/// The tokens of users.
pub(super) struct Tokens {
    source: Source,
    lifespan_s: u32,
    clock: Clock,
    cache: Cache<String, Token>,
}

/// Where they come from.
enum Source {
    /// A file for each user, where the path has `%u`, or one for all. Others write it; it is read each time.
    File(String),
    /// `scontrol token`.
    Scontrol {
        program: PathBuf,
        conf: Option<PathBuf>,
    },
    /// `gha-slurm-token-signer`, at this socket.
    Signer(PathBuf),
}

impl Tokens {
    pub(super) fn new(settings: &SlurmrestdSettings, clock: Clock) -> anyhow::Result<Self> {
        let source = match settings.tokens {
            TokenSource::File => Source::File(
                settings
                    .token_file
                    .clone()
                    .context("slurmrestd.token_file: must be given for tokens = \"file\"")?,
            ),
            TokenSource::Scontrol => Source::Scontrol {
                program: settings.scontrol.clone(),
                conf: settings.conf.clone(),
            },
            TokenSource::Signer => Source::Signer(settings.signer_socket.clone()),
        };
        Ok(Self {
            source,
            lifespan_s: settings.token_lifespan_s.get(),
            clock,
            cache: Cache::builder()
                .max_capacity(CACHED)
                .expire_after(UntilItExpires)
                .build(),
        })
    }

    /// A token for `user`. One caller fetches it, the others wait for it; a failure is not remembered. `Failed`: the signer
    /// gives none for this user.
    pub(super) async fn of(&self, user: &str) -> Result<SecretString, SubmitError> {
        if matches!(self.source, Source::File(_)) {
            return Ok(self.fetch(user).await?.text);
        }
        let token = self
            .cache
            .try_get_with(user.to_owned(), self.fetch(user))
            .await
            .map_err(Arc::unwrap_or_clone)?;
        Ok(token.text)
    }

    /// Slurm does not accept the token of `user`.
    pub(super) async fn forget(&self, user: &str) {
        self.cache.invalidate(user).await;
    }

    async fn fetch(&self, user: &str) -> Result<Token, SubmitError> {
        let unavailable =
            |why: String| SlurmUnavailable(format!("no Slurm token for {user}: {why}"));
        let fetched = tokio::time::timeout(DEADLINE, async {
            match &self.source {
                Source::File(path) => from_file(&path.replace("%u", user)).await.map(Ok),
                Source::Scontrol { program, conf } => {
                    let mut command = Command::new(program);
                    command.env_clear();
                    if let Some(conf) = conf {
                        command.env("SLURM_CONF", conf);
                    }
                    from_scontrol(command, user, self.lifespan_s).await.map(Ok)
                }
                Source::Signer(socket) => {
                    let request = SlurmTokenRequest {
                        user: user.to_owned(),
                        lifespan_s: self.lifespan_s,
                    };
                    match token_signer::ask(socket, &request).await? {
                        SlurmTokenAnswer::Token(token) => Ok(Ok(token)),
                        SlurmTokenAnswer::Refused(why) => Ok(Err(SubmitError::Failed(format!(
                            "the token signer refuses {user}: {why}"
                        )))),
                        SlurmTokenAnswer::Failed(why) => bail!("the token signer: {why}"),
                    }
                }
            }
        });
        let text = fetched
            .await
            .map_err(|_| unavailable(format!("nothing within {} s", DEADLINE.as_secs())))?
            .map_err(|error| unavailable(format!("{error:#}")))??;
        let left = left(&text, self.clock.now().timestamp())
            .map_err(|error| unavailable(format!("{error:#}")))?;
        tracing::debug!(
            slurm.user = user,
            left_s = left.as_secs(),
            "got a Slurm token"
        );
        Ok(Token {
            text: text.into(),
            good_for: left.saturating_sub(EARLY.min(left / 4)),
        })
    }
}

async fn from_file(path: &str) -> anyhow::Result<String> {
    let text = tokio::fs::read_to_string(path)
        .await
        .with_context(|| path.to_owned())?;
    // As scontrol prints it, too.
    let token = text.trim();
    Ok(token.strip_prefix("SLURM_JWT=").unwrap_or(token).to_owned())
}

async fn from_scontrol(
    mut command: Command,
    user: &str,
    lifespan_s: u32,
) -> anyhow::Result<String> {
    command
        .arg("token")
        .arg(format!("username={user}"))
        .arg(format!("lifespan={lifespan_s}"))
        .env("PATH", PATH)
        .current_dir("/");
    let output = program::answer(&mut command, "", DEADLINE, program::SHORT)
        .await
        .context("scontrol token")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("SLURM_JWT=") {
        Some(token) if output.status.success() => Ok(token.to_owned()),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("scontrol token: {}", errors.trim())
        }
    }
}

/// How long a token lives on. Its signature is Slurm's affair.
fn left(token: &str, now: i64) -> anyhow::Result<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = token.split('.').nth(1).context("this is no token")?;
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .context("this is no token")?;
    let Claims { exp } = serde_json::from_slice(&payload).context("this is no token")?;
    let left = u64::try_from(exp.saturating_sub(now)).unwrap_or(0);
    anyhow::ensure!(left > 0, "the token has expired");
    Ok(Duration::from_secs(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_life_is_read_from_it() {
        let token = |claims: &str| format!("e30.{}.x", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let good = token(r#"{"exp": 1600, "iat": 1000, "sun": "alice"}"#);
        assert_eq!(left(&good, 1000).unwrap(), Duration::from_secs(600));
        assert!(
            left(&good, 1600)
                .unwrap_err()
                .to_string()
                .contains("expired")
        );
        for wrong in ["", "nonsense", "a.b.c", &token("{}")] {
            assert!(left(wrong, 0).is_err(), "{wrong:?}");
        }
    }
}
