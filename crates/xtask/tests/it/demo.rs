use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use gha_slurm_test_support::{Process, free_port, wait_until};
use tempfile::TempDir;

use crate::{DEADLINE, nothing_is_left};

/// A demo with everything in `folder`; its processes have the path of that in their environment.
fn demo(folder: &Path, ports_from: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["demo", "--ports-from", &ports_from.to_string()])
        .arg("--folder")
        .arg(folder)
        .env("TEST_MARK", folder)
        .env_remove("DATABASE_URL")
        .env_remove("AMQP_URL");
    command
}

fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("gha-slurm-demo-")
        .tempdir()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn once_shows_a_whole_build_and_a_second_time_reuses_the_data() {
    let folder = folder();
    for _ in 0..2 {
        let output = demo(folder.path(), 0).arg("--once").output().unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        let kinds = [
            "queued",
            "planned",
            "submitted",
            "allocated",
            "registered",
            "in_progress",
        ];
        for kind in kinds.into_iter().chain(["completed"]) {
            let shown = text
                .lines()
                .filter(|l| l.contains(&format!(" s  {kind} ")))
                .count();
            assert_eq!(shown, 1, "{kind}: {text}");
        }
        nothing_is_left(folder.path().to_str().unwrap()).await;
    }
}

#[tokio::test]
async fn a_demo_killed_in_the_middle_leaves_no_process() {
    let folder = folder();
    let command = demo(folder.path(), 0);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut demo = Process::start("demo", &command, log.path()).unwrap();
    wait_until("a Slurm job runs", DEADLINE, || async {
        demo.log().contains(" s  allocated ")
    })
    .await;
    let log = demo.log();
    demo.kill9();
    nothing_is_left(folder.path().to_str().unwrap()).await;
    // Where a private Slurm could be started, it has a folder of its own.
    if let Some((_, rest)) = log.split_once("SLURM_CONF=") {
        let conf = Path::new(rest.split_whitespace().next().unwrap());
        let slurm = conf.parent().unwrap();
        wait_until("Slurm's folder is removed", DEADLINE, || async {
            !slurm.exists()
        })
        .await;
    }
}

#[tokio::test]
async fn told_to_stop_it_ends_everything() {
    let folder = folder();
    let command = demo(folder.path(), 0);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut demo = Process::start("demo", &command, log.path()).unwrap();
    wait_until("the demo stays", DEADLINE, || async {
        demo.log().contains("Ctrl-C ends the demo")
    })
    .await;
    let log = demo.log();
    let another = log
        .lines()
        .find_map(|line| line.strip_prefix("Another build: "));
    let queued = std::process::Command::new("sh")
        .args(["-c", another.unwrap()])
        .output()
        .unwrap();
    let queued: serde_json::Value = serde_json::from_slice(&queued.stdout).unwrap();
    assert!(
        queued.get("id").is_some_and(serde_json::Value::is_i64),
        "{queued}"
    );
    demo.signal(rustix::process::Signal::INT);
    let status = wait_until("it ends", DEADLINE, || {
        let exited = demo.exited();
        async move { exited }
    })
    .await;
    assert!(status.success(), "{}", demo.log());
    nothing_is_left(folder.path().to_str().unwrap()).await;
}

#[test]
fn a_port_in_use_is_named() {
    let folder = folder();
    let first = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
    let output = demo(folder.path(), first).output().unwrap();
    assert!(!output.status.success());
    let expected = format!("{} (token-broker)", first + 2);
    assert!(text(&output).contains(&expected), "{}", text(&output));
}
