//! The agent as a process of its own, and launch tokens for it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use chrono::Utc;
use gha_slurm_auth::token::NOT_BEFORE_S;
use gha_slurm_auth::{KeyFolder, Signer};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch::{AUDIENCE_AGENT, AUDIENCE_BROKER, StartAnswer, StartRequest};
use gha_slurm_domain::{AllocationId, ResourceRequest};
use gha_slurm_test_support::{free_port, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::DEADLINE;
use crate::script_fixture::TRACEPARENT;

pub(crate) const ISSUER: &str = "test";

/// A site: keys, a state folder and a job script that says that it started.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) keys: KeyFolder,
    settings: Vec<(String, String)>,
}

/// An agent of a site.
pub(crate) struct Agent {
    process: Child,
    port: u16,
    pub(crate) operations: u16,
    log: PathBuf,
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
        }
    }

    /// With one more setting, as an environment variable without its prefix; empty takes one of ours away.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.into(), value.into()));
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

    /// How often the script of an allocation started.
    pub(crate) fn starts(&self, allocation: AllocationId) -> usize {
        let path = self.path("starts").join(allocation.to_string());
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// What the ledger holds of an allocation.
    pub(crate) fn entry(&self, allocation: AllocationId) -> PathBuf {
        self.path("state/allocations")
            .join(format!("{allocation}.json"))
    }

    /// Starts the agent without waiting for it.
    pub(crate) fn spawn(&self) -> Agent {
        let (port, operations) = (free_port(), free_port());
        let log = self.path("agent.log");
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let process = Command::new(env!("CARGO_BIN_EXE_gha-slurm-munge"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(
                [
                    ("HTTP__LISTEN", format!("127.0.0.1:{port}")),
                    ("OPERATIONS__LISTEN", format!("127.0.0.1:{operations}")),
                    ("DEPLOYMENT__NAME", ISSUER.into()),
                    ("CLUSTER__NAME", "main".into()),
                    ("KEYS__PUBLIC_KEYS", text(&self.path("keys"))),
                    ("STATE__FOLDER", text(&self.path("state"))),
                    ("RUNNER__FOLDER", text(self.folder.path())),
                    ("RUNNER__JOB_SCRIPT", text(&self.path("script"))),
                    ("SLURM__BACKEND", "local".into()),
                ]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .filter(|(key, _)| !self.settings.iter().any(|(k, _)| k == key))
                .chain(self.settings.iter().cloned())
                .filter(|(_, value)| !value.is_empty())
                .map(|(k, v)| (format!("GHA_SLURM_MUNGE__{k}"), v)),
            )
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Agent {
            process,
            port,
            operations,
            log,
        }
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) async fn agent(&self) -> Agent {
        let mut agent = self.spawn();
        agent.ready().await;
        agent
    }

    pub(crate) fn request(&self, claims: &LaunchClaims) -> StartRequest {
        let token = Signer::load(&self.keys).unwrap().sign(claims).unwrap();
        StartRequest {
            github_url: claims.repository_url.clone(),
            launcher_token: token.expose_secret().to_owned(),
            runner_labels: claims.labels.clone(),
            token_url: claims.token_url.clone(),
            runner_name: Some(claims.runner_name.clone()),
        }
    }
}

impl Agent {
    pub(crate) async fn ready(&mut self) {
        let url = format!("http://127.0.0.1:{}/health/ready", self.operations);
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            if reqwest::get(&url)
                .await
                .is_ok_and(|r| r.status().is_success())
            {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
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
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id().unwrap() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        assert!(status.unwrap().unwrap().success(), "{}", self.log());
    }
}

/// Claims of a new allocation.
pub(crate) fn claims() -> LaunchClaims {
    let iat = Utc::now().timestamp();
    LaunchClaims {
        iss: ISSUER.into(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: AllocationId(uuid::Uuid::now_v7()),
        jti: uuid::Uuid::new_v4(),
        iat,
        nbf: iat - NOT_BEFORE_S,
        exp: iat + 3600,
        runner_name: "gha-slurm-test-1".into(),
        cluster: "main".into(),
        token_url: "http://127.0.0.1:1".into(),
        owner: "acme".into(),
        repository_name: "widgets".into(),
        repository_url: "https://github.com/acme/widgets".into(),
        repository_id: 1,
        labels: "self-hosted,slurm".into(),
        workflow_id: 7,
        slurm_user: "alice".parse().unwrap(),
        resources: ResourceRequest::default(),
    }
}

/// Waits until a file exists; its text.
pub(crate) async fn until_written(path: &Path) -> String {
    wait_until(&format!("{} exists", path.display()), DEADLINE, || async {
        std::fs::read_to_string(path).ok().filter(|t| !t.is_empty())
    })
    .await
}
