//! What is over and old goes; what is needed, and sums of usage, stay.

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_storage::{Database, ScopeLock, retention, usage};
use gha_slurm_test_support::TestDatabase;
use gha_slurm_test_support::seed::facts;

use crate::{REPOSITORY, map, seed};

const LAUNCHES: i64 = 100_000;
/// Of each launch: a row of its own, a runner, usage, a workflow job and six entries of the timeline.
const ROWS_PER_LAUNCH: i64 = 10;

/// A hundred thousand launches that ended a hundred days ago, ten rows each.
const OLD: &str = "
    INSERT INTO workflow_jobs (id, repository_id, state, verdict, class_id, facts, demand, updated_at)
    SELECT 1000 + n, 4711, 'completed', 'ours', (SELECT min(id) FROM runner_classes), '{}', FALSE, now() - interval '100 days'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO launches (id, class_id, repository_id, workflow_job_id, state, in_supply, planned_at, not_before, ended_at, outcome)
    SELECT md5(n::text)::uuid, (SELECT min(id) FROM runner_classes), 4711, 1000 + n, 'over', FALSE, now() - interval '100 days',
        now() - interval '100 days', now() - interval '100 days', '{\"kind\": \"idle\"}'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO runners (id, launch_id, name, mode, slurm_job_id, restart_count, mint_attempt, workflow_job_id, created_at)
    SELECT md5(n::text)::uuid, md5(n::text)::uuid, 'r' || n, 'jit', n::text, 0, 1, 1000 + n, now() - interval '100 days'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO usages (launch_id, ended_at, elapsed_s, cpu_allocated_s, cpu_used_s, gpu_allocated_s, tres)
    SELECT md5(n::text)::uuid, '2026-03-05', 1, 2, 1, 0, '{}' FROM generate_series(1, 100000) AS n;
    INSERT INTO timeline (recorded_at, happened_at, kind, detail, launch_id, workflow_job_id)
    SELECT now(), now(), 'planned', 'x', CASE WHEN k < 5 THEN md5(n::text)::uuid END, CASE WHEN k >= 5 THEN 1000 + n END
    FROM generate_series(1, 100000) AS n, generate_series(1, 6) AS k;
    ANALYZE";

async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

async fn count(url: &str, query: &str) -> i64 {
    client(url)
        .await
        .query_one(query, &[])
        .await
        .unwrap()
        .get(0)
}

async fn rows(url: &str) -> i64 {
    count(
        url,
        "SELECT (SELECT count(*) FROM launches) + (SELECT count(*) FROM runners) + (SELECT count(*) FROM usages) \
         + (SELECT count(*) FROM workflow_jobs) + (SELECT count(*) FROM timeline)",
    )
    .await
}

/// What the launcher does, in batches; returns the most rows that one batch removed.
async fn remove_old(database: &Database, before: DateTime<Utc>, foreign: DateTime<Utc>) -> usize {
    let mut most = 0;
    loop {
        let mut conn = database.connection().await.unwrap();
        let launches = retention::ended_launches(&mut conn, before, 1000)
            .await
            .unwrap();
        let jobs = retention::old_workflow_jobs(&mut conn, before, foreign, 1000)
            .await
            .unwrap();
        drop(conn);
        let mut removed = 0;
        for (repository, ids) in launches {
            removed += database
                .in_scope("test", repository, async |mut lock: ScopeLock<'_>| {
                    retention::remove_launches(&mut lock, &ids).await
                })
                .await
                .unwrap();
        }
        for (repository, ids) in jobs {
            removed += database
                .in_scope("test", repository, async |mut lock: ScopeLock<'_>| {
                    retention::remove_workflow_jobs(&mut lock, &ids).await
                })
                .await
                .unwrap();
        }
        if removed == 0 {
            return most;
        }
        most = most.max(removed);
    }
}

async fn sums(database: &Database) -> (i64, i64, i64) {
    let span = ["2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"].map(|at| at.parse().unwrap());
    let mut conn = database.connection().await.unwrap();
    let sums = usage::sums(&mut conn, span.into(), None, None)
        .await
        .unwrap();
    sums.iter()
        .fold((0, 0, 0), |(launches, builds, elapsed), sum| {
            (
                launches + sum.launches,
                builds + sum.builds,
                elapsed + sum.elapsed_s,
            )
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_old_rows_go_and_what_is_needed_stays() {
    let test_database = TestDatabase::create().await;
    let database = test_database.pool();
    let now = Utc::now();
    map(&database, &[REPOSITORY]).await;
    let seed = seed(&database, REPOSITORY);
    // Old, and still waiting for a runner: it stays, and so does its launch.
    let long_ago = now - TimeDelta::days(200);
    let waiting = seed
        .queued(&facts(1, &["slurm"], Some(long_ago)), long_ago)
        .await;
    seed.planned(&waiting, long_ago).await;
    let kept = rows(test_database.url()).await;

    client(test_database.url())
        .await
        .batch_execute(OLD)
        .await
        .unwrap();
    assert_eq!(
        rows(test_database.url()).await,
        kept + LAUNCHES * ROWS_PER_LAUNCH
    );
    let used = sums(&database).await;
    assert_eq!(used, (LAUNCHES, LAUNCHES, LAUNCHES));

    let most = remove_old(
        &database,
        now - TimeDelta::days(90),
        now - TimeDelta::days(1),
    )
    .await;
    assert!(most <= 3000, "{most} rows in one batch");
    assert_eq!(rows(test_database.url()).await, kept);
    assert_eq!(sums(&database).await, used, "sums of usage stay");
    let mut conn = database.connection().await.unwrap();
    assert!(retention::miscounted(&mut conn).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_somebody_changed_by_hand_are_put_right() {
    let test_database = TestDatabase::create().await;
    let database = test_database.pool();
    let now = Utc::now();
    map(&database, &[REPOSITORY]).await;
    seed(&database, REPOSITORY)
        .queued(&facts(1, &["slurm"], None), now)
        .await;
    for by_hand in ["demand = 5, supply = 9", "redeemed = 3"] {
        client(test_database.url())
            .await
            .batch_execute(&format!("UPDATE runner_classes SET {by_hand}"))
            .await
            .unwrap();
        let wrong = {
            let mut conn = database.connection().await.unwrap();
            retention::miscounted(&mut conn).await.unwrap()
        };
        assert_eq!(wrong, [REPOSITORY]);
        let recounted = database
            .in_scope("test", REPOSITORY, async |mut lock: ScopeLock<'_>| {
                retention::recount(&mut lock).await
            })
            .await
            .unwrap();
        assert_eq!(recounted, 1);
        let query = "SELECT (demand * 10 + supply + redeemed * 100)::bigint FROM runner_classes";
        assert_eq!(count(test_database.url(), query).await, 10);
    }
}
