//! The service: one route over a ledger and Slurm.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use anyhow::Context;
use chrono::{TimeDelta, Utc};
use gha_slurm_service_kit::problem::method_not_allowed;
use gha_slurm_service_kit::{HttpService, Operations, Readiness};
use gha_slurm_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::calls;
use crate::keys::{RETRY_PAUSE, Verifier};
use crate::ledger::Ledger;
use crate::runner::watch_release;
use crate::settings::{Backend, Settings};
use crate::slurm::{LocalSlurm, RestSlurm, SbatchSlurm, Slurm};
use crate::start::{Starter, Turns, start};
use crate::watch::Watch;

/// Entries of allocations whose launch token expired this long ago are forgotten, at each start.
const REMEMBER: TimeDelta = TimeDelta::days(7);

/// The agent, built and bound.
pub struct Application {
    http: HttpService,
    operations: Operations,
    readiness: Readiness,
    starter: Arc<Starter>,
    interval: Duration,
}

impl Application {
    /// Checks what can be checked, takes the state folder, takes up what an earlier agent left, and binds the ports. Call it
    /// inside a runtime.
    pub fn build(settings: Settings) -> anyhow::Result<Self> {
        // What it writes is its own affair; and sbatch hands it on to the output of Slurm jobs.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        let outcomes = metrics.counter(
            "gha_slurm_agent_starts_total",
            "Calls of POST /runner/start, by what became of them",
            &["outcome"],
        )?;
        let state = &settings.state.folder;
        let ledger = Arc::new(Ledger::open(state).context("state.folder")?);
        let pruned = ledger
            .prune(Utc::now() - REMEMBER)
            .context("state.folder")?;
        let watch = Arc::new(Watch::new(ledger.all().context("state.folder")?));
        tracing::debug!(pruned, "entries of expired launch tokens forgotten");
        let slurm: Arc<dyn Slurm> = match settings.slurm.backend {
            Backend::Sbatch => {
                let missing = crate::slurm::missing_programs(&settings.sbatch.bin);
                anyhow::ensure!(
                    missing.is_empty(),
                    "sbatch.bin: there is no {}",
                    missing.join(", ")
                );
                Arc::new(SbatchSlurm::new(settings.sbatch))
            }
            Backend::Slurmrestd => {
                let settings = settings
                    .slurmrestd
                    .context("slurmrestd: must be given for slurm.backend = \"slurmrestd\"")?;
                Arc::new(RestSlurm::new(settings)?)
            }
            Backend::Local => Arc::new(
                LocalSlurm::open(
                    &state.join("local"),
                    &settings.cluster.name,
                    &settings.local,
                )
                .context("state.folder")?,
            ),
        };
        let verifier = Verifier::new(settings.keys, &settings.deployment.name)?;
        readiness.not_ready("keys", "not read yet");
        readiness.not_ready("slurm", "not asked yet");
        let starter = Arc::new(Starter {
            verifier,
            ledger,
            watch,
            slurm,
            policy: settings.policy,
            users_are_real: !matches!(settings.slurm.backend, Backend::Local),
            runner: settings.runner,
            cluster: settings.cluster.name,
            outcomes,
            turns: Turns::default(),
        });
        let data = web::Data::from(Arc::clone(&starter));
        let http = HttpService::bind(&settings.http, &metrics, move |config| {
            config
                .app_data(data.clone())
                .service(
                    web::resource("/runner/start")
                        .route(web::post().to(start))
                        .default_service(method_not_allowed("POST")),
                )
                .service(
                    web::resource("/runner/cancel")
                        .route(web::post().to(calls::cancel))
                        .default_service(method_not_allowed("POST")),
                )
                .service(
                    web::resource("/runner/states")
                        .route(web::post().to(calls::states))
                        .default_service(method_not_allowed("POST")),
                );
        })?;
        let operations = Operations::bind(&settings.operations, readiness.clone(), metrics)?;
        Ok(Self {
            http,
            operations,
            readiness,
            starter,
            interval: Duration::from_secs(settings.slurm.interval_s.get().into()),
        })
    }

    /// The port of `POST /runner/start`.
    pub fn port(&self) -> u16 {
        self.http.port()
    }

    /// The operations port.
    pub fn ops_port(&self) -> u16 {
        self.operations.port()
    }

    /// Answers until `stop`, then finishes what is in hand.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let drained = CancellationToken::new();
        let operations = tokio::spawn(self.operations.run_until(drained.clone()));
        let keys = tokio::spawn(first_keys(
            Arc::clone(&self.starter),
            self.readiness.clone(),
            stop.clone(),
        ));
        let watch = Arc::clone(&self.starter.watch).run(
            Arc::clone(&self.starter.slurm),
            Arc::clone(&self.starter.ledger),
            self.interval,
            self.readiness.clone(),
            stop.clone(),
        );
        let release = watch_release(self.starter.runner.folder.clone(), stop.clone());
        let not_ready = async {
            stop.cancelled().await;
            self.readiness.not_ready("running", "stopping");
        };
        let serve = async {
            let served = self.http.run_until_stopped(stop.clone()).await;
            // It may have ended by itself.
            stop.cancel();
            served
        };
        let (served, (), (), ()) = tokio::join!(serve, not_ready, watch, release);
        self.starter.slurm.stop().await;
        keys.await?;
        drained.cancel();
        operations.await??;
        served
    }
}

/// Reads the keys until that worked once; later, an unknown key makes them be read again.
async fn first_keys(starter: Arc<Starter>, readiness: Readiness, stop: CancellationToken) {
    while let Err(error) = starter.verifier.refresh().await {
        tracing::warn!(error, "no public keys of launch tokens yet");
        readiness.not_ready("keys", error);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }
    readiness.ready("keys");
}
