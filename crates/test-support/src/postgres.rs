//! A private PostgreSQL per test process, a fresh migrated database per test.

use std::sync::Mutex;
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::server::{RunAs, Supervised, command, find_program, folder, free_port};
use crate::wait::wait_until;

/// The server of this process: its URL without a database name.
static SERVER: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
/// Statics are never dropped; the shell beside the server ends it when this process ends.
static KEEP: Mutex<Vec<(Supervised, TempDir)>> = Mutex::new(Vec::new());
/// `CREATE DATABASE … TEMPLATE` wants nobody else in the template.
static CREATE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const TEMPLATE: &str = "gha_slurm_template";

/// A database of one test's own, migrated.
pub struct TestDatabase {
    url: String,
}

impl TestDatabase {
    /// Makes one.
    pub async fn create() -> Self {
        let server = SERVER.get_or_init(start).await;
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let template = template(server);
        {
            let _one_at_a_time = CREATE.lock().await;
            execute(
                &format!("{server}/postgres"),
                &format!("CREATE DATABASE {name} TEMPLATE {template}"),
            )
            .await;
        }
        Self {
            url: format!("{server}/{name}"),
        }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A pool on it.
    pub fn pool(&self) -> gha_slurm_storage::Database {
        gha_slurm_storage::Database::new(&SecretString::from(self.url.clone()), "test", 8)
            .expect("a pool")
    }
}

/// On a private server the template is made once; a shared one may hold an older program's, so it gets one per process.
fn template(server: &str) -> String {
    let _ = server;
    format!("{TEMPLATE}_{}", std::process::id())
}

async fn start() -> String {
    let server = match std::env::var_os("DATABASE_URL").and_then(|u| u.into_string().ok()) {
        Some(url) => match url.rsplit_once('/') {
            Some((server, _)) if server.contains('@') || server.matches('/').count() >= 2 => {
                server.to_owned()
            }
            _ => url,
        },
        None => start_private().await,
    };
    let template = template(&server);
    execute(
        &format!("{server}/postgres"),
        &format!("DROP DATABASE IF EXISTS {template}"),
    )
    .await;
    execute(
        &format!("{server}/postgres"),
        &format!("CREATE DATABASE {template}"),
    )
    .await;
    gha_slurm_storage::run_migrations(&format!("{server}/{template}"))
        .await
        .expect("migrations");
    server
}

async fn start_private() -> String {
    let user = RunAs::detect();
    let initdb = find_program("/usr/lib/postgresql", "bin", "initdb")
        .expect("PostgreSQL is missing: run scripts/packages.sh, or apt-get install postgresql");
    let dir = folder("gha-slurm-postgres-", user);
    let data = dir.path().join("data");
    let made = command(&initdb, user)
        .args([
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ])
        .arg(&data)
        .current_dir(dir.path())
        .output()
        .expect("initdb");
    assert!(
        made.status.success(),
        "initdb: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let port = free_port();
    let mut server = command(&initdb.with_file_name("postgres"), user);
    server.arg("-D").arg(&data).args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", dir.path().display()),
        "max_connections=200".to_owned(),
        // A test's database need not survive a power cut.
        "fsync=off".to_owned(),
    ] {
        server.arg("-c").arg(setting);
    }
    let log = dir.path().join("log");
    let supervised = Supervised::start(&server, "INT", &log, dir.path());
    let url = format!("postgres://postgres@127.0.0.1:{port}");
    let probe = format!("{url}/postgres");
    wait_until(
        "PostgreSQL accepts connections",
        Duration::from_secs(30),
        || async { tokio_postgres::connect(&probe, NoTls).await.ok().map(drop) },
    )
    .await;
    KEEP.lock().unwrap().push((supervised, dir));
    url
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("a connection to PostgreSQL");
    let driver = tokio::spawn(connection);
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    drop(client);
    let _ = driver.await;
}
