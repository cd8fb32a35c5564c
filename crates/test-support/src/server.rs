//! What the private servers share: free ports, an unprivileged user, a folder, and a shell that ends the server with us.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free loopback port")
        .port()
}

/// The unprivileged user a server runs as when we are root, which both servers refuse to be.
#[derive(Clone, Copy)]
pub(crate) struct RunAs {
    uid: u32,
}

impl RunAs {
    /// `nobody` when we are root, else ourselves.
    pub(crate) fn detect() -> Option<Self> {
        rustix::process::geteuid()
            .is_root()
            .then_some(Self { uid: 65534 })
    }
}

/// A command that runs as the unprivileged user.
pub(crate) fn command(program: &Path, user: Option<RunAs>) -> Command {
    match user {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.uid))
                .arg("--clear-groups")
                .arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A temporary folder that the unprivileged user owns.
pub(crate) fn folder(prefix: &str, user: Option<RunAs>) -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("folder permissions");
    if let Some(user) = user {
        chown(dir.path(), Some(user.uid), Some(user.uid)).expect("folder owner");
    }
    dir
}

/// Gives a file to the unprivileged user.
pub(crate) fn give(path: &Path, user: Option<RunAs>) {
    if let Some(user) = user {
        chown(path, Some(user.uid), Some(user.uid)).expect("file owner");
    }
}

/// A server that ends when this value is dropped or this process ends.
pub(crate) struct Supervised {
    shell: Child,
}

impl Supervised {
    /// Starts `server` beside a shell that waits on a pipe to us. On end of file (we are gone) it ends the server and
    /// removes `scratch`.
    pub(crate) fn start(server: &Command, signal: &str, log: &Path, scratch: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(
            "log=$1 scratch=$2 signal=$3; shift 3\n\
             setsid \"$@\" </dev/null >\"$log\" 2>&1 &\n\
             server=$!\n\
             word=$(cat)\n\
             kill -s \"$signal\" -- \"-$server\" 2>/dev/null\n\
             ( sleep 10; kill -s KILL -- \"-$server\" ) >/dev/null 2>&1 & killer=$!\n\
             wait \"$server\" 2>/dev/null; kill \"$killer\" 2>/dev/null\n\
             # Erlang leaves its port mapper behind.\n\
             [ -z \"$ERL_EPMD_PORT\" ] || epmd -kill >/dev/null 2>&1\n\
             [ \"$word\" = keep ] || rm -rf \"$scratch\"\n",
        );
        shell
            .arg("sh")
            .arg(log)
            .arg(scratch)
            .arg(signal)
            .arg(server.get_program())
            .args(server.get_args());
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
            .spawn()
            .expect("sh");
        Self { shell }
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
