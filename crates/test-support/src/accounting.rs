//! Slurm's accounting beside a private Slurm: MariaDB on a unix socket, and slurmdbd.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::server::{Folder, Supervised, give};
use crate::slurm::START_DEADLINE;
use crate::wait::try_wait_until;

/// What is needed beside Slurm itself, and which of Debian's packages have it.
pub(crate) const PROGRAMS: [(&str, &str); 3] = [
    ("/usr/sbin/slurmdbd", "slurmdbd"),
    ("/usr/sbin/mariadbd", "mariadb-server"),
    ("/usr/bin/mariadb-install-db", "mariadb-server"),
];

/// slurmdbd and its database.
pub(crate) struct Accounting {
    /// Before its database.
    _slurmdbd: Supervised,
    _mariadb: Supervised,
}

impl Accounting {
    /// Starts both for the Slurm in `folder`, whose munged runs and whose slurm.conf is written. Its slurmctld comes after.
    pub(crate) async fn start(folder: &Folder, port: u16) -> anyhow::Result<Self> {
        let dir = folder.path();
        let mariadb = start_mariadb(folder).await?;
        let conf = dir.join("slurmdbd.conf");
        fs::write(&conf, configuration(dir, port))?;
        // slurmdbd insists.
        fs::set_permissions(&conf, fs::Permissions::from_mode(0o600))?;
        let mut command = Command::new("/usr/sbin/slurmdbd");
        command
            .arg("-D")
            .env("SLURM_CONF", dir.join("slurm.conf"))
            // Of MariaDB's client library.
            .env("MYSQL_UNIX_PORT", dir.join("mariadb/socket"))
            .current_dir("/");
        let log = dir.join("log/slurmdbd");
        let slurmdbd = Supervised::start(&command, "TERM", &log, None)?;
        let answers = || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|error| error.to_string())
        };
        try_wait_until("slurmdbd answers", START_DEADLINE, answers)
            .await
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self {
            _slurmdbd: slurmdbd,
            _mariadb: mariadb,
        })
    }
}

/// What slurm.conf says of it.
pub(crate) fn slurm_conf(dir: &Path, port: u16) -> String {
    // The password is munged's socket (slurm.conf(5)).
    let socket = dir.join("munge/socket");
    let socket = socket.display();
    format!(
        "AccountingStorageType=accounting_storage/slurmdbd\n\
         AccountingStorageHost=127.0.0.1\n\
         AccountingStoragePort={port}\n\
         AccountingStoragePass={socket}\n\
         AccountingStorageTRES=gres/gpu\n\
         AccountingStorageEnforce=limits\n\
         JobAcctGatherType=jobacct_gather/linux\n\
         JobAcctGatherFrequency=task=1\n"
    )
}

fn configuration(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    let mut text = String::new();
    let _ = write!(
        text,
        "DbdHost=localhost\n\
         DbdAddr=127.0.0.1\n\
         DbdPort={port}\n\
         SlurmUser=root\n\
         AuthType=auth/munge\n\
         AuthInfo=socket={dir}/munge/socket\n\
         AuthAltTypes=auth/jwt\n\
         AuthAltParameters=jwt_key={dir}/state/jwt_hs256.key\n\
         CommunicationParameters=NoInAddrAny\n\
         PidFile={dir}/slurmdbd.pid\n\
         StorageType=accounting_storage/mysql\n\
         StorageHost=localhost\n\
         StorageUser=root\n\
         StorageLoc=slurm\n"
    );
    text
}

async fn start_mariadb(folder: &Folder) -> anyhow::Result<Supervised> {
    let dir = folder.path().join("mariadb");
    fs::create_dir(&dir)?;
    // Whoever reaches its socket is its root.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    give(&dir)?;
    let data = format!("--datadir={}", dir.join("data").display());
    let small = "--innodb-log-file-size=16M";
    // One that starts removes what others have in theirs.
    let scratch = format!("--tmpdir={}", dir.display());
    let mut install = folder.command(Path::new("/usr/bin/mariadb-install-db"));
    install.args(["--no-defaults", &data, small, &scratch, "--skip-test-db"]);
    install.args([
        "--skip-name-resolve",
        "--auth-root-authentication-method=normal",
    ]);
    let made = tokio::process::Command::from(install).output().await?;
    if !made.status.success() {
        bail!(
            "mariadb-install-db: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
    }
    let socket = dir.join("socket");
    // slurmdbd would make it, but MariaDB's client library of Debian 13 (11.8.9) is of no use once a connection has failed
    // for want of a database.
    let first = dir.join("first.sql");
    fs::write(&first, "CREATE DATABASE IF NOT EXISTS slurm;\n")?;
    let mut command = folder.command(Path::new("/usr/sbin/mariadbd"));
    command
        .args(["--no-defaults", &data, small, &scratch, "--skip-networking"])
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--init-file={}", first.display()))
        // What slurmdbd asks for (slurmdbd.conf(5)); nothing here outlives a power cut.
        .args([
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        ])
        // By which the sweeper knows it.
        .env("SLURM_CONF", folder.path().join("slurm.conf"));
    let log = folder.path().join("log/mariadb");
    let started = Supervised::start(&command, "TERM", &log, None)?;
    try_wait_until("MariaDB is up", START_DEADLINE, || async {
        socket.exists()
    })
    .await
    .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(started)
}
