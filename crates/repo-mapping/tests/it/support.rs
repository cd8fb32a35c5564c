//! repo-mapping in this process, with its own rights to the database, and a token-broker that knows repositories.

use std::fmt::Write as _;
use std::path::Path;

use gha_slurm_repo_mapping::{Application, Settings};
use gha_slurm_service_kit::settings::load;
use gha_slurm_storage::{Database, Role};
use gha_slurm_test_support::TestDatabase;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// The administrator's bearer token.
pub(crate) const TOKEN: &str = "9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43";

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
    pub(crate) token_broker: MockServer,
    url: String,
    http: reqwest::Client,
    _test_database: TestDatabase,
    _stop: tokio_util::sync::DropGuard,
}

/// Of repo-mapping, for token-broker.
pub(crate) const SERVICE_TOKEN: &str = "0d9f6ac5a2b14f5f9a3f2f0c2c7c1b58";
const INSTALL: &str = "https://github.com/apps/gha-slurm/installations/new";

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(web: Option<&Path>) -> Self {
        Self::start_from(web, None, Vec::new()).await
    }

    /// Takes the word of the agents of these clusters, whose keys are in these folders.
    pub(crate) async fn start_with_agents(agents: &[(&str, &Path)]) -> Self {
        Self::start_with_agents_and(agents, Vec::new()).await
    }

    /// The same, with more settings.
    pub(crate) async fn start_with_agents_and(
        agents: &[(&str, &Path)],
        more: Vec<(&str, String)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        let mut settings = String::new();
        for (cluster, keys) in agents {
            let keys = keys.display();
            let _ = write!(
                settings,
                "[[agents]]\ncluster = \"{cluster}\"\npublic_keys = \"{keys}\"\n"
            );
        }
        std::fs::write(&path, settings).unwrap();
        Self::start_from(None, Some(&path), more).await
    }

    async fn start_from(
        web: Option<&Path>,
        file: Option<&Path>,
        more: Vec<(&str, String)>,
    ) -> Self {
        let test_database = TestDatabase::create().await;
        let token_broker = MockServer::start().await;
        let unreachable = json!({
            "type": "urn:gha-slurm:problem:repository_unreachable", "title": "The App cannot see this repository", "status": 404,
            "code": "repository_unreachable",
            "errors": [{"code": "repository_unreachable", "detail": "not there", "link": INSTALL}],
        });
        Mock::given(method("GET"))
            .and(path("/gha/repositories"))
            .and(header("authorization", format!("Bearer {SERVICE_TOKEN}")))
            .respond_with(ResponseTemplate::new(404).set_body_json(unreachable))
            .with_priority(9)
            .mount(&token_broker)
            .await;
        let mut environment = vec![
            ("DATABASE__URL", test_database.url_of(Role::RepoMapping)),
            ("HTTP__LISTEN", "127.0.0.1:0".into()),
            ("OPERATIONS__LISTEN", "127.0.0.1:0".into()),
            ("TOKEN_BROKER__URL", token_broker.uri()),
            ("TOKEN_BROKER__SERVICE_TOKEN", SERVICE_TOKEN.into()),
            ("ACCESS__TOKENS", TOKEN.into()),
        ];
        environment.extend(more);
        if let Some(web) = web {
            environment.push(("WEB__FOLDER", web.display().to_string()));
        }
        let environment = environment
            .into_iter()
            .map(|(key, value)| (format!("REPO_MAPPING__{key}"), value));
        let settings: Settings = load(file, environment).unwrap();
        let database = test_database.pool();
        let application = Application::build(settings).await.unwrap();
        let url = format!("http://127.0.0.1:{}", application.port());
        let stop = CancellationToken::new();
        tokio::spawn(application.run_until_stopped(stop.clone()));
        Self {
            database,
            token_broker,
            url,
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            _test_database: test_database,
            _stop: stop.drop_guard(),
        }
    }

    /// GitHub knows `acme/NAME` by this id. The newest answer counts.
    pub(crate) async fn at_github(&self, name: &str, id: i64, private: bool) {
        let repository = json!({
            "id": id, "fullName": format!("acme/{name}"), "private": private, "installationId": 11,
        });
        Mock::given(method("GET"))
            .and(path("/gha/repositories"))
            .and(query_param("url", format!("acme/{name}")))
            .and(header("authorization", format!("Bearer {SERVICE_TOKEN}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(repository))
            .mount(&self.token_broker)
            .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(self.of(path)).bearer_auth(TOKEN)).await
    }

    pub(crate) async fn get_without_token(&self, path: &str) -> Answer {
        answer(self.http.get(self.of(path))).await
    }

    /// A GET of a browser with this cookie, to be sent.
    pub(crate) fn browser(&self, path: &str, cookie: &str) -> reqwest::RequestBuilder {
        self.http.get(self.of(path)).header("cookie", cookie)
    }

    /// As a browser with this cookie, at a page of `origin`.
    pub(crate) async fn as_browser(
        &self,
        method: reqwest::Method,
        path: &str,
        cookie: Option<&str>,
        origin: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut call = self.http.request(method, self.of(path));
        for (name, value) in [("cookie", cookie), ("origin", origin)] {
            if let Some(value) = value {
                call = call.header(name, value);
            }
        }
        if let Some(body) = body {
            call = call.json(&body);
        }
        answer(call).await
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
            .bearer_auth(TOKEN)
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
        call = call.bearer_auth(TOKEN);
        call = call.header("if-match", format!("\"{version}\""));
        if let Some(body) = body {
            call = call.json(&body);
        }
        answer(call).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        answer(self.http.put(self.of(path)).bearer_auth(TOKEN).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.http.delete(self.of(path)).bearer_auth(TOKEN)).await
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
