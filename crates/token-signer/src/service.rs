//! Who gets a token, and the socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use gha_slurm_contract::slurm_token::{LONGEST_LINE, SlurmTokenAnswer, SlurmTokenRequest};
use gha_slurm_domain::Clock;
use gha_slurm_policy::{PolicyRefusal, PolicySettings};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::unistd::User;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Who connects says what they want at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// What slurmctld reads of a token (auth/jwt).
#[derive(Serialize)]
struct Claims<'a> {
    exp: i64,
    iat: i64,
    sun: &'a str,
}

/// The token signer, built and bound.
pub struct TokenSigner {
    signing: Arc<Signing>,
    listener: UnixListener,
}

struct Signing {
    settings: Settings,
    clock: Clock,
}

impl TokenSigner {
    /// Checks the settings against this machine and takes the socket. Call it inside a runtime.
    pub fn build(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        // Until it has its group, the socket is nobody's.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        read_key(&settings.key_file).context("key_file")?;
        for (key, name) in [
            ("slurm_user", Some(&settings.slurm_user)),
            ("agent_user", Some(&settings.agent_user)),
            ("service_user", settings.service_user.as_ref()),
        ] {
            if let Some(name) = name {
                uid_of(name.as_str()).with_context(|| key.to_owned())?;
            }
        }
        let listener = listen(&settings.socket).context("socket")?;
        Ok(Self {
            signing: Arc::new(Signing { settings, clock }),
            listener,
        })
    }

    /// Answers until `stop`.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(socket = %self.signing.settings.socket.display(), "listening");
        loop {
            let connection = tokio::select! {
                () = stop.cancelled() => break,
                connection = self.listener.accept() => connection,
            };
            match connection {
                Ok((stream, _)) => {
                    let signing = Arc::clone(&self.signing);
                    tokio::spawn(async move {
                        match tokio::time::timeout(DEADLINE, signing.serve(stream)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::warn!("a connection broke: {error:#}"),
                            Err(_) => tracing::warn!("a connection was idle"),
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let _ = fs::remove_file(&self.signing.settings.socket);
        Ok(())
    }
}

impl Signing {
    async fn serve(self: Arc<Self>, stream: UnixStream) -> anyhow::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let (asked, mut answered) = stream.into_split();
        let mut line = String::new();
        BufReader::new(asked.take(LONGEST_LINE))
            .read_line(&mut line)
            .await?;
        if line.is_empty() {
            // `--check-ready` asks for nothing.
            return Ok(());
        }
        ensure!(line.ends_with('\n'), "a line that has no end");
        let request: SlurmTokenRequest = serde_json::from_str(&line)?;
        let user = request.user.clone();
        let signing = Arc::clone(&self);
        // The system is asked about users, and a file is read.
        let decided = tokio::task::spawn_blocking(move || signing.decide(peer, &request)).await?;
        let answer = match decided {
            Ok((token, expires_at)) => {
                tracing::info!(slurm.user = user, expires_at, "gave a token");
                SlurmTokenAnswer::Token(token)
            }
            Err(PolicyRefusal::Never(why) | PolicyRefusal::Unknown(why)) => {
                tracing::warn!(slurm.user = user, peer.uid = peer, why, "refused a token");
                SlurmTokenAnswer::Refused(why)
            }
            Err(PolicyRefusal::Wait(why) | PolicyRefusal::Stopped(why)) => {
                tracing::error!(slurm.user = user, why, "could not give a token");
                SlurmTokenAnswer::Failed(why)
            }
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        Ok(answered.write_all(&line).await?)
    }

    /// The token and when it expires, or why there is none.
    fn decide(
        &self,
        peer: u32,
        request: &SlurmTokenRequest,
    ) -> Result<(String, i64), PolicyRefusal> {
        let failed = |error: anyhow::Error| PolicyRefusal::Wait(format!("{error:#}"));
        let settings = &self.settings;
        if peer != uid_of(settings.agent_user.as_str()).map_err(failed)? {
            return Err(PolicyRefusal::Never(format!(
                "the uid {peer} is not that of {}, who alone may ask",
                settings.agent_user
            )));
        }
        let is_service_user = settings
            .service_user
            .as_ref()
            .is_some_and(|user| user.as_str() == request.user);
        let rules = PolicySettings {
            min_uid: if is_service_user { 1 } else { settings.min_uid },
            group: (!is_service_user).then(|| settings.group.clone()),
            ..PolicySettings::default()
        };
        rules.check_user(&request.user)?;
        // By uid: it may have several names.
        let slurm_uid = uid_of(settings.slurm_user.as_str()).map_err(failed)?;
        if uid_of(&request.user).map_err(failed)? == slurm_uid {
            return Err(PolicyRefusal::Never(format!(
                "{} is SlurmUser, who may do everything on the cluster",
                request.user
            )));
        }
        let key = read_key(&settings.key_file)
            .context("key_file")
            .map_err(failed)?;
        let now = self.clock.now().timestamp();
        let lifespan_s = request.lifespan_s.min(settings.max_lifespan_s.get());
        let claims = Claims {
            exp: now + i64::from(lifespan_s),
            iat: now,
            sun: &request.user,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .map_err(|error| failed(error.into()))?;
        Ok((token, claims.exp))
    }
}

/// Whether a signer answers at the socket of these settings.
pub fn check_ready(settings: &Settings) -> anyhow::Result<()> {
    std::os::unix::net::UnixStream::connect(&settings.socket)
        .map(drop)
        .with_context(|| format!("socket: {}", settings.socket.display()))
}

fn uid_of(name: &str) -> anyhow::Result<u32> {
    let user = User::from_name(name).with_context(|| format!("the user {name}"))?;
    Ok(user
        .with_context(|| format!("there is no user {name}"))?
        .uid
        .as_raw())
}

/// Every byte of the file is the key, as for Slurm.
pub(crate) fn read_key(path: &Path) -> anyhow::Result<EncodingKey> {
    let here = || path.display().to_string();
    let mode = fs::metadata(path).with_context(here)?.mode() & 0o7777;
    let of_others = mode & 0o077;
    ensure!(
        of_others == 0,
        "{}: its mode is {mode:04o}; whoever reads it is root on the cluster: make it 0600",
        here()
    );
    let bytes = fs::read(path).with_context(here)?;
    ensure!(bytes.len() >= 16, "{}: too short for a key", here());
    Ok(EncodingKey::from_secret(&bytes))
}

/// Takes the socket, also where an earlier signer left one behind.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let here = || path.display().to_string();
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            bail!("{}: there is something else", here());
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{}: another one listens", here());
        }
        fs::remove_file(path).with_context(here)?;
    }
    let folder = path.parent().with_context(here)?;
    let group = fs::metadata(folder)
        .with_context(|| folder.display().to_string())?
        .gid();
    let listener = UnixListener::bind(path).with_context(here)?;
    chown(path, None, Some(group)).with_context(here)?;
    fs::set_permissions(path, Permissions::from_mode(0o660)).with_context(here)?;
    Ok(listener)
}
