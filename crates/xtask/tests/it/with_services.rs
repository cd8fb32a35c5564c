use std::process::{Command, Output};

use gha_slurm_test_support::{Process, processes_marked, wait_until};

use crate::{DEADLINE, nothing_is_left};

/// `cargo xtask with-services -- sh -c <script>`, with a mark that all its processes inherit.
fn with_services(script: &str, mark: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["with-services", "--", "sh", "-c", script])
        .env("TEST_MARK", mark)
        .env_remove("DATABASE_URL")
        .env_remove("GHA_SLURM_TEST_RABBITMQ")
        .env_remove("REQUIRE_ROOT_TESTS");
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

#[tokio::test]
async fn a_process_left_behind_fails_the_run_and_is_ended() {
    let mark = "xtask-test-leftover";
    let output = with_services("setsid sleep 3210 & exit 0", mark)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("sleep 3210"), "{}", text(&output));
    nothing_is_left(mark).await;
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

/// Appends what tests record when they are skipped.
const SKIPS: &str = "printf 'skipped\\tstorage a::b\\tno sudo\\nkernel\\tagent c::d\\tno cgroups\\nskipped\\tagent e::f\\tno sudo\\n' \
    >> $GHA_SLURM_TEST_SKIPPED";

#[test]
fn skipped_tests_are_counted_and_named() {
    let output = with_services(SKIPS, "xtask-test-skips").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let text = text(&output);
    let report = "3 tests were skipped:\n  1 because no cgroups\n    agent c::d\n  2 because no sudo\n    \
                  storage a::b\n    agent e::f\n";
    assert!(text.contains(report), "{text}");

    let none = with_services("exit 0", "xtask-test-skips")
        .output()
        .unwrap();
    assert!(
        !self::text(&none).contains("skipped"),
        "{}",
        self::text(&none)
    );
}

#[test]
fn a_test_that_root_could_run_must_run_where_root_tests_are_required() {
    let with_root_tests = |script: &str| {
        let mut command = with_services(script, "xtask-test-root-tests");
        command.env("REQUIRE_ROOT_TESTS", "1").output().unwrap()
    };
    let output = with_root_tests(SKIPS);
    assert!(!output.status.success(), "{}", text(&output));
    let reason = "REQUIRE_ROOT_TESTS=1, but tests were skipped: 2";
    assert!(text(&output).contains(reason), "{}", text(&output));

    let kernel = "printf 'kernel\\tagent c::d\\tno cgroups\\n' >> $GHA_SLURM_TEST_SKIPPED; exit 3";
    let output = with_root_tests(kernel);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}

/// What a test process does to be reported: the one half of it that [`SKIPS`] takes for granted.
#[test]
fn a_test_that_calls_skip_is_reported_by_its_name() {
    let program = std::env::current_exe().unwrap();
    let test = "with_services::skips_when_a_run_asks_for_it";
    let script = format!("{} --exact --include-ignored {test}", program.display());
    let output = with_services(&script, "xtask-test-skip").output().unwrap();
    let text = text(&output);
    let report = format!(
        "1 test was skipped:\n  1 because nothing is missing\n    gha-slurm-xtask {test}\n"
    );
    assert!(output.status.success() && text.contains(&report), "{text}");
}

#[test]
#[ignore = "a part of the test above, which runs it in a process of its own"]
fn skips_when_a_run_asks_for_it() {
    gha_slurm_test_support::skip("nothing is missing");
}
