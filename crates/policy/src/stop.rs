//! The kill switch on the cluster's side: a file that stops new Slurm jobs, whatever a launch token says.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gha_slurm_domain::SlurmUser;
use nix::libc::O_NONBLOCK;
use serde::{Deserialize, Serialize};

use crate::PolicyRefusal;
use crate::file::{folder_of, replace};

/// Bytes of a stop file; a larger one is broken.
const MAX_BYTES: u64 = 1024 * 1024;
/// How long a change waits for another one: each takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// What an empty file says: `touch` must be enough in a hurry.
const NO_REASON: &str = "no reason is given";

/// For whom new Slurm jobs are stopped, with the administrator's reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stops {
    /// For everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<String>,
    /// For these Slurm users.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<SlurmUser, String>,
}

impl Stops {
    /// Whether nothing is stopped.
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.users.is_empty()
    }

    /// A line for each stop; a user's name is followed by `remark`.
    pub fn lines(&self, remark: impl Fn(&SlurmUser) -> &'static str) -> Vec<String> {
        let all = self
            .all
            .iter()
            .map(|reason| ("all users".to_owned(), reason));
        let users = self.users.iter();
        let users = users.map(|(user, reason)| (format!("{user}{}", remark(user)), reason));
        all.chain(users)
            .map(|(whose, reason)| format!("new Slurm jobs of {whose} are stopped: {reason}"))
            .collect()
    }
}

/// The stop file cannot be read or changed. While it cannot be read, everything is stopped.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct StopFileError {
    path: String,
    reason: String,
}

/// A TOML file: `all = "REASON"`, and a table `[users]` with lines `NAME = "REASON"`. Without the file nothing is stopped; an empty, an
/// unreadable or a broken one stops everything. It is read at each start of a launch. All calls block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopFile {
    path: PathBuf,
    may_lack_folder: bool,
}

impl StopFile {
    /// The file at this path, which need not exist; its folder must.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            may_lack_folder: false,
        }
    }

    /// `stop.toml` in the agent's state folder, which the agent makes when it starts for the first time.
    pub fn of_state(folder: &Path) -> Self {
        Self {
            path: folder.join("stop.toml"),
            may_lack_folder: true,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, reason: &dyn ToString) -> StopFileError {
        StopFileError {
            path: self.path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    /// What it says.
    pub fn read(&self) -> Result<Stops, StopFileError> {
        let file = File::options()
            .read(true)
            // A pipe would wait for a writer.
            .custom_flags(O_NONBLOCK)
            .open(&self.path);
        let file = match file {
            Ok(file) => file,
            // A folder that is not there (not mounted) and a link to nowhere are no proof that there is no file.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return if self.path.is_symlink() {
                    Err(self.failed(&"a symbolic link to nowhere"))
                } else if self.may_lack_folder || folder_of(&self.path).is_dir() {
                    Ok(Stops::default())
                } else {
                    Err(self.failed(&"its folder is not there"))
                };
            }
            Err(error) => return Err(self.failed(&error)),
        };
        let data = file.metadata().map_err(|e| self.failed(&e))?;
        if !data.is_file() {
            return Err(self.failed(&"not a regular file"));
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|e| self.failed(&e))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.failed(&format!("larger than {MAX_BYTES} bytes")));
        }
        // Without the lines in question: this reaches the launcher.
        let mut stops: Stops = toml::from_str(&text).map_err(|e| self.failed(&e.message()))?;
        if stops.is_empty() {
            stops.all = Some(NO_REASON.to_owned());
        }
        Ok(stops)
    }

    /// Whether a new Slurm job of `user` may be submitted.
    pub fn check(&self, user: &SlurmUser) -> Result<(), PolicyRefusal> {
        let stops = self.read().map_err(|error| {
            PolicyRefusal::Stopped(format!(
                "new Slurm jobs are stopped, because the stop file cannot be read: {error}"
            ))
        })?;
        let stopped = |whose: &str, reason: &str| {
            PolicyRefusal::Stopped(format!(
                "an administrator of the cluster has stopped new Slurm jobs{whose}: {reason}"
            ))
        };
        if let Some(reason) = &stops.all {
            return Err(stopped("", reason));
        }
        match stops.users.get(user) {
            Some(reason) => Err(stopped(&format!(" of {user}"), reason)),
            None => Ok(()),
        }
    }

    /// Stops new Slurm jobs of `user`, or everybody's, in addition to what is stopped. Returns what is stopped then.
    pub fn stop(&self, user: Option<&SlurmUser>, reason: &str) -> Result<Stops, StopFileError> {
        self.change(|stops| match user {
            Some(user) => {
                stops.users.insert(user.clone(), reason.to_owned());
            }
            None => stops.all = Some(reason.to_owned()),
        })
    }

    /// Takes the stop of `user` back, or the one for everybody: one does not lift the other. Returns what is still stopped.
    pub fn resume(&self, user: Option<&SlurmUser>) -> Result<Stops, StopFileError> {
        self.change(|stops| match user {
            Some(user) => {
                stops.users.remove(user);
            }
            None => stops.all = None,
        })
    }

    fn change(&self, change: impl FnOnce(&mut Stops)) -> Result<Stops, StopFileError> {
        // Two commands at once would lose what one of them wrote.
        let folder = File::open(folder_of(&self.path)).map_err(|e| self.failed(&e))?;
        lock_soon(&folder);
        let mut stops = self.read()?;
        change(&mut stops);
        let write = || -> std::io::Result<()> {
            if stops.is_empty() {
                match std::fs::remove_file(&self.path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            } else {
                let text = toml::to_string(&stops).map_err(std::io::Error::other)?;
                // Root may write it, and the agent must be able to read it. It holds no secret.
                replace(&self.path, &text, 0o644)?;
            }
            folder.sync_all()
        };
        write().map_err(|e| self.failed(&e))?;
        Ok(stops)
    }
}

/// Locks a folder, unless another has locked it for [`LOCK_PATIENCE`]. Every user who can read the folder can lock it, and NFS locks no folders:
/// stopping something matters more than two commands at the same moment.
#[expect(
    clippy::disallowed_methods,
    reason = "a change blocks, for two seconds at most"
)]
fn lock_soon(folder: &File) {
    let give_up_at = Instant::now() + LOCK_PATIENCE;
    while matches!(folder.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < give_up_at
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> SlurmUser {
        name.parse().unwrap()
    }

    fn words(file: &StopFile, name: &str) -> Option<String> {
        match file.check(&user(name)) {
            Ok(()) => None,
            Err(PolicyRefusal::Stopped(words)) => Some(words),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn everybody_or_one_user_is_stopped_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = StopFile::new(folder.path().join("stop.toml"));
        assert_eq!(words(&file, "alice"), None);
        file.stop(Some(&user("alice")), "odd = \"builds\"\n[users]")
            .unwrap();
        assert!(
            words(&file, "alice")
                .unwrap()
                .contains("of alice: odd = \"builds\"")
        );
        assert_eq!(words(&file, "bob"), None);
        file.stop(None, "maintenance").unwrap();
        assert!(words(&file, "bob").unwrap().ends_with("jobs: maintenance"));
        // One does not lift the other, and another process reads the same.
        let again = StopFile::new(folder.path().join("stop.toml"));
        let left = again.resume(None).unwrap();
        assert_eq!((left.all, left.users.len()), (None, 1));
        assert_eq!(words(&file, "bob"), None);
        assert!(words(&file, "alice").is_some());
        assert!(again.resume(Some(&user("alice"))).unwrap().is_empty());
        assert!(!file.path().exists());
        assert!(again.resume(None).unwrap().is_empty(), "it was not stopped");
    }

    #[test]
    fn what_cannot_be_read_stops_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stop.toml");
        let file = StopFile::new(path.clone());
        for (text, expected) in [
            ("", NO_REASON),
            ("# nothing yet\n", NO_REASON),
            ("all = ", "cannot be read"),
            ("al = \"typing error\"", "unknown field"),
            ("[users]\n\"../x\" = \"no user\"", "cannot be read"),
            ("[users]\nalice = 1", "cannot be read"),
            ("stop everything", "cannot be read"),
        ] {
            std::fs::write(&path, text).unwrap();
            let words = words(&file, "bob").unwrap();
            assert!(words.contains(expected), "{text:?}: {words}");
        }
        // Whatever it was, it is not overwritten.
        assert!(file.resume(None).is_err() && file.stop(None, "x").is_err());
        std::fs::write(&path, "a".repeat(MAX_BYTES as usize + 1)).unwrap();
        assert!(words(&file, "bob").unwrap().contains("larger than"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(words(&file, "bob").is_some());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(words(&file, "bob").unwrap().contains("regular file"));
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(words(&file, "bob").unwrap().contains("nowhere"));
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(words(&file, "bob").unwrap().contains("regular file"));
        let unmounted = StopFile::new(folder.path().join("gone/stop.toml"));
        assert!(words(&unmounted, "bob").unwrap().contains("not there"));
    }

    #[test]
    fn nobody_who_locks_the_folder_holds_a_stop_up() {
        let folder = tempfile::tempdir().unwrap();
        // As flock(1) of any user who can read it.
        let held = File::open(folder.path()).unwrap();
        held.lock().unwrap();
        let file = StopFile::new(folder.path().join("stop.toml"));
        let (told, waits) = std::sync::mpsc::channel();
        let stopping = file.clone();
        std::thread::spawn(move || told.send(stopping.stop(None, "x").is_ok()));
        assert_eq!(waits.recv_timeout(Duration::from_secs(30)), Ok(true));
        assert!(words(&file, "bob").is_some());
    }

    #[test]
    fn commands_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = StopFile::new(folder.path().join("stop.toml"));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let file = &file;
                scope.spawn(move || file.stop(Some(&user(&format!("u{number}"))), "x").unwrap());
            }
        });
        assert_eq!(file.read().unwrap().users.len(), 8);
    }
}
