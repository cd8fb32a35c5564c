//! webhook-ingest over real HTTP, before a real RabbitMQ.
#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod broker;
mod files;
mod payloads;
mod queue;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gha_slurm_auth::webhook;
use gha_slurm_contract::Problem;
use gha_slurm_service_kit::settings::load;
use gha_slurm_test_support::wait_until;
use gha_slurm_webhook_ingest::{Application, Settings};
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);
const SECRET: &str = "It's a Secret to Everybody, 7f3a9c5e";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const EXAMPLES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../github/fixtures/webhooks-examples"
);

/// webhook-ingest in this process.
struct Ingest {
    url: String,
    operations_url: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Ingest {
    /// Starts it with these settings beside the necessary ones, without waiting for RabbitMQ.
    fn spawn(amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let necessary = [
            ("HTTP__LISTEN", "127.0.0.1:0"),
            ("OPERATIONS__LISTEN", "127.0.0.1:0"),
            ("AMQP__URL", amqp_url),
            ("WEBHOOK__SECRET", SECRET),
        ];
        let environment = necessary
            .iter()
            .chain(settings)
            .map(|(key, value)| (format!("WEBHOOK_INGEST__{key}"), (*value).to_owned()));
        let application =
            Application::build(&load::<Settings>(None, environment).unwrap()).unwrap();
        let stop = CancellationToken::new();
        Self {
            url: format!(
                "http://127.0.0.1:{}/api/github/webhooks",
                application.port()
            ),
            operations_url: format!("http://127.0.0.1:{}", application.ops_port()),
            stop: stop.clone(),
            task: tokio::spawn(application.run_until_stopped(stop)),
        }
    }

    /// Starts it and waits until it is ready.
    async fn start(amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let ingest = Self::spawn(amqp_url, settings);
        ingest.until_ready(true).await;
        ingest
    }

    async fn until_ready(&self, ready: bool) {
        let url = format!("{}/health/ready", self.operations_url);
        wait_until(&format!("ready is {ready}"), DEADLINE, || async {
            let response = reqwest::get(&url).await.ok()?;
            (response.status().is_success() == ready).then_some(())
        })
        .await;
    }

    async fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.operations_url);
        reqwest::get(&url).await.unwrap().text().await.unwrap()
    }

    /// Sends a delivery.
    async fn send(&self, delivery: Delivery) -> reqwest::Response {
        delivery.request(&client(), &self.url).send().await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// A delivery as GitHub makes it, unless told otherwise. An empty header is left out.
#[derive(Clone)]
struct Delivery {
    guid: String,
    event: String,
    content_type: String,
    signature: String,
    body: Vec<u8>,
}

impl Delivery {
    fn new(event: &str, body: impl Into<Vec<u8>>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let body = body.into();
        Self {
            guid: format!(
                "72d3162e-cc78-11e3-81ab-{:012x}",
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            event: event.into(),
            content_type: JSON.into(),
            signature: sign(SECRET, &body),
            body,
        }
    }

    fn content_type(self, content_type: &str) -> Self {
        Self {
            content_type: content_type.into(),
            ..self
        }
    }

    fn signature(self, signature: impl Into<String>) -> Self {
        Self {
            signature: signature.into(),
            ..self
        }
    }

    fn request(self, client: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
        let headers = [
            ("Content-Type", self.content_type),
            ("X-GitHub-Event", self.event),
            ("X-GitHub-Delivery", self.guid),
            ("X-Hub-Signature-256", self.signature),
        ];
        headers
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .fold(client.post(url), |request, (name, value)| {
                request.header(name, value)
            })
            .body(self.body)
    }
}

fn sign(secret: &str, body: &[u8]) -> String {
    webhook::sign(&SecretString::from(secret), body)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(DEADLINE)
        .build()
        .unwrap()
}

/// The published examples of an event at github.com.
fn examples(event: &str) -> Vec<Value> {
    let file = format!("{EXAMPLES}/api.github.com/{event}.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// GitHub's published payload of a queued workflow job.
fn queued() -> Delivery {
    let example = examples("workflow_job").swap_remove(5);
    Delivery::new("workflow_job", example.to_string())
}

/// The problem document of an answer.
async fn problem(response: reqwest::Response, status: u16, code: &str) -> Problem {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: Problem = response.json().await.unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code));
    problem
}
