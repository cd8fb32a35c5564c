//! Releases of the runner, installed while nodes copy them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{Answer, gha_slurm};

/// An archive of a release that only knows its version; built on a day.
fn archive(folder: &Path, version: &str, built: &str) -> (PathBuf, String) {
    let release = TempDir::new().unwrap();
    let listener = release.path().join("bin/Runner.Listener");
    std::fs::create_dir(release.path().join("bin")).unwrap();
    std::fs::write(&listener, format!("#!/bin/sh\necho {version}\n")).unwrap();
    std::fs::set_permissions(&listener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    run("touch", &["-d", built, listener.to_str().unwrap()]);
    let file = folder.join(format!(
        "actions-runner-{}.tar.gz",
        version.replace('/', "_")
    ));
    run(
        "tar",
        &[
            "-czf",
            file.to_str().unwrap(),
            "-C",
            release.path().to_str().unwrap(),
            ".",
        ],
    );
    let sum = hex::encode(Sha256::digest(std::fs::read(&file).unwrap()));
    (file, sum)
}

fn update(folder: &Path, more: &[&str]) -> Answer {
    let mut arguments = vec!["runner-update", "--folder", folder.to_str().unwrap()];
    arguments.extend(more);
    gha_slurm(&arguments, &[("NO_PROXY", "127.0.0.1")])
}

fn install(folder: &Path, (file, sum): &(PathBuf, String)) -> Answer {
    update(
        folder,
        &["--archive", file.to_str().unwrap(), "--sha256", sum],
    )
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn current(folder: &Path) -> String {
    std::fs::read_link(folder.join("current"))
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn releases_are_installed_switched_and_removed() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("runners");
    let all: Vec<_> = ["2.334.0", "2.335.0", "2.336.0", "2.337.0"]
        .iter()
        .map(|version| archive(home.path(), version, "yesterday"))
        .collect();
    for release in &all[..3] {
        let answer = install(&folder, release);
        assert!(answer.ok, "{}", answer.err);
    }
    assert_eq!(
        names(&folder),
        set(["2.334.0", "2.335.0", "2.336.0", "current"])
    );
    assert_eq!(current(&folder), "2.336.0");
    let mode = |name: &str| {
        std::fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("current/"), 0o755, "every user reads it");
    assert_eq!(mode("current/bin/Runner.Listener"), 0o755);
    // Back to an earlier release and forward again: no release is unpacked twice, and the one in use stays.
    let answer = install(&folder, &all[0]);
    assert!(answer.ok, "{}", answer.err);
    assert_eq!(current(&folder), "2.334.0");
    let answer = install(&folder, &all[3]);
    assert!(answer.ok, "{}", answer.err);
    assert_eq!(
        names(&folder),
        set(["2.334.0", "2.335.0", "2.336.0", "2.337.0", "current"])
    );
    assert_eq!(current(&folder), "2.337.0");
    let answer = install(&folder, &all[3]);
    assert!(
        answer.ok && answer.out.contains("Removed 2.334.0"),
        "{}",
        answer.out
    );
    assert_eq!(
        names(&folder),
        set(["2.335.0", "2.336.0", "2.337.0", "current"])
    );
    let answer = update(&folder, &["--check"]);
    assert!(
        answer.ok && answer.out.starts_with("2.337.0 of "),
        "{} {}",
        answer.out,
        answer.err
    );
}

#[test]
fn what_is_not_what_it_should_be_changes_nothing() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("runners");
    let good = archive(home.path(), "2.336.0", "yesterday");
    assert!(install(&folder, &good).ok);
    let before = names(&folder);
    let refused = |arguments: &[&str], reason: &str| {
        let answer = update(&folder, arguments);
        assert!(
            !answer.ok && answer.err.contains(reason),
            "{arguments:?}: {}",
            answer.err
        );
        assert_eq!(names(&folder), before, "{reason}");
        assert_eq!(current(&folder), "2.336.0");
    };
    let file = good.0.to_str().unwrap();
    let wrong = "0".repeat(64);
    refused(
        &["--archive", file, "--sha256", &wrong],
        "nothing was changed",
    );
    refused(
        &["--archive", file, "--sha256", "123"],
        "64 hexadecimal digits",
    );
    refused(&["--archive", file], "--sha256 is required");
    refused(&["--sha256", &good.1], "--archive or --url is required");
    refused(
        &["--archive", "/nonexistent", "--sha256", &good.1],
        "/nonexistent",
    );

    let of = |name: &str, bytes: &[u8]| {
        let file = home.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        (
            file.to_str().unwrap().to_owned(),
            hex::encode(Sha256::digest(bytes)),
        )
    };
    let (file, sum) = of("no-archive.tar.gz", b"<html>not found</html>");
    refused(
        &["--archive", &file, "--sha256", &sum],
        "cannot unpack the archive",
    );
    std::fs::write(home.path().join("readme"), "").unwrap();
    let other = home.path().join("other.tar");
    let tar = Command::new("tar")
        .arg("-cf")
        .arg(&other)
        .arg("-C")
        .arg(home.path())
        .arg("readme")
        .status();
    assert!(tar.unwrap().success());
    let (file, sum) = of("other.tar", &std::fs::read(&other).unwrap());
    refused(
        &["--archive", &file, "--sha256", &sum],
        "no bin/Runner.Listener",
    );
    let hostile = archive(home.path(), "../../escape", "yesterday");
    refused(
        &[
            "--archive",
            hostile.0.to_str().unwrap(),
            "--sha256",
            &hostile.1,
        ],
        "--version",
    );
    let another = archive(&home.path().join("runners"), "2.336.0", "2 days ago");
    let moved = home.path().join("another.tar.gz");
    std::fs::rename(&another.0, &moved).unwrap();
    refused(
        &["--archive", moved.to_str().unwrap(), "--sha256", &another.1],
        "already exists",
    );
}

#[tokio::test]
async fn a_release_is_downloaded() {
    let home = TempDir::new().unwrap();
    let (file, sum) = archive(home.path(), "2.336.0", "yesterday");
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_bytes(std::fs::read(file).unwrap());
    Mock::given(path("/runner.tar.gz"))
        .respond_with(answer)
        .mount(&server)
        .await;
    let folder = home.path().join("runners");
    let get = async |path: &str| {
        let (folder, url, sum) = (
            folder.clone(),
            format!("{}{path}", server.uri()),
            sum.clone(),
        );
        let call = move || update(&folder, &["--url", &url, "--sha256", &sum]);
        tokio::task::spawn_blocking(call).await.unwrap()
    };
    let missing = get("/none").await;
    assert!(
        !missing.ok && missing.err.contains("404"),
        "{}",
        missing.err
    );
    let answer = get("/runner.tar.gz").await;
    assert!(answer.ok, "{}", answer.err);
    assert_eq!(current(&folder), "2.336.0");
}

#[test]
fn an_old_release_is_warned_about() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("runners");
    let answer = update(&folder, &["--check"]);
    assert!(
        !answer.ok && answer.err.contains("no release was installed here"),
        "{}",
        answer.err
    );
    assert!(install(&folder, &archive(home.path(), "2.335.0", "22 days ago")).ok);
    assert!(update(&folder, &["--check"]).ok);
    let answer = install(&folder, &archive(home.path(), "2.336.0", "24 days ago"));
    assert!(
        answer.ok && answer.out.contains("24 days old"),
        "{}",
        answer.out
    );
    let answer = update(&folder, &["--check"]);
    assert!(
        !answer.ok && answer.err.contains("24 days old"),
        "{}",
        answer.err
    );
}
