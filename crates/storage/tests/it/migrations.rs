//! Every migration, up, down and up again: `down.sql` undoes `up.sql`, no less and no more.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use gha_slurm_test_support::TestDatabase;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");

struct Migration {
    name: String,
    up: String,
    down: String,
}

/// In the order in which diesel runs them.
fn migrations() -> Vec<Migration> {
    let folders = std::fs::read_dir(FOLDER).unwrap();
    let mut names: Vec<String> = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let read = |name: &str, file: &str| {
        std::fs::read_to_string(Path::new(FOLDER).join(name).join(file)).unwrap()
    };
    names
        .into_iter()
        .map(|name| Migration {
            up: read(&name, "up.sql"),
            down: read(&name, "down.sql"),
            name,
        })
        .collect()
}

/// Runs `migration` up, down and up again. The error says what is left over and what is lost.
async fn up_down_up(database: &TestDatabase, migration: &Migration) -> Result<(), String> {
    let run = async |file: &str, sql: &str| {
        let done = database.execute(sql).await;
        done.map_err(|error| format!("{}/{file}: {error:#}", migration.name))
    };
    let before = statements(&database.schema().await);
    run("up.sql", &migration.up).await?;
    let after = statements(&database.schema().await);
    run("down.sql", &migration.down).await?;
    let undone = statements(&database.schema().await);
    compare(&migration.name, "down.sql", &before, &undone)?;
    run("up.sql", &migration.up).await?;
    let again = statements(&database.schema().await);
    compare(&migration.name, "up.sql, run again,", &after, &again)
}

fn compare(
    name: &str,
    what: &str,
    wanted: &BTreeSet<String>,
    found: &BTreeSet<String>,
) -> Result<(), String> {
    let mut differences = String::new();
    for left in found.difference(wanted) {
        writeln!(differences, "{name}: {what} leaves:\n{left}").unwrap();
    }
    for lost in wanted.difference(found) {
        writeln!(differences, "{name}: {what} loses:\n{lost}").unwrap();
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences)
    }
}

/// The statements of a dump; those of a table with its columns sorted, since a column that comes back comes last.
fn statements(schema: &str) -> BTreeSet<String> {
    schema
        .split_inclusive(";\n")
        .map(|statement| {
            let mut lines: Vec<&str> = statement.lines().collect();
            if let [first, columns @ .., _last] = lines.as_mut_slice()
                && first.starts_with("CREATE TABLE ")
            {
                for column in columns.iter_mut() {
                    *column = column.trim_end_matches(',');
                }
                columns.sort_unstable();
            }
            lines.join("\n")
        })
        .collect()
}

#[tokio::test]
async fn every_migration_is_undone_by_its_down_sql() {
    let database = TestDatabase::create_empty().await;
    let migrations = migrations();
    for migration in &migrations {
        up_down_up(&database, migration)
            .await
            .unwrap_or_else(|differences| panic!("{differences}"));
    }
    let by_diesel = TestDatabase::create().await.schema().await;
    let mut by_diesel = statements(&by_diesel);
    by_diesel.retain(|statement| !statement.contains("__diesel_schema_migrations"));
    assert_eq!(statements(&database.schema().await), by_diesel);

    for migration in migrations.iter().rev() {
        database.execute(&migration.down).await.unwrap();
    }
    let empty = TestDatabase::create_empty().await.schema().await;
    assert_eq!(database.schema().await, empty);
}

#[tokio::test]
async fn a_down_sql_that_leaves_or_loses_something_is_found() {
    let database = TestDatabase::create_empty().await;
    let start = "CREATE TABLE books (id BIGINT PRIMARY KEY, title TEXT); CREATE INDEX titles ON books (title)";
    database.execute(start).await.unwrap();
    let migration = |up: &str, down: &str| Migration {
        name: "shelves".into(),
        up: up.into(),
        down: down.into(),
    };
    let leaves = migration(
        "CREATE TABLE shelves (id BIGINT); ALTER TABLE books ADD COLUMN shelf BIGINT",
        "DROP TABLE shelves",
    );
    let error = up_down_up(&database, &leaves).await.unwrap_err();
    assert!(error.contains("shelves: down.sql leaves:"), "{error}");
    assert!(error.contains("shelf bigint"), "{error}");

    let loses = migration(
        "DROP INDEX titles; CREATE INDEX titles ON books (id, title)",
        "DROP INDEX titles",
    );
    let error = up_down_up(&database, &loses).await.unwrap_err();
    assert!(error.contains("shelves: down.sql loses:"), "{error}");
    assert!(error.contains("CREATE INDEX titles"), "{error}");

    // Postgres puts a column that comes back behind the others.
    let moves = migration(
        "ALTER TABLE books DROP COLUMN title",
        "ALTER TABLE books ADD COLUMN title TEXT",
    );
    up_down_up(&database, &moves).await.unwrap();
}
