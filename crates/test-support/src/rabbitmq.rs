//! A private RabbitMQ per test process, a virtual host per test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::server::{RunAs, Supervised, command, folder, free_port, give};
use crate::wait::wait_until;

const BIN: &str = "/usr/lib/rabbitmq/bin";

/// The broker of this process.
static BROKER: tokio::sync::OnceCell<PrivateRabbitMq> = tokio::sync::OnceCell::const_new();

/// A RabbitMQ of its own, for tests that stop or kill it.
pub struct PrivateRabbitMq {
    dir: TempDir,
    user: Option<RunAs>,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    node: String,
    server: std::sync::Mutex<Option<Supervised>>,
}

impl PrivateRabbitMq {
    /// Starts one and waits until it accepts connections.
    pub async fn start() -> Self {
        assert!(
            Path::new(BIN).join("rabbitmq-server").is_file(),
            "RabbitMQ is missing: run scripts/packages.sh, or apt-get install rabbitmq-server"
        );
        let user = RunAs::detect();
        let dir = folder("gha-slurm-rabbitmq-", user);
        let port = free_port();
        let broker = Self {
            node: format!("test{port}@localhost"),
            port,
            dist_port: free_port(),
            epmd_port: free_port(),
            dir,
            user,
            server: std::sync::Mutex::new(None),
        };
        broker.write(
            "rabbitmq.conf",
            &format!("listeners.tcp.default = 127.0.0.1:{port}\nlog.console = true\n"),
            0o600,
        );
        broker.write("enabled_plugins", "[].\n", 0o600);
        broker.write("rabbitmq-env.conf", "", 0o600);
        broker.write(
            ".erlang.cookie",
            &uuid::Uuid::new_v4().simple().to_string(),
            0o400,
        );
        broker.boot().await;
        broker
    }

    /// Stops it in an orderly way, keeping its data.
    pub async fn stop(&self) {
        self.ctl(&["shutdown"]).await;
    }

    /// Starts it again after [`PrivateRabbitMq::stop`].
    pub async fn restart(&self) {
        let old = self.server.lock().unwrap().take();
        if let Some(old) = old {
            old.stop_keeping_data();
        }
        self.boot().await;
    }

    /// The AMQP URL of its default virtual host.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Evaluates `rabbitmqctl` with these words; panics with its output if it fails.
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

    async fn boot(&self) {
        let _ = fs::remove_file(self.dir.path().join("pid"));
        let server = self.command("rabbitmq-server");
        let supervised = Supervised::start(
            &server,
            "KILL",
            &self.dir.path().join("log"),
            self.dir.path(),
        );
        *self.server.lock().unwrap() = Some(supervised);
        let address = format!("127.0.0.1:{}", self.port);
        let log = self.dir.path().join("log");
        wait_until(
            &format!("RabbitMQ accepts connections (log: {})", log.display()),
            Duration::from_secs(90),
            || async {
                tokio::net::TcpStream::connect(&address)
                    .await
                    .ok()
                    .map(drop)
            },
        )
        .await;
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("a file in the broker's folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("file permissions");
        give(&path, self.user);
    }

    fn command(&self, program: &str) -> Command {
        let dir = self.dir.path();
        let path = |name: &str| -> PathBuf { dir.join(name) };
        let mut command = command(&Path::new(BIN).join(program), self.user);
        command
            .current_dir(dir)
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
                "-kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }
}

/// A virtual host of one test's own.
pub struct TestBroker {
    url: String,
    vhost: String,
}

impl TestBroker {
    /// Makes one.
    pub async fn create() -> Self {
        let broker = BROKER.get_or_init(PrivateRabbitMq::start).await;
        let vhost = format!("test-{}", uuid::Uuid::new_v4().simple());
        broker.ctl(&["add_vhost", &vhost]).await;
        broker
            .ctl(&["set_permissions", "-p", &vhost, "guest", ".*", ".*", ".*"])
            .await;
        Self {
            url: format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", broker.port),
            vhost,
        }
    }

    /// Its AMQP URL.
    pub fn amqp_url(&self) -> &str {
        &self.url
    }

    /// Deletes a queue, as an administrator by mistake would.
    pub async fn delete_queue(&self, queue: &str) {
        if let Some(broker) = BROKER.get() {
            broker
                .ctl(&["delete_queue", "-p", &self.vhost, queue])
                .await;
        }
    }

    /// How many messages are in a queue: ready and unacknowledged ones. `None`: no such queue.
    pub async fn depth(&self, queue: &str) -> Option<u64> {
        let broker = BROKER.get()?;
        let listing = broker
            .ctl(&["list_queues", "-p", &self.vhost, "name", "messages"])
            .await;
        listing.lines().find_map(|line| {
            let (name, count) = line.split_once('\t')?;
            (name == queue).then(|| count.trim().parse().ok()).flatten()
        })
    }
}
