//! The service: one route, one publisher.

use std::time::Duration;

use actix_web::web;
use anyhow::Context;
use gha_slurm_amqp::{Broker, Interrupted, Publisher};
use gha_slurm_domain::Clock;
use gha_slurm_service_kit::{BodyLimits, HttpService, Operations, Readiness, problem};
use gha_slurm_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::delivery::{self, Ingest, IngestMetrics};
use crate::refusal::Unverified;
use crate::settings::Settings;

/// webhook-ingest, built and bound.
pub struct Application {
    http: HttpService,
    operations: Operations,
    readiness: Readiness,
    /// Ends the publisher and the operations port, after the last delivery.
    drained: CancellationToken,
}

impl Application {
    /// Binds the ports and starts to connect to RabbitMQ. Needs a tokio runtime.
    pub fn build(settings: &Settings) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        readiness.not_ready("rabbitmq", "not connected yet");
        let drained = CancellationToken::new();
        let broker_state = {
            let readiness = readiness.clone();
            move |state: Result<(), Interrupted>| match state {
                Ok(()) => readiness.ready("rabbitmq"),
                Err(error) => readiness.not_ready("rabbitmq", error.to_string()),
            }
        };
        let ingest_metrics = IngestMetrics::register(&metrics)?;
        let operations =
            Operations::bind(&settings.operations, readiness.clone(), metrics.clone())?;
        let webhook = &settings.webhook;
        let publisher = Publisher::start(
            Broker::new(settings.amqp.url.clone(), settings.amqp.ca_file.as_deref())?,
            "webhook-ingest",
            Duration::from_secs(webhook.publish_deadline_s.get()),
            drained.clone(),
            broker_state,
        );
        webhook.check_bodies().context("webhook.max_bodies_bytes")?;
        let limits = web::Data::new(BodyLimits::new(
            webhook.max_body_bytes.get(),
            webhook.max_bodies_bytes.get(),
            Duration::from_secs(webhook.body_deadline_s.get()),
        ));
        let ingest = web::Data::new(Ingest {
            secrets: webhook.secret.clone(),
            allowed: webhook.allowed_addresses.clone(),
            publisher,
            clock: Clock::system(),
            metrics: ingest_metrics,
            unverified: Unverified::default(),
        });
        let http = HttpService::bind(&settings.http, &metrics, move |config| {
            config
                .app_data(ingest.clone())
                .app_data(limits.clone())
                .service(
                    web::resource("/api/github/webhooks")
                        .route(web::post().to(delivery::receive))
                        .default_service(problem::method_not_allowed("POST")),
                );
        })?;
        Ok(Self {
            http,
            operations,
            readiness,
            drained,
        })
    }

    /// The port of the webhooks.
    pub fn port(&self) -> u16 {
        self.http.port()
    }

    /// The operations port.
    pub fn ops_port(&self) -> u16 {
        self.operations.port()
    }

    /// Answers until `stop`, then finishes the deliveries in hand.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let operations = tokio::spawn(self.operations.run_until(self.drained.clone()));
        let readiness = self.readiness;
        let not_ready = {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                readiness.not_ready("running", "stopping");
            }
        };
        let not_ready = tokio::spawn(not_ready);
        let result = self.http.run_until_stopped(stop).await;
        not_ready.abort();
        self.drained.cancel();
        result.and(operations.await?)
    }
}
