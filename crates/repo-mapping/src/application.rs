//! The service, built and bound.

use std::sync::Arc;
use std::time::Duration;

use gha_slurm_domain::Clock;
use gha_slurm_service_kit::{HttpService, Operations, Periodic, Readiness, Strangers, Window};
use gha_slurm_storage::{Database, Role};
use gha_slurm_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::routes::{self, SIGN_INS};
use crate::settings::Settings;
use crate::sign_in_settings::SignIn;
use crate::state::State;
use crate::token_broker::TokenBroker;
use crate::web_application::WebApplication;

/// Repository lookups within [`LOOKUPS_IN`] for a Slurm user whose people sign in.
const LOOKUPS: u32 = 20;
const LOOKUPS_IN: Duration = Duration::from_secs(60);

/// repo-mapping, built and bound.
pub struct Application {
    http: HttpService,
    operations: Operations,
    readiness: Readiness,
    periodic: Periodic,
    database: Database,
}

impl Application {
    /// Checks what can be checked, the database's schema too, and binds both ports.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let clock = Clock::system();
        let periodic = Periodic::register(&metrics, clock.clone())?;
        let web = settings.web.folder.map(WebApplication::load).transpose()?;
        let token_broker = TokenBroker::new(settings.token_broker)?;
        let database = Database::new(
            &settings.database.url,
            settings.database.ca_file.as_deref(),
            "repo-mapping",
            settings.database.connections,
        )?
        .with_metrics(&metrics)?;
        database.check(Role::RepoMapping).await?;
        let sign_in = settings
            .sign_in
            .map(|sign_in| SignIn::new(sign_in, &settings.github.web_url))
            .transpose()?;
        let state = State {
            database: database.clone(),
            token_broker,
            clock,
            web_url: settings.github.web_url.as_str().into(),
            access: Arc::new(Access::new(settings.access, &settings.agents)?),
            lookups: Window::at_most_in(LOOKUPS_IN, LOOKUPS),
            sign_in: sign_in.map(Arc::new),
        };
        let strangers = Strangers::at_most(SIGN_INS);
        let http = HttpService::bind(&settings.http, &metrics, move |config| {
            routes::configure(config, state.clone(), web.clone(), strangers.clone());
        })?;
        let operations = Operations::bind(&settings.operations, readiness.clone(), metrics)?;
        Ok(Self {
            http,
            operations,
            readiness,
            periodic,
            database,
        })
    }

    /// The port that people and programs call.
    pub fn port(&self) -> u16 {
        self.http.port()
    }

    /// Answers until `stop`, then finishes the requests in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            http,
            operations,
            readiness,
            periodic,
            database,
        } = self;
        let drained = CancellationToken::new();
        let operations = tokio::spawn(operations.run_until(drained.clone()));
        let watch = readiness
            .clone()
            .watch(&periodic, "postgres", stop.clone(), || database.ping());
        let work = async { tokio::join!(http.run_until_stopped(stop), watch) };
        let (answered, ()) = periodic.unless_stuck(&readiness, work).await?;
        drained.cancel();
        operations.await??;
        answered
    }
}
