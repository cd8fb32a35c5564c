//! A private RabbitMQ, a virtual host per test.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::certificates::TestCertificate;
use crate::process::{end_processes_marked, processes_marked};
use crate::server::{Folder, Supervised, free_port, give, kill9};
use crate::wait::try_wait_until;

const BIN: &str = "/usr/lib/rabbitmq/bin";

/// Environment variable that tells test processes of a broker that is there already: [`PrivateRabbitMq::share`]. A URL
/// alone would not do, tests also administrate it.
pub const SHARED_RABBITMQ: &str = "GHA_SLURM_TEST_RABBITMQ";

/// The broker of this test process.
static BROKER: tokio::sync::OnceCell<Arc<PrivateRabbitMq>> = tokio::sync::OnceCell::const_new();

/// Virtual hosts that no test of this process has taken yet.
static SPARE_VHOSTS: tokio::sync::Mutex<Vec<String>> = tokio::sync::Mutex::const_new(Vec::new());

/// Each call of `rabbitmqctl` starts an Erlang of its own, which takes a processor for a second.
const VHOSTS_AT_ONCE: usize = 8;

/// How long the last process of a broker may take to end after it.
const HELPERS_END_WITHIN: Duration = Duration::from_secs(5);

/// A RabbitMQ of its own. Ends when dropped, and when this process ends.
pub struct PrivateRabbitMq {
    folder: Folder,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    tls_port: u16,
    node: String,
    server: Mutex<Option<Supervised>>,
}

impl PrivateRabbitMq {
    /// Starts one on a free port, for tests that stop or kill it.
    pub async fn start() -> Self {
        let folder = Folder::temporary("gha-slurm-rabbitmq-").expect("a temporary folder");
        match Self::open_with(folder, free_port(), None).await {
            Ok(broker) => broker,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one that also speaks TLS, with this certificate.
    pub async fn start_with_tls(certificate: TestCertificate) -> Self {
        let folder = Folder::temporary("gha-slurm-rabbitmq-").expect("a temporary folder");
        match Self::open_with(folder, free_port(), Some(certificate)).await {
            Ok(broker) => broker,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one on `port` with the data in `folder`, and waits until it accepts connections.
    pub async fn open(folder: Folder, port: u16) -> anyhow::Result<Self> {
        Self::open_with(folder, port, None).await
    }

    async fn open_with(
        folder: Folder,
        port: u16,
        tls: Option<TestCertificate>,
    ) -> anyhow::Result<Self> {
        if !Path::new(BIN).join("rabbitmq-server").is_file() {
            bail!(
                "RabbitMQ is missing: run scripts/packages.sh, or apt-get install rabbitmq-server"
            );
        }
        let broker = Self {
            // Kept data belong to a node name; a kept port keeps it.
            node: format!("gha-slurm-{port}@localhost"),
            port,
            dist_port: free_port(),
            epmd_port: free_port(),
            tls_port: free_port(),
            folder,
            server: Mutex::new(None),
        };
        let mut settings =
            format!("listeners.tcp.default = 127.0.0.1:{port}\nlog.console = true\n");
        if let Some(TestCertificate { certificate, key }) = tls {
            let _ = write!(
                settings,
                "listeners.ssl.default = 127.0.0.1:{}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
                broker.tls_port,
                certificate.display(),
                key.display()
            );
        }
        broker.write("rabbitmq.conf", &settings, 0o600)?;
        broker.write("enabled_plugins", "[].\n", 0o600)?;
        broker.write("rabbitmq-env.conf", "", 0o600)?;
        broker.write(
            ".erlang.cookie",
            &uuid::Uuid::new_v4().simple().to_string(),
            0o400,
        )?;
        broker.boot().await?;
        Ok(broker)
    }

    /// Ends it as a crash would, keeping its data.
    pub async fn kill9(&self) {
        kill9(&self.folder.path().join("pid"), self.port).await;
    }

    /// Stops it in an orderly way, keeping its data.
    pub async fn stop(&self) {
        self.ctl(&["shutdown"]).await;
    }

    /// Starts it again after [`PrivateRabbitMq::stop`] or [`PrivateRabbitMq::kill9`].
    pub async fn restart(&self) {
        self.boot().await.expect("RabbitMQ starts again");
    }

    /// The AMQP URL of its default virtual host.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The AMQP URL of its default virtual host by TLS, after [`PrivateRabbitMq::start_with_tls`].
    pub fn amqps_url(&self) -> String {
        format!("amqps://guest:guest@127.0.0.1:{}/%2f", self.tls_port)
    }

    /// What to put into [`SHARED_RABBITMQ`].
    pub fn share(&self) -> String {
        let path = self.folder.path().display();
        format!("{}:{}:{}:{path}", self.port, self.dist_port, self.epmd_port)
    }

    /// A broker that another process keeps.
    fn shared(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let mut number = || parts.next()?.parse::<u16>().ok();
        let (port, dist_port, epmd_port) = (number()?, number()?, number()?);
        Some(Self {
            folder: Folder::Kept(PathBuf::from(parts.next()?)),
            port,
            dist_port,
            epmd_port,
            tls_port: 0,
            node: format!("gha-slurm-{port}@localhost"),
            server: Mutex::new(None),
        })
    }

    /// Runs `rabbitmqctl` with these words; panics with its output if it fails.
    pub async fn ctl(&self, words: &[&str]) -> String {
        let mut command = self.command("rabbitmqctl");
        command.arg("--silent").args(words);
        let mut command = tokio::process::Command::from(command);
        let output = command.output().await.expect("rabbitmqctl");
        assert!(
            output.status.success(),
            "rabbitmqctl {words:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Adds [`VHOSTS_AT_ONCE`] virtual hosts and returns their names.
    async fn add_vhosts(&self) -> Vec<String> {
        let batch = uuid::Uuid::new_v4().simple().to_string();
        let names: Vec<String> = (1..=VHOSTS_AT_ONCE)
            .map(|number| format!("test-{batch}-{number}"))
            .collect();
        let permission = |vhost: &String| {
            serde_json::json!({
                "user": "guest", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"
            })
        };
        let definitions = serde_json::json!({
            "vhosts": names.iter().map(|name| serde_json::json!({ "name": name })).collect::<Vec<_>>(),
            "permissions": names.iter().map(permission).collect::<Vec<_>>(),
        });
        let file = format!("{batch}.json");
        self.write(&file, &definitions.to_string(), 0o600)
            .expect("a file");
        self.ctl(&["import_definitions", &file]).await;
        let _ = fs::remove_file(self.folder.path().join(file));
        names
    }

    async fn boot(&self) -> anyhow::Result<()> {
        // The shell of a stopped server goes first.
        if let Some(old) = self.server.lock().ok().and_then(|mut s| s.take()) {
            old.stop_keeping_data();
        }
        let _ = fs::remove_file(self.folder.path().join("pid"));
        let log = self.folder.path().join("log");
        let server = self.command("rabbitmq-server");
        // Nothing to say goodbye to: what was confirmed is on disk, and an orderly stop takes seconds.
        let supervised = Supervised::start(&server, "KILL", &log, self.folder.scratch())?;
        if let Ok(mut server) = self.server.lock() {
            *server = Some(supervised);
        }
        let address = format!("127.0.0.1:{}", self.port);
        let connects = || async { tokio::net::TcpStream::connect(&address).await };
        try_wait_until(
            "RabbitMQ accepts connections",
            Duration::from_secs(90),
            connects,
        )
        .await
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        // It listens a moment before it is ready; until then rabbitmqctl is refused.
        self.ctl(&["await_startup", "--timeout", "60"]).await;
        Ok(())
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let path = self.folder.path().join(name);
        let write = || {
            let _ = fs::remove_file(&path);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            give(&path)
        };
        write().with_context(|| path.display().to_string())
    }

    fn command(&self, program: &str) -> Command {
        let dir = self.folder.path();
        let path = |name: &str| -> PathBuf { dir.join(name) };
        let mut command = self.folder.command(&Path::new(BIN).join(program));
        command
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("logs"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // So that it can be ended before it has noticed that the broker is gone.
            .env("ERL_EPMD_RELAXED_COMMAND_CHECK", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                // One scheduler. Two wait for each other's locks by sched_yield(2), and Linux 6.18 lets a thread that yields wait
                // for all others: beside busy tests, a broker with two confirmed nothing for up to a minute.
                "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }
}

impl Drop for PrivateRabbitMq {
    /// Waits for Erlang's helpers too: they are in process groups of their own, and end a moment after the broker.
    fn drop(&mut self) {
        let Some(server) = self.server.lock().ok().and_then(|mut server| server.take()) else {
            return;
        };
        drop(server);
        // Tests that share it know its folder too, but not by this name.
        let mark = format!("RABBITMQ_PID_FILE={}", self.folder.path().display());
        let start = Instant::now();
        while !processes_marked(&mark).is_empty() && start.elapsed() < HELPERS_END_WITHIN {
            end_processes_marked(&mark);
            #[expect(
                clippy::disallowed_methods,
                reason = "polls processes, not in async code"
            )]
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A virtual host of one test's own.
pub struct TestBroker {
    server: Arc<PrivateRabbitMq>,
    url: String,
    vhost: String,
}

impl TestBroker {
    /// Makes one, on the broker of [`SHARED_RABBITMQ`] or on a private one of this process.
    pub async fn create() -> Self {
        let server = broker().await;
        let vhost = {
            let mut spare = SPARE_VHOSTS.lock().await;
            if spare.is_empty() {
                *spare = server.add_vhosts().await;
            }
            spare.pop().expect("a batch is not empty")
        };
        let url = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", server.port);
        Self { server, url, vhost }
    }

    /// The default virtual host of a broker that the test may kill.
    pub fn on(server: &Arc<PrivateRabbitMq>) -> Self {
        Self {
            server: Arc::clone(server),
            url: server.amqp_url(),
            vhost: "/".to_owned(),
        }
    }

    /// Its AMQP URL.
    pub fn amqp_url(&self) -> &str {
        &self.url
    }

    /// Deletes a queue, as an administrator by mistake would.
    pub async fn delete_queue(&self, queue: &str) {
        let words = ["delete_queue", "-p", &self.vhost, queue];
        self.server.ctl(&words).await;
    }

    /// Closes every connection to this virtual host, as an administrator would.
    pub async fn close_connections(&self) {
        let words = [
            "close_all_connections",
            "-p",
            &self.vhost,
            "closed by a test",
        ];
        self.server.ctl(&words).await;
    }

    /// How many messages are in a queue: ready and unacknowledged ones. `None`: no such queue.
    pub async fn depth(&self, queue: &str) -> Option<u64> {
        let words = ["list_queues", "-p", &self.vhost, "name", "messages"];
        let listing = self.server.ctl(&words).await;
        listing.lines().find_map(|line| {
            let (name, count) = line.split_once('\t')?;
            (name == queue).then(|| count.trim().parse().ok()).flatten()
        })
    }
}

async fn broker() -> Arc<PrivateRabbitMq> {
    let start = || async {
        Arc::new(
            match std::env::var_os(SHARED_RABBITMQ).and_then(|text| text.into_string().ok()) {
                Some(text) => PrivateRabbitMq::shared(&text)
                    .unwrap_or_else(|| panic!("{SHARED_RABBITMQ}: not what `share` gives")),
                None => PrivateRabbitMq::start().await,
            },
        )
    };
    Arc::clone(BROKER.get_or_init(start).await)
}
