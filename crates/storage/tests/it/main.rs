//! Storage against a real PostgreSQL.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod counters;
mod mapping;
mod migrations;
mod redemption;
mod retention;
mod roles;
mod round_trips;
mod schema;
mod scope;
mod stops;
mod submission;
mod tls;
mod transaction;

use chrono::{DateTime, Utc};
use gha_slurm_domain::launch::{Applied, Happening, Rejected};
use gha_slurm_domain::{Launch, LaunchId, RepositoryId, SlurmUser, WorkflowJob};
use gha_slurm_storage::classes::{self, Standing, Which};
use gha_slurm_storage::{Database, ScopeLock, StorageError, launches, mappings, repositories};
use gha_slurm_test_support::seed::{Seed, facts};

/// A fixed time, so that nothing depends on the clock.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

const REPOSITORY: RepositoryId = RepositoryId(4711);
const LABELS: [&str; 2] = ["self-hosted", "slurm"];

fn user() -> SlurmUser {
    "alice".parse().unwrap()
}

fn seed(pool: &Database, repository: RepositoryId) -> Seed<'_> {
    Seed {
        database: pool,
        repository,
        user: user(),
    }
}

/// Private repositories, and no others, are mapped to alice.
async fn map(pool: &Database, list: &[RepositoryId]) {
    let mut conn = pool.connection().await.unwrap();
    for id in list {
        let name = format!("widgets-{id}");
        repositories::upsert(&mut conn, *id, None, "acme", &name, Some(true), now())
            .await
            .unwrap();
    }
    let entries: Vec<_> = list.iter().map(|id| (*id).into()).collect();
    mappings::replace(&mut conn, &user(), &entries, None, now())
        .await
        .unwrap();
}

/// A private repository mapped to alice, with `queued` workflow jobs of one class in it.
async fn scope_with_queued(pool: &Database, queued: i64) -> Vec<WorkflowJob> {
    map(pool, &[REPOSITORY]).await;
    let mut jobs = Vec::new();
    for id in 1..=queued {
        let facts = facts(id, &LABELS, None);
        jobs.push(seed(pool, REPOSITORY).queued(&facts, now()).await);
    }
    jobs
}

/// Plans one launch for each of `causes`.
async fn plan(pool: &Database, causes: &[WorkflowJob]) -> Vec<LaunchId> {
    let mut planned = Vec::new();
    for cause in causes {
        planned.push(seed(pool, cause.repository).planned(cause, now()).await);
    }
    planned
}

/// Something happens to a launch of [`REPOSITORY`].
async fn happen(
    pool: &Database,
    launch: LaunchId,
    happening: Happening,
) -> Result<Applied, Rejected> {
    pool.happen("test", REPOSITORY, launch, &happening, now())
        .await
        .unwrap()
}

/// A launch as it is stored.
async fn stored(pool: &Database, id: LaunchId) -> Launch {
    let mut conn = pool.connection().await.unwrap();
    let mut found = launches::peek_all(&mut conn, &[id]).await.unwrap();
    found.pop().unwrap().launch
}

/// How the active classes of [`REPOSITORY`] stand.
async fn standings(pool: &Database) -> Vec<Standing> {
    pool.in_scope("test", REPOSITORY, async |mut lock: ScopeLock<'_>| {
        classes::standings(&mut lock, Which::Active, now()).await
    })
    .await
    .unwrap_or_else(|error: StorageError| panic!("{error}"))
}
