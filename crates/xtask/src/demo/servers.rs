//! PostgreSQL and RabbitMQ of the demo: those that the environment names, or private ones that keep their data; and a private
//! Slurm, which begins anew each time.

use anyhow::{Context, Result};
use gha_slurm_test_support::{Folder, PrivatePostgres, PrivateRabbitMq, PrivateSlurm, migrate};

use super::folder::Folder as DemoFolder;
use super::ports::Ports;

/// Virtual nodes of the private Slurm.
const NODES: u16 = 2;

/// Ends with this value.
pub(super) struct Servers {
    /// `postgres://…` of a database.
    pub(super) database_url: String,
    /// `amqp://…` of a virtual host.
    pub(super) amqp_url: String,
    /// A real Slurm, where one can be started.
    pub(super) slurm: Option<PrivateSlurm>,
    _postgres: Option<PrivatePostgres>,
    _rabbitmq: Option<PrivateRabbitMq>,
}

impl Servers {
    /// All at once; they take a few seconds.
    pub(super) async fn start(folder: &DemoFolder, ports: &Ports) -> Result<Self> {
        let postgres = async {
            if let Some(url) = given("DATABASE_URL")? {
                println!("PostgreSQL: yours, of DATABASE_URL");
                return Ok((url, None));
            }
            let data = Folder::kept(&folder.path("postgres"))?;
            let server = PrivatePostgres::open(data, ports.postgres, true).await?;
            println!("PostgreSQL: a private one, on port {}", ports.postgres);
            anyhow::Ok((server.database("gha_slurm").await?, Some(server)))
        };
        let rabbitmq = async {
            if let Some(url) = given("AMQP_URL")? {
                println!("RabbitMQ: yours, of AMQP_URL");
                return Ok((url, None));
            }
            let data = Folder::kept(&folder.path("rabbitmq"))?;
            let server = PrivateRabbitMq::open(data, ports.rabbitmq).await?;
            println!("RabbitMQ: a private one, on port {}", ports.rabbitmq);
            anyhow::Ok((server.amqp_url(), Some(server)))
        };
        let slurm = async {
            if let Err(missing) = PrivateSlurm::check() {
                println!("Slurm: none ({missing}); the agent runs Slurm jobs beside itself");
                return Ok(None);
            }
            let slurm = PrivateSlurm::start(NODES).await?;
            println!(
                "Slurm: a private one with {NODES} nodes; look with SLURM_CONF={} squeue",
                slurm.conf().display()
            );
            anyhow::Ok(Some(slurm))
        };
        let ((database_url, postgres), (amqp_url, rabbitmq), slurm) =
            tokio::try_join!(postgres, rabbitmq, slurm)?;
        migrate(&database_url).await?;
        Ok(Self {
            database_url,
            amqp_url,
            slurm,
            _postgres: postgres,
            _rabbitmq: rabbitmq,
        })
    }
}

fn given(variable: &str) -> Result<Option<String>> {
    std::env::var_os(variable)
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.into_string()
                .ok()
                .context(format!("{variable}: not UTF-8"))
        })
        .transpose()
}
