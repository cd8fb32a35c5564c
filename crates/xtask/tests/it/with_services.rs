use std::process::{Command, Output};

use gha_slurm_test_support::{Process, processes_marked, wait_until};

use crate::DEADLINE;

/// `cargo xtask with-services -- sh -c <script>`, with a mark that all its processes inherit.
fn with_services(script: &str, mark: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["with-services", "--", "sh", "-c", script])
        .env("TEST_MARK", mark)
        .env_remove("DATABASE_URL")
        .env_remove("GHA_SLURM_TEST_RABBITMQ");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn a_run_has_servers_and_keeps_its_exit_code() {
    let mark = "xtask-test-servers";
    let script = "echo $DATABASE_URL $GHA_SLURM_TEST_RABBITMQ; exit 3";
    let output = with_services(script, mark).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let text = text(&output);
    assert!(text.contains("postgres://postgres@127.0.0.1:"), "{text}");
    assert!(text.contains("/gha-slurm-rabbitmq-"), "{text}");
    assert_eq!(processes_marked(mark), []);
}

#[test]
fn a_process_left_behind_fails_the_run_and_is_ended() {
    let mark = "xtask-test-leftover";
    let output = with_services("setsid sleep 3210 & exit 0", mark)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("sleep 3210"), "{}", text(&output));
    assert_eq!(processes_marked(mark), []);
}

#[tokio::test]
async fn a_killed_run_leaves_no_server() {
    let mark = "xtask-test-killed";
    let folder = tempfile::tempdir().unwrap();
    let command = with_services("exec sleep 3211", mark);
    let mut run = Process::start("with-services", &command, &folder.path().join("log")).unwrap();
    let runs = |what: &str| {
        let processes = processes_marked(mark);
        processes
            .iter()
            .any(|(_, words)| words.split(' ').next().is_some_and(|w| w.ends_with(what)))
    };
    wait_until("the command runs", DEADLINE, || async { runs("sleep") }).await;
    assert!(runs("postgres") && runs("beam.smp"));
    run.kill9();
    wait_until("the servers are gone", DEADLINE, || async {
        !runs("postgres") && !runs("beam.smp") && !runs("epmd") && !runs("sh")
    })
    .await;
}
