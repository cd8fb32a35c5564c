//! The simulator at its HTTP boundary, and the stand-in runner as a real process.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod assignment;
mod control;
mod faults;
mod octocrab;
mod process;
mod rest_app;
mod rest_runners;
mod rest_runs;
mod sign_in;
mod standin;
mod webhooks;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use gha_slurm_simulator::model::{Installation, Repository};
use gha_slurm_simulator::request::NewRepository;
use gha_slurm_simulator::{AppKey, Handle, Settings, Simulator};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

const APP_ID: u64 = 4242;
/// Longer than anything takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// One key for all tests: making one takes a while.
static APP_PEM: LazyLock<String> = LazyLock::new(|| AppKey::generate_private_pem().unwrap());

/// A simulator that runs until the test ends, with `acme/widgets` on which the App is installed.
struct Sim {
    handle: Handle,
    base: String,
    http: reqwest::Client,
    installation: Installation,
    widgets: Repository,
    _stop: DropGuard,
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap()
    }
}

fn settings() -> Settings {
    Settings::new(APP_ID, AppKey::from_pem(APP_PEM.as_bytes()).unwrap())
}

impl Sim {
    fn start() -> Self {
        Self::start_with(settings())
    }

    fn start_with(settings: Settings) -> Self {
        let simulator = Simulator::build(settings).unwrap();
        let handle = simulator.handle();
        let base = handle.api_url();
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));
        let widgets = handle
            .create_repository(&NewRepository::named("acme/widgets"))
            .unwrap();
        let installation = handle.state().installations.remove(0);
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .build()
            .unwrap();
        Self {
            handle,
            base,
            http,
            installation,
            widgets,
            _stop: stop.drop_guard(),
        }
    }

    async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null),
        }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, token, Some(body)).await
    }

    /// Mints an installation token.
    async fn mint(&self, narrowed: Value) -> Answer {
        let path = format!("/app/installations/{}/access_tokens", self.installation.id);
        self.post(&path, &app_jwt(), narrowed).await
    }

    /// A token with everything the installation may do.
    async fn token(&self) -> String {
        let minted = self.mint(json!({})).await;
        assert_eq!(minted.status, 201);
        minted.body["token"].as_str().unwrap().to_owned()
    }

    /// Gives a just-in-time configuration.
    async fn jit(&self, name: &str, labels: &[&str]) -> Answer {
        let token = self.token().await;
        let body =
            json!({ "name": name, "runner_group_id": 1, "labels": labels, "work_folder": "_work" });
        self.post(
            "/repos/acme/widgets/actions/runners/generate-jitconfig",
            &token,
            body,
        )
        .await
    }

    async fn jit_config(&self, name: &str, labels: &[&str]) -> String {
        let answer = self.jit(name, labels).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["encoded_jit_config"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Starts a stand-in runner from a just-in-time configuration.
    async fn runner(&self, name: &str, labels: &[&str]) -> Runner {
        let jit = self.jit_config(name, labels).await;
        Runner::start(&[("ACTIONS_RUNNER_INPUT_JITCONFIG", jit.as_str())])
    }

    /// Starts one and waits until it listens; for when no workflow job waits for it.
    async fn listening_runner(&self, name: &str, labels: &[&str]) -> Runner {
        let runner = self.runner(name, labels).await;
        self.wait_until_listening(name).await;
        runner
    }

    async fn wait_until_listening(&self, name: &str) {
        self.handle
            .wait_for("the runner listens", DEADLINE, |state| {
                state
                    .runner(name)
                    .filter(|runner| runner.listening)
                    .map(|_| ())
            })
            .await
            .unwrap();
    }
}

/// Claims signed as the App signs them.
fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(APP_PEM.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &key).unwrap()
}

fn app_jwt() -> String {
    let now = chrono::Utc::now().timestamp();
    signed(&json!({ "iat": now - 60, "exp": now + 500, "iss": APP_ID.to_string() }))
}

/// A stand-in runner in a folder of its own.
struct Runner {
    folder: TempDir,
    child: Child,
}

struct Ended {
    code: Option<i32>,
    output: String,
    folder: TempDir,
}

fn distribution() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_gha-slurm-standin-runner"));
    gha_slurm_simulator::standin::install(folder.path(), &executable).unwrap();
    folder
}

impl Runner {
    fn start(environment: &[(&str, &str)]) -> Self {
        Self::start_in(distribution(), "bin/Runner.Listener", &["run"], environment)
    }

    fn start_in(
        folder: TempDir,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let child = Command::new(folder.path().join(program))
            .args(arguments)
            .envs(environment.iter().copied())
            .env("RUNNER_ALLOW_RUNASROOT", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { folder, child }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn ended(self) -> Ended {
        let ended = tokio::time::timeout(DEADLINE, self.child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        Ended {
            code: ended.status.code(),
            output: String::from_utf8(ended.stdout).unwrap(),
            folder: self.folder,
        }
    }
}
