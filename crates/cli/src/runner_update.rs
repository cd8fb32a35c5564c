//! `gha-slurm runner-update`: a folder with releases of actions/runner, one folder each, and the symlink `current`.
//!
//! Nodes read `current` once for each launch, copy what it leads to, and run its `externals` in place. So a release is
//! complete before the symlink leads there, and stays for a while after it leads elsewhere.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use gha_slurm_domain::release::RunnerRelease;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// The symlink to the release that nodes use.
const CURRENT: &str = "current";
/// What is begun and not finished has a name that begins so.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of releases, on a file system that the nodes see; runner.folder of gha-slurm-munge is its `current`.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The release: actions-runner-linux-x64-….tar.gz.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "check"])]
    archive: Option<PathBuf>,
    /// Where to fetch it from; proxies as of https_proxy.
    #[arg(long, conflicts_with = "check")]
    url: Option<String>,
    /// Its SHA-256, as the release's page and GitHub's API (runners/downloads) have it.
    #[arg(long, value_name = "HEX", conflicts_with = "check")]
    sha256: Option<String>,
    /// How many releases stay, the new one among them: Slurm jobs that run use theirs to their end.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    keep: u32,
    /// Only say which release is installed; fails when it is near the age at which GitHub may refuse it.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    let Arguments {
        folder,
        archive,
        url,
        sha256,
        keep,
        check: only_check,
    } = arguments;
    if only_check {
        return check(&folder, Utc::now());
    }
    let Some(sha256) = sha256 else {
        bail!("--sha256 is needed: what nodes run is not taken on trust");
    };
    let sha256 = sha256.to_lowercase();
    ensure!(
        sha256.len() == 64 && hex::decode(&sha256).is_ok(),
        "--sha256: must be 64 hexadecimal digits"
    );
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let _lock = lock(&folder)?;
    remove_unfinished(&folder)?;
    // Its own copy: what was verified is what is unpacked.
    let copy = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(&folder)?;
    let (seen, source) = match (archive, url) {
        (Some(file), None) => (copied(&file, &copy)?, file.display().to_string()),
        (None, Some(url)) => (fetched(&url, &copy).await?, url),
        _ => bail!("--archive or --url is needed"),
    };
    ensure!(
        seen == sha256,
        "{source} has the SHA-256 {seen}, not {sha256}: nothing was changed"
    );
    let release = unpack(&folder, copy.path(), &sha256, Utc::now())?;
    let before = fs::read_link(folder.join(CURRENT)).ok();
    switch(&folder, &release.version)?;
    let removed = remove_old(&folder, keep, before.as_deref())?;
    let mut text = format!(
        "{} is what nodes use from their next launch on.\n",
        folder.join(&release.version).display()
    );
    for version in removed {
        writeln!(text, "{version} is removed.")?;
    }
    if let Some(warning) = release.warning(Utc::now()) {
        writeln!(text, "{}.", warning.text)?;
    }
    Ok(text)
}

fn check(folder: &Path, now: DateTime<Utc>) -> anyhow::Result<String> {
    let release = read(&folder.join(CURRENT))?;
    match release.warning(now) {
        Some(warning) => bail!("{}", warning.text),
        None => Ok(format!(
            "{} of {}, installed on {}\n",
            release.version,
            release.built_at.date_naive(),
            release.installed_at.date_naive()
        )),
    }
}

fn read(release: &Path) -> anyhow::Result<RunnerRelease> {
    let file = release.join(RunnerRelease::FILE);
    let text = fs::read_to_string(&file).with_context(|| {
        format!(
            "{}: `gha-slurm runner-update` has installed nothing here",
            file.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

/// One at a time; given back with the file.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let file = File::create(folder.join(".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another runner-update is at work in {}", folder.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context("cannot lock the folder"),
    }
}

/// What an earlier call that was killed left.
fn remove_unfinished(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let removed = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Copies, and gives the SHA-256.
fn copied(from: &Path, to: &NamedTempFile) -> anyhow::Result<String> {
    let mut from = File::open(from).with_context(|| from.display().to_string())?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = from.read(&mut piece)?;
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(hex::encode(hash.finalize()));
        };
        hash.update(piece);
        to.as_file().write_all(piece)?;
    }
}

/// Downloads, and gives the SHA-256.
async fn fetched(url: &str, to: &NamedTempFile) -> anyhow::Result<String> {
    let mut response = reqwest::get(url).await?.error_for_status()?;
    let mut hash = Sha256::new();
    while let Some(piece) = response.chunk().await? {
        hash.update(&piece);
        to.as_file().write_all(&piece)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// Makes `folder/VERSION` of the archive, or finds it there.
fn unpack(
    folder: &Path,
    archive: &Path,
    sha256: &str,
    now: DateTime<Utc>,
) -> anyhow::Result<RunnerRelease> {
    let new = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(folder)?;
    let output = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .args(["--no-same-owner", "-C"])
        .arg(new.path())
        .output()
        .context("tar")?;
    ensure!(
        output.status.success(),
        "the archive cannot be unpacked: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listener = new.path().join("bin/Runner.Listener");
    let metadata = match fs::metadata(&listener) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "there is no bin/Runner.Listener in the archive: it is no release of actions/runner"
            )
        }
        metadata => metadata?,
    };
    let release = RunnerRelease {
        version: version(&listener)?,
        sha256: sha256.to_owned(),
        built_at: metadata.modified()?.into(),
        installed_at: now,
    };
    let place = folder.join(&release.version);
    if place.exists() {
        let there = read(&place)?;
        ensure!(
            there.sha256 == sha256,
            "{} is there already, with the SHA-256 {}: move it away first",
            place.display(),
            there.sha256
        );
        return Ok(there);
    }
    let description = serde_json::to_vec_pretty(&release)?;
    fs::write(new.path().join(RunnerRelease::FILE), description)?;
    // Every Slurm user reads it.
    fs::set_permissions(new.path(), Permissions::from_mode(0o755))?;
    fs::set_permissions(
        new.path().join(RunnerRelease::FILE),
        Permissions::from_mode(0o644),
    )?;
    fs::rename(new.path(), &place)?;
    Ok(release)
}

/// What the release says of itself.
fn version(listener: &Path) -> anyhow::Result<String> {
    let output = Command::new(listener)
        .arg("--version")
        // It needs no libicu for that.
        .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
        .output()
        .context("bin/Runner.Listener of the archive does not run here")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let numbers: Vec<&str> = said.split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u32>().is_ok());
    ensure!(
        output.status.success() && is_version,
        "`bin/Runner.Listener --version` of the archive says {said:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(said)
}

/// Lets `current` lead to a release, in one step.
fn switch(folder: &Path, version: &str) -> anyhow::Result<()> {
    let current = folder.join(CURRENT);
    if fs::symlink_metadata(&current).is_ok_and(|m| !m.is_symlink()) {
        bail!("{} is no symlink: move it away first", current.display());
    }
    let next = folder.join(format!("{UNFINISHED}{CURRENT}"));
    symlink(version, &next)?;
    fs::rename(&next, &current).context("cannot switch")
}

/// Removes all releases but the `keep` that were installed last, the current one and the one before.
fn remove_old(folder: &Path, keep: u32, before: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let current = fs::read_link(folder.join(CURRENT))?;
    let mut releases: Vec<RunnerRelease> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            read(&entry.path())
                .ok()
                .filter(|r| *r.version == *entry.file_name())
        })
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.installed_at));
    let mut removed = Vec::new();
    for RunnerRelease { version, .. } in releases.into_iter().skip(keep as usize) {
        let path = Path::new(&version);
        if path == current || Some(path) == before {
            continue;
        }
        // Away in one step, so that nobody finds half of it.
        let away = folder.join(format!("{UNFINISHED}{version}"));
        fs::rename(folder.join(path), &away)?;
        remove(&away)?;
        removed.push(version);
    }
    Ok(removed)
}
