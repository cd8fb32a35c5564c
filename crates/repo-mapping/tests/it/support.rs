//! repo-mapping in this process, and repositories at GitHub.

use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use chrono::{TimeDelta, Utc};
use gha_slurm_repo_mapping::{Application, Settings};
use gha_slurm_service_kit::settings::load;
use gha_slurm_storage::Database;
use gha_slurm_test_support::TestDatabase;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// An answer as tests look at it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

/// A running repo-mapping and its surroundings.
pub(crate) struct Service {
    pub(crate) database: Database,
    pub(crate) github: MockServer,
    url: String,
    http: reqwest::Client,
    _test_database: TestDatabase,
    _stop: tokio_util::sync::DropGuard,
}

fn app_key() -> String {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(web: Option<&Path>) -> Self {
        Self::start_from(web, None).await
    }

    /// Takes the word of the agents of these clusters, whose keys are in these folders.
    pub(crate) async fn start_with_agents(agents: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        let settings: String = agents
            .iter()
            .map(|(cluster, keys)| {
                let keys = keys.display();
                format!("[[agents]]\ncluster = \"{cluster}\"\npublic_keys = \"{keys}\"\n")
            })
            .collect();
        std::fs::write(&path, settings).unwrap();
        Self::start_from(None, Some(&path)).await
    }

    async fn start_from(web: Option<&Path>, file: Option<&Path>) -> Self {
        let test_database = TestDatabase::create().await;
        let github = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path_regex("^/app/installations/11/access_tokens$"))
            .respond_with(ResponseTemplate::new(201).set_body_json(
                json!({"token": "ghs_x", "expires_at": Utc::now() + TimeDelta::hours(1)}),
            ))
            .mount(&github)
            .await;
        Mock::given(method("GET"))
            .and(path("/app"))
            .respond_with(
                ResponseTemplate::new(200)
                    .set_body_json(json!({"html_url": "https://github.com/apps/gha-slurm"})),
            )
            .mount(&github)
            .await;
        let mut environment = vec![
            ("DATABASE__URL", test_database.url().to_owned()),
            ("HTTP__LISTEN", "127.0.0.1:0".into()),
            ("OPERATIONS__LISTEN", "127.0.0.1:0".into()),
            ("GITHUB__API_URL", github.uri()),
            ("GITHUB__APP_ID", "7".into()),
            ("GITHUB__PRIVATE_KEY", app_key()),
            ("ACCESS__TOKENS", "secret".into()),
        ];
        if let Some(web) = web {
            environment.push(("WEB__FOLDER", web.display().to_string()));
        }
        let environment = environment
            .into_iter()
            .map(|(key, value)| (format!("REPO_MAPPING__{key}"), value));
        let settings: Settings = load(file, environment).unwrap();
        let database = Database::new(&settings.database.url, None, "test", 4).unwrap();
        let application = Application::build(settings).await.unwrap();
        let url = format!("http://127.0.0.1:{}", application.port());
        let stop = CancellationToken::new();
        tokio::spawn(application.run_until_stopped(stop.clone()));
        Self {
            database,
            github,
            url,
            http: reqwest::Client::builder().build().unwrap(),
            _test_database: test_database,
            _stop: stop.drop_guard(),
        }
    }

    /// GitHub knows `acme/NAME` by this id. The newest answer counts.
    pub(crate) async fn at_github(&self, name: &str, id: i64, private: bool) {
        let of = format!("/repos/acme/{name}");
        Mock::given(method("GET"))
            .and(path(format!("{of}/installation")))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": 11})))
            .mount(&self.github)
            .await;
        Mock::given(method("GET"))
            .and(path(of))
            .respond_with(ResponseTemplate::new(200).set_body_json(
                json!({"id": id, "full_name": format!("acme/{name}"), "private": private}),
            ))
            .mount(&self.github)
            .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(self.of(path)).bearer_auth("secret")).await
    }

    pub(crate) async fn get_without_token(&self, path: &str) -> Answer {
        answer(self.http.get(self.of(path))).await
    }

    pub(crate) async fn post(&self, user: &str, list: &[&str], if_match: Option<&str>) -> Answer {
        self.post_body(user, json!(list).to_string(), if_match)
            .await
    }

    pub(crate) async fn post_body(
        &self,
        user: &str,
        body: String,
        if_match: Option<&str>,
    ) -> Answer {
        let mut call = self
            .http
            .post(self.of(&format!("/repositories/{user}")))
            .bearer_auth("secret")
            .body(body);
        if let Some(etag) = if_match {
            call = call.header("if-match", etag);
        }
        answer(call).await
    }

    /// With another token than the administrator's.
    pub(crate) async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut call = self.http.request(method, self.of(path)).bearer_auth(token);
        if let Some(body) = body {
            call = call.json(&body);
        }
        answer(call).await
    }

    /// As an administrator who has seen this version.
    pub(crate) async fn call_if(
        &self,
        method: reqwest::Method,
        path: &str,
        version: &Value,
        body: Option<Value>,
    ) -> Answer {
        let mut call = self.http.request(method, self.of(path));
        call = call.bearer_auth("secret");
        call = call.header("if-match", format!("\"{version}\""));
        if let Some(body) = body {
            call = call.json(&body);
        }
        answer(call).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        answer(
            self.http
                .put(self.of(path))
                .bearer_auth("secret")
                .json(&body),
        )
        .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.http.delete(self.of(path)).bearer_auth("secret")).await
    }

    fn of(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

async fn answer(call: reqwest::RequestBuilder) -> Answer {
    let response = call.send().await.unwrap();
    let headers = response.headers().clone();
    let etag = headers.get("etag").map(|v| v.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    Answer {
        status,
        etag,
        headers,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}
