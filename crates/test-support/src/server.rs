//! What the private servers share: free ports, an unprivileged user, a folder, and a shell that ends the server with us.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::wait::wait_until;

/// Below the ports the kernel gives to outgoing connections: such a connection would take the port of a server that is
/// being restarted.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A loopback port that was free a moment ago. Never the same twice in a process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that ask at the same time must not be told the same.
    let start = std::process::id().wrapping_mul(97) % u32::from(PORTS.end - PORTS.start);
    (0..PORTS.len())
        .map(|_| {
            let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            PORTS.start + ((start + next) % u32::from(PORTS.end - PORTS.start)) as u16
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free loopback port")
}

/// The user (and group) a server runs as when we are root, which both servers refuse to be: `nobody`.
const NOBODY: u32 = 65534;

pub(crate) fn we_are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a server has its data.
pub enum Folder {
    /// Removed with the server.
    Temporary(TempDir),
    /// Kept for the next start.
    Kept(PathBuf),
}

impl Folder {
    /// A new temporary folder.
    pub fn temporary(prefix: &str) -> anyhow::Result<Self> {
        Self::temporary_in(&std::env::temp_dir(), prefix)
    }

    /// A new temporary folder below `parent`.
    pub(crate) fn temporary_in(parent: &Path, prefix: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let folder = Self::Temporary(dir);
        folder.prepare()?;
        Ok(folder)
    }

    /// This folder; made if it is not there.
    pub fn kept(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        let folder = Self::Kept(path.canonicalize()?);
        folder.prepare()?;
        Ok(folder)
    }

    /// What the shell beside the server removes, also when this process was killed.
    pub(crate) fn scratch(&self) -> Option<&Path> {
        match self {
            Self::Temporary(dir) => Some(dir.path()),
            Self::Kept(_) => None,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }

    /// A command that works in this folder, as `nobody` when we are root.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if we_are_root() {
            command = Command::new("setpriv");
            command
                .arg(format!("--reuid={NOBODY}"))
                .arg(format!("--regid={NOBODY}"))
                .arg("--clear-groups");
            if !self.others_get_here() {
                // Below root's home, say. The user is what the servers look at, not what it may do.
                command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
            }
            command.arg(program);
        }
        command.current_dir(self.path());
        command
    }

    /// Whether every folder above lets others through.
    fn others_get_here(&self) -> bool {
        self.path().ancestors().skip(1).all(|above| {
            fs::metadata(above).is_ok_and(|above| above.permissions().mode() & 0o001 != 0)
        })
    }

    fn prepare(&self) -> anyhow::Result<()> {
        let path = self.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .and_then(|()| give(path))
            .with_context(|| path.display().to_string())
    }
}

/// Gives a file to whom servers run as.
pub(crate) fn give(path: &Path) -> io::Result<()> {
    if we_are_root() {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

/// A server that ends when this value is dropped or this process ends.
pub(crate) struct Supervised {
    shell: Child,
}

impl Supervised {
    /// Starts `server` in a process group of its own, beside a shell that waits on a pipe to us. On end of file (we are
    /// gone) the shell sends `signal` to the group, and removes `scratch`, if any.
    pub(crate) fn start(
        server: &Command,
        signal: &str,
        log: &Path,
        scratch: Option<&Path>,
    ) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(
            "log=$1 scratch=$2 signal=$3; shift 3\n\
             setsid \"$@\" </dev/null >\"$log\" 2>&1 &\n\
             server=$!\n\
             word=$(cat)\n\
             kill -s \"$signal\" -- \"-$server\" 2>/dev/null\n\
             ( sleep 10 & pause=$!; trap 'kill $pause; exit' TERM; wait $pause; kill -s KILL -- \"-$server\" ) \
             >/dev/null 2>&1 & killer=$!\n\
             wait \"$server\" 2>/dev/null; kill \"$killer\" 2>/dev/null\n\
             # Erlang leaves its port mapper behind.\n\
             [ -z \"$ERL_EPMD_PORT\" ] || epmd -kill >/dev/null 2>&1\n\
             [ -z \"$scratch\" ] || [ \"$word\" = keep ] || rm -rf \"$scratch\"\n",
        );
        shell
            .arg("sh")
            .arg(log)
            .arg(scratch.unwrap_or(Path::new("")))
            .arg(signal)
            .arg(server.get_program())
            .args(server.get_args());
        if let Some(folder) = server.get_current_dir() {
            shell.current_dir(folder);
        }
        for (key, value) in server.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        let shell = std::os::unix::process::CommandExt::process_group(&mut shell, 0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { shell })
    }

    /// Ends the server now, waits for it, and leaves its folder for the next start.
    pub(crate) fn stop_keeping_data(mut self) {
        use std::io::Write;
        if let Some(pipe) = &mut self.shell.stdin {
            let _ = pipe.write_all(b"keep");
        }
        self.stop();
    }

    /// Ends the server now and waits for it.
    pub(crate) fn stop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Kills the process whose id is the first line of `pid_file`, and its process group if it leads one; waits until nobody
/// listens on `port` any more: a dying server still accepts connections.
pub(crate) async fn kill9(pid_file: &Path, port: u16) {
    use rustix::process::{Pid, Signal, kill_process, kill_process_group};
    let text = fs::read_to_string(pid_file).expect("the server's pid file");
    let pid = text.lines().next().and_then(|l| l.trim().parse().ok());
    let pid = pid.and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::KILL).expect("kill -9");
    let _ = kill_process_group(pid, Signal::KILL);
    let refused = || async { TcpStream::connect(("127.0.0.1", port)).await.is_err() };
    wait_until(
        "the killed server is gone",
        Duration::from_secs(30),
        refused,
    )
    .await;
}

/// The newest of the folders `pattern` names by a `*`, such as `/usr/lib/postgresql/*/bin`, or the folder on `PATH`
/// that holds `program`.
pub(crate) fn find_program(parent: &str, below: &str, program: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join(below).join(program))
        .filter(|p| p.is_file())
        .collect();
    found.sort();
    found.pop().or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|dir| dir.join(program))
            .find(|p| p.is_file())
    })
}
