//! What the agent remembers: one small file per launch, on disk before Slurm is asked. Each change is a line, of which the
//! last counts: a file that is replaced costs a file system several times as much.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::{LaunchId, SlurmJobId, SlurmUser};
use gha_slurm_slurm::Submitted;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Of the state folder.
const FOLDER: &str = "launches";
/// Between the agent and slurmctld.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// What is remembered of one launch. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The launch. Agents before 0.1.0 wrote `allocation`.
    #[serde(alias = "allocation")]
    pub launch: LaunchId,
    /// Whose account is spent.
    pub slurm_user: SlurmUser,
    /// Which repository spends it.
    #[serde(default)]
    pub repository_id: i64,
    /// For people.
    pub repository_url: String,
    /// When it was asked for first.
    pub intended_at: DateTime<Utc>,
    /// Which launcher asked, by the id of its database. Absent: one that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<Uuid>,
    /// Expiry of the launch token that asked first.
    pub expires_at: Option<DateTime<Utc>>,
    /// The Slurm job; absent while it is not known whether there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job_id: Option<SlurmJobId>,
    /// When that was answered. Absent: it is not known yet, or the entry is from an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<DateTime<Utc>>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<LaunchStatus>,
}

impl Entry {
    /// The intent to submit, before Slurm is asked.
    pub fn intent(claims: &LaunchClaims, now: DateTime<Utc>) -> Self {
        Self {
            launch: claims.sub,
            slurm_user: claims.slurm_user.clone(),
            repository_id: claims.repository_id,
            repository_url: claims.repository_url.clone(),
            intended_at: now,
            launcher: claims.launcher,
            expires_at: claims.expires_at(),
            slurm_job_id: None,
            answered_at: None,
            ended: None,
        }
    }

    /// Its Slurm job, as it is looked for in Slurm's list. `None`: its number is not known.
    pub(crate) fn submitted(&self) -> Option<Submitted> {
        Some(Submitted {
            launch: self.launch,
            id: self.slurm_job_id.clone()?,
            user: self.slurm_user.clone(),
            earliest: self.intended_at - CLOCKS_DIFFER,
            latest: self.answered_at.map(|at| at + CLOCKS_DIFFER),
        })
    }

    /// Whether the launcher with this id may see this launch and cancel it. Entries without an id are from older versions, and every
    /// launcher may.
    pub(crate) fn is_for(&self, launcher: Option<Uuid>) -> bool {
        self.launcher.is_none() || launcher.is_none() || self.launcher == launcher
    }

    /// Whether its launch token has expired: a node can do nothing with it any more. Entries without an expiry are from older versions.
    pub(crate) fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|expiry| expiry < now)
    }

    /// Whether it can be forgotten: it has no Slurm job that may still run, and its launch token expired before `before`, so
    /// that no launcher can ask for it again.
    pub(crate) fn is_past(&self, before: DateTime<Utc>) -> bool {
        let is_over = self.slurm_job_id.is_none() || self.ended.is_some();
        is_over && self.expires_at.unwrap_or(self.intended_at) < before
    }

    /// Whether it says no more than that Slurm will be asked.
    fn is_intent(&self) -> bool {
        self.slurm_job_id.is_none() && self.ended.is_none()
    }
}

/// The folder of entries. Its calls block.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    // Held as long as the process lives: two agents on one folder would submit twice.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `state`, made when absent; fails when another process has it.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        let folder = state.join(FOLDER);
        // Its name before 0.1.0.
        let former = state.join("allocations");
        if former.is_dir() && !folder.exists() {
            fs::rename(&former, &folder).with_context(|| former.display().to_string())?;
        }
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let path = state.join("lock");
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        lock.try_lock().with_context(|| {
            format!("{}: another agent uses this state folder", state.display())
        })?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    fn path(&self, launch: LaunchId) -> PathBuf {
        self.folder.join(format!("{launch}.json"))
    }

    /// Remembers `entry`: when this returns, it survives the process, and an intent survives a power cut. What has changed since
    /// may be lost with one: then the launch's Slurm job is found by its comment, as one whose answer was lost.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(entry.launch))?;
        // A line that was cut off before, by a full disk or without power, ends here.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        file.write_all(&line)?;
        if entry.is_intent() {
            file.sync_all()?;
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Everything that is remembered.
    pub fn all(&self) -> io::Result<Vec<Entry>> {
        entries(&self.folder)
    }

    /// What another process remembers in `state`.
    pub fn read(state: &Path) -> io::Result<Vec<Entry>> {
        entries(&state.join(FOLDER))
    }

    /// Removes the files of launches; those that are not there are no error.
    pub fn remove(&self, launches: &[LaunchId]) -> io::Result<()> {
        for launch in launches {
            match fs::remove_file(self.path(*launch)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets launches that are past `before` (`Entry::is_past`), and files that say nothing and are as old.
    pub fn prune(&self, before: DateTime<Utc>) -> io::Result<usize> {
        let mut pruned = 0;
        for path in files(&self.folder)? {
            let is_past = match read(&path)? {
                Some(entry) => entry.is_past(before),
                None => DateTime::<Utc>::from(fs::metadata(&path)?.modified()?) < before,
            };
            if is_past {
                fs::remove_file(&path)?;
                pruned += 1;
            }
        }
        Ok(pruned)
    }
}

fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for path in files(folder)? {
        entries.extend(read(&path)?);
    }
    Ok(entries)
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    Ok(files)
}

/// `None`: it is gone, or says nothing: it was cut off before it was on disk, so Slurm was not asked.
fn read(path: &Path) -> io::Result<Option<Entry>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = bytes.split(|byte| *byte == b'\n').rev();
    let entry = lines.find_map(|line| serde_json::from_slice(line).ok());
    if entry.is_none() {
        tracing::warn!(path = %path.display(), "a file of the ledger has no line that can be read");
    }
    Ok(entry)
}

/// Makes the names in a folder survive a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use gha_slurm_domain::SlurmState;

    use super::*;

    fn entry(expires: i64) -> Entry {
        Entry {
            launch: LaunchId(uuid::Uuid::new_v4()),
            slurm_user: "alice".parse().unwrap(),
            repository_id: 1,
            repository_url: "https://github.com/acme/widgets".into(),
            intended_at: DateTime::UNIX_EPOCH,
            launcher: None,
            expires_at: DateTime::from_timestamp(expires, 0),
            slurm_job_id: Some("17".parse().unwrap()),
            answered_at: None,
            ended: None,
        }
    }

    #[test]
    fn entries_are_found_until_they_are_pruned() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path()).unwrap();
        let (mut old, new) = (entry(100), entry(200));
        let running = entry(100);
        let status = LaunchStatus::new(old.launch, "17".into(), SlurmState::Completed);
        old.ended = Some(status);
        for entry in [&old, &new, &running] {
            ledger.write(entry).unwrap();
        }
        assert_eq!(ledger.all().unwrap().len(), 3);
        let before = DateTime::from_timestamp(150, 0).unwrap();
        assert_eq!(ledger.prune(before).unwrap(), 1);
        let mut left = ledger.all().unwrap();
        left.sort_by_key(|entry| entry.expires_at);
        assert_eq!(left, [running.clone(), new.clone()]);
        ledger.remove(&[old.launch, running.launch]).unwrap();
        assert_eq!(ledger.all().unwrap(), [new]);
    }

    #[test]
    fn the_last_line_that_can_be_read_counts() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path()).unwrap();
        let known = entry(100);
        let intent = Entry {
            slurm_job_id: None,
            ..known.clone()
        };
        let path = ledger.path(known.launch);
        // Without power before it was on disk.
        fs::write(&path, "").unwrap();
        assert_eq!(ledger.all().unwrap(), []);
        ledger.write(&intent).unwrap();
        assert_eq!(ledger.all().unwrap(), std::slice::from_ref(&intent));
        // The disk was full in the middle of a line, or there was no power.
        for cut in ["{\"launch\":\"", "\0\0\0\0"] {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(cut.as_bytes()).unwrap();
            assert_eq!(ledger.all().unwrap(), std::slice::from_ref(&intent));
        }
        ledger.write(&known).unwrap();
        assert_eq!(ledger.all().unwrap(), std::slice::from_ref(&known));
        // What says nothing is forgotten in time, too.
        fs::write(ledger.path(entry(0).launch), "\0").unwrap();
        assert_eq!(ledger.prune(DateTime::UNIX_EPOCH).unwrap(), 0);
        assert_eq!(
            ledger.prune(Utc::now()).unwrap(),
            1,
            "its Slurm job may run"
        );
    }

    #[test]
    fn a_state_folder_has_one_agent() {
        let state = tempfile::tempdir().unwrap();
        let first = Ledger::open(state.path()).unwrap();
        let error = Ledger::open(state.path()).unwrap_err();
        assert!(error.to_string().contains("another agent"), "{error:#}");
        drop(first);
        Ledger::open(state.path()).unwrap();
    }
}
