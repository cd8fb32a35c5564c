//! The service: one route over a ledger and Slurm.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix_web::{guard, web};
use anyhow::Context;
use gha_slurm_auth::{KeyFolder, Signer};
use gha_slurm_domain::Clock;
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::problem::method_not_allowed;
use gha_slurm_service_kit::settings::HttpSettings;
use gha_slurm_service_kit::{HttpService, Operations, Pause, Periodic, Readiness};
use gha_slurm_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::calls;
use crate::configuration::Configuration;
use crate::keys::{REFRESH_EVERY, RETRY_PAUSE, Verifier};
use crate::launches::Launches;
use crate::ledger::Ledger;
use crate::original::{self, HEADER, Original};
use crate::outbound::Outbound;
use crate::polling::{Polling, REMEMBER};
use crate::relay::Relay;
use crate::runner::watch_release;
use crate::self_check::{Level, self_check};
use crate::self_service::{self, SelfService};
use crate::settings::{Settings, default_http};
use crate::start::{Starter, Turns};
use crate::stop;
use gha_slurm_slurm::Slurm;
use gha_slurm_slurm::settings::Backend;

/// The agent, built and bound.
pub struct Application {
    http: Option<HttpService>,
    relay: Option<HttpService>,
    outbound: Option<Outbound>,
    operations: Operations,
    readiness: Readiness,
    periodic: Periodic,
    starter: Arc<Starter>,
    interval: Duration,
    configuration_interval: Duration,
    stops: stop::Watch,
    settings: Settings,
}

impl Application {
    /// Checks what can be checked, takes the state folder, takes up what an earlier agent left, and binds the ports. Call it
    /// inside a runtime.
    pub fn build(settings: Settings) -> anyhow::Result<Self> {
        // What it writes is its own affair; and sbatch hands it on to Slurm jobs.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let clock = Clock::system();
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let periodic = Periodic::register(&metrics, clock.clone())?;
        let outcomes = metrics.counter(
            "gha_slurm_agent_starts_total",
            "Calls of POST /runner/start, by what became of them",
            &["outcome"],
        )?;
        let stops = stop::Watch::register(settings.stop_file(), &metrics)?;
        let state = &settings.state.folder;
        let ledger = Arc::new(Ledger::open(state).context("state.folder")?);
        let pruned = ledger
            .prune(clock.now() - REMEMBER)
            .context("state.folder")?;
        let entries = ledger.all().context("state.folder")?;
        let launches = Arc::new(Launches::new(entries, clock.clone()));
        tracing::debug!(pruned, "entries of expired launch tokens forgotten");
        let slurm = backend::connect(&settings, clock.clone())?;
        let original = Original::open(&settings)?.map(web::Data::new);
        let verifier = Verifier::new(settings.keys.clone(), &settings.deployment.name)?;
        readiness.not_ready("keys", "not read yet");
        readiness.not_ready("slurm", "not asked yet");
        let token_broker_urls = settings.token_broker_urls().context("token_broker.urls")?;
        // What `Starter::accept` and `permit` look at, besides the policy.
        let has_containers = settings.runner.apptainer.is_some();
        let (cluster, relay) = (&settings.cluster.name, settings.relay.is_some());
        let urls: Vec<String> = token_broker_urls.iter().map(ToString::to_string).collect();
        let urls = urls.join(" ");
        let matters = format!("{cluster} {urls} relay={relay} containers={has_containers}");
        let configuration = Configuration::open(state, matters).context("state.folder")?;
        let starter = Arc::new(Starter {
            verifier,
            ledger,
            launches,
            slurm,
            policy: settings.policy.clone(),
            configuration: Arc::new(configuration),
            stop_file: settings.stop_file(),
            users_are_real: !matches!(settings.slurm.backend, Backend::Local),
            runner: settings.runner.clone(),
            token_broker_urls,
            relay_url: settings.relay.as_ref().map(|r| r.public_url.to_string()),
            cluster: settings.cluster.name.clone(),
            original: original.is_some(),
            clock,
            outcomes,
            turns: Turns::default(),
        });
        let outbound = match &settings.outbound {
            None => None,
            Some(outbound) => {
                let identity = settings.identity.as_ref();
                Some(Outbound::new(outbound, identity, &starter, &readiness)?)
            }
        };
        let relay = match &settings.relay {
            None => None,
            Some(settings) => {
                let relay = Relay::new(settings)?;
                let http = HttpSettings {
                    tls: settings.tls.clone(),
                    ..HttpSettings::plain(settings.listen)
                };
                let routes = move |config: &mut web::ServiceConfig| relay.configure(config);
                Some(HttpService::bind_section("relay", &http, &metrics, routes)?)
            }
        };
        let signer = settings
            .identity
            .clone()
            .map(|identity| Signer::load(&KeyFolder::new(identity.keys)))
            .transpose()
            .context("identity.keys")?;
        let self_service = settings
            .self_service
            .clone()
            .map(|settings| SelfService::new(settings, signer, Arc::clone(&starter)))
            .transpose()?
            .map(web::Data::new);
        let for_users = self_service.is_some();
        let data = web::Data::from(Arc::clone(&starter));
        let routes = move |config: &mut web::ServiceConfig| {
            let starts = web::resource("/runner/start");
            let mut starts = starts.app_data(LargestBody(calls::START_LIMIT));
            if let Some(original) = &original {
                let theirs = guard::fn_guard(|call| call.head().headers().contains_key(HEADER));
                starts = starts.route(web::post().guard(theirs).to(original::start));
                let reload = web::resource("/api/reload")
                    .route(web::post().to(original::reload))
                    .default_service(method_not_allowed("POST"));
                config.app_data(original.clone()).service(reload);
            }
            config
                .app_data(data.clone())
                .service(
                    starts
                        .route(web::post().to(calls::start))
                        .default_service(method_not_allowed("POST")),
                )
                .service(
                    web::resource("/runner/cancel")
                        .route(web::post().to(calls::cancel))
                        .default_service(method_not_allowed("POST")),
                )
                .service(
                    web::resource("/runner/list")
                        .route(web::post().to(calls::list))
                        .default_service(method_not_allowed("POST")),
                )
                .service(
                    web::resource("/runner/states")
                        .route(web::post().to(calls::states))
                        .default_service(method_not_allowed("POST")),
                );
            if let Some(service) = self_service.clone() {
                self_service::configure(config, service);
            }
        };
        let http = match (settings.http.clone(), &outbound) {
            (None, Some(_)) if !for_users => None,
            (http, _) => {
                let http = http.unwrap_or_else(default_http);
                Some(HttpService::bind(&http, &metrics, routes)?)
            }
        };
        let operations = Operations::bind(&settings.operations, readiness.clone(), metrics)?;
        Ok(Self {
            http,
            relay,
            outbound,
            operations,
            readiness,
            periodic,
            starter,
            interval: Duration::from_secs(settings.slurm.interval_s.get().into()),
            configuration_interval: Duration::from_secs(
                settings.slurm.configuration_interval_s.get().into(),
            ),
            stops,
            settings,
        })
    }

    /// The port of `POST /runner/start`.
    pub fn port(&self) -> Option<u16> {
        self.http.as_ref().map(HttpService::port)
    }

    /// The operations port.
    pub fn ops_port(&self) -> u16 {
        self.operations.port()
    }

    /// Answers until `stop`, then finishes what is in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let drained = CancellationToken::new();
        let operations = tokio::spawn(self.operations.run_until(drained.clone()));
        let keys = tokio::spawn(keep_keys(
            Arc::clone(&self.starter),
            self.readiness.clone(),
            self.periodic.clone(),
            stop.clone(),
        ));
        let checks = tokio::spawn(log_self_check(
            self.settings,
            Arc::clone(&self.starter.slurm),
            stop.clone(),
        ));
        let polling = Polling {
            slurm: Arc::clone(&self.starter.slurm),
            launches: Arc::clone(&self.starter.launches),
            ledger: Arc::clone(&self.starter.ledger),
            readiness: self.readiness.clone(),
            clock: self.starter.clock.clone(),
            hidden: AtomicUsize::new(0),
        };
        let polling = polling.run(&self.periodic, self.interval, stop.clone());
        let configuration = Arc::clone(&self.starter.configuration).watch(
            Arc::clone(&self.starter.slurm),
            &self.periodic,
            self.configuration_interval,
            stop.clone(),
        );
        let release = watch_release(
            self.starter.runner.folder.clone(),
            self.starter.clock.clone(),
            &self.periodic,
            stop.clone(),
        );
        let stops = self.stops.run(&self.periodic, stop.clone());
        let not_ready = async {
            stop.cancelled().await;
            self.readiness.not_ready("running", "stopping");
        };
        let serve = async |http: Option<HttpService>| {
            let Some(http) = http else { return Ok(()) };
            let served = http.run_until_stopped(stop.clone()).await;
            // It may have ended by itself.
            stop.cancel();
            served
        };
        let outbound = async {
            if let Some(outbound) = self.outbound {
                outbound.run(stop.clone()).await;
            }
        };
        let work = Box::pin(async {
            tokio::join!(
                serve(self.http),
                serve(self.relay),
                outbound,
                not_ready,
                polling,
                configuration,
                release,
                stops
            )
        });
        let (served, relayed, (), (), (), (), (), ()) =
            self.periodic.unless_stuck(&self.readiness, work).await?;
        self.starter.slurm.stop().await;
        keys.await?;
        checks.await?;
        drained.cancel();
        operations.await??;
        served.and(relayed)
    }
}

/// What an administrator should know, once; it delays nothing.
async fn log_self_check(settings: Settings, slurm: Arc<dyn Slurm>, stop: CancellationToken) {
    let slurm = (settings.slurm.backend != Backend::Local).then_some(slurm.as_ref());
    tokio::select! {
        () = stop.cancelled() => {}
        findings = self_check(&settings, slurm, None) => {
            for finding in findings {
                if finding.level == Level::Ok {
                    tracing::info!("self-check: {finding}");
                } else {
                    tracing::warn!("self-check: {finding}");
                }
            }
        }
    }
}

/// Reads the keys again and again: one that was removed must not be accepted much longer. Without any, the agent is not ready.
async fn keep_keys(
    starter: Arc<Starter>,
    readiness: Readiness,
    periodic: Periodic,
    stop: CancellationToken,
) {
    let round = || async {
        let refreshed = starter.verifier.refresh().await;
        if starter.verifier.has_keys() {
            readiness.ready("keys");
            return refreshed.map(|()| Pause::Period);
        }
        if let Err(error) = refreshed {
            tracing::warn!(%error, "no public keys of launch tokens");
            readiness.not_ready("keys", error.to_string());
        }
        Ok(Pause::For(RETRY_PAUSE))
    };
    periodic.every("keys", REFRESH_EVERY).run(stop, round).await;
}
