//! `gha-slurm keys`: a folder of launch-token keys.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gha_slurm_auth::KeyFolder;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the first key of a deployment.
    Generate(Folder),
    /// Make a new key, which signs from the launcher's next start; the old ones are still accepted.
    Rotate(Folder),
    /// Say which key signs and which are accepted.
    List(Folder),
    /// Remove an old key: launch tokens it signed are not accepted any more.
    Retire {
        #[command(flatten)]
        folder: Folder,
        /// Which, as `keys list` names it.
        kid: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The folder of keys: `keys.folder` of the launcher and of token-broker.
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
            "{}: there are keys already; make a new one with `gha-slurm keys rotate`",
            dir.display()
        );
    }
    let kid = folder.generate(Utc::now().timestamp())?;
    Ok(format!(
        "{kid} signs launch tokens from now on.\n\
         Let only the launcher read {}; token-broker and agents need the public half alone.\n",
        dir.join(format!("{kid}.key.pem")).display()
    ))
}

fn rotate(dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    let Some(newest) = folder.list()?.pop() else {
        bail!(
            "{}: no private key here; make the first one with `gha-slurm keys generate`",
            dir.display()
        );
    };
    // The newest signs: two keys of one second, or a clock that was set back, must not leave the old one newest.
    let now = Utc::now().timestamp();
    let now = made_at(&newest).map_or(now, |at| now.max(at.timestamp() + 1));
    let kid = folder.generate(now)?;
    Ok(format!(
        "{kid} signs launch tokens from the launcher's next start; {newest} is still accepted.\n\
         Copy {kid}.pub.pem to whoever reads public keys from files, restart the launcher, and retire {newest} when its\n\
         last launch token has expired (25 hours by default).\n"
    ))
}

fn list(dir: &Path) -> anyhow::Result<String> {
    let folder = KeyFolder::new(dir);
    let signs = folder.list()?.pop();
    let accepted = folder.accepted()?;
    if accepted.is_empty() {
        bail!(
            "{}: no key here; make the first one with `gha-slurm keys generate`",
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
        "{kid} is gone. Remove {kid}.pub.pem from whoever reads public keys from files, and restart token-broker and\n\
         agents: they forget a key only then.\n"
    ))
}

/// When a key was made: its `kid` begins with that, in seconds since the epoch.
fn made_at(kid: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(kid.split('-').next()?.parse().ok()?, 0)
}
