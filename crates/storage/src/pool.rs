//! Connections, transactions and migrations.

use std::path::Path;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};

use crate::server::Server;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// How long a caller waits for a free connection or a new one.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Why storage could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No connection in time: Postgres is away or overloaded. Try again.
    #[error("Postgres is not available: {0}")]
    Unavailable(String),
    /// A statement failed.
    #[error("database: {0}")]
    Query(#[from] diesel::result::Error),
    /// It cannot be reached as the settings say.
    #[error("{0}")]
    Setup(String),
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(String),
    /// A stored value is not one we know: the database is newer than this program, or was edited by hand.
    #[error("the database holds an unknown value in {0}")]
    Unknown(&'static str),
}

impl StorageError {
    /// Whether trying again later can help: Postgres is away, restarting, or ended the transaction.
    pub fn is_transient(&self) -> bool {
        use diesel::result::{DatabaseErrorKind as Kind, Error};
        match self {
            Self::Unavailable(_) | Self::Query(Error::BrokenTransactionManager) => true,
            Self::Query(Error::DatabaseError(kind, _)) => matches!(
                kind,
                Kind::ClosedConnection
                    | Kind::SerializationFailure
                    | Kind::UnableToSendCommand
                    | Kind::Unknown
            ),
            _ => false,
        }
    }
}

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
    server: Server,
}

impl Database {
    /// A pool of at most `size` connections, opened when needed. `application` is what `pg_stat_activity` shows, `ca_file` a
    /// PEM file of CAs that are trusted beside the system's.
    pub fn new(
        url: &SecretString,
        ca_file: Option<&Path>,
        application: &'static str,
        size: usize,
    ) -> Result<Self, StorageError> {
        let server = Server::new(url.expose_secret(), ca_file)?;
        let mut config = ManagerConfig::default();
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = {
            let server = server.clone();
            Box::new(move |_| setup(server.clone(), application).boxed())
        };
        // The set-up knows where.
        let manager =
            AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config("", config);
        let pool = Pool::builder(manager)
            .max_size(size)
            .build()
            .map_err(|e| StorageError::Unavailable(e.to_string()))?;
        Ok(Self { pool, server })
    }

    /// Brings the database to this program's schema. Safe to call from several processes at once.
    pub async fn migrate(&self) -> Result<(), StorageError> {
        migrate(self.server.clone()).await
    }

    /// A connection from the pool.
    pub async fn connection(&self) -> Result<Object<AsyncPgConnection>, StorageError> {
        match tokio::time::timeout(POOL_WAIT, self.pool.get()).await {
            Ok(result) => result.map_err(|e| StorageError::Unavailable(e.to_string())),
            Err(_) => Err(StorageError::Unavailable(format!(
                "no connection within {} s",
                POOL_WAIT.as_secs()
            ))),
        }
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), StorageError> {
        let mut conn = self.connection().await?;
        conn.batch_execute("SELECT 1").await?;
        Ok(())
    }

    /// Where the database is, for a `LISTEN` connection of its own.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

async fn setup(
    server: Server,
    application: &'static str,
) -> Result<AsyncPgConnection, ConnectionError> {
    let mut conn = server.establish().await?;
    // A transaction that hangs must not hold a scope lock for ever.
    conn.batch_execute(&format!(
        "SET application_name = '{application}'; SET statement_timeout = '15s'; \
         SET idle_in_transaction_session_timeout = '30s'; SET lock_timeout = '10s'"
    ))
    .await
    .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// [`Database::migrate`] for the database at `url`.
pub async fn run_migrations(url: &str) -> Result<(), StorageError> {
    migrate(Server::new(url, None)?).await
}

async fn migrate(server: Server) -> Result<(), StorageError> {
    // The migration harness blocks, and panics on a current-thread runtime: it gets a thread and a runtime of its own.
    let work = move || -> Result<(), StorageError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| StorageError::Migration(e.to_string()))?;
        let conn = runtime.block_on(async {
            let mut conn = server
                .establish()
                .await
                .map_err(|e| StorageError::Unavailable(e.to_string()))?;
            // Released when this connection closes, after the migrations.
            conn.batch_execute("SELECT pg_advisory_lock(7203841)")
                .await?;
            Ok::<_, StorageError>(conn)
        })?;
        let _guard = runtime.enter();
        AsyncMigrationHarness::new(conn)
            .run_pending_migrations(MIGRATIONS)
            .map_err(|e| StorageError::Migration(e.to_string()))?;
        Ok(())
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The receiver is gone only when the caller gave up.
        let _ = sender.send(work());
    });
    receiver
        .await
        .map_err(|_| StorageError::Migration("the migration thread died".into()))?
}
