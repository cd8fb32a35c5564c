//! The command as people type it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod agent;
mod runner_update;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_test_support::PrivatePostgres;

struct Answer {
    ok: bool,
    out: String,
    err: String,
}

fn gha_slurm(arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_gha-slurm"))
        .args(arguments)
        .env_remove("DATABASE_URL")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    Answer {
        ok: status.success(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn keys(command: &str, dir: &Path, more: &[&str]) -> Answer {
    let mut arguments = vec!["keys", command, "--dir", dir.to_str().unwrap()];
    arguments.extend(more);
    gha_slurm(&arguments, &[])
}

#[test]
fn a_key_is_generated_rotated_and_retired() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keys");
    let folder = KeyFolder::new(&dir);
    assert!(keys("generate", &dir, &[]).ok);
    let old = SigningKey::read(&folder).unwrap().kid().to_owned();
    let private = dir.join(format!("{old}.key.pem"));
    let mode = std::fs::metadata(&private).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = keys("generate", &dir, &[]);
    assert!(
        !again.ok && again.err.contains("keys rotate"),
        "{}",
        again.err
    );

    // At once: the new one signs all the same.
    let rotated = keys("rotate", &dir, &[]);
    assert!(rotated.ok, "{}", rotated.err);
    let new = SigningKey::read(&folder).unwrap().kid().to_owned();
    assert_ne!(new, old);
    assert!(
        rotated.out.starts_with(&format!("{new} signs")),
        "{}",
        rotated.out
    );
    let listed = keys("list", &dir, &[]).out;
    let lines: Vec<&str> = listed.lines().collect();
    let [first, second] = lines.as_slice() else {
        panic!("{listed}")
    };
    assert!(
        first.starts_with(&old) && first.ends_with("accepted"),
        "{listed}"
    );
    assert!(
        second.starts_with(&new) && second.ends_with("signs"),
        "{listed}"
    );

    let refused = keys("retire", &dir, &[&new]);
    assert!(
        !refused.ok && refused.err.contains("the key that signs"),
        "{}",
        refused.err
    );
    let unknown = keys("retire", &dir, &["../../etc/passwd"]);
    assert!(
        !unknown.ok && unknown.err.contains("no key `../../etc/passwd`"),
        "{}",
        unknown.err
    );
    assert!(keys("retire", &dir, &[&old]).ok);
    assert!(!private.exists());
    assert_eq!(folder.accepted().unwrap(), [new]);
}

#[test]
fn what_is_missing_is_named() {
    let home = tempfile::tempdir().unwrap();
    for command in ["rotate", "list"] {
        let empty = keys(command, home.path(), &[]);
        assert!(
            !empty.ok && empty.err.contains("keys generate"),
            "{}",
            empty.err
        );
        let nowhere = keys(command, &home.path().join("nowhere"), &[]);
        assert!(
            !nowhere.ok && nowhere.err.contains("nowhere"),
            "{}",
            nowhere.err
        );
    }
    let migrate = gha_slurm(&["migrate"], &[]);
    assert!(!migrate.ok);
    assert!(migrate.err.contains("DATABASE_URL") && migrate.err.contains("--database-url-file"));
    let help = gha_slurm(&["--help"], &[]);
    assert!(help.ok && help.out.contains("migrate") && help.out.contains("keys"));
    assert!(gha_slurm(&["--version"], &[]).out.starts_with("gha-slurm "));
}

#[tokio::test]
async fn a_database_is_migrated_once_and_again() {
    let server = PrivatePostgres::start().await;
    let url = server.database("fresh").await.unwrap();
    let migrated = gha_slurm(&["migrate"], &[("DATABASE_URL", &url)]);
    assert!(migrated.ok, "{}", migrated.err);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.query("SELECT * FROM launches", &[]).await.unwrap();

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("url");
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let again = gha_slurm(
        &["migrate", "--database-url-file", file.to_str().unwrap()],
        &[],
    );
    assert!(again.ok, "{}", again.err);
}

#[test]
fn a_password_is_never_shown() {
    for url in [
        "postgres://alice:hunter2secret@127.0.0.1:1/db",
        "postgres://alice:hunter2secret@[not-a-host/db",
        "mysql://alice:hunter2secret@127.0.0.1/db",
    ] {
        let failed = gha_slurm(&["migrate"], &[("DATABASE_URL", url)]);
        assert!(
            !failed.ok && failed.err.starts_with("gha-slurm: "),
            "{}",
            failed.err
        );
        assert!(!failed.err.contains("hunter2secret"), "{}", failed.err);
    }
    let argument = gha_slurm(&["migrate", "--database-url", "postgres://a:b@c/d"], &[]);
    assert!(
        !argument.ok && argument.err.contains("unexpected argument"),
        "{}",
        argument.err
    );
}

#[tokio::test]
async fn everything_is_stopped_and_goes_on() {
    let server = PrivatePostgres::start().await;
    let url = server.database("stops").await.unwrap();
    let environment = [("DATABASE_URL", url.as_str())];
    let run = |arguments: &[&str]| gha_slurm(arguments, &environment);
    let early = run(&["panic"]);
    assert!(
        !early.ok && early.err.contains("NOT stopped") && early.err.contains("gha-slurm migrate"),
        "{}",
        early.err
    );
    assert!(run(&["migrate"]).ok);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("keys");
    assert!(keys("generate", &dir, &[]).ok);
    let folder = KeyFolder::new(&dir);
    let old = folder.list().unwrap().pop().unwrap();
    let private = dir.join(format!("{old}.key.pem"));
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o640)).unwrap();

    let multi_line = run(&["panic", "--reason", "a\nb"]);
    assert!(
        !multi_line.ok && multi_line.err.contains("one line"),
        "{}",
        multi_line.err
    );
    let keys_dir = dir.to_str().unwrap();
    let stopped = run(&["panic", "--reason", "a key was stolen", "--keys", keys_dir]);
    assert!(stopped.ok, "{}", stopped.err);
    assert!(
        stopped.out.starts_with("All launches are stopped since "),
        "{}",
        stopped.out
    );
    let new = folder.list().unwrap().pop().unwrap();
    assert_eq!(folder.accepted().unwrap(), std::slice::from_ref(&new));
    assert_ne!(new, old);
    assert!(
        stopped.out.contains(&format!("remove {old}.pub.pem")),
        "{}",
        stopped.out
    );
    // The new key has the owner, group and mode of the old one.
    let mode = std::fs::metadata(dir.join(format!("{new}.key.pem")))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);

    let again = run(&["panic"]);
    assert!(
        again.ok && again.out.starts_with("Launches were stopped already."),
        "{}",
        again.out
    );
    assert!(
        again.out.contains("a key was stolen") && again.out.contains("panic --keys"),
        "{}",
        again.out
    );
    let status = run(&["panic", "--status"]);
    assert!(
        status.out.contains("Nothing is left to withdraw"),
        "{}",
        status.out
    );

    let resumed = run(&["resume"]);
    assert!(
        resumed.ok && resumed.out.starts_with("Launches go on."),
        "{}",
        resumed.out
    );
    let again = run(&["resume"]);
    assert!(
        again.ok && again.out.contains("nothing to resume"),
        "{}",
        again.out
    );
    assert_eq!(
        run(&["panic", "--status"]).out,
        "Launches are not stopped.\n"
    );
    // The keys are replaced even if the database cannot be reached.
    let without = gha_slurm(&["panic", "--keys", keys_dir], &[]);
    assert!(
        !without.ok && without.err.contains("NOT stopped"),
        "{}",
        without.err
    );
    assert_ne!(folder.list().unwrap().pop().unwrap(), new);
}

#[tokio::test]
async fn a_person_has_what_was_refused_tried_again() {
    let server = PrivatePostgres::start().await;
    let url = server.database("retry").await.unwrap();
    let environment = [("DATABASE_URL", url.as_str())];
    let run = |arguments: &[&str]| gha_slurm(arguments, &environment);
    assert!(run(&["migrate"]).ok);
    let none = run(&["retry"]);
    assert!(none.ok && none.out.starts_with("Nothing"), "{}", none.out);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    client
        .batch_execute(
            "INSERT INTO repositories (id, owner, name) VALUES (1, 'acme', 'widgets'), (2, 'acme', 'gadgets'), (3, 'acme', 'fine');
             INSERT INTO runner_classes (repository_id, slurm_user, labels, resources, demand, failures, refused)
                 VALUES (1, 'alice', 'slurm', '{}', 1, 1, TRUE), (2, 'alice', 'slurm', '{}', 1, 5, FALSE),
                        (3, 'alice', 'slurm', '{}', 1, 0, FALSE)",
        )
        .await
        .unwrap();
    let requested = async || {
        let query = "SELECT repository_id FROM replan_requests WHERE forgive ORDER BY 1";
        let rows = client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>()
    };
    let other = run(&["retry", "acme/fine"]);
    assert!(
        !other.ok && other.err.contains("acme/fine"),
        "{}",
        other.err
    );
    assert_eq!(requested().await, Vec::<i64>::new());
    let one = run(&["retry", "https://github.com/Acme/Widgets"]);
    assert!(one.ok && one.out.contains("acme/widgets"), "{}", one.err);
    assert_eq!(requested().await, [1]);
    assert!(run(&["retry"]).ok);
    assert_eq!(requested().await, [1, 2]);
    drop(client);
    connection.await.unwrap().unwrap();
}
