//! The schema: the owner of the database brings it to this version, services only look whether it is.

use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel_async::{AsyncMigrationHarness, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use secrecy::SecretString;

use crate::pool::{Database, StorageError};
use crate::roles::{self, Role};
use crate::server::Server;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The advisory lock of migrations. Scopes are locked by their ids at GitHub, which are positive, in the same key space.
const MIGRATION_LOCK: i64 = -7_203_841;
/// One statement of a migration, or somebody else's whole migration, may take this long.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

impl Database {
    /// Brings the database to this program's schema, and the [roles](Role) of the services to their rights; those with a password
    /// here may log in with it. For the owner of the database. Safe to call from several processes at once. Returns warnings for people:
    /// what only an administrator of the server can do.
    pub async fn migrate(
        &self,
        passwords: Vec<(Role, SecretString)>,
    ) -> Result<Vec<String>, StorageError> {
        migrate(self.server().clone(), passwords).await
    }

    /// Fails if the user of the database's URL has not the rights of `role`, or the database lacks a migration of this program.
    /// For a service's start: services do not migrate, because their roles may not. A newer schema is fine, since an upgrade is
    /// under way.
    pub async fn check(&self, role: Role) -> Result<(), StorageError> {
        #[derive(diesel::QueryableByName)]
        struct Applied {
            #[diesel(sql_type = diesel::sql_types::Text)]
            version: String,
        }
        let outdated = |detail: &str| {
            StorageError::Setup(format!(
                "the database {detail}: run `gha-slurm migrate` of this version as the owner of the database"
            ))
        };
        let mut conn = self.connection().await?;
        roles::check(&mut conn, role).await?;
        let applied = diesel::sql_query("SELECT version::text FROM __diesel_schema_migrations")
            .load::<Applied>(&mut conn)
            .await;
        let applied = match applied {
            Err(error) if roles::code(&error) == Some("42P01") => return Err(outdated("is empty")),
            other => other?,
        };
        let known: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS
            .migrations()
            .map_err(|e| StorageError::Migration(e.to_string()))?;
        let missing = known.iter().find(|migration| {
            let version = migration.name().version().to_string();
            !applied.iter().any(|row| row.version == version)
        });
        match missing {
            None => Ok(()),
            Some(migration) => Err(outdated(&format!(
                "lacks the migration {}",
                migration.name()
            ))),
        }
    }
}

/// [`Database::migrate`] for the database at `url`, without passwords and warnings.
pub async fn run_migrations(url: &str) -> Result<(), StorageError> {
    migrate(Server::new(url, None)?, Vec::new())
        .await
        .map(|_| ())
}

async fn migrate(
    server: Server,
    passwords: Vec<(Role, SecretString)>,
) -> Result<Vec<String>, StorageError> {
    // The migration harness blocks, and panics on a current-thread runtime: it gets a thread and a runtime of its own.
    let work = move || -> Result<Vec<String>, StorageError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| StorageError::Migration(e.to_string()))?;
        let conn = runtime.block_on(async {
            let mut conn = server
                .establish(PATIENCE)
                .await
                .map_err(|e| StorageError::Unavailable(e.to_string()))?;
            // Released when this connection closes, after the migrations.
            conn.batch_execute(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"))
                .await?;
            roles::ensure(&mut conn).await?;
            Ok::<_, StorageError>(conn)
        })?;
        let mut conn = {
            let _guard = runtime.enter();
            let mut harness = AsyncMigrationHarness::new(conn);
            harness
                .run_pending_migrations(MIGRATIONS)
                .map_err(|e| StorageError::Migration(e.to_string()))?;
            harness.into_inner()
        };
        runtime.block_on(async {
            roles::grant(&mut conn).await?;
            let warnings = roles::reset_settings(&mut conn).await?;
            for (role, password) in &passwords {
                roles::let_log_in(&mut conn, *role, password).await?;
            }
            Ok(warnings)
        })
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
