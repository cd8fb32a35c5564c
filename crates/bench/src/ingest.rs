//! webhook-ingest beside a handler that does only what cannot be left out.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use gha_slurm_amqp::LAUNCHER_QUEUE;
use gha_slurm_auth::webhook;
use gha_slurm_test_support::Service;
use http::{Request, StatusCode};
use hyper::body::Bytes;
use lapin::options::{BasicGetOptions, QueuePurgeOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::SecretString;
use std::time::{Duration, Instant};

use crate::floor::FloorProcess;
use crate::load::{Call, Measured, Target, closed_loop, open_loop};
use crate::report::Table;
use crate::rounds::{COLUMNS, Effort, Round, rows};
use crate::site::{LABELS, OWNER, Repository};
use crate::surroundings::{Surroundings, resident_kib};

/// GitHub's own example of a workflow job that is queued.
const PAYLOAD: &str = include_str!("../../simulator/payloads/webhooks/workflow_job.queued.json");
/// Load before each stretch, which is not counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// Requests per second of the scheduled load.
const RATE: u32 = 1000;
/// More than are ever busy at that rate.
const SCHEDULED_CONNECTIONS: usize = 64;

#[derive(Clone, Copy)]
enum Load {
    /// Connections, each as fast as it is answered.
    Closed(usize),
    /// [`RATE`].
    Scheduled,
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Closed(1) => "1 connection".into(),
            Self::Closed(connections) => format!("{connections} connections"),
            Self::Scheduled => format!("{RATE} per second"),
        }
    }
}

pub(crate) async fn measure(around: &Surroundings, effort: &Effort) -> Result<Table> {
    let mut deployment = around.deployment()?;
    let service_address: SocketAddr = deployment.address(Service::WebhookIngest).parse()?;
    let service = deployment.service_mut(Service::WebhookIngest);
    service.start().await?;
    let service_id = service.id().context("webhook-ingest runs")?;
    let secret = around.credentials.webhook_secret()?.into();
    let deliveries = Deliveries::new(&secret)?;
    let amqp_url = around.backing().amqp_url;
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let queue = Queue(connection.create_channel().await?);

    // The floor publishes what the service makes of the payload.
    let target = target(service_address);
    closed_loop(&target, 1, deliveries.first(1)).await?;
    let message = queue.take().await?;
    let size = message.len();
    let file = around.folder().join("message");
    fs::write(&file, message)?;
    let floor = FloorProcess::start(around, "floor-ingest", &[file.as_os_str()]).await?;

    let mut table = Table {
        title: "webhook-ingest",
        columns: COLUMNS.to_vec(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let loads = [1, 16, 64].map(Load::Closed);
    for load in loads.into_iter().chain([Load::Scheduled]) {
        let mut rounds = Vec::new();
        for _ in 0..effort.rounds {
            let mut pair = Vec::new();
            for (process, address) in [
                (floor.process.id(), floor.address),
                (service_id, service_address),
            ] {
                let run = run(address, load, &deliveries, effort.duration());
                pair.push(
                    queue
                        .round(process, address, load, &deliveries, run)
                        .await?,
                );
            }
            let service = pair.pop().context("two rounds")?;
            let floor = pair.pop().context("two rounds")?;
            rounds.push((floor, service));
        }
        table
            .rows
            .extend(rows(&load.name(), "webhook-ingest", rounds)?);
    }
    table.notes.push(format!(
        "Payload of {} bytes, message of {size}. Resident memory of webhook-ingest after this load: {:.1} MiB.",
        deliveries.body.len(),
        resident_kib(service_id)? as f64 / 1024.0
    ));
    connection.close(200, "done".into()).await?;
    deployment.stop()?;
    Ok(table)
}

fn target(address: SocketAddr) -> Target {
    Target {
        address,
        expected: StatusCode::ACCEPTED,
    }
}

async fn run(
    address: SocketAddr,
    load: Load,
    deliveries: &Deliveries,
    duration: Duration,
) -> Result<Measured> {
    let target = target(address);
    match load {
        Load::Closed(connections) => {
            closed_loop(&target, connections, deliveries.during(duration)).await
        }
        Load::Scheduled => {
            let calls = u64::from(RATE) * duration.as_secs();
            let deliveries = deliveries.clone();
            let call = move |number| deliveries.call(number);
            open_loop(&target, SCHEDULED_CONNECTIONS, RATE, calls, call).await
        }
    }
}

/// Signed deliveries of one payload, each with a GUID of its own.
#[derive(Clone)]
pub(crate) struct Deliveries {
    body: Bytes,
    signature: http::HeaderValue,
}

impl Deliveries {
    fn new(secret: &SecretString) -> Result<Self> {
        // GitHub sends no spaces.
        let payload: serde_json::Value = serde_json::from_str(PAYLOAD)?;
        Self::of(&payload, secret)
    }

    /// Of a workflow job for Slurm that is queued in this repository.
    pub(crate) fn queued(
        (repository, name): &Repository,
        workflow_job: i64,
        secret: &SecretString,
    ) -> Result<Self> {
        let mut payload: serde_json::Value = serde_json::from_str(PAYLOAD)?;
        for (field, value) in [
            ("/workflow_job/id", workflow_job.into()),
            ("/workflow_job/labels", LABELS.as_slice().into()),
            ("/repository/id", repository.0.into()),
            ("/repository/name", name.as_str().into()),
            ("/repository/full_name", format!("{OWNER}/{name}").into()),
            ("/repository/owner/login", OWNER.into()),
            ("/repository/private", true.into()),
        ] {
            *payload.pointer_mut(field).context(field)? = value;
        }
        Self::of(&payload, secret)
    }

    fn of(payload: &serde_json::Value, secret: &SecretString) -> Result<Self> {
        let body = Bytes::from(payload.to_string());
        let signature = webhook::sign(secret, &body).parse()?;
        Ok(Self { body, signature })
    }

    fn call(&self, number: u64) -> Call {
        let mut call = Request::new(self.body.clone().into());
        *call.method_mut() = http::Method::POST;
        *call.uri_mut() = http::Uri::from_static("/api/github/webhooks");
        let guid = format!("72d3162e-cc78-11e3-81ab-{number:012x}");
        let guid = http::HeaderValue::from_maybe_shared(Bytes::from(guid));
        let headers = call.headers_mut();
        for (name, value) in [
            ("host", "127.0.0.1"),
            ("user-agent", "GitHub-Hookshot/044aadd"),
            ("content-type", "application/json"),
            ("x-github-event", "workflow_job"),
        ] {
            headers.insert(name, http::HeaderValue::from_static(value));
        }
        headers.insert("x-hub-signature-256", self.signature.clone());
        if let Ok(guid) = guid {
            headers.insert("x-github-delivery", guid);
        }
        call
    }

    pub(crate) fn first(&self, calls: u64) -> impl Fn(u64) -> Option<Call> + use<> {
        let this = self.clone();
        move |number| (number < calls).then(|| this.call(number))
    }

    fn during(&self, duration: Duration) -> impl Fn(u64) -> Option<Call> + use<> {
        let this = self.clone();
        let end = Instant::now() + duration;
        move |number| (Instant::now() < end).then(|| this.call(number))
    }
}

/// Where the messages go that both publish.
struct Queue(Channel);

impl Queue {
    /// The one message in it.
    async fn take(&self) -> Result<Vec<u8>> {
        let options = BasicGetOptions { no_ack: true };
        let message = self.0.basic_get(LAUNCHER_QUEUE.into(), options).await?;
        Ok(message.context("no message")?.delivery.data)
    }

    /// Empties it, and answers how many messages were in it.
    async fn empty(&self) -> Result<u64> {
        let options = QueuePurgeOptions::default();
        Ok(self
            .0
            .queue_purge(LAUNCHER_QUEUE.into(), options)
            .await?
            .into())
    }

    /// Warms up, empties the queue, measures `run`, and counts what has arrived: each answer is a message.
    async fn round(
        &self,
        process: u32,
        address: SocketAddr,
        load: Load,
        deliveries: &Deliveries,
        run: impl Future<Output = Result<Measured>>,
    ) -> Result<Round> {
        let connections = match load {
            Load::Closed(connections) => connections,
            Load::Scheduled => 1,
        };
        closed_loop(&target(address), connections, deliveries.during(WARM_UP)).await?;
        self.empty().await?;
        let round = Round::of(process, run).await?;
        let arrived = self.empty().await?;
        ensure!(
            arrived == round.requests(),
            "{} answers, but {arrived} messages",
            round.requests()
        );
        Ok(round)
    }
}
