//! The agent as a process of its own, and launch tokens for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chrono::Utc;
use gha_slurm_auth::token::NOT_BEFORE_S;
use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{CallClaims, CallPurpose};
use gha_slurm_contract::launch_token::{
    AUDIENCE_AGENT, AUDIENCE_BROKER, StartAnswer, StartRequest,
};
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::{LaunchId, ResourceRequest};
use gha_slurm_test_support::{ServiceProcess, binary, end_processes_marked, free_port, wait_until};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::DEADLINE;
use crate::script_fixture::TRACEPARENT;

pub(crate) const ISSUER: &str = "test";

/// A site: keys, a state folder and a job script that says that it started.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) keys: KeyFolder,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    settings_file: Option<PathBuf>,
}

/// An agent of a site.
pub(crate) struct Agent {
    service: ServiceProcess,
    port: u16,
}

impl Site {
    /// A site whose job script is `script`.
    pub(crate) fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().join("keys"));
        keys.generate(1).unwrap();
        std::fs::create_dir(folder.path().join("starts")).unwrap();
        std::fs::write(folder.path().join("script"), script).unwrap();
        Self {
            folder,
            keys,
            settings: Vec::new(),
            environment: Vec::new(),
            settings_file: None,
        }
    }

    /// With one more setting, as an environment variable without its prefix.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// With one more environment variable of the agent.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// With a settings file of the site's folder.
    pub(crate) fn with_file(mut self, name: &str) -> Self {
        self.settings_file = Some(self.path(name));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the local backend keeps Slurm job `id`.
    pub(crate) fn slurm_job(&self, id: &str) -> PathBuf {
        self.path("state/local").join(id)
    }

    /// Slurm jobs that were submitted.
    pub(crate) fn slurm_jobs(&self) -> usize {
        let entries = std::fs::read_dir(self.path("state/local"));
        entries.map_or(0, |e| {
            e.flatten()
                .filter(|e| e.file_name().to_str().unwrap().parse::<u64>().is_ok())
                .count()
        })
    }

    /// How often the script of a launch started.
    pub(crate) fn starts(&self, launch: LaunchId) -> usize {
        let path = self.path("starts").join(launch.to_string());
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// What the ledger holds of a launch.
    pub(crate) fn entry(&self, launch: LaunchId) -> PathBuf {
        self.path("state/launches").join(format!("{launch}.json"))
    }

    /// The agent's settings, as environment variables without their prefix.
    fn all_settings(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let settings = [
            ("DEPLOYMENT__NAME", ISSUER.to_owned()),
            ("CLUSTER__NAME", "main".into()),
            ("TOKEN_BROKER__URLS", "http://127.0.0.1:1".into()),
            ("STATE__FOLDER", text(&self.path("state"))),
            ("RUNNER__FOLDER", text(self.folder.path())),
            ("RUNNER__JOB_SCRIPT", text(&self.path("script"))),
            ("SLURM__BACKEND", "local".into()),
        ];
        let keys = ("KEYS__PUBLIC_KEYS", text(&self.path("keys")));
        let own_keys = self.settings.iter().any(|(k, _)| k.starts_with("KEYS__"));
        let settings = settings.into_iter().chain((!own_keys).then_some(keys));
        settings
            .map(|(key, value)| (key.to_owned(), value))
            .chain(self.settings.clone())
            .collect()
    }

    /// The agent's settings, as environment variables.
    pub(crate) fn settings_for_a_command(&self) -> Vec<(String, String)> {
        let settings = self.all_settings().into_iter();
        settings
            .map(|(key, value)| (format!("GHA_SLURM_MUNGE__{key}"), value))
            .collect()
    }

    /// Starts the agent without waiting for it.
    pub(crate) fn spawn(&self) -> Agent {
        self.spawn_through(&[])
    }

    /// Starts the agent by another program, whose last arguments become the agent's command line.
    pub(crate) fn spawn_through(&self, words: &[String]) -> Agent {
        let port = free_port();
        let mut service = ServiceProcess::new("gha-slurm-munge", self.folder.path())
            .through(words)
            .setting("HTTP__LISTEN", format!("127.0.0.1:{port}"));
        if let Some(file) = &self.settings_file {
            service = service.config(file);
        }
        for (key, value) in self.all_settings() {
            service = service.setting(&key, value);
        }
        for (key, value) in &self.environment {
            service = service.env(key, value);
        }
        service.spawn().unwrap();
        Agent { service, port }
    }

    /// Runs the agent's program for one of its tasks, with the agent's settings.
    pub(crate) fn task(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(binary("gha-slurm-munge"))
            .args(arguments)
            .envs(self.settings_for_a_command())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) async fn agent(&self) -> Agent {
        let mut agent = self.spawn();
        agent.ready().await;
        agent
    }

    /// An assertion of this deployment's launcher.
    pub(crate) fn assertion(&self, sub: CallPurpose, launches: &[LaunchId]) -> String {
        self.assertion_of(&Self::call_claims(sub, launches))
    }

    /// What such an assertion claims.
    pub(crate) fn call_claims(sub: CallPurpose, launches: &[LaunchId]) -> CallClaims {
        let now = Utc::now().timestamp();
        CallClaims {
            iss: ISSUER.into(),
            aud: vec![AUDIENCE_AGENT.into()],
            sub,
            jti: uuid::Uuid::new_v4(),
            iat: now,
            nbf: now,
            exp: now + 60,
            cluster: "main".into(),
            launcher: None,
            launches: launches.to_vec(),
            only_pending: false,
        }
    }

    /// An assertion with these claims.
    pub(crate) fn assertion_of(&self, claims: &CallClaims) -> String {
        let key = SigningKey::read(&self.keys).unwrap();
        key.sign(claims).unwrap().expose_secret().to_owned()
    }

    pub(crate) fn request(&self, claims: &LaunchClaims) -> StartRequest {
        let token = SigningKey::read(&self.keys).unwrap().sign(claims).unwrap();
        StartRequest {
            github_url: claims.repository_url.clone(),
            launcher_token: token.expose_secret().to_owned(),
            runner_labels: claims.labels.clone(),
            token_url: claims.token_url.clone(),
            runner_name: Some(claims.runner_name.clone()),
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Site {
    fn drop(&mut self) {
        end_processes_marked(self.folder.path().to_str().unwrap());
    }
}

impl Agent {
    pub(crate) async fn ready(&mut self) {
        self.service.ready().await.unwrap();
    }

    /// Why it does not start.
    pub(crate) async fn refusal(mut self) -> String {
        format!("{:#}", self.service.ready().await.unwrap_err())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        self.service.log()
    }

    /// Asks; the connection may break when the agent is killed.
    pub(crate) fn ask(
        &self,
        request: &StartRequest,
    ) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send + 'static {
        reqwest::Client::builder()
            .timeout(DEADLINE)
            .build()
            .unwrap()
            .post(format!("http://127.0.0.1:{}/runner/start", self.port))
            .header("traceparent", TRACEPARENT)
            .json(request)
            .send()
    }

    /// A call with an assertion.
    pub(crate) async fn call(
        &self,
        path: &str,
        assertion: &str,
        body: serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let response = reqwest::Client::builder()
            .timeout(DEADLINE)
            .build()
            .unwrap()
            .post(format!("http://127.0.0.1:{}{path}", self.port))
            .bearer_auth(assertion)
            .json(&body)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// Asks; the Slurm job of the answer.
    pub(crate) async fn start(&self, request: &StartRequest) -> String {
        let response = self.ask(request).await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{status} {text}\n{}", self.log());
        let answer: StartAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(answer.status, "OK!");
        answer.slurm_job_id.unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.service.kill9();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(mut self) {
        let status = self.service.stop().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

/// Claims of a new launch.
pub(crate) fn claims() -> LaunchClaims {
    let iat = Utc::now().timestamp();
    LaunchClaims {
        iss: ISSUER.into(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: LaunchId(uuid::Uuid::now_v7()),
        jti: uuid::Uuid::new_v4(),
        iat,
        nbf: iat - NOT_BEFORE_S,
        exp: iat + 3600,
        runner_name: "gha-slurm-test-1".into(),
        cluster: "main".into(),
        launcher: None,
        token_url: "http://127.0.0.1:1".into(),
        owner: "acme".into(),
        repository_name: "widgets".into(),
        repository_url: "https://github.com/acme/widgets".into(),
        repository_id: 1,
        labels: "self-hosted,slurm".into(),
        workflow_id: 7,
        slurm_user: "alice".parse().unwrap(),
        resources: ResourceRequest::default(),
        runner_mode: RunnerMode::Jit,
    }
}

/// Waits until a file exists; its text.
pub(crate) async fn until_written(path: &Path) -> String {
    wait_until(&format!("{} exists", path.display()), DEADLINE, || async {
        std::fs::read_to_string(path).ok().filter(|t| !t.is_empty())
    })
    .await
}
