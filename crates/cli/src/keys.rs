//! `gha-slurm keys`: manages a folder of launch-token keys.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gha_slurm_auth::KeyFolder;
use gha_slurm_domain::Clock;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create the first key of a deployment.
    Generate(Folder),
    /// Create a new key. The launcher signs with it in a few seconds; old keys are still accepted.
    Rotate(Folder),
    /// Show which key signs and which keys are accepted.
    List(Folder),
    /// Remove an old key. Launch tokens signed with it are no longer accepted.
    Retire {
        #[command(flatten)]
        folder: Folder,
        /// Id of the key, as shown by `keys list`.
        kid: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder of keys: `keys.folder` of the launcher and of token-broker.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(command: Command) -> anyhow::Result<String> {
    match command {
        Command::Generate(Folder { dir }) => generate(&dir),
        Command::Rotate(Folder { dir }) => rotate(&dir),
        Command::List(Folder { dir }) => list(&dir),
        Command::Retire {
            folder: Folder { dir },
            kid,
        } => retire(&dir, &kid),
    }
}

fn generate(dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    if dir.exists() && !folder.accepted()?.is_empty() {
        bail!(
            "{} already holds keys; create a new one with `gha-slurm keys rotate`",
            dir.display()
        );
    }
    let kid = folder.generate(Clock::system().now().timestamp())?;
    Ok(format!(
        "{kid} now signs launch tokens.\n\
         Make {} readable only for the launcher; token-broker and agents need only the public key.\n",
        dir.join(format!("{kid}.key.pem")).display()
    ))
}

fn rotate(dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    let newest = newest(dir)?;
    let kid = folder.generate(after(&newest))?;
    Ok(format!(
        "{kid} signs launch tokens in a few seconds; {newest} is still accepted.\n\
         Copy {kid}.pub.pem to all agents that read public keys from files, and retire {newest} when its last launch token\n\
         has expired (after 25 hours by default).\n"
    ))
}

/// Replaces all keys at once, for `gha-slurm panic`. Returns the new `kid` and those that are gone.
pub(crate) fn replace_all(dir: &Path) -> anyhow::Result<(String, Vec<String>)> {
    let newest = newest(dir)?;
    Ok(KeyFolder::new(dir).replace_all(after(&newest))?)
}

/// The key of the folder that signs.
fn newest(dir: &Path) -> anyhow::Result<String> {
    let Some(newest) = KeyFolder::new(dir).list()?.pop() else {
        bail!(
            "{} holds no private key; create the first one with `gha-slurm keys generate`",
            dir.display()
        );
    };
    Ok(newest)
}

/// The time of a key that is made now, in seconds since the epoch. The newest key signs, so it must be the newest even within one second
/// or after the clock was set back.
fn after(newest: &str) -> i64 {
    let now = Clock::system().now().timestamp();
    made_at(newest).map_or(now, |at| now.max(at.timestamp() + 1))
}

fn list(dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    let signs = folder.list()?.pop();
    let accepted = folder.accepted()?;
    if accepted.is_empty() {
        bail!(
            "{} holds no key; create the first one with `gha-slurm keys generate`",
            dir.display()
        );
    }
    let mut text = String::new();
    for kid in accepted {
        let made = made_at(&kid).map_or_else(|| "?".to_owned(), |at| at.to_rfc3339());
        let role = if signs.as_ref() == Some(&kid) {
            "signs"
        } else {
            "accepted"
        };
        writeln!(text, "{kid}\t{made}\t{role}")?;
    }
    Ok(text)
}

fn retire(dir: &Path, kid: &str) -> anyhow::Result<String> {
    KeyFolder::new(dir).retire(kid)?;
    Ok(format!(
        "Removed {kid}. token-broker stops accepting it within seconds, agents within a minute.\n\
         Also remove {kid}.pub.pem from agents that read public keys from files.\n"
    ))
}

/// When a key was created: its `kid` starts with this time, in seconds since the epoch.
fn made_at(kid: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(kid.split('-').next()?.parse().ok()?, 0)
}
