//! What the services are compared with: the least that answers the same question safely.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::{Context, Result};
use diesel_async::SimpleAsyncConnection;
use gha_slurm_amqp::EVENTS_EXCHANGE;
use gha_slurm_auth::webhook;
use gha_slurm_domain::{Clock, InstallationId, LabelSet, RepositoryFullName, RepositoryId};
use gha_slurm_github::{Github, Scope};
use gha_slurm_storage::{AsyncPgConnection, Database, StorageError, repositories};
use gha_slurm_test_support::{APP_ID, Process, free_port, try_wait_until};
use hyper::body::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use secrecy::SecretString;

use crate::site::{LABELS, OWNER};
use crate::surroundings::Surroundings;

/// As many as the services have.
pub(crate) const WORKERS: usize = 2;
/// As many as token-broker has.
const DATABASE_CONNECTIONS: usize = 8;
/// Delivery mode 2 is persistent (AMQP 0.9.1, basic properties).
const PERSISTENT: u8 = 2;
/// As the event of the payload has.
const ROUTING_KEY: &str = "workflow_job.queued";
pub(crate) const AMQP_URL: &str = "GHA_SLURM_BENCH_AMQP_URL";
pub(crate) const DATABASE_URL: &str = "GHA_SLURM_BENCH_DATABASE_URL";
pub(crate) const WEBHOOK_SECRET: &str = "GHA_SLURM_BENCH_WEBHOOK_SECRET";

/// A floor that runs.
pub(crate) struct FloorProcess {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl FloorProcess {
    /// Starts this program's subcommand `name` and waits until it listens.
    pub(crate) async fn start(
        around: &Surroundings,
        name: &str,
        arguments: &[&OsStr],
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let backing = around.backing();
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .arg(address.to_string())
            .args(arguments)
            .env(AMQP_URL, backing.amqp_url)
            .env(DATABASE_URL, backing.database_url)
            .env(WEBHOOK_SECRET, around.credentials.webhook_secret()?);
        let log = around.folder().join(format!("{name}.log"));
        let process = Process::start(name, &command, &log)?;
        try_wait_until(&format!("{name} listens"), Duration::from_secs(10), || {
            tokio::net::TcpStream::connect(address)
        })
        .await
        .with_context(|| process.log_tail())?;
        Ok(Self { process, address })
    }
}

/// webhook-ingest's: reads the body, compares its HMAC, publishes `message`, persistent and mandatory, and answers 202
/// after the broker's confirm. The exchange and its queue are there.
pub(crate) async fn ingest(
    listen: SocketAddr,
    amqp_url: &str,
    secret: &str,
    message: &Path,
) -> Result<()> {
    let message = web::Data::new(std::fs::read(message)?);
    let secrets = web::Data::new(vec![SecretString::from(secret)]);
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let channel = web::Data::new(channel);
    HttpServer::new(move || {
        App::new()
            .app_data(channel.clone())
            .app_data(message.clone())
            .app_data(secrets.clone())
            .route("/api/github/webhooks", web::post().to(receive))
    })
    .workers(WORKERS)
    .bind(listen)?
    .run()
    .await?;
    Ok(())
}

async fn receive(
    request: HttpRequest,
    body: Bytes,
    secrets: web::Data<Vec<SecretString>>,
    channel: web::Data<Channel>,
    message: web::Data<Vec<u8>>,
) -> HttpResponse {
    let signature = request.headers().get("X-Hub-Signature-256");
    let signature = signature.and_then(|value| value.to_str().ok());
    if webhook::verify(&secrets, &body, signature.unwrap_or_default()).is_err() {
        return HttpResponse::Unauthorized().finish();
    }
    match publish(&channel, &message).await {
        Ok(Confirmation::Ack(None)) => HttpResponse::Accepted().finish(),
        Ok(other) => HttpResponse::ServiceUnavailable().body(format!("{other:?}")),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

async fn publish(channel: &Channel, message: &[u8]) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    channel
        .basic_publish(
            EVENTS_EXCHANGE.into(),
            ROUTING_KEY.into(),
            options,
            message,
            properties,
        )
        .await?
        .await
}

/// Where and as whom the floor of token-broker calls GitHub.
#[derive(Debug, clap::Args)]
pub(crate) struct GithubArgs {
    #[arg(long)]
    pub(crate) github_url: String,
    /// Private key of the App, a PEM file.
    #[arg(long)]
    pub(crate) github_key: PathBuf,
    #[arg(long)]
    pub(crate) installation: i64,
}

/// token-broker's: two transactions, each of which takes the scope's lock and writes one row. To decide under the lock,
/// to register outside it and to store what came of it takes no fewer. With a repository's name, it also registers a just-in-time
/// runner between them.
pub(crate) async fn callbacks(
    listen: SocketAddr,
    database_url: String,
    github: GithubArgs,
) -> Result<()> {
    let url = SecretString::from(database_url);
    let database = web::Data::new(Database::new(&url, None, "floor", DATABASE_CONNECTIONS)?);
    let key = SecretString::from(std::fs::read_to_string(&github.github_key)?);
    let client = Github::new(&github.github_url, APP_ID, &key, None, Clock::system())?
        .with_points_per_minute(u32::MAX);
    let client = web::Data::new(client);
    let installation = web::Data::new(InstallationId(github.installation));
    HttpServer::new(move || {
        App::new()
            .app_data(database.clone())
            .app_data(client.clone())
            .app_data(installation.clone())
            .route("/{repository}", web::post().to(redeem))
            .route("/{repository}/{name}", web::post().to(register))
    })
    .workers(WORKERS)
    .bind(listen)?
    .run()
    .await?;
    Ok(())
}

async fn redeem(
    _body: Bytes,
    repository: web::Path<i64>,
    database: web::Data<Database>,
) -> HttpResponse {
    let repository = RepositoryId(repository.into_inner());
    answer(async {
        write(&database, repository).await?;
        Ok(write(&database, repository).await?)
    })
    .await
}

async fn register(
    _body: Bytes,
    repository: web::Path<(i64, String)>,
    database: web::Data<Database>,
    github: web::Data<Github>,
    installation: web::Data<InstallationId>,
) -> HttpResponse {
    let (id, name) = repository.into_inner();
    let repository = RepositoryId(id);
    answer(async {
        write(&database, repository).await?;
        let scope = Scope {
            installation: **installation,
            repository,
            name: RepositoryFullName::new(OWNER, &name)?,
        };
        let runner = format!("floor-{}", uuid::Uuid::now_v7().simple());
        let labels = LabelSet::from_iter(LABELS);
        github.create_jit_runner(&scope, &runner, &labels).await?;
        Ok(write(&database, repository).await?)
    })
    .await
}

async fn answer(done: impl Future<Output = Result<()>>) -> HttpResponse {
    match done.await {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("{error:#}")),
    }
}

async fn write(database: &Database, repository: RepositoryId) -> Result<(), StorageError> {
    // A row of its own: the repository's is token-broker's.
    let repository = RepositoryId(-repository.0);
    database
        .transaction("floor", async |conn: &mut AsyncPgConnection| {
            let lock = format!("SELECT pg_advisory_xact_lock({repository})");
            conn.batch_execute(&lock).await?;
            let now = chrono::Utc::now();
            repositories::upsert(conn, repository, None, "floor", "floor", None, now).await
        })
        .await
}
