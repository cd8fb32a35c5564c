//! `gha-slurm runner-update`: a folder with one folder per release of actions/runner, and the symlink `current`.
//!
//! Nodes read `current` once for each launch, copy the release it points to, and run its `externals` in place. So a
//! release is complete before the symlink points to it, and stays for a while after the symlink has moved on.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use gha_slurm_domain::Clock;
use gha_slurm_domain::release::RunnerRelease;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// The symlink to the release that nodes use.
const CURRENT: &str = "current";
/// The prefix of unfinished files and folders.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder of releases, on a file system that the nodes share. Set runner.folder of gha-slurm-munge to its `current`.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Archive of the release: actions-runner-linux-x64-….tar.gz.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "check"])]
    archive: Option<PathBuf>,
    /// URL to download the archive from. Respects https_proxy.
    #[arg(long, conflicts_with = "check")]
    url: Option<String>,
    /// SHA-256 of the archive, from the release's page or GitHub's API (runners/downloads).
    #[arg(long, value_name = "HEX", conflicts_with = "check")]
    sha256: Option<String>,
    /// Number of releases to keep, including the new one: running Slurm jobs use their release until they end.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    keep: u32,
    /// Only show the installed release. Fails if the release is close to the age at which GitHub may refuse it.
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
    let clock = Clock::system();
    if only_check {
        return check(&folder, clock.now());
    }
    let Some(sha256) = sha256 else {
        bail!("--sha256 is required: nodes run only verified releases");
    };
    let sha256 = sha256.to_lowercase();
    ensure!(
        sha256.len() == 64 && hex::decode(&sha256).is_ok(),
        "--sha256 must be 64 hexadecimal digits"
    );
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let _lock = lock(&folder)?;
    remove_unfinished(&folder)?;
    // A private copy, so that the verified file is the one that is unpacked.
    let copy = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(&folder)?;
    let (seen, source) = match (archive, url) {
        (Some(file), None) => (copied(&file, &copy)?, file.display().to_string()),
        (None, Some(url)) => (fetched(&url, &copy).await?, url),
        _ => bail!("--archive or --url is required"),
    };
    ensure!(
        seen == sha256,
        "{source} has the SHA-256 {seen}, not {sha256}; nothing was changed"
    );
    let release = unpack(&folder, copy.path(), &sha256, clock.now())?;
    let before = fs::read_link(folder.join(CURRENT)).ok();
    switch(&folder, &release.version)?;
    let removed = remove_old(&folder, keep, before.as_deref())?;
    let mut text = format!(
        "Nodes use {} from their next launch.\n",
        folder.join(&release.version).display()
    );
    for version in removed {
        writeln!(text, "Removed {version}.")?;
    }
    if let Some(warning) = release.warning(clock.now()) {
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
            "cannot read {}; no release was installed here with `gha-slurm runner-update`",
            file.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

/// Locks the folder for one update at a time. Dropping the file releases the lock.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let file = File::create(folder.join(".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another runner-update is running in {}", folder.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context("cannot lock the folder"),
    }
}

/// Removes what an interrupted call left behind.
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

/// Copies a file and returns its SHA-256.
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

/// Downloads a file and returns its SHA-256.
async fn fetched(url: &str, to: &NamedTempFile) -> anyhow::Result<String> {
    let mut response = reqwest::get(url).await?.error_for_status()?;
    let mut hash = Sha256::new();
    while let Some(piece) = response.chunk().await? {
        hash.update(&piece);
        to.as_file().write_all(&piece)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// Unpacks the archive into `folder/VERSION`, unless that release is already there.
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
        .context("cannot run tar")?;
    ensure!(
        output.status.success(),
        "cannot unpack the archive: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listener = new.path().join("bin/Runner.Listener");
    let metadata = match fs::metadata(&listener) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "the archive has no bin/Runner.Listener, so it is not a release of actions/runner"
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
        let existing = read(&place)?;
        ensure!(
            existing.sha256 == sha256,
            "{} already exists, with the SHA-256 {}; move it away first",
            place.display(),
            existing.sha256
        );
        return Ok(existing);
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

/// Returns the version that the release reports.
fn version(listener: &Path) -> anyhow::Result<String> {
    let output = Command::new(listener)
        .arg("--version")
        // Does not need libicu for this.
        .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
        .output()
        .context("cannot run the archive's bin/Runner.Listener")?;
    let reported = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let numbers: Vec<&str> = reported.split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u32>().is_ok());
    ensure!(
        output.status.success() && is_version,
        "the archive's `bin/Runner.Listener --version` returned {reported:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(reported)
}

/// Points `current` to a release, atomically.
fn switch(folder: &Path, version: &str) -> anyhow::Result<()> {
    let current = folder.join(CURRENT);
    if fs::symlink_metadata(&current).is_ok_and(|m| !m.is_symlink()) {
        bail!("{} is not a symlink; move it away first", current.display());
    }
    let next = folder.join(format!("{UNFINISHED}{CURRENT}"));
    symlink(version, &next)?;
    fs::rename(&next, &current).context("cannot replace the symlink")
}

/// Removes all releases except the last `keep` installed, the current one and the previous one.
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
        // Renamed first, so that no reader finds half a release.
        let away = folder.join(format!("{UNFINISHED}{version}"));
        fs::rename(folder.join(path), &away)?;
        remove(&away)?;
        removed.push(version);
    }
    Ok(removed)
}
