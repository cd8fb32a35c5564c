//! Connections.

use std::path::Path;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::FutureExt;
use gha_slurm_telemetry::{Metrics, prometheus};
use secrecy::{ExposeSecret, SecretString};

use crate::metrics::TransactionMetrics;
use crate::server::Server;
use crate::sqlstate;

/// How long a caller waits for a free connection or a new one.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// A server that owes an answer is silent no longer than this: longer than `statement_timeout`, after which it answers itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why storage could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No connection in time: Postgres is down or overloaded. Try again.
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
    /// A stored value is unknown: the database is newer than this program, or an administrator edited it.
    #[error("the database holds an unknown value in {0}")]
    Unknown(&'static str),
}

/// What an error of storage means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Postgres is down, restarting, overloaded, or ended the statement. Trying again later helps.
    Unavailable,
    /// The transaction collided with another one. Trying it again at once helps.
    Conflict,
    /// It can never succeed as it was asked: a wrong value, a violated rule, or a program that does not fit the schema.
    Rejected,
}

impl Failure {
    /// `unavailable`, `conflict` or `rejected`, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
        }
    }

    /// By SQLSTATE: PostgreSQL's manual, "PostgreSQL Error Codes".
    fn of_sqlstate(code: &str) -> Self {
        match code {
            // Serialization failure, deadlock.
            "40001" | "40P01" => Self::Conflict,
            // Lock timeout; idle in transaction for too long; read-only: a standby that was a primary, or will be one.
            "55P03" | "25P03" | "25006" => Self::Unavailable,
            // Connections, resources (disk, memory, connections), intervention (shutdown, timeout), system errors. And what does not
            // exist or is not allowed: a migration or a set-up is under way, and no event is to blame.
            _ if ["08", "42", "53", "57", "58"]
                .iter()
                .any(|c| code.starts_with(c)) =>
            {
                Self::Unavailable
            }
            _ => Self::Rejected,
        }
    }

    pub(crate) fn of(error: &diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error};
        match error {
            Error::BrokenTransactionManager => Self::Unavailable,
            Error::RollbackErrorOnCommit { commit_error, .. } => Self::of(commit_error),
            Error::DatabaseError(Kind::ClosedConnection | Kind::UnableToSendCommand, _) => {
                Self::Unavailable
            }
            Error::DatabaseError(kind, information) => {
                match (sqlstate::of(information.message()), kind) {
                    (Some(code), _) => Self::of_sqlstate(code),
                    (None, Kind::SerializationFailure) => Self::Conflict,
                    (None, _) => Self::Rejected,
                }
            }
            _ => Self::Rejected,
        }
    }
}

impl StorageError {
    /// What the error means for whoever asked.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Unavailable(_) => Failure::Unavailable,
            Self::Query(error) => Failure::of(error),
            Self::Setup(_) | Self::Migration(_) | Self::Unknown(_) => Failure::Rejected,
        }
    }

    /// Whether it only says that an earlier statement of the transaction failed.
    pub(crate) fn is_aftermath(&self) -> bool {
        let Self::Query(diesel::result::Error::DatabaseError(_, information)) = self else {
            return false;
        };
        sqlstate::of(information.message()) == Some("25P02")
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        self.failure() != Failure::Rejected
    }
}

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
    server: Server,
    metrics: Option<TransactionMetrics>,
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
        Ok(Self {
            pool,
            server,
            metrics: None,
        })
    }

    /// Counts its named [transactions](Self::transaction) in `metrics`, once for a registry.
    pub fn with_metrics(mut self, metrics: &Metrics) -> prometheus::Result<Self> {
        self.metrics = Some(TransactionMetrics::register(metrics)?);
        Ok(self)
    }

    pub(crate) fn metrics(&self) -> Option<&TransactionMetrics> {
        self.metrics.as_ref()
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
    let mut conn = server.establish(PATIENCE).await?;
    // A transaction that hangs must not hold a scope lock forever.
    conn.batch_execute(&format!(
        "SET application_name = '{application}'; SET statement_timeout = '15s'; \
         SET idle_in_transaction_session_timeout = '30s'; SET lock_timeout = '10s'"
    ))
    .await
    .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_decides() {
        for (code, failure) in [
            ("40001", Failure::Conflict),
            ("40P01", Failure::Conflict),
            ("57P01", Failure::Unavailable),
            ("57014", Failure::Unavailable),
            ("55P03", Failure::Unavailable),
            ("53100", Failure::Unavailable),
            ("22021", Failure::Rejected),
            ("22003", Failure::Rejected),
            ("23505", Failure::Rejected),
            ("42P01", Failure::Unavailable),
        ] {
            let text = format!("[{code}] in any language");
            let kind = diesel::result::DatabaseErrorKind::Unknown;
            let error = diesel::result::Error::DatabaseError(kind, Box::new(text));
            assert_eq!(StorageError::from(error).failure(), failure, "{code}");
        }
        let text: Box<String> = Box::new("without a code".into());
        let kind = diesel::result::DatabaseErrorKind::Unknown;
        let error = StorageError::from(diesel::result::Error::DatabaseError(kind, text));
        assert!(!error.is_transient());
    }
}
