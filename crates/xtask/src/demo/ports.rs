//! The demo's ports, all on loopback.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::Result;
use gha_slurm_test_support::{free_port, try_wait_until};

/// A demo that was killed a moment ago gives its ports back within this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Who listens where.
pub(super) struct Ports {
    pub(super) repo_mapping: u16,
    pub(super) webhook_ingest: u16,
    pub(super) token_broker: u16,
    pub(super) agent: u16,
    pub(super) simulator: u16,
    pub(super) postgres: u16,
    pub(super) rabbitmq: u16,
}

impl Ports {
    /// Ports one after the other; any free ones if `first` is 0.
    pub(super) fn from(first: u16) -> Self {
        let port = |offset| match first {
            0 => free_port(),
            first => first.saturating_add(offset),
        };
        Self {
            repo_mapping: port(0),
            webhook_ingest: port(1),
            token_broker: port(2),
            agent: port(3),
            simulator: port(4),
            postgres: port(5),
            rabbitmq: port(6),
        }
    }

    /// Names every port that somebody else has.
    pub(super) async fn check(&self) -> Result<()> {
        let free = || async {
            let taken = self.taken();
            if taken.is_empty() { Ok(()) } else { Err(taken) }
        };
        let all_free = try_wait_until("the ports are free", PATIENCE, free).await;
        all_free.map_err(|_| {
            anyhow::anyhow!(
                "ports in use: {}. Choose others, as in `make demo PORTS_FROM=9400`, or see with `ss -ltnp` who has them",
                self.taken().join(", ")
            )
        })
    }

    fn taken(&self) -> Vec<String> {
        [
            ("repo-mapping", self.repo_mapping),
            ("webhook-ingest", self.webhook_ingest),
            ("token-broker", self.token_broker),
            ("gha-slurm-munge", self.agent),
            ("simulator", self.simulator),
            ("PostgreSQL", self.postgres),
            ("RabbitMQ", self.rabbitmq),
        ]
        .into_iter()
        .filter(|(_, port)| TcpListener::bind(("127.0.0.1", *port)).is_err())
        .map(|(name, port)| format!("{port} ({name})"))
        .collect()
    }
}
