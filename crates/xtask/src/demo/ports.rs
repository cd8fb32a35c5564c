//! The demo's ports, all on loopback.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::Result;
use gha_slurm_test_support::{Service, free_port, try_wait_until};

/// A demo that was killed a moment ago releases its ports within this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// The services that listen, in the order of their ports.
const SERVICES: [Service; 4] = [
    Service::RepoMapping,
    Service::WebhookIngest,
    Service::TokenBroker,
    Service::Agent,
];

/// Who listens where.
pub(super) struct Ports {
    pub(super) services: [(Service, u16); 4],
    pub(super) simulator: u16,
    pub(super) postgres: u16,
    pub(super) rabbitmq: u16,
}

impl Ports {
    /// Ports one after the other; any free ones if `first` is 0.
    pub(super) fn from(first: u16) -> Self {
        let mut offsets = 0..;
        let mut port = || match (first, offsets.next()) {
            (0, _) => free_port(),
            (first, offset) => first.saturating_add(offset.unwrap_or_default()),
        };
        Self {
            services: SERVICES.map(|service| (service, port())),
            simulator: port(),
            postgres: port(),
            rabbitmq: port(),
        }
    }

    /// Fails with every port that is in use.
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
        let services = self
            .services
            .map(|(service, port)| (service.program(), port));
        let others = [
            ("simulator", self.simulator),
            ("PostgreSQL", self.postgres),
            ("RabbitMQ", self.rabbitmq),
        ];
        services
            .into_iter()
            .chain(others)
            .filter(|(_, port)| TcpListener::bind(("127.0.0.1", *port)).is_err())
            .map(|(name, port)| format!("{port} ({name})"))
            .collect()
    }
}
