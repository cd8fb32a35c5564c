//! PostgreSQL and RabbitMQ of the demo: those that the environment names, or private ones that keep their data.

use anyhow::{Context, Result};
use gha_slurm_test_support::{Folder, PrivatePostgres, PrivateRabbitMq};

use super::ports::Ports;

/// Ends with this value.
pub(super) struct Servers {
    /// `postgres://…` of a database.
    pub(super) database_url: String,
    /// `amqp://…` of a virtual host.
    pub(super) amqp_url: String,
    _postgres: Option<PrivatePostgres>,
    _rabbitmq: Option<PrivateRabbitMq>,
}

impl Servers {
    /// Both at once; they take a second or two.
    pub(super) async fn start(folder: &super::Folder, ports: &Ports) -> Result<Self> {
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
        let ((database_url, postgres), (amqp_url, rabbitmq)) =
            tokio::try_join!(postgres, rabbitmq)?;
        Ok(Self {
            database_url,
            amqp_url,
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
