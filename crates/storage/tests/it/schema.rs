use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta};
use gha_slurm_storage::{identity, leases, run_migrations};
use gha_slurm_test_support::TestDatabase;

use crate::now;

#[tokio::test]
async fn migrations_run_twice_and_from_two_processes_at_once() {
    let database = TestDatabase::create().await;
    let (one, two) = tokio::join!(
        run_migrations(database.url()),
        run_migrations(database.url())
    );
    one.unwrap();
    two.unwrap();
    database.pool().ping().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_away_says_so() {
    let port = gha_slurm_test_support::free_port();
    let error = run_migrations(&format!("postgres://postgres@127.0.0.1:{port}/none"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}

/// Every column: table, name, and whether it may be NULL.
fn columns_of(schema: &str) -> BTreeSet<(String, String, bool)> {
    let mut table = "";
    let mut columns = BTreeSet::new();
    for line in schema.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name;
        } else if let Some((column, kind)) =
            line.strip_suffix(',').and_then(|l| l.split_once(" -> "))
        {
            let nullable = kind.starts_with("Nullable<");
            columns.insert((table.to_owned(), column.to_owned(), nullable));
        }
    }
    columns
}

#[tokio::test]
async fn the_tables_as_diesel_sees_them_are_those_of_the_migrations() {
    let database = TestDatabase::create().await;
    let (client, connection) = tokio_postgres::connect(database.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let rows = client
        .query(
            "SELECT table_name::text, column_name::text, is_nullable = 'YES' FROM information_schema.columns \
             WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_diesel%'",
            &[],
        )
        .await
        .unwrap();
    let real: BTreeSet<_> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(columns_of(include_str!("../../src/schema.rs")), real);
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_ends_or_is_given_back() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut conn = pool.connection().await.unwrap();
    let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let minute = TimeDelta::minutes(1);
    let mut hold = async |holder, at| {
        leases::hold(&mut conn, "test", holder, minute, at)
            .await
            .unwrap()
    };
    assert!(hold(one, now()).await);
    assert!(!hold(two, now()).await);
    assert!(hold(one, now() + TimeDelta::seconds(50)).await, "renewed");
    assert!(!hold(two, now() + minute).await);
    assert!(hold(two, now() + TimeDelta::seconds(110)).await, "ended");
    assert!(!hold(one, now() + TimeDelta::seconds(110)).await);
    // What one has done is known to the next one.
    for (holder, hours) in [(two, 1), (one, 2)] {
        let reached = DateTime::UNIX_EPOCH + TimeDelta::hours(hours);
        leases::reach(&mut conn, "test", holder, reached)
            .await
            .unwrap();
    }
    leases::release(&mut conn, "test", two).await.unwrap();
    let reached = leases::reached(&mut conn, "test").await.unwrap();
    assert_eq!(reached, Some(DateTime::UNIX_EPOCH + TimeDelta::hours(1)));
    assert_eq!(leases::reached(&mut conn, "other").await.unwrap(), None);
    assert!(
        leases::hold(&mut conn, "test", one, minute, now())
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_database_has_one_id_and_another_one_another() {
    let (one, other) = (TestDatabase::create().await, TestDatabase::create().await);
    let id = async |database: &TestDatabase| {
        let mut conn = database.pool().connection().await.unwrap();
        identity::get_or_make(&mut conn).await.unwrap()
    };
    let (first, at_once, another) = tokio::join!(id(&one), id(&one), id(&other));
    assert_eq!(first, at_once);
    assert_eq!(id(&one).await, first);
    assert_ne!(first, another);
}
