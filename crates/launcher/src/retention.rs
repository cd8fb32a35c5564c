//! What is over and old goes, in batches, by one launcher at a time.

use chrono::TimeDelta;
use gha_slurm_storage::{Database, ScopeLock, StorageError, leases, replan, retention};
use gha_slurm_telemetry::prometheus::IntCounterVec;
use uuid::Uuid;

use crate::settings::RetentionSettings;
use gha_slurm_domain::Clock;

/// However many launchers run, one removes rows.
const LEASE: &str = "retention";
/// Longer than a batch takes.
const LEASE_LIFETIME: TimeDelta = TimeDelta::minutes(5);
/// Rows looked at for one batch.
const BATCH: i64 = 1000;
/// Workflow jobs that are not for this cluster are kept for this.
const FOREIGN: TimeDelta = TimeDelta::days(1);

/// Removes what is old.
pub struct Retention {
    /// Where.
    pub database: Database,
    /// How long rows are kept.
    pub settings: RetentionSettings,
    /// The time.
    pub clock: Clock,
    /// Counts removed rows, by `what`.
    pub removed: IntCounterVec,
    /// This process, for the lease.
    pub holder: Uuid,
}

impl Retention {
    /// Removes everything that is old now, unless another launcher does.
    pub async fn round(&self) -> Result<(), StorageError> {
        while self.holds_lease().await? {
            let removed = self.launches().await? + self.workflow_jobs().await?;
            if removed == 0 {
                self.classes().await?;
                self.recount().await?;
                break;
            }
        }
        let mut conn = self.database.connection().await?;
        leases::release(&mut conn, LEASE, self.holder).await
    }

    async fn holds_lease(&self) -> Result<bool, StorageError> {
        let mut conn = self.database.connection().await?;
        let now = self.clock.now();
        leases::hold(&mut conn, LEASE, self.holder, LEASE_LIFETIME, now).await
    }

    async fn launches(&self) -> Result<usize, StorageError> {
        let scopes = {
            let mut conn = self.database.connection().await?;
            retention::ended_launches(&mut conn, self.before(), BATCH).await?
        };
        let mut removed = 0;
        for (repository, ids) in scopes {
            removed += self
                .database
                .in_scope(
                    "remove launches",
                    repository,
                    async |mut lock: ScopeLock<'_>| {
                        retention::remove_launches(&mut lock, &ids).await
                    },
                )
                .await?;
        }
        self.count("launches", removed);
        Ok(removed)
    }

    async fn workflow_jobs(&self) -> Result<usize, StorageError> {
        let scopes = {
            let mut conn = self.database.connection().await?;
            let foreign = self.clock.now() - FOREIGN.min(self.kept());
            retention::old_workflow_jobs(&mut conn, self.before(), foreign, BATCH).await?
        };
        let mut removed = 0;
        for (repository, ids) in scopes {
            removed += self
                .database
                .in_scope(
                    "remove workflow jobs",
                    repository,
                    async |mut lock: ScopeLock<'_>| {
                        retention::remove_workflow_jobs(&mut lock, &ids).await
                    },
                )
                .await?;
        }
        self.count("workflow_jobs", removed);
        Ok(removed)
    }

    async fn classes(&self) -> Result<(), StorageError> {
        let repositories = {
            let mut conn = self.database.connection().await?;
            retention::with_unused_classes(&mut conn).await?
        };
        for repository in repositories {
            let removed = self
                .database
                .in_scope(
                    "remove classes",
                    repository,
                    async |mut lock: ScopeLock<'_>| {
                        retention::remove_unused_classes(&mut lock).await
                    },
                )
                .await?;
            self.count("runner_classes", removed);
        }
        Ok(())
    }

    /// Counts that are wrong, because an administrator edited rows, would keep builds waiting or nodes busy.
    async fn recount(&self) -> Result<(), StorageError> {
        let repositories = {
            let mut conn = self.database.connection().await?;
            retention::miscounted(&mut conn).await?
        };
        for repository in repositories {
            let wrong = self
                .database
                .in_scope("recount", repository, async |mut lock: ScopeLock<'_>| {
                    let wrong = retention::recount(&mut lock).await?;
                    if wrong > 0 {
                        replan::request(lock.conn(), repository, false, "counted anew").await?;
                    }
                    Ok::<_, StorageError>(wrong)
                })
                .await?;
            if wrong > 0 {
                tracing::error!(%repository, classes = wrong, "demand and supply were miscounted; they are counted anew");
            }
        }
        Ok(())
    }

    fn kept(&self) -> TimeDelta {
        TimeDelta::days(self.settings.days.get().into())
    }

    fn before(&self) -> chrono::DateTime<chrono::Utc> {
        self.clock.now() - self.kept()
    }

    fn count(&self, what: &str, removed: usize) {
        self.removed
            .with_label_values(&[what])
            .inc_by(removed as u64);
    }
}
