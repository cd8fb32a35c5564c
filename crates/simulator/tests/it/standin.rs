//! The stand-in runner: what the job script and the hooks see of a runner.

use gha_slurm_simulator::model::{Conclusion, Status, WorkflowJob};
use gha_slurm_simulator::request::{NewWorkflowJob, TokenKind};
use rustix::process::Signal;
use serde_json::json;

use crate::{DEADLINE, Runner, Sim, distribution};

const RUNNERS: &str = "/repos/acme/widgets/actions/runners";

async fn run_script(sim: &Sim, script: &str) -> WorkflowJob {
    let job = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]).script(script))
        .unwrap();
    sim.handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap()
}

/// The lines with a time in front.
fn timed(output: &str, text: &str) -> bool {
    output.lines().any(|line| {
        line.split_once("Z: ").is_some_and(|(time, rest)| {
            rest == text && chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S").is_ok()
        })
    })
}

#[tokio::test]
async fn a_just_in_time_runner_does_one_workflow_job() {
    let sim = Sim::start();
    let runner = sim
        .listening_runner("jit-1", &["self-hosted", "slurm"])
        .await;
    let script = "pwd; env | sort; echo to-stderr >&2";
    let job = run_script(&sim, script).await;
    assert_eq!(job.conclusion, Some(Conclusion::Success), "{}", job.output);
    let steps: Vec<&str> = job.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["Set up job", "Run step"]);
    let ended = runner.ended().await;
    assert_eq!(ended.code, Some(0));
    let output = &ended.output;
    assert!(
        output.contains("\n√ Connected to GitHub\n\nCurrent runner version: '2.336.0'\n"),
        "{output}"
    );
    for line in [
        "Listening for Jobs",
        "Running job: build",
        "Job build completed with result: Succeeded",
    ] {
        assert!(timed(output, line), "{line}: {output}");
    }
    let environment = &job.output;
    for line in [
        "GITHUB_REPOSITORY=acme/widgets",
        "RUNNER_NAME=jit-1",
        "GITHUB_EVENT_NAME=push",
        &format!("GITHUB_RUN_ID={}", job.run_id),
        "to-stderr",
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line}: {environment}"
        );
    }
    assert!(
        environment
            .lines()
            .next()
            .unwrap()
            .ends_with("/_work/widgets/widgets")
    );
    assert!(
        !environment.contains("ACTIONS_RUNNER_INPUT_"),
        "{environment}"
    );
    let files: Vec<String> = std::fs::read_dir(ended.folder.path().join("_diag"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        files
            .iter()
            .any(|name| name.starts_with("Worker_") && name.ends_with("-utc.log")),
        "{files:?}"
    );
    // Ephemeral: it has forgotten who it was.
    assert!(!ended.folder.path().join(".runner").exists());
    assert!(!ended.folder.path().join(".credentials").exists());
}

#[tokio::test]
async fn a_failing_step_fails_the_workflow_job_and_not_the_runner() {
    let sim = Sim::start();
    let runner = sim.listening_runner("r", &["slurm"]).await;
    let job = run_script(&sim, "echo before\nfalse\necho after").await;
    assert_eq!(
        (job.conclusion, job.output.as_str()),
        (Some(Conclusion::Failure), "before\n")
    );
    let ended = runner.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        timed(&ended.output, "Job build completed with result: Failed"),
        "{}",
        ended.output
    );

    let jit = sim.jit_config("r2", &["slurm"]).await;
    let runner = Runner::start(&[
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED", "1"),
    ]);
    run_script(&sim, "exit 3").await;
    assert_eq!(runner.ended().await.code, Some(102));
}

#[tokio::test]
async fn hooks_run_around_the_step_and_a_failing_one_fails_it() {
    let sim = Sim::start();
    let folder = tempfile::tempdir().unwrap();
    let hook = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let event = "echo started; grep -q '\"full_name\":\"acme/widgets\"' \"$GITHUB_EVENT_PATH\"";
    let started = hook("started.sh", event);
    let completed = hook("completed.sh", "echo completed");
    let jit = sim.jit_config("r", &["slurm"]).await;
    let runner = Runner::start(&[
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("ACTIONS_RUNNER_HOOK_JOB_STARTED", &started),
        ("ACTIONS_RUNNER_HOOK_JOB_COMPLETED", &completed),
    ]);
    let job = run_script(&sim, "echo step").await;
    assert_eq!(job.output, "started\nstep\ncompleted\n");
    assert_eq!(job.conclusion, Some(Conclusion::Success));
    runner.ended().await;

    let refusing = hook("refusing.sh", "echo refused; exit 1");
    let jit = sim.jit_config("r2", &["slurm"]).await;
    let runner = Runner::start(&[
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("ACTIONS_RUNNER_HOOK_JOB_STARTED", &refusing),
        ("ACTIONS_RUNNER_HOOK_JOB_COMPLETED", &completed),
    ]);
    let job = run_script(&sim, "echo step").await;
    assert_eq!(job.output, "refused\ncompleted\n");
    assert_eq!(job.conclusion, Some(Conclusion::Failure));
    assert_eq!(runner.ended().await.code, Some(0));
}

#[tokio::test]
async fn set_up_comes_between_taking_it_and_the_started_hook() {
    let sim = Sim::start();
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("started.sh");
    std::fs::write(&hook, "echo hook").unwrap();
    let jit = sim.jit_config("slow", &["slurm"]).await;
    let runner = Runner::start(&[
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("ACTIONS_RUNNER_HOOK_JOB_STARTED", hook.to_str().unwrap()),
    ]);
    let slow = NewWorkflowJob {
        set_up_ms: 700,
        ..NewWorkflowJob::of("acme/widgets", &["slurm"]).script("echo step")
    };
    let job = sim.handle.queue(slow).unwrap();
    let started = sim
        .handle
        .wait_for_status(job.id, Status::InProgress, DEADLINE)
        .await
        .unwrap();
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.steps[1].name, "Set up runner");
    let waited = job.steps[1].started_at - started.started_at.unwrap();
    assert!(waited.num_milliseconds() >= 700, "{waited}");
    runner.ended().await;
}

#[tokio::test]
async fn a_cancelled_workflow_job_is_stopped() {
    let sim = Sim::start();
    let runner = sim.listening_runner("r", &["slurm"]).await;
    let job = sim
        .handle
        .queue(
            NewWorkflowJob::of("acme/widgets", &["slurm"])
                .script("trap 'echo interrupted; exit 1' INT\nwhile :; do sleep 0.05; done"),
        )
        .unwrap();
    sim.handle
        .wait_for_status(job.id, Status::InProgress, DEADLINE)
        .await
        .unwrap();
    sim.handle.cancel(job.id).unwrap();
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.conclusion, Some(Conclusion::Cancelled));
    let ended = runner.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        timed(&ended.output, "Job build completed with result: Canceled"),
        "{}",
        ended.output
    );
}

#[tokio::test]
async fn a_runner_told_to_stop_gives_its_work_back() {
    let sim = Sim::start();
    let idle = sim.listening_runner("idle", &["other"]).await;
    idle.signal(Signal::TERM);
    let ended = idle.ended().await;
    assert_eq!(ended.code, Some(0));
    // It is still registered, but no longer there.
    assert!(!sim.handle.state().runner("idle").unwrap().online);

    let runner = sim.listening_runner("r", &["slurm"]).await;
    let job = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]).script("exec sleep 60"))
        .unwrap();
    sim.handle
        .wait_for_status(job.id, Status::InProgress, DEADLINE)
        .await
        .unwrap();
    runner.signal(Signal::INT);
    let job = sim
        .handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(job.conclusion, Some(Conclusion::Cancelled));
    assert_eq!(runner.ended().await.code, Some(0));
}

/// The last ones are still in fork(2) or execve(2) when the workflow job ends.
#[tokio::test]
async fn processes_left_behind_are_ended() {
    let sim = Sim::start();
    let runner = sim.listening_runner("r", &["slurm"]).await;
    // Programs that are not in memory: execve(2) waits for the disk.
    let script = "for i in {1..40}; do cp \"$(command -v sleep)\" \"sleep-$i\"; done; sync -d sleep-*\n\
        for i in {1..40}; do dd of=\"sleep-$i\" oflag=nocache conv=notrunc count=0 status=none; done\n\
        for i in {1..40}; do setsid \"$PWD/sleep-$i\" 300 >/dev/null 2>&1 & echo $!; done";
    let job = run_script(&sim, script).await;
    let left: Vec<i32> = job.output.lines().map(|id| id.parse().unwrap()).collect();
    assert_eq!(left.len(), 40, "{}", job.output);
    runner.ended().await;
    gha_slurm_test_support::try_wait_until("the orphans are gone", DEADLINE, || async {
        let alive = |id: &&i32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let alive: Vec<&i32> = left.iter().filter(alive).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn configured_by_hand_it_registers_and_removes_itself() {
    let sim = Sim::start();
    let token = sim.token().await;
    let given = sim
        .post(&format!("{RUNNERS}/registration-token"), &token, json!({}))
        .await;
    let registration = given.body["token"].as_str().unwrap();
    let url = format!("{}/acme/widgets", sim.base);
    let configure = [
        "--unattended",
        "--url",
        &url,
        "--name",
        "hand",
        "--labels",
        "slurm,gpu",
        "--ephemeral",
    ];
    let refused = Runner::start_in(
        distribution(),
        "config.sh",
        &configure,
        &[("ACTIONS_RUNNER_INPUT_TOKEN", "AWRONGTOKEN")],
    );
    assert_eq!(refused.ended().await.code, Some(1));
    let environment = [("ACTIONS_RUNNER_INPUT_TOKEN", registration)];
    let configured = Runner::start_in(distribution(), "config.sh", &configure, &environment)
        .ended()
        .await;
    assert_eq!(configured.code, Some(0), "{}", configured.output);
    assert!(
        configured.output.contains("√ Settings Saved."),
        "{}",
        configured.output
    );
    let runner = sim.handle.state().runner("hand").unwrap().clone();
    let labels: Vec<&str> = runner
        .labels
        .iter()
        .map(|label| label.name.as_str())
        .collect();
    assert_eq!(labels, ["self-hosted", "Linux", "X64", "slurm", "gpu"]);
    assert!(runner.ephemeral && !runner.just_in_time);

    let again = Runner::start_in(distribution(), "config.sh", &configure, &environment)
        .ended()
        .await;
    assert_eq!(again.code, Some(1));
    assert!(
        again.output.contains("A runner exists with the same name"),
        "{}",
        again.output
    );

    let running = Runner::start_in(configured.folder, "run.sh", &[], &[]);
    let job = run_script(&sim, "true").await;
    assert_eq!(job.runner_name.as_deref(), Some("hand"));
    // run.sh hides the listener's code, whatever it is.
    assert_eq!(running.ended().await.code, Some(0));

    let configured = Runner::start_in(distribution(), "config.sh", &configure, &environment)
        .ended()
        .await;
    let given = sim
        .post(&format!("{RUNNERS}/remove-token"), &token, json!({}))
        .await;
    let environment = [(
        "ACTIONS_RUNNER_INPUT_TOKEN",
        given.body["token"].as_str().unwrap(),
    )];
    let removed = Runner::start_in(configured.folder, "config.sh", &["remove"], &environment)
        .ended()
        .await;
    assert_eq!(removed.code, Some(0), "{}", removed.output);
    assert!(sim.handle.state().runners.is_empty());

    sim.handle.expire_tokens(TokenKind::Registration);
    let environment = [("ACTIONS_RUNNER_INPUT_TOKEN", registration)];
    let expired = Runner::start_in(distribution(), "config.sh", &configure, &environment)
        .ended()
        .await;
    assert_eq!(expired.code, Some(1));
}

#[tokio::test]
async fn a_configuration_serves_one_listener_once() {
    let sim = Sim::start();
    let jit = sim.jit_config("r", &["slurm"]).await;
    let environment = [
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("STANDIN_RUNNER_CONFLICT_SECONDS", "0"),
    ];
    let first = Runner::start(&environment);
    sim.wait_until_listening("r").await;
    let second = Runner::start(&environment).ended().await;
    assert_eq!(second.code, Some(5), "{}", second.output);
    run_script(&sim, "true").await;
    first.ended().await;
    let late = Runner::start(&environment).ended().await;
    assert_eq!(late.code, Some(1));
    assert!(
        late.output
            .contains("Failed to create a session. The runner registration has been deleted"),
        "{}",
        late.output
    );
    assert!(!late.output.contains("Listening for Jobs"));
}

#[tokio::test]
async fn a_deleted_registration_ends_a_listener() {
    let sim = Sim::start();
    let runner = sim.listening_runner("r", &["slurm"]).await;
    let id = sim.handle.state().runner("r").unwrap().id;
    let token = sim.token().await;
    let deleted = sim
        .call(
            reqwest::Method::DELETE,
            &format!("{RUNNERS}/{id}"),
            &token,
            None,
        )
        .await;
    assert_eq!(deleted.status, 204);
    assert_eq!(runner.ended().await.code, Some(1));
}

#[tokio::test]
async fn an_old_version_is_turned_away_and_says_so_where_asked() {
    let sim = Sim::start();
    sim.handle.deprecate_runners(true);
    let jit = sim.jit_config("r", &["slurm"]).await;
    let jit = ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str());
    let silent = Runner::start(&[jit]).ended().await;
    assert_eq!(silent.code, Some(1));
    assert!(
        silent
            .output
            .contains("is deprecated and cannot receive messages"),
        "{}",
        silent.output
    );
    let asked = ("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", "1");
    assert_eq!(Runner::start(&[jit, asked]).ended().await.code, Some(7));
    let hidden = Runner::start_in(distribution(), "run.sh", &[], &[jit])
        .ended()
        .await;
    assert_eq!(hidden.code, Some(0));
    let shown = Runner::start_in(distribution(), "run.sh", &[], &[jit, asked])
        .ended()
        .await;
    assert_eq!(shown.code, Some(7));
}

#[tokio::test]
async fn the_command_line_is_the_real_ones() {
    let run = async |program: &str, arguments: &[&str], environment: &[(&str, &str)]| {
        Runner::start_in(distribution(), program, arguments, environment)
            .ended()
            .await
    };
    let version = run("bin/Runner.Listener", &["--version"], &[]).await;
    assert_eq!(
        (version.code, version.output.as_str()),
        (Some(0), "2.336.0\n")
    );
    let unknown = run("bin/Runner.Listener", &["run", "--frobnicate"], &[]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown
            .output
            .contains("Unrecognized command-line input arguments"),
        "{}",
        unknown.output
    );
    let unconfigured = run("bin/Runner.Listener", &["run"], &[]).await;
    assert_eq!(unconfigured.code, Some(1));
    assert!(
        unconfigured.output.contains("Not configured"),
        "{}",
        unconfigured.output
    );
    let garbage = run("bin/Runner.Listener", &["run", "--jitconfig", "%%%"], &[]).await;
    assert_eq!(garbage.code, Some(1));
    for code in ["2", "3", "4"] {
        let asked = run(
            "bin/Runner.Listener",
            &["run"],
            &[("STANDIN_RUNNER_EXIT_WITH", code)],
        )
        .await;
        assert_eq!(asked.code, Some(code.parse().unwrap()));
    }
}

#[tokio::test]
async fn without_default_labels_it_has_exactly_those_given() {
    let sim = Sim::start();
    let token = sim.token().await;
    let given = sim
        .post(&format!("{RUNNERS}/registration-token"), &token, json!({}))
        .await;
    let environment = [
        (
            "ACTIONS_RUNNER_INPUT_TOKEN",
            given.body["token"].as_str().unwrap(),
        ),
        (
            "ACTIONS_RUNNER_INPUT_URL",
            "https://github.com/acme/widgets",
        ),
        ("STANDIN_RUNNER_SERVER_URL", &sim.base),
    ];
    let none = ["--unattended", "--name", "bare", "--no-default-labels"];
    let refused = Runner::start_in(distribution(), "config.sh", &none, &environment);
    assert_eq!(refused.ended().await.code, Some(1));
    let some = [&none[..], &["--labels", "slurm"]].concat();
    let configured = Runner::start_in(distribution(), "config.sh", &some, &environment)
        .ended()
        .await;
    assert_eq!(configured.code, Some(0), "{}", configured.output);
    let runner = sim.handle.state().runner("bare").unwrap().clone();
    let labels: Vec<&str> = runner
        .labels
        .iter()
        .map(|label| label.name.as_str())
        .collect();
    assert_eq!(labels, ["slurm"]);

    // Not ephemeral: it listens again after a workflow job, unless told to do one only.
    let running = Runner::start_in(configured.folder, "bin/Runner.Listener", &["run"], &[]);
    for _ in 0..2 {
        assert_eq!(
            run_script(&sim, "true").await.runner_name.as_deref(),
            Some("bare")
        );
    }
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.folder.path().join(".runner").exists());
    let once = Runner::start_in(ended.folder, "bin/Runner.Listener", &["run", "--once"], &[]);
    run_script(&sim, "true").await;
    let ended = once.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.output.contains("'--once' is going to be deprecated"),
        "{}",
        ended.output
    );
}

#[tokio::test]
async fn run_sh_passes_a_signal_on_only_where_asked() {
    let sim = Sim::start();
    let jit = sim.jit_config("r", &["slurm"]).await;
    let environment = [
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
        ("RUNNER_MANUALLY_TRAP_SIG", "1"),
    ];
    let runner = Runner::start_in(distribution(), "run.sh", &[], &environment);
    sim.wait_until_listening("r").await;
    runner.signal(Signal::TERM);
    let ended = runner.ended().await;
    assert_eq!(ended.code, Some(143));
    assert!(ended.output.contains("Exiting..."), "{}", ended.output);
    assert!(!sim.handle.state().runner("r").unwrap().online);
}

/// A container hook that keeps what it is told, and runs steps itself.
const CONTAINER_HOOK: &str = r#"
input=$(cat)
echo "$input" | jq -c '[.command, .args.container.image, .args.services[0].image, .state.here]' >> "$TOLD"
case $(jq -r .command <<< "$input") in
    prepare_job) echo '{"isAlpine": false, "state": {"here": "yes"}}' > "$(jq -r .responseFile <<< "$input")" ;;
    run_script_step) echo inside; bash "$(jq -r '.args.entryPointArgs[-1]' <<< "$input")" ;;
esac
"#;

#[tokio::test]
async fn containers_are_the_container_hooks() {
    let sim = Sim::start();
    let folder = tempfile::tempdir().unwrap();
    let (hook, told) = (folder.path().join("hook.sh"), folder.path().join("told"));
    std::fs::write(&hook, CONTAINER_HOOK).unwrap();
    let run = async |name: &str, hook: &str| {
        let jit = sim.jit_config(name, &["slurm"]).await;
        let runner = Runner::start(&[
            ("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str()),
            ("ACTIONS_RUNNER_CONTAINER_HOOKS", hook),
            ("TOLD", told.to_str().unwrap()),
        ]);
        let wants = NewWorkflowJob {
            container: Some("debian:12".into()),
            services: vec!["postgres:15".into()],
            ..NewWorkflowJob::of("acme/widgets", &["slurm"]).script("echo a step")
        };
        let id = sim.handle.queue(wants).unwrap().id;
        let job = sim
            .handle
            .wait_for_status(id, Status::Completed, DEADLINE)
            .await
            .unwrap();
        runner.ended().await;
        job
    };
    let job = run("r1", hook.to_str().unwrap()).await;
    assert_eq!(
        (job.conclusion, job.output.as_str()),
        (Some(Conclusion::Success), "inside\na step\n")
    );
    assert_eq!(
        std::fs::read_to_string(&told).unwrap(),
        "[\"prepare_job\",\"debian:12\",\"postgres:15\",null]\n\
         [\"run_script_step\",null,null,\"yes\"]\n\
         [\"cleanup_job\",null,null,\"yes\"]\n"
    );

    std::fs::write(&hook, "exit 1").unwrap();
    let job = run("r2", hook.to_str().unwrap()).await;
    assert_eq!(job.conclusion, Some(Conclusion::Failure));
    assert!(
        job.output
            .contains("Custom container implementation failed"),
        "{}",
        job.output
    );
    let job = run("r3", "").await;
    assert_eq!(job.conclusion, Some(Conclusion::Failure));
    assert!(
        job.output.contains("docker") && !job.output.contains("a step"),
        "{}",
        job.output
    );
}
