//! A private Slurm: munged, slurmctld, slurmd for each of some virtual nodes, and slurmrestd, all on loopback; with slurmdbd
//! and its database where accounting is wanted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::accounting::{self, Accounting};
use crate::process::{kill_all, others, variable};
use crate::server::{Folder, Supervised, free_port, give, we_are_root};
use crate::skip::skipped_without_root;
use crate::wait::try_wait_until;

pub(crate) const START_DEADLINE: Duration = Duration::from_secs(30);
/// What is needed of Debian's packages, and which packages have it.
const PROGRAMS: [(&str, &str); 5] = [
    ("/usr/sbin/munged", "munge"),
    ("/usr/sbin/slurmctld", "slurmctld"),
    ("/usr/sbin/slurmd", "slurmd"),
    ("/usr/sbin/slurmrestd", "slurmrestd"),
    ("/usr/bin/sbatch", "slurm-client"),
];
/// Users that every Debian has, for Slurm jobs of tests and demos: no account need be made. Their homes are not theirs to
/// write, and need not exist.
pub const SLURM_USERS: [&str; 2] = ["games", "news"];
/// The account that they have where there is accounting.
pub const SLURM_ACCOUNT: &str = "builds";

/// A Slurm cluster of its own. Ends when dropped, and when this process ends; so do its Slurm jobs.
pub struct PrivateSlurm {
    /// First, so that nothing is left that waits for the others.
    _sweeper: Sweeper,
    folder: Folder,
    rest_port: u16,
    controller: Mutex<Option<Supervised>>,
    rest: Mutex<Option<Supervised>>,
    /// slurmd of each, the first node's first. After the controller, and munged last.
    nodes: Mutex<Vec<Supervised>>,
    login: Mutex<Option<Supervised>>,
    accounting: Option<Accounting>,
    /// The program, and its first words, that every other one but munged is started by.
    starter: Vec<String>,
    /// What has run in the mount namespace of each slurmd.
    mounts: String,
    _munged: Supervised,
}

/// Where credentials of the login node come from; those of compute nodes come from 127.0.0.1.
pub const LOGIN_NODE: &str = "127.0.0.2";

/// How one is started.
#[derive(Default)]
struct Start<'a> {
    /// With slurmdbd and MariaDB.
    accounting: bool,
    /// Further lines in slurm.conf.
    more: &'a str,
    /// What starts every program.
    starter: &'a [String],
    /// Has run (bash) in the mount namespace of each slurmd; it has none of its own if this is empty.
    mounts: &'a str,
    /// Where its folder is, if not with other temporary ones.
    parent: Option<&'a Path>,
}

impl PrivateSlurm {
    /// Whether one can be started here.
    pub fn check() -> Result<(), SlurmMissing> {
        check(&PROGRAMS)
    }

    /// Starts one with `nodes` virtual nodes of 8 CPUs and two GPUs that are there in name only, n1 and so on, in the partitions
    /// `main` (default) and `other`.
    pub async fn start(nodes: u16) -> anyhow::Result<Self> {
        Self::boot(nodes, Start::default()).await
    }

    /// As [`PrivateSlurm::start`], with further lines in slurm.conf.
    pub async fn start_with(nodes: u16, more: &str) -> anyhow::Result<Self> {
        let start = Start {
            more,
            ..Start::default()
        };
        Self::boot(nodes, start).await
    }

    /// As [`PrivateSlurm::start`], with slurmdbd and a private MariaDB: `sacct` and slurmrestd's `/slurmdb` answer,
    /// and [`SLURM_USERS`] have [`SLURM_ACCOUNT`]. Takes some seconds.
    pub async fn start_with_accounting(nodes: u16) -> anyhow::Result<Self> {
        let start = Start {
            accounting: true,
            ..Start::default()
        };
        Self::boot(nodes, start).await
    }

    async fn boot(nodes: u16, start: Start<'_>) -> anyhow::Result<Self> {
        let Start {
            accounting,
            more,
            starter,
            mounts,
            parent,
        } = start;
        let programs: &[(&str, &str)] = if accounting {
            &accounting::PROGRAMS
        } else {
            &[]
        };
        if let Err(missing) = check(&[&PROGRAMS, programs].concat()) {
            bail!("no private Slurm: {missing}");
        }
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = Folder::temporary_in(&parent, "gha-slurm-slurm-")?;
        let dir = folder.path().to_owned();
        open_to_all(&dir)?;
        for name in ["munge", "state", "spool", "log"] {
            fs::create_dir(dir.join(name))?;
            open_to_all(&dir.join(name))?;
        }
        let munged = start_munged(&folder, "", "127.0.0.1")?;
        let rest_port = free_port();
        fs::write(dir.join("state/jwt_hs256.key"), random(32)?)?;
        fs::set_permissions(
            dir.join("state/jwt_hs256.key"),
            fs::Permissions::from_mode(0o600),
        )?;
        let accounting_port = accounting.then(free_port);
        let mut configuration = configuration(&dir, nodes, accounting_port) + more;
        if more.contains("job_container/tmpfs") {
            let base = dir.join("tmp");
            let text = format!("AutoBasePath=true\nBasePath={}\n", base.display());
            fs::write(dir.join("job_container.conf"), text)?;
            // Without one, slurmstepd 24.11 may end before it has made the namespace.
            let log = dir.join("log/slurmstepd.%n");
            let _ = writeln!(configuration, "SlurmdLogFile={}", log.display());
        }
        fs::write(dir.join("slurm.conf"), configuration)?;
        open_to_all(&dir.join("slurm.conf"))?;
        if more.contains("cgroup") {
            // Version 1, wherever it is there: without systemd, 22.05 cannot use version 2.
            let text = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n";
            fs::write(dir.join("cgroup.conf"), text)?;
        }
        let mut text = String::new();
        // Only for devices Slurm sets `CUDA_VISIBLE_DEVICES`.
        for (gpu, device) in gpus(&dir).into_iter().zip(["/dev/null", "/dev/zero"]) {
            std::os::unix::fs::symlink(device, &gpu)?;
            let _ = writeln!(text, "Name=gpu File={}", gpu.display());
        }
        fs::write(dir.join("gres.conf"), text)?;
        open_to_all(&dir.join("gres.conf"))?;
        let socket = dir.join("munge/socket");
        try_wait_until("munged is up", START_DEADLINE, || async { socket.exists() }).await?;
        let mut slurm = Self {
            _sweeper: Sweeper::start(&dir)?,
            rest_port,
            controller: Mutex::new(None),
            rest: Mutex::new(None),
            nodes: Mutex::new(Vec::new()),
            login: Mutex::new(None),
            accounting: None,
            starter: starter.to_owned(),
            mounts: mounts.to_owned(),
            _munged: munged,
            folder,
        };
        if let Some(port) = accounting_port {
            slurm.accounting = Some(Accounting::start(&slurm.folder, port).await?);
            slurm.register().await?;
        }
        slurm.start_controller().await?;
        for node in 1..=nodes {
            let started = slurm.start_slurmd(node, &[])?;
            if let Ok(mut nodes) = slurm.nodes.lock() {
                nodes.push(started);
            }
        }
        slurm.start_rest()?;
        let idle = || async {
            let seen = slurm
                .run("sinfo", &["-h", "-N", "-p", "main", "-o", "%t"])
                .await;
            let up = seen.as_ref().is_ok_and(|text| {
                text.lines().filter(|state| *state == "idle").count() == usize::from(nodes)
            });
            if up { Ok(()) } else { Err(seen) }
        };
        try_wait_until("every node is idle", START_DEADLINE, idle)
            .await
            .with_context(|| fs::read_to_string(slurm.path("log/slurmctld")).unwrap_or_default())?;
        Ok(slurm)
    }

    /// As [`PrivateSlurm::start`]. `None` where we are not root: Slurm starts Slurm jobs as their users. Panics where one
    /// could be started, but cannot.
    pub async fn for_test(nodes: u16) -> Option<Self> {
        Self::unless_skipped(Self::start(nodes)).await
    }

    /// As [`PrivateSlurm::for_test`], with [accounting](PrivateSlurm::start_with_accounting).
    pub async fn for_test_with_accounting(nodes: u16) -> Option<Self> {
        Self::unless_skipped(Self::start_with_accounting(nodes)).await
    }

    /// As [`PrivateSlurm::for_test`], with further lines in slurm.conf.
    pub async fn for_test_with(nodes: u16, more: &str) -> Option<Self> {
        Self::unless_skipped(Self::start_with(nodes, more)).await
    }

    /// As [`PrivateSlurm::for_test_with`], with every daemon and every client program started by another program, such as
    /// `nsenter --net=…`.
    pub async fn for_test_within(nodes: u16, more: &str, starter: &[String]) -> Option<Self> {
        let start = Start {
            more,
            starter,
            ..Start::default()
        };
        Self::unless_skipped(Self::boot(nodes, start)).await
    }

    /// As [`PrivateSlurm::for_test_with`], each slurmd in a mount namespace of its own, in which `mounts` (bash) has run.
    pub async fn for_test_with_mounts(nodes: u16, more: &str, mounts: &str) -> Option<Self> {
        let start = Start {
            more,
            mounts,
            ..Start::default()
        };
        Self::unless_skipped(Self::boot(nodes, start)).await
    }

    /// As [`PrivateSlurm::for_test_with`], with its folder below `parent`.
    pub async fn for_test_in(nodes: u16, more: &str, parent: &Path) -> Option<Self> {
        let start = Start {
            more,
            parent: Some(parent),
            ..Start::default()
        };
        Self::unless_skipped(Self::boot(nodes, start)).await
    }

    async fn unless_skipped(start: impl Future<Output = anyhow::Result<Self>>) -> Option<Self> {
        if skipped_without_root("Slurm starts Slurm jobs as their users") {
            return None;
        }
        match start.await {
            Ok(slurm) => Some(slurm),
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Tells slurmdbd of the cluster, the account and the users.
    async fn register(&self) -> anyhow::Result<()> {
        let users = format!("name={}", SLURM_USERS.join(","));
        let account = format!("name={SLURM_ACCOUNT}");
        let of_account = format!("account={SLURM_ACCOUNT}");
        for words in [
            vec!["cluster", "name=private"],
            vec!["account", &account, "cluster=private"],
            vec!["user", &users, &of_account, "cluster=private"],
        ] {
            let words = [vec!["-i", "add"], words].concat();
            self.run("sacctmgr", &words).await?;
        }
        Ok(())
    }

    /// For `SLURM_CONF`.
    pub fn conf(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    /// What slurmrestd's tokens are signed with.
    pub fn jwt_key(&self) -> PathBuf {
        self.path("state/jwt_hs256.key")
    }

    /// `http://127.0.0.1:<port>` of slurmrestd.
    pub fn rest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest_port)
    }

    /// slurmrestd's unix socket.
    pub fn rest_socket(&self) -> PathBuf {
        // slurmrestd may write there.
        self.path("munge/slurmrestd")
    }

    /// The socket of the compute nodes' munged.
    pub fn munge_socket(&self) -> PathBuf {
        self.path("munge/socket")
    }

    /// Starts the munged of a login node, [`LOGIN_NODE`]; its socket.
    pub async fn start_login_munged(&self) -> anyhow::Result<PathBuf> {
        let started = start_munged(&self.folder, "login-", LOGIN_NODE)?;
        if let Ok(mut login) = self.login.lock() {
            *login = Some(started);
        }
        let socket = self.path("munge/login-socket");
        try_wait_until("munged is up", START_DEADLINE, || async { socket.exists() }).await?;
        Ok(socket)
    }

    /// Starts slurmctld, for the first time or again.
    pub async fn start_controller(&self) -> anyhow::Result<()> {
        let mut command = self.command("/usr/sbin/slurmctld");
        command.args(["-D", "-f"]).arg(self.conf());
        let log = self.path("log/slurmctld");
        let started = Supervised::start(&command, "TERM", &log, None)?;
        if let Ok(mut controller) = self.controller.lock() {
            *controller = Some(started);
        }
        try_wait_until("slurmctld answers", START_DEADLINE, || async {
            self.run("scontrol", &["ping"])
                .await
                .map_err(|e| e.to_string())
        })
        .await
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(())
    }

    /// Stops slurmctld; Slurm jobs go on, and its state is kept.
    pub fn stop_controller(&self) {
        if let Some(controller) = self.controller.lock().ok().and_then(|mut c| c.take()) {
            controller.stop_keeping_data();
        }
    }

    /// slurmctld loses its state and starts anew: it knows no Slurm job, and gives numbers from the first one on again
    /// (`slurmctld -c` would go on with them). Slurm jobs on nodes are ended.
    pub async fn lose_state(&self) -> anyhow::Result<()> {
        self.stop_controller();
        for entry in fs::read_dir(self.path("state"))? {
            let path = entry?.path();
            let is_ours = path == self.jwt_key() || gpus(self.folder.path()).contains(&path);
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else if !is_ours {
                fs::remove_file(path)?;
            }
        }
        self.start_controller().await
    }

    /// The power of a node fails (1 is the first): every process on it is gone at once, and nobody tells slurmctld. Returns the numbers
    /// of the Slurm jobs that ran there.
    pub fn cut_power(&self, node: u16) -> BTreeSet<String> {
        let marks = [
            ("SLURMD_NODENAME", format!("n{node}")),
            ("SLURM_CONF", self.conf().display().to_string()),
        ];
        let mut slurm_jobs = BTreeSet::new();
        loop {
            let left = others(|process| {
                let mut marks = marks.iter();
                marks.all(|(name, value)| variable(process, name).as_ref() == Some(value))
            });
            if left.is_empty() {
                return slurm_jobs;
            }
            let folders = left.iter().map(|id| PathBuf::from(format!("/proc/{id}")));
            slurm_jobs.extend(folders.filter_map(|folder| variable(&folder, "SLURM_JOB_ID")));
            kill_all(&left);
        }
    }

    /// A node whose [power was cut](PrivateSlurm::cut_power) boots. Slurm takes it back when its slurmd registers.
    pub fn boot_node(&self, node: u16) -> anyhow::Result<()> {
        // The machine has not booted: slurmd must say so (slurmd(8), `-b`), or slurmctld waits for what ran there.
        let started = self.start_slurmd(node, &["-b"])?;
        if let Ok(mut nodes) = self.nodes.lock() {
            nodes[usize::from(node) - 1] = started;
        }
        Ok(())
    }

    fn start_slurmd(&self, node: u16, words: &[&str]) -> io::Result<Supervised> {
        let mut command = if self.mounts.is_empty() {
            self.command("/usr/sbin/slurmd")
        } else {
            let mut command = self.command("unshare");
            command.args(["--mount", "--propagation", "private", "bash", "-euc"]);
            command.args([
                &format!("{}\nexec \"$@\"", self.mounts),
                "bash",
                "/usr/sbin/slurmd",
            ]);
            command
        };
        command.args(["-D", "-N", &format!("n{node}"), "-f"]);
        command.arg(self.conf()).args(words);
        // Slurm jobs have it too, and slurmstepd inherits it: a node's processes are told from those of the others.
        command.env("SLURMD_NODENAME", format!("n{node}"));
        let log = self.path(&format!("log/slurmd.n{node}"));
        Supervised::start(&command, "TERM", &log, None)
    }

    /// Starts slurmrestd, for the first time or again.
    pub fn start_rest(&self) -> anyhow::Result<()> {
        let _ = fs::remove_file(self.rest_socket());
        // It refuses to be root, and to be SlurmUser.
        let mut command = self.folder.command(Path::new("/usr/sbin/slurmrestd"));
        // Without slurmdbd those of accounting are fatal: `dbv0.0.38`, later `slurmdbd`.
        let accounts = self.accounting.is_some();
        let wanted = |name: &String| accounts || !name.contains("db");
        let plugins = plugins("openapi_").into_iter().filter(wanted);
        let plugins: Vec<String> = plugins.map(|name| format!("openapi/{name}")).collect();
        command
            .args(["-a", "rest_auth/jwt", "-s", &plugins.join(",")])
            .arg(format!("127.0.0.1:{}", self.rest_port))
            .arg(format!("unix:{}", self.rest_socket().display()))
            .env("SLURM_JWT", "daemon")
            .env("SLURM_CONF", self.conf());
        let command = self.within(command);
        let started = Supervised::start(&command, "TERM", &self.path("log/slurmrestd"), None)?;
        if let Ok(mut rest) = self.rest.lock() {
            *rest = Some(started);
        }
        Ok(())
    }

    /// Stops slurmrestd.
    pub fn stop_rest(&self) {
        if let Ok(mut rest) = self.rest.lock() {
            *rest = None;
        }
    }

    /// Runs one of Slurm's client programs and gives what it prints.
    pub async fn run(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::from(self.command(program));
        let output = command.args(words).output().await?;
        if !output.status.success() {
            bail!(
                "{program} {words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One of Slurm's client programs, as this user runs it.
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .args(["--clear-groups", "--regid=nogroup", program])
            .env("SLURM_CONF", self.conf())
            .current_dir("/");
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.conf()).current_dir("/");
        self.within(command)
    }

    fn within(&self, command: Command) -> Command {
        let Some((program, words)) = self.starter.split_first() else {
            return command;
        };
        let mut starter = Command::new(program);
        starter.args(words).arg(command.get_program());
        starter.args(command.get_args());
        let variables = command.get_envs();
        starter.envs(variables.filter_map(|(key, value)| Some((key, value?))));
        if let Some(folder) = command.get_current_dir() {
            starter.current_dir(folder);
        }
        starter
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The versions of slurmrestd's API that this machine's Slurm has, oldest first: `v0.0.38`.
pub fn slurm_api_versions() -> Vec<String> {
    // Plugins of their own before Slurm 23.11.
    let names = [plugins("openapi_"), plugins("data_parser_")].concat();
    names
        .into_iter()
        .filter(|name| name.starts_with('v'))
        .collect()
}

/// The plugins of Slurm whose file begins so, without that and as Slurm writes them: `v0.0.38` of `openapi_v0_0_38.so`.
fn plugins(prefix: &str) -> Vec<String> {
    // Debian has a folder for each architecture.
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path().join("slurm-wlm")));
    let mut names: Vec<String> = files
        .flatten()
        .flatten()
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let name = name.strip_prefix(prefix)?.strip_suffix(".so")?;
            Some(name.replace('_', "."))
        })
        .collect();
    names.sort();
    names
}

/// What a private Slurm needs and this machine lacks; the text says what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub enum SlurmMissing {
    /// Debian packages.
    #[error("apt-get install {}", .0.join(" "))]
    Packages(Vec<&'static str>),
    /// Root.
    #[error("Slurm starts Slurm jobs as their users, which takes root")]
    Root,
}

/// Whether these programs are installed, and the process runs as root.
fn check(programs: &[(&str, &'static str)]) -> Result<(), SlurmMissing> {
    let mut missing: Vec<&'static str> = programs
        .iter()
        .filter(|(program, _)| !Path::new(program).is_file())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        return Err(SlurmMissing::Packages(missing));
    }
    if !we_are_root() {
        return Err(SlurmMissing::Root);
    }
    Ok(())
}

/// A shell that waits on a pipe to us and then kills whatever has our configuration in its environment: daemons, the shells
/// beside them, and Slurm jobs with their slurmstepd, which would go on for minutes. Then it removes the folder.
struct Sweeper(Child);

impl Sweeper {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(
                "cat >/dev/null; tries=0\n\
                 while [ $tries -lt 50 ]; do\n\
                   left=$(grep -laF \"SLURM_CONF=$1/slurm.conf\" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)\n\
                   [ -n \"$left\" ] || break\n\
                   kill -s KILL $left 2>/dev/null\n\
                   sleep 0.1; tries=$((tries + 1))\n\
                 done\n\
                 # munged may write once more at its end.\n\
                 rm -rf \"$1\" 2>/dev/null || { sleep 1; rm -rf \"$1\"; }",
            )
            .arg("sh")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(Self(shell.spawn()?))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts a munged whose files have this prefix, and whose credentials come from the address `origin`. They share a key.
fn start_munged(folder: &Folder, prefix: &str, origin: &str) -> anyhow::Result<Supervised> {
    let dir = folder.path().join("munge");
    let key = dir.join("key");
    if !key.exists() {
        fs::write(&key, random(128)?)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
        give(&key)?;
        give(&dir)?;
    }
    let option = |name: &str, file: String| format!("--{name}={}", dir.join(file).display());
    let mut command = folder.command(Path::new("/usr/sbin/munged"));
    command.args([
        "--foreground".to_owned(),
        format!("--origin={origin}"),
        option("key-file", "key".into()),
        option("socket", format!("{prefix}socket")),
        option("pid-file", format!("{prefix}pid")),
        option("log-file", format!("{prefix}log")),
        option("seed-file", format!("{prefix}seed")),
    ]);
    let log = folder.path().join(format!("log/{prefix}munged"));
    Ok(Supervised::start(&command, "TERM", &log, None)?)
}

fn configuration(dir: &Path, nodes: u16, accounting_port: Option<u16>) -> String {
    let path = dir;
    let dir = dir.display();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().split('.').next().unwrap_or_default();
    // Several clusters have these nodes: the epilog of one must not find Slurm jobs of another by their number.
    let mut text = format!(
        "ClusterName=private\n\
         SlurmctldHost={host}(127.0.0.1)\n\
         SlurmUser=root\n\
         SlurmctldPort={controller}\n\
         FirstJobId={controller}00\n\
         AuthType=auth/munge\n\
         AuthInfo=socket={dir}/munge/socket\n\
         CredType=cred/munge\n\
         AuthAltTypes=auth/jwt\n\
         AuthAltParameters=jwt_key={dir}/state/jwt_hs256.key\n\
         StateSaveLocation={dir}/state\n\
         SlurmdSpoolDir={dir}/spool/%n\n\
         SlurmctldPidFile={dir}/slurmctld.pid\n\
         SlurmdPidFile={dir}/slurmd.%n.pid\n\
         ProctrackType=proctrack/linuxproc\n\
         TaskPlugin=task/none\n\
         JobCompType=jobcomp/none\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_CPU\n\
         SchedulerParameters=defer_batch,sched_min_interval=0,batch_sched_delay=0,bf_interval=5\n\
         SlurmdParameters=config_overrides\n\
         ReturnToService=2\n\
         GresTypes=gpu\n\
         MpiDefault=none\n\
         MailProg=/bin/true\n\
         RebootProgram=/bin/true\n\
         KillWait=5\n\
         MinJobAge=300\n",
        controller = free_port(),
    );
    // The daemons bind to what the host name resolves to.
    let local = std::net::ToSocketAddrs::to_socket_addrs(&(host, 0))
        .is_ok_and(|mut found| found.any(|a| a.is_ipv4() && a.ip().is_loopback()));
    if local {
        text.push_str("CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n");
    }
    if let Some(port) = accounting_port {
        text.push_str(&accounting::slurm_conf(path, port));
    } else {
        text.push_str(
            "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n",
        );
    }
    for node in 1..=nodes {
        let port = free_port();
        let _ = writeln!(
            text,
            "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=20000 Gres=gpu:2 State=UNKNOWN"
        );
    }
    let _ = write!(
        text,
        "PartitionName=main Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP\n\
         PartitionName=other Nodes=n[1-{nodes}] MaxTime=60 State=UP\n"
    );
    text
}

/// What is called GPUs.
fn gpus(dir: &Path) -> [PathBuf; 2] {
    ["gpu0", "gpu1"].map(|name| dir.join("state").join(name))
}

fn random(bytes: usize) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random)
}

fn open_to_all(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())
}

/// The file for what the job script of a Slurm job of this name printed, in the agent's output folder; after a restart, the last one.
pub fn output_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let beginning = format!("{name}.");
    let files = files.map(|file| file.path()).filter(|path| {
        let random = path.file_name().and_then(|file| {
            file.to_str()?
                .strip_prefix(&beginning)?
                .strip_suffix(".log")
        });
        random.is_some_and(|random| !random.contains('.'))
    });
    files.max_by_key(|path| path.metadata().and_then(|file| file.modified()).ok())
}

/// What is in that file.
pub fn output_of(folder: &Path, name: &str) -> String {
    let text = output_file(folder, name).and_then(|path| std::fs::read_to_string(path).ok());
    text.unwrap_or_default()
}
