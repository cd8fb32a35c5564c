//! The job script as a process, beside a broker that answers as told and a runner that does as told.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gha_slurm_test_support::{end_processes_marked, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::DEADLINE;

pub(crate) const LAUNCH_TOKEN: &str = "eyJlaunch.launch-token-payload.launch-signature";
pub(crate) const PROGRESS_TOKEN: &str = "progress-token-5c1f";
/// As GitHub.com makes one: see [`jit_config`].
pub(crate) const JIT_CONFIG: &str = "eyIucnVubmVyIjogImV5SkJaMlZ1ZEVsa0lqb2dNVGNzSUNKQloyVnVkRTVoYldVaU9pQWlaMmhoTFhOc2RYSnRMWFJsYzNRdE1TSXNJQ0pRYjI5c1NXUWlPaUF4TENBaVVHOXZiRTVoYldVaU9pQWlSR1ZtWVhWc2RDSXNJQ0pGY0dobGJXVnlZV3dpT2lCMGNuVmxMQ0FpVTJWeWRtVnlWWEpzSWpvZ0ltaDBkSEJ6T2k4dmNHbHdaV3hwYm1WeloyaDFZbVYxY3pJdVlXTjBhVzl1Y3k1bmFYUm9kV0oxYzJWeVkyOXVkR1Z1ZEM1amIyMHZZa2wwU1hNdklpd2dJa2RwZEVoMVlsVnliQ0k2SUNKb2RIUndjem92TDJkcGRHaDFZaTVqYjIwdllXTnRaUzkzYVdSblpYUnpJaXdnSWxkdmNtdEdiMnhrWlhJaU9pQWlYM2R2Y21zaUxDQWlWWE5sVmpKR2JHOTNJam9nZEhKMVpTd2dJbE5sY25abGNsVnliRll5SWpvZ0ltaDBkSEJ6T2k4dlluSnZhMlZ5TG1GamRHbHZibk11WjJsMGFIVmlkWE5sY21OdmJuUmxiblF1WTI5dEx5SjkiLCAiLmNyZWRlbnRpYWxzIjogImV5SlRZMmhsYldVaU9pQWlUMEYxZEdnaUxDQWlSR0YwWVNJNklIc2lRMnhwWlc1MFNXUWlPaUFpWXpFaUxDQWlRWFYwYUc5eWFYcGhkR2x2YmxWeWJDSTZJQ0pvZEhSd2N6b3ZMM1p6ZEc5clpXNHVZV04wYVc5dWN5NW5hWFJvZFdKMWMyVnlZMjl1ZEdWdWRDNWpiMjB2WDJGd2FYTXZiMkYxZEdneUwzUnZhMlZ1SW4xOSIsICIuY3JlZGVudGlhbHNfcnNhcGFyYW1zIjogImV5SmtJam9pYzJWamNtVjBJbjA9In0=";
pub(crate) const REGISTRATION_TOKEN: &str = "AREGISTRATIONTOKEN17";
pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-job.sh"
);

/// The texts of the runner's hooks, as the agent hands them over.
const HOOKS: [(&str, &str); 2] = [
    (
        "GHA_SLURM_JOB_STARTED_HOOK",
        include_str!("../../../../deploy/job-script/gha-slurm-job-started.sh"),
    ),
    (
        "GHA_SLURM_NO_CONTAINERS_HOOK",
        include_str!("../../../../deploy/job-script/gha-slurm-no-containers.sh"),
    ),
];

/// What a runner does that is given a workflow job at once.
pub(crate) const ONE_WORKFLOW_JOB: &str = r#"
listening
echo "2026-11-23 10:00:01Z: Running job: test"
mkdir -p _diag; touch _diag/Worker_20261123-100001-utc.log
GITHUB_RUN_ID=4711 GITHUB_RUN_ATTEMPT=2 bash "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || exit 99
echo "2026-11-23 10:00:02Z: Job test completed with result: Succeeded"
"#;

/// What every fake runner begins with: like the real one, it takes its inputs out of its environment.
const PREAMBLE: &str = r#"#!/bin/bash
jit=${ACTIONS_RUNNER_INPUT_JITCONFIG:-}; token=${ACTIONS_RUNNER_INPUT_TOKEN:-}
unset ACTIONS_RUNNER_INPUT_JITCONFIG ACTIONS_RUNNER_INPUT_TOKEN
echo "$*" >> "$SEEN/arguments"
listening() { echo "√ Connected to GitHub"; echo; echo "2026-11-23 10:00:00Z: Listening for Jobs"; }
# Until told to end.
linger() { trap 'echo told >> "$SEEN/signals"; exit 0' TERM INT; while :; do sleep 0.1; done; }
cd "$(dirname "$0")/.." || exit 1
"#;

/// One launch: what the script is given.
pub(crate) struct Launch {
    pub(crate) folder: TempDir,
    pub(crate) broker: MockServer,
    /// Each test's own: the script ends every process that carries it.
    pub(crate) id: String,
    environment: Vec<(String, String)>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
}

impl Launch {
    /// A launch whose runner's program is `runner` (bash), and a broker that agrees to everything.
    pub(crate) async fn new(runner: &str) -> Self {
        Self::new_in(&std::env::temp_dir(), runner).await
    }

    /// The same, with its folder below `parent`.
    pub(crate) async fn new_in(parent: &Path, runner: &str) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        for name in ["runner/bin", "work", "seen"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let program = folder.path().join("runner/bin/Runner.Listener");
        std::fs::write(&program, format!("{PREAMBLE}{runner}")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let broker = MockServer::start().await;
        let launch = Self {
            folder,
            broker,
            id: uuid::Uuid::new_v4().to_string(),
            environment: Vec::new(),
        };
        launch.says("/gha/runner", 9, jit_answer(), None).await;
        for route in ["/gha/runner/progress", "/gha/runner/release"] {
            launch
                .says(route, 9, ResponseTemplate::new(204), None)
                .await;
        }
        launch
    }

    /// The broker answers so (priority 1 goes first), for the first `times` calls.
    pub(crate) async fn says(
        &self,
        route: &str,
        priority: u8,
        answer: ResponseTemplate,
        times: Option<u64>,
    ) {
        let mock = Mock::given(method("POST"))
            .and(path(route))
            .respond_with(answer)
            .with_priority(priority);
        match times {
            Some(n) => mock.up_to_n_times(n).mount(&self.broker).await,
            None => mock.mount(&self.broker).await,
        }
    }

    /// With one more environment variable.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// A file the fake runner leaves in `$SEEN`.
    pub(crate) fn seen(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("seen").join(name)).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn start(&self) -> Child {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        Command::new("bash")
            .arg(SCRIPT)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", "/nonexistent")
            .env("SEEN", text(self.path("seen")))
            .env("SLURM_JOB_ID", "17")
            .env("SLURM_RESTART_COUNT", "0")
            .env("SLURMD_NODENAME", "n1")
            .env("GHA_SLURM_LAUNCH_TOKEN", LAUNCH_TOKEN)
            .env("GHA_SLURM_TOKEN_URL", self.broker.uri())
            .env("GHA_SLURM_LAUNCH", &self.id)
            .env("GHA_SLURM_RUNNER_DIR", text(self.path("runner")))
            .env("GHA_SLURM_WORK_ROOT", text(self.path("work")))
            .env("TRACEPARENT", TRACEPARENT)
            .envs(HOOKS)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) async fn finish(&self, child: Child) -> Outcome {
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let outcome = Outcome {
            code: output.status.code(),
            output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        };
        assert!(
            is_empty(&self.path("work")),
            "the work directory is left:\n{}",
            outcome.output
        );
        outcome
    }

    pub(crate) async fn run(&self) -> Outcome {
        self.finish(self.start()).await
    }

    /// Waits until the fake runner has left a file in `$SEEN`.
    pub(crate) async fn until_seen(&self, name: &str) {
        wait_until(&format!("the runner leaves {name}"), DEADLINE, || async {
            (!self.seen(name).is_empty()).then_some(())
        })
        .await;
    }

    /// The calls of one route.
    pub(crate) async fn calls(&self, route: &str) -> Vec<Request> {
        let mut calls = self.broker.received_requests().await.unwrap();
        calls.retain(|r| r.url.path() == route);
        calls
    }

    /// The bodies of the progress calls.
    pub(crate) async fn progress(&self) -> Vec<Value> {
        let calls = self.calls("/gha/runner/progress").await;
        calls
            .iter()
            .map(|r| serde_json::from_slice(&r.body).unwrap())
            .collect()
    }

    /// The phases it told, in order.
    pub(crate) async fn phases(&self) -> Vec<String> {
        let progress = self.progress().await;
        progress
            .iter()
            .map(|p| p["phase"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What it told at the end.
    pub(crate) async fn last(&self) -> Value {
        let last = self.progress().await.pop().unwrap();
        assert_eq!(last["phase"], "finished", "{last}");
        last
    }
}

/// A test that fails leaves nothing running.
impl Drop for Launch {
    fn drop(&mut self) {
        end_processes_marked(&self.id);
    }
}

/// A JIT configuration of these files (actions/runner, Runner.cs).
pub(crate) fn jit_config(files: &[(&str, &str)]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|(name, text)| format!("{}:\"{}\"", json!(name), STANDARD.encode(text)))
        .collect();
    STANDARD.encode(format!("{{{}}}", files.join(",")))
}

pub(crate) fn jit_answer() -> ResponseTemplate {
    jit_answer_of(JIT_CONFIG)
}

pub(crate) fn jit_answer_of(config: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "mode": "jit",
        "encodedJitConfig": config,
        "url": "https://github.com/acme/widgets",
        "name": "gha-slurm-test-1",
        "labels": ["self-hosted", "slurm"],
        "progressToken": PROGRESS_TOKEN,
    }))
}

pub(crate) fn problem(status: u16, detail: &str) -> ResponseTemplate {
    let problem = gha_slurm_contract::Problem::new(status, "test", "Test").detail(detail);
    ResponseTemplate::new(status).set_body_json(problem)
}

pub(crate) fn bearer(request: &Request) -> &str {
    let header = request.headers.get("authorization").unwrap();
    header.to_str().unwrap().strip_prefix("Bearer ").unwrap()
}

pub(crate) fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
