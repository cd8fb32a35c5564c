//! Programs under test, each in a process group of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How much of a log is shown when a test panics.
const SHOWN_LINES: usize = 40;

/// A program of the workspace, built in the profile of whoever asks.
pub fn binary(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("the path of this program");
    let folder = here
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name() != Some(OsStr::new("deps")))
        .expect("a folder");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not built: run `cargo build --workspace --bins`, or `make test`",
        path.display()
    );
    path
}

/// A running program. Killed, with its process group, when dropped, and when the thread that started it ends; if that is
/// because a test panics, the end of its log is shown.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    asked_to_stop: bool,
    forgotten: bool,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &str, command: &Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // The kernel tells it when we are gone, also after kill -9.
        let mut with_parent = Command::new("setpriv");
        with_parent
            .args(["--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => with_parent.env(key, value),
                None => with_parent.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            with_parent.current_dir(folder);
        }
        let child = with_parent
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            asked_to_stop: false,
            forgotten: false,
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// The end of what it has written.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it as a crash would: this process alone, not its children.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to stop (SIGTERM), once: the services end at once when they are asked twice.
    pub fn ask_to_stop(&mut self) {
        if !self.asked_to_stop {
            self.asked_to_stop = true;
            self.signal(Signal::TERM);
        }
    }

    /// Asks it to stop and waits; kills it after `deadline`. `None`: it had to be killed.
    pub fn stop(&mut self, deadline: Duration) -> Option<ExitStatus> {
        self.ask_to_stop();
        let start = Instant::now();
        while start.elapsed() < deadline {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "polls a process, not in async code"
            )]
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9();
        None
    }

    /// Leaves the rest of its process group alone.
    pub(crate) fn forget(mut self) {
        self.forgotten = true;
    }

    /// Sends a signal to this process alone.
    pub fn signal(&mut self, signal: Signal) {
        // A process that was waited for has given its id back.
        if self.exited().is_none()
            && let Some(pid) = pid(self.child.id())
        {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.forgotten {
            return;
        }
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}:\n{}", self.name, self.log_tail());
        }
        if let Some(pid) = pid(self.child.id()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn read_log(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The last lines.
pub(crate) fn tail(log: &str) -> String {
    let skip = log.lines().count().saturating_sub(SHOWN_LINES);
    log.lines().skip(skip).collect::<Vec<_>>().join("\n")
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(id.cast_signed())
}

/// Kills every process that lives in `folder`: works in it, or has a path in it in its environment. Slurm jobs of the
/// agent's local backend outlive their agent, as they should; not their test.
pub fn end_processes_in(folder: &Path) {
    kill_all(&others(|process| {
        let works_there =
            fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        works_there || environment_mentions(process, folder.as_os_str().as_bytes())
    }));
}

/// The processes that have `text` in their environment, as they inherit it: id and command line. Not this process.
pub fn processes_marked(text: &str) -> Vec<(u32, String)> {
    others(|process| environment_mentions(process, text.as_bytes()))
        .into_iter()
        .map(|id| {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            (id, String::from_utf8_lossy(&words).replace('\0', " "))
        })
        .collect()
}

/// Kills every process that has `text` in its environment, but not this one.
pub fn end_processes_marked(text: &str) {
    kill_all(&others(|process| {
        environment_mentions(process, text.as_bytes())
    }));
}

/// A variable in the environment that a process was started with.
pub(crate) fn variable(process: &Path, name: &str) -> Option<String> {
    let environment = fs::read(process.join("environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|text| text.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn environment_mentions(process: &Path, text: &[u8]) -> bool {
    fs::read(process.join("environ")).is_ok_and(|environment| {
        let mut windows = environment.windows(text.len().max(1));
        windows.any(|window| window == text)
    })
}

/// Every other process for whose folder in `/proc` this is true: its id.
pub(crate) fn others(wanted: impl Fn(&Path) -> bool) -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            (id != std::process::id() && wanted(&entry.path())).then_some(id)
        })
        .collect()
}

pub(crate) fn kill_all(ids: &[u32]) {
    for pid in ids.iter().filter_map(|id| pid(*id)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
