//! The service, built and bound.

use anyhow::Context;
use gha_slurm_domain::Clock;
use gha_slurm_github::{Github, Urgency};
use gha_slurm_service_kit::{
    AppTrouble, HttpService, Operations, Periodic, Readiness, Strangers, Window,
};
use gha_slurm_storage::{Database, Role};
use gha_slurm_telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::keys::Keys;
use crate::progress_tokens::ProgressTokens;
use crate::redemption::Broker;
use crate::repositories::Lookup;
use crate::routes::{self, MOST_ASKED_OF_GITHUB, MOST_CALLS, State};
use crate::settings::Settings;

/// Most reads of the key set by one address in ten seconds: an agent makes one at most, and many may come from one address.
const KEY_READS: u32 = 200;
const MINUTE: Duration = Duration::from_secs(60);

/// token-broker, built and bound.
pub struct Application {
    http: HttpService,
    operations: Operations,
    readiness: Readiness,
    periodic: Periodic,
    database: Database,
    github: Github,
    /// 1 while GitHub does not accept the App's credentials.
    app_trouble: AppTrouble,
}

impl Application {
    /// Checks what can be checked, the database's schema too, and binds both ports.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let clock = Clock::system();
        let periodic = Periodic::register(&metrics, clock.clone())?;
        let redemptions = metrics.counter(
            "gha_slurm_redemptions_total",
            "Launch tokens that came back, by what became of them",
            &["outcome"],
        )?;
        let app_trouble = AppTrouble::register(&metrics)?;
        let keys = Keys::load(
            settings.keys.folder.clone(),
            settings.deployment.name.clone(),
        )
        .context("keys.folder")?;
        let github = Github::new(
            &settings.github.api_url,
            settings.github.app_id,
            &settings.github.private_key,
            settings.github.ca_file.as_deref(),
            clock.clone(),
        )?
        .with_points_per_minute(settings.github.points_per_minute.get());
        let database = Database::new(
            &settings.database.url,
            settings.database.ca_file.as_deref(),
            "token-broker",
            settings.database.connections,
        )?
        .with_metrics(&metrics)?;
        database.check(Role::TokenBroker).await?;
        let state = State {
            lookup: Lookup::new(github.clone()),
            broker: Broker {
                database: database.clone(),
                github: github.for_calls(Urgency::Callback),
                deployment: Arc::new(settings.deployment.clone()),
                web_url: settings.github.web_url.as_str().into(),
                clock,
                runtime: tokio::runtime::Handle::current(),
            },
            keys,
            runners: settings.runners,
            redemptions,
            service_tokens: settings.access.service_tokens,
            calls: Window::at_most(MOST_CALLS),
            progress_tokens: ProgressTokens::default(),
            releases: Window::at_most_in(MINUTE, MOST_ASKED_OF_GITHUB),
            questions: Window::at_most_in(MINUTE, MOST_ASKED_OF_GITHUB),
        };
        let key_readers = Strangers::at_most(KEY_READS);
        let http = HttpService::bind(&settings.http, &metrics, move |config| {
            routes::configure(config, state.clone(), key_readers.clone());
        })?;
        let operations = Operations::bind(&settings.operations, readiness.clone(), metrics)?;
        Ok(Self {
            http,
            operations,
            readiness,
            periodic,
            database,
            github,
            app_trouble,
        })
    }

    /// The port nodes call.
    pub fn port(&self) -> u16 {
        self.http.port()
    }

    /// The operations port.
    pub fn ops_port(&self) -> u16 {
        self.operations.port()
    }

    /// Answers until `stop`, then finishes what is in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            http,
            operations,
            readiness,
            periodic,
            database,
            github,
            app_trouble,
        } = self;
        let drained = CancellationToken::new();
        let operations = tokio::spawn(operations.run_until(drained.clone()));
        let shown = app_trouble.show(&readiness, &periodic, stop.clone(), || github.app_trouble());
        let watch = readiness
            .clone()
            .watch(&periodic, "postgres", stop.clone(), || database.ping());
        let work = Box::pin(async { tokio::join!(http.run_until_stopped(stop), watch, shown) });
        let (answered, (), ()) = periodic.unless_stuck(&readiness, work).await?;
        drained.cancel();
        operations.await??;
        answered
    }
}
