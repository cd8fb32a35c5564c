//! A private PostgreSQL, a fresh migrated database per test.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gha_slurm_storage::{Database, Role};
use secrecy::SecretString;
use tokio_postgres::NoTls;

use crate::certificates::TestCertificate;
use crate::server::{Folder, Supervised, find_program, free_port, kill9};

/// How long a server may take to accept connections; it takes 0.2 s, recovery after a crash longer.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A PostgreSQL of one's own. Ends when dropped, and when this process ends.
pub struct PrivatePostgres {
    folder: Folder,
    port: u16,
    initdb: PathBuf,
    durable: bool,
    tls: Option<TestCertificate>,
    server: Mutex<Option<Supervised>>,
}

impl PrivatePostgres {
    /// Starts one on a free port, with a temporary folder that survives [`PrivatePostgres::kill9`], not a power cut.
    pub async fn start() -> Self {
        let folder = Folder::temporary("gha-slurm-postgres-").expect("a temporary folder");
        match Self::open(folder, free_port(), false).await {
            Ok(server) => server,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one that also speaks TLS, with this certificate.
    pub async fn start_with_tls(certificate: TestCertificate) -> Self {
        let folder = Folder::temporary("gha-slurm-postgres-").expect("a temporary folder");
        match Self::open_with(folder, free_port(), false, Some(certificate)).await {
            Ok(server) => server,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one on `port` with the data in `folder`, made if there are none. `durable`: survives a power cut too.
    pub async fn open(folder: Folder, port: u16, durable: bool) -> anyhow::Result<Self> {
        Self::open_with(folder, port, durable, None).await
    }

    async fn open_with(
        folder: Folder,
        port: u16,
        durable: bool,
        tls: Option<TestCertificate>,
    ) -> anyhow::Result<Self> {
        let initdb = find_program("/usr/lib/postgresql", "bin", "initdb").context(
            "PostgreSQL is missing: run scripts/packages.sh, or apt-get install postgresql",
        )?;
        let data = folder.path().join("data");
        if !data.join("PG_VERSION").is_file() {
            let mut initdb = folder.command(&initdb);
            initdb
                .args(["--auth=trust", "--username=postgres", "--no-sync"])
                .args(["--encoding=UTF8", "--locale=C", "-D"])
                .arg(&data);
            let made = tokio::process::Command::from(initdb).output().await?;
            if !made.status.success() {
                bail!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim());
            }
        }
        let server = Self {
            folder,
            port,
            initdb,
            durable,
            tls,
            server: Mutex::new(None),
        };
        server.boot().await?;
        Ok(server)
    }

    /// `postgres://…` of a database of it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database unless it is there, and answers its URL.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        let url = self.url(name);
        if connects(&url).await.is_err() {
            execute(&self.url("postgres"), &format!("CREATE DATABASE {name}")).await?;
        }
        Ok(url)
    }

    /// Ends it as a crash would, keeping its data.
    pub async fn kill9(&self) {
        kill9(&self.folder.path().join("data/postmaster.pid"), self.port).await;
    }

    /// Starts it again after [`PrivatePostgres::kill9`].
    pub async fn restart(&self) {
        self.boot().await.expect("PostgreSQL starts again");
    }

    async fn boot(&self) -> anyhow::Result<()> {
        let log = self.folder.path().join("log");
        let start = Instant::now();
        loop {
            self.end_shell();
            let scratch = self.folder.scratch();
            let supervised = Supervised::start(&self.command(), "INT", &log, scratch)?;
            if let Ok(mut server) = self.server.lock() {
                *server = Some(supervised);
            }
            // After a crash the first start may meet backends of the killed server and give up: start again.
            let again = Instant::now() + Duration::from_secs(3);
            loop {
                match connects(&self.url("postgres")).await {
                    Ok(()) => return Ok(()),
                    Err(error) if start.elapsed() > START_DEADLINE => {
                        let log = std::fs::read_to_string(&log).unwrap_or_default();
                        bail!("PostgreSQL does not accept connections: {error}\n{log}");
                    }
                    Err(_) if Instant::now() > again && !self.is_starting() => break,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    }

    fn end_shell(&self) {
        if let Some(old) = self.server.lock().ok().and_then(|mut s| s.take()) {
            old.stop_keeping_data();
        }
    }

    fn is_starting(&self) -> bool {
        let pid_file = self.folder.path().join("data/postmaster.pid");
        std::fs::read_to_string(pid_file)
            .ok()
            .and_then(|text| text.lines().next().map(str::to_owned))
            .is_some_and(|pid| Path::new("/proc").join(pid).exists())
    }

    fn command(&self) -> std::process::Command {
        let dir = self.folder.path();
        let mut server = self.folder.command(&self.initdb.with_file_name("postgres"));
        server.arg("-D").arg(dir.join("data"));
        server.args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", dir.display()),
            "max_connections=300".to_owned(),
            format!("fsync={}", if self.durable { "on" } else { "off" }),
        ] {
            server.arg("-c").arg(setting);
        }
        if let Some(TestCertificate { certificate, key }) = &self.tls {
            let (certificate, key) = (certificate.display(), key.display());
            server.args(["-c", "ssl=on"]);
            server.arg("-c").arg(format!("ssl_cert_file={certificate}"));
            server.arg("-c").arg(format!("ssl_key_file={key}"));
        }
        server
    }
}

/// The server of this test process: its URL without a database name, and the template.
static SERVER: tokio::sync::OnceCell<Server> = tokio::sync::OnceCell::const_new();
/// Statics are never dropped; the shell beside the server ends it when this process ends.
static KEEP: Mutex<Option<PrivatePostgres>> = Mutex::new(None);
/// `CREATE DATABASE … TEMPLATE` wants nobody else in the template.
static CREATE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Server {
    /// `postgres://user@host:port`.
    url: String,
    template: String,
    /// Somebody else's: what we make we remove.
    shared: bool,
}

/// A database of one test's own, migrated.
pub struct TestDatabase {
    url: String,
    /// Where to say that it can go.
    cleaner: Option<(String, String)>,
}

impl TestDatabase {
    /// Makes one, on the server of `DATABASE_URL` or on a private one of this process.
    pub async fn create() -> Self {
        let server = SERVER.get_or_init(start).await;
        Self::create_from(server, &server.template).await
    }

    /// As [`TestDatabase::create`], but empty: no migration has run.
    pub async fn create_empty() -> Self {
        let server = SERVER.get_or_init(start).await;
        Self::create_from(server, "template0").await
    }

    async fn create_from(server: &Server, template: &str) -> Self {
        // The process id says whose it is: a later run removes what a killed one left.
        let name = format!(
            "{PREFIX}{}_{}",
            std::process::id(),
            uuid::Uuid::new_v4().simple()
        );
        let maintenance = format!("{}/postgres", server.url);
        {
            let _one_at_a_time = CREATE.lock().await;
            let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
            execute(&maintenance, &create).await.expect("a database");
        }
        Self {
            url: format!("{}/{name}", server.url),
            cleaner: server.shared.then_some((maintenance, name)),
        }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs SQL statements, all or none of them.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        execute(&self.url, sql).await
    }

    /// Its schema as pg_dump writes it: SQL, without comments and rights.
    pub async fn schema(&self) -> String {
        let pg_dump = find_program("/usr/lib/postgresql", "bin", "pg_dump");
        let dumped = tokio::process::Command::new(pg_dump.expect("pg_dump is installed"))
            .args([
                "--schema-only",
                "--no-owner",
                "--no-privileges",
                "--dbname",
                &self.url,
            ])
            .output()
            .await
            .expect("pg_dump runs");
        let complaint = String::from_utf8_lossy(&dumped.stderr);
        assert!(dumped.status.success(), "pg_dump: {complaint}");
        let dump = String::from_utf8_lossy(&dumped.stdout);
        // `\restrict` carries a key that differs each time.
        let skip =
            |line: &&str| line.is_empty() || line.starts_with("--") || line.starts_with('\\');
        let lines: Vec<&str> = dump.lines().filter(|line| !skip(line)).collect();
        lines.join("\n")
    }

    /// Its URL for a service's role.
    pub fn url_of(&self, role: Role) -> String {
        url_of_role(&self.url, role)
    }

    /// A pool on it, of its owner.
    pub fn pool(&self) -> Database {
        Database::new(&SecretString::from(self.url.clone()), None, "test", 8).expect("a pool")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some((maintenance, name)) = self.cleaner.take() else {
            return;
        };
        // The test's runtime is about to end: this takes one of its own.
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            runtime.block_on(execute(&maintenance, &drop))
        };
        // What stays is removed by the next run.
        let _ = std::thread::spawn(clean).join();
    }
}

const PREFIX: &str = "gha_slurm_test_";

/// With which the roles of services log in.
const ROLE_PASSWORD: &str = "login-of-tests-pw";
/// Roles belong to the whole server, and others may be setting the same password ("tuple concurrently updated").
const ATTEMPTS: usize = 20;

/// Migrates a database as its owner, and lets the roles of the services log in.
pub async fn migrate(url: &str) -> anyhow::Result<()> {
    let database = Database::new(&SecretString::from(url), None, "test", 1)?;
    let mut attempts = 1;
    loop {
        let password = |role| (role, SecretString::from(ROLE_PASSWORD));
        match database.migrate(Role::ALL.map(password).to_vec()).await {
            Err(error) if attempts < ATTEMPTS && error.to_string().contains("concurrently") => {
                attempts += 1;
            }
            done => return Ok(done.map(|_| ())?),
        }
    }
}

/// The URL of a database, of which `url` is the owner's, for a service's role.
pub(crate) fn url_of_role(url: &str, role: Role) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.find('/').unwrap_or(rest.len());
    let at = rest
        .get(..authority)
        .and_then(|authority| authority.rfind('@'));
    let server = at.and_then(|at| rest.get(at + 1..)).unwrap_or(rest);
    format!("postgres://{}:{ROLE_PASSWORD}@{server}", role.name())
}

async fn start() -> Server {
    let given = std::env::var_os("DATABASE_URL").and_then(|url| url.into_string().ok());
    let shared = given.is_some();
    let url = if let Some(url) = given {
        without_database(&url).to_owned()
    } else {
        let server = PrivatePostgres::start().await;
        let url = without_database(&server.url("")).to_owned();
        *KEEP.lock().expect("no test panics here") = Some(server);
        url
    };
    let maintenance = format!("{url}/postgres");
    if shared {
        sweep(&maintenance).await.expect("leftovers are removed");
    }
    let template = format!("{PREFIX}{}_template", std::process::id());
    for sql in [
        format!("DROP DATABASE IF EXISTS {template}"),
        format!("CREATE DATABASE {template}"),
    ] {
        execute(&maintenance, &sql).await.expect("a template");
    }
    migrate(&format!("{url}/{template}"))
        .await
        .expect("migrations");
    Server {
        url,
        template,
        shared,
    }
}

/// `postgres://user@host:port` of `postgres://user@host:port/database`.
fn without_database(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = url.get(host..).and_then(|rest| rest.find('/'));
    path.and_then(|at| url.get(..host + at)).unwrap_or(url)
}

/// Removes the databases of test processes that are gone.
async fn sweep(maintenance: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(maintenance, NoTls).await?;
    let driver = tokio::spawn(connection);
    let like = format!("{}%", PREFIX.replace('_', "\\_"));
    let rows = client
        .query(
            "SELECT datname FROM pg_database WHERE datname LIKE $1",
            &[&like],
        )
        .await?;
    for row in rows {
        let name: String = row.get(0);
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('_').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            // Another test process may be sweeping too.
            let _ = client.batch_execute(&drop).await;
        }
    }
    drop(client);
    driver.await??;
    Ok(())
}

async fn connects(url: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    drop(client);
    Ok(connection.await?)
}

async fn execute(url: &str, sql: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("PostgreSQL")?;
    let driver = tokio::spawn(connection);
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())?;
    drop(client);
    driver.await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_url_gets_another_user() {
        for url in [
            "postgres://me:secret@db:5432/mine",
            "postgres://me@db:5432/mine",
            "postgres://db:5432/mine",
        ] {
            assert_eq!(
                super::url_of_role(url, gha_slurm_storage::Role::Launcher),
                "postgres://gha_slurm_launcher:login-of-tests-pw@db:5432/mine"
            );
        }
    }

    #[test]
    fn a_url_loses_its_database() {
        for url in [
            "postgres://me:secret@db.example.org:5432",
            "postgres://me:secret@db.example.org:5432/",
            "postgres://me:secret@db.example.org:5432/mine",
        ] {
            assert_eq!(
                super::without_database(url),
                "postgres://me:secret@db.example.org:5432"
            );
        }
    }
}
