//! A broker in this process, and what the launcher would have written.

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER};
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::{InstallationId, LaunchId, RepositoryId, ResourceRequest};
use gha_slurm_service_kit::settings::load;
use gha_slurm_storage::{Database, Role, mappings, repositories};
use gha_slurm_test_support::TestDatabase;
use gha_slurm_test_support::seed::{Seed, facts};
use gha_slurm_token_broker::{Application, Settings};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{method, path, path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

pub(crate) const REPOSITORY: RepositoryId = RepositoryId(4711);
pub(crate) const JIT: &str = "/repos/acme/widgets/actions/runners/generate-jitconfig";

/// An answer as tests look at it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
}

/// A running broker and its surroundings.
pub(crate) struct Broker {
    pub(crate) database: Database,
    pub(crate) github: MockServer,
    pub(crate) url: String,
    /// Base URL of its operations port.
    pub(crate) operations: String,
    pub(crate) keys: TempDir,
    pub(crate) http: reqwest::Client,
    test_database: TestDatabase,
    _stop: tokio_util::sync::DropGuard,
}

fn app_key() -> String {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

/// Of a program that may ask where the App is installed.
pub(crate) const SERVICE_TOKEN: &str = "4f1d0a0b7e5c49c6a8a2b1c3d4e5f607";

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these settings beside the necessary ones.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let test_database = TestDatabase::create().await;
        let github = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path_regex("^/app/installations/11/access_tokens$"))
            .respond_with(ResponseTemplate::new(201).set_body_json(
                json!({"token": "ghs_x", "expires_at": Utc::now() + TimeDelta::hours(1)}),
            ))
            .mount(&github)
            .await;
        let keys = tempfile::tempdir().unwrap();
        KeyFolder::new(keys.path()).generate(1).unwrap();
        let environment = [
            ("DATABASE__URL", test_database.url_of(Role::TokenBroker)),
            ("HTTP__LISTEN", "127.0.0.1:0".into()),
            ("OPERATIONS__LISTEN", "127.0.0.1:0".into()),
            ("GITHUB__API_URL", github.uri()),
            ("GITHUB__APP_ID", "7".into()),
            ("GITHUB__PRIVATE_KEY", app_key()),
            ("DEPLOYMENT__NAME", "test".into()),
            ("KEYS__FOLDER", keys.path().display().to_string()),
            ("ACCESS__SERVICE_TOKENS", SERVICE_TOKEN.into()),
        ]
        .into_iter()
        .chain(
            settings
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned())),
        )
        .map(|(key, value)| (format!("TOKEN_BROKER__{key}"), value));
        let settings: Settings = load(None, environment).unwrap();
        let database = test_database.pool();
        let application = Application::build(settings).await.unwrap();
        let url = format!("http://127.0.0.1:{}", application.port());
        let operations = format!("http://127.0.0.1:{}", application.ops_port());
        let stop = CancellationToken::new();
        tokio::spawn(application.run_until_stopped(stop.clone()));
        Self {
            database,
            github,
            url,
            operations,
            keys,
            http: reqwest::Client::builder().build().unwrap(),
            test_database,
            _stop: stop.drop_guard(),
        }
    }

    /// `queued` workflow jobs of one class, and as many submitted launches.
    pub(crate) async fn submitted(&self, queued: i64) -> Vec<LaunchId> {
        let now = Utc::now();
        let user = "alice".parse().unwrap();
        let mut conn = self.database.connection().await.unwrap();
        let installation = Some(InstallationId(11));
        repositories::upsert(
            &mut conn,
            REPOSITORY,
            installation,
            "acme",
            "widgets",
            Some(true),
            now,
        )
        .await
        .unwrap();
        mappings::replace(&mut conn, &user, &[REPOSITORY.into()], None, now)
            .await
            .unwrap();
        drop(conn);
        let seed = self.seed();
        let mut ids = Vec::new();
        for id in 1..=queued {
            let facts = facts(id, &["self-hosted", "slurm"], None);
            let job = seed.queued(&facts, now).await;
            let launch = seed.planned(&job, now).await;
            seed.submitted(launch, None, now).await;
            ids.push(launch);
        }
        ids
    }

    pub(crate) fn seed(&self) -> Seed<'_> {
        Seed {
            database: &self.database,
            repository: REPOSITORY,
            user: "alice".parse().unwrap(),
        }
    }

    /// GitHub says that these workflow jobs are over.
    pub(crate) async fn cancel(&self, ids: std::ops::RangeInclusive<i64>) {
        let seed = self.seed();
        for id in ids {
            seed.completed(id, Utc::now()).await;
        }
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.query(statement).await;
    }

    /// First column of a query, as text.
    pub(crate) async fn query(&self, statement: &str) -> Vec<String> {
        use tokio_postgres::SimpleQueryMessage;
        let (client, connection) =
            tokio_postgres::connect(self.test_database.url(), tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        let messages = client.simple_query(statement).await.unwrap();
        messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn claims(launch: LaunchId, issued: DateTime<Utc>) -> LaunchClaims {
        let iat = issued.timestamp();
        LaunchClaims {
            iss: "test".into(),
            aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
            sub: launch,
            jti: uuid::Uuid::new_v4(),
            iat,
            nbf: iat - 120,
            exp: iat + 3600,
            runner_name: "r".into(),
            cluster: "main".into(),
            launcher: None,
            token_url: "http://broker".into(),
            owner: "acme".into(),
            repository_name: "widgets".into(),
            repository_url: "https://github.com/acme/widgets".into(),
            repository_id: REPOSITORY.0,
            labels: "self-hosted,slurm".into(),
            workflow_id: 1,
            slurm_user: "alice".parse().unwrap(),
            resources: ResourceRequest::default(),
            runner_mode: RunnerMode::Jit,
        }
    }

    pub(crate) fn sign(&self, claims: &LaunchClaims) -> String {
        let key = SigningKey::read(&KeyFolder::new(self.keys.path())).unwrap();
        key.sign(claims).unwrap().expose_secret().to_owned()
    }

    pub(crate) fn token(&self, launch: LaunchId) -> String {
        self.sign(&Self::claims(launch, Utc::now()))
    }

    /// A launch token that is redeemed for a registration token.
    pub(crate) fn token_for_registration(&self, launch: LaunchId) -> String {
        self.sign(&LaunchClaims {
            runner_mode: RunnerMode::Registration,
            ..Self::claims(launch, Utc::now())
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn get_with(&self, path: &str, token: &str) -> Answer {
        let url = format!("{}{path}", self.url);
        answer(self.http.get(url).bearer_auth(token)).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        authorization: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut call = self.http.post(format!("{}{path}", self.url));
        if !authorization.is_empty() {
            call = call.header("authorization", authorization);
        }
        answer(match body {
            Some(body) => call.json(&body),
            None => call,
        })
        .await
    }

    /// `POST /gha/runner` as Slurm job `slurm_job`.
    pub(crate) async fn redeem(&self, launch: LaunchId, slurm_job: u32) -> Answer {
        self.redeem_as(
            launch,
            json!({"slurmJobId": slurm_job.to_string(), "node": "n1"}),
        )
        .await
    }

    pub(crate) async fn redeem_as(&self, launch: LaunchId, body: Value) -> Answer {
        let authorization = format!("Bearer {}", self.token(launch));
        self.post("/gha/runner", &authorization, Some(body)).await
    }

    pub(crate) async fn progress(&self, token: &str, body: Value) -> Answer {
        self.post(
            "/gha/runner/progress",
            &format!("Bearer {token}"),
            Some(body),
        )
        .await
    }

    pub(crate) async fn release(&self, token: &str) -> Answer {
        self.post("/gha/runner/release", &format!("Bearer {token}"), None)
            .await
    }

    /// GitHub registers just-in-time runners, with rising ids from 900.
    pub(crate) async fn github_registers(&self) {
        let next = std::sync::atomic::AtomicI64::new(900);
        Mock::given(method("POST"))
            .and(path(JIT))
            .respond_with(move |_: &wiremock::Request| {
                let id = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                ResponseTemplate::new(201).set_body_json(
                    json!({"runner": {"id": id, "name": "r"}, "encoded_jit_config": format!("jit-{id}")}),
                )
            })
            .mount(&self.github)
            .await;
    }

    /// GitHub takes a second to register runner 900, which must be deleted once.
    pub(crate) async fn github_registers_what_is_deleted(&self) {
        Mock::given(method("POST"))
            .and(path(JIT))
            .respond_with(
                ResponseTemplate::new(201)
                    .set_delay(Duration::from_secs(1))
                    .set_body_json(json!({"runner": {"id": 900}, "encoded_jit_config": "jit"})),
            )
            .mount(&self.github)
            .await;
        Mock::given(method("DELETE"))
            .and(path("/repos/acme/widgets/actions/runners/900"))
            .respond_with(ResponseTemplate::new(204))
            .expect(1)
            .mount(&self.github)
            .await;
    }

    /// What GitHub finds when it is asked for the runner of this name; `None`: of any.
    pub(crate) async fn github_finds(&self, name: Option<&str>, runners: serde_json::Value) {
        let asked = Mock::given(method("GET")).and(path("/repos/acme/widgets/actions/runners"));
        let asked = match name {
            Some(name) => asked.and(query_param("name", name)),
            None => asked,
        };
        let found = json!({"total_count": runners.as_array().unwrap().len(), "runners": runners});
        asked
            .respond_with(ResponseTemplate::new(200).set_body_json(found))
            .mount(&self.github)
            .await;
    }

    /// Calls of this method (empty: of any) GitHub got on paths that contain `part`.
    pub(crate) async fn github_calls(&self, method: &str, part: &str) -> usize {
        let calls = self.github.received_requests().await.unwrap();
        calls
            .iter()
            .filter(|call| {
                [call.method.as_str(), ""].contains(&method) && call.url.path().contains(part)
            })
            .count()
    }
}

async fn answer(call: reqwest::RequestBuilder) -> Answer {
    let response = call.send().await.unwrap();
    let header = response.headers().get("retry-after");
    Answer {
        status: response.status().as_u16(),
        retry_after: header.map(|v| v.to_str().unwrap().to_owned()),
        body: response.json().await.unwrap_or(Value::Null),
    }
}
