//! The service: some loops over one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::web;
use anyhow::Context;
use chrono::TimeDelta;
use gha_slurm_amqp::{Broker, Interrupted, Outcome};
use gha_slurm_auth::{KeyFolder, KeySet, Signer};
use gha_slurm_contract::Event;
use gha_slurm_domain::Clock;
use gha_slurm_github::Github;
use gha_slurm_service_kit::{AppTrouble, HttpService, Operations, Pause, Periodic, Readiness};
use gha_slurm_storage::notice::{self, Notice};
use gha_slurm_storage::{
    AsyncPgConnection, Database, Role, StorageError, identity, replan, stops, versions,
};
use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{IntCounterVec, IntGauge};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::agents::{self, AgentKeys, Agents};
use crate::events::{self, EventError};
use crate::inquiry::Inquiry;
use crate::mailbox::Mailbox;
use crate::planning::{self, Policy};
use crate::reconciler::Reconciler;
use crate::retention::Retention;
use crate::settings::{Settings, WayToAgent, span};
use crate::slurm_jobs::NodeWaits;
use crate::submitter::Submitter;
use crate::{rowless, slurm_jobs, submission};

/// Scopes are looked at again at least this often: notifications can be lost with a connection.
const SWEEP: Duration = Duration::from_secs(5);
/// Scopes planned in one sweep.
const SWEPT_AT_ONCE: i64 = 100;
/// Whether launches are stopped is looked at this often.
const STOP_SEEN: Duration = Duration::from_secs(5);
/// An event is held while Postgres is away, before it goes to the end of the queue; RabbitMQ itself gives up after 30 minutes.
const HOLD: Duration = Duration::from_secs(10 * 60);
/// The first round may find years of rows.
const RETENTION_ROUND: Duration = Duration::from_secs(6 * 3600);
/// The submission loop waits for Postgres and for calls of the agent, which have deadlines of their own.
const SUBMISSION_ROUND: Duration = Duration::from_secs(10 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before a lost `LISTEN` connection is opened again.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);

/// The launcher, built and bound.
pub struct Application {
    settings: Settings,
    broker: Broker,
    database: Database,
    policy: Arc<Policy>,
    submitter: Arc<Submitter>,
    reconciler: Reconciler,
    retention: Retention,
    /// Notified when something was planned.
    wake: Arc<Notify>,
    operations: Operations,
    readiness: Readiness,
    periodic: Periodic,
    events: IntCounterVec,
    /// 1 while launches are stopped.
    stopped: IntGauge,
    /// 1 while GitHub does not accept the App's credentials.
    app_trouble: AppTrouble,
    port: u16,
    /// For an agent in outbound mode.
    http: Option<HttpService>,
    /// Ends its polls.
    quit: CancellationToken,
    /// Tells the calls in flight that there is little time.
    stopping: CancellationToken,
}

impl Application {
    /// Checks what can be checked, the database's schema too, and binds the operations port.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let readiness = Readiness::default();
        readiness.not_ready("rabbitmq", "not connected yet");
        let clock = Clock::system();
        let periodic = Periodic::register(&metrics, clock.clone())?;
        let events = metrics.counter(
            "gha_slurm_events_total",
            "Events consumed, by what became of them",
            &["outcome"],
        )?;
        let stopped = metrics.gauge(
            "gha_slurm_stopped",
            "1 while all launches are stopped (gha-slurm panic), otherwise 0",
            &[],
        )?;
        let stopped = stopped.with_label_values::<&str>(&[]);
        let app_trouble = AppTrouble::register(&metrics)?;
        let signer = Signer::load(&KeyFolder::new(&settings.keys.folder)).context("keys.folder")?;
        let amqp = &settings.amqp;
        let broker = Broker::new(amqp.url.clone(), amqp.ca_file.as_deref())?;
        let database = Database::new(
            &settings.database.url,
            settings.database.ca_file.as_deref(),
            "launcher",
            settings.database.connections,
        )?
        .with_metrics(&metrics)?;
        database.check(Role::Launcher).await?;
        let launcher = {
            let mut conn = database.connection().await.context("database.url")?;
            identity::get_or_make(&mut conn)
                .await
                .context("database.url")?
        };
        let policy = Arc::new(Policy {
            cluster: settings.cluster.name.clone(),
            labels: settings.labels.policy(&settings.cluster.name),
            limits: settings.planner.limits(),
        });
        note_labels(&database, &policy)
            .await
            .context("database.url")?;
        let inquiry = Inquiry {
            database: database.clone(),
            github: Github::new(
                &settings.github.api_url,
                settings.github.app_id,
                &settings.github.private_key,
                settings.github.ca_file.as_deref(),
                clock.clone(),
            )?
            .with_points_per_minute(settings.github.points_per_minute.get()),
            policy: Arc::clone(&policy),
            clock,
        };
        let reconciled = metrics.counter(
            "gha_slurm_reconciled_total",
            "What no event told and the reconciler found, by where it looked",
            &["what"],
        )?;
        let stopping = CancellationToken::new();
        let (agent, mailbox) = way_to_the_agent(&settings, &stopping)?;
        let submitter = Arc::new(Submitter {
            database: database.clone(),
            inquiry: inquiry.clone(),
            web_url: settings.github.web_url.to_string(),
            agent,
            signer,
            deployment: settings.deployment.clone(),
            cluster: settings.cluster.clone(),
            lifetime_s: settings.keys.lifetime_s,
            runner_mode: settings.runners.mode,
            launcher,
            weights: settings.fairness.weights(),
            freed: AtomicU64::default(),
        });
        let retention = Retention {
            database: database.clone(),
            settings: settings.retention.clone(),
            clock: inquiry.clock.clone(),
            removed: metrics.counter(
                "gha_slurm_removed_rows_total",
                "Rows removed since they were older than retention.days",
                &["what"],
            )?,
            holder: uuid::Uuid::new_v4(),
        };
        let wake = Arc::new(Notify::new());
        let reconciler = Reconciler {
            inquiry,
            settings: settings.reconciler.clone(),
            deployment: settings.deployment.clone(),
            found: reconciled,
            wake: Arc::clone(&wake),
            resumed: Arc::default(),
        };
        let quit = CancellationToken::new();
        let http = match (&settings.http, mailbox, &settings.cluster.agent_public_keys) {
            (Some(http), Some(mailbox), Some(public_keys)) => {
                let agents = web::Data::new(Agents {
                    mailbox,
                    submitter: Arc::clone(&submitter),
                    keys: AgentKeys::new(public_keys.clone()),
                    changed: Arc::clone(&wake),
                    quit: quit.clone(),
                });
                let limits = web::Data::new(agents::body_limits());
                Some(HttpService::bind(http, &metrics, move |config| {
                    agents::configure(config, agents.clone(), limits.clone());
                })?)
            }
            _ => None,
        };
        let operations = Operations::bind(&settings.operations, readiness.clone(), metrics)?;
        let port = operations.port();
        Ok(Self {
            settings,
            broker,
            database,
            policy,
            submitter,
            reconciler,
            retention,
            wake,
            operations,
            readiness,
            periodic,
            events,
            stopped,
            app_trouble,
            port,
            http,
            quit,
            stopping,
        })
    }

    /// The port that an agent in outbound mode calls.
    pub fn port(&self) -> Option<u16> {
        self.http.as_ref().map(HttpService::port)
    }

    /// The operations port.
    pub fn ops_port(&self) -> u16 {
        self.port
    }

    /// Works until `stop`, then finishes the events and calls in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            settings,
            broker,
            database,
            policy,
            submitter,
            reconciler,
            retention,
            wake,
            operations,
            readiness,
            periodic,
            events,
            stopped,
            app_trouble,
            http,
            quit,
            stopping,
            ..
        } = self;
        let clock = submitter.inquiry.clock.clone();
        let drained = CancellationToken::new();
        let operations = tokio::spawn(operations.run_until(drained.clone()));

        let handler = {
            let (database, policy, clock, wake, stop) = (
                database.clone(),
                Arc::clone(&policy),
                clock.clone(),
                Arc::clone(&wake),
                stop.clone(),
            );
            move |event: Event| {
                let (database, policy, clock, wake, stop, events) = (
                    database.clone(),
                    Arc::clone(&policy),
                    clock.clone(),
                    Arc::clone(&wake),
                    stop.clone(),
                    events.clone(),
                );
                async move {
                    let outcome = handle(&database, &policy, &clock, &event, &stop).await;
                    let label = match &outcome {
                        Outcome::Ack => "applied",
                        Outcome::Retry { .. } | Outcome::PutBack => "retried",
                        Outcome::DeadLetter { .. } => "dead",
                    };
                    events.with_label_values(&[label]).inc();
                    wake.notify_one();
                    outcome
                }
            }
        };
        let broker_state = {
            let readiness = readiness.clone();
            let resumed = Arc::clone(&reconciler.resumed);
            move |state: Result<(), Interrupted>| match state {
                Ok(()) => {
                    readiness.ready("rabbitmq");
                    readiness.ready("events");
                    resumed.store(true, Ordering::Relaxed);
                }
                Err(stalled @ Interrupted::Stalled { .. }) => {
                    readiness.not_ready("events", stalled.to_string());
                }
                Err(error) => readiness.not_ready("rabbitmq", error.to_string()),
            }
        };
        let consumer =
            gha_slurm_amqp::consume(broker, "launcher", stop.clone(), broker_state, handler);
        let node_waits = Arc::new(NodeWaits::default());
        let watch = slurm_jobs::watch(
            Arc::clone(&submitter),
            periodic.every("slurm jobs", span(settings.cluster.states_interval_s)),
            Arc::clone(&node_waits),
            Arc::clone(&wake),
            stop.clone(),
        );
        let rowless = rowless::watch(
            Arc::clone(&submitter),
            periodic.clone(),
            span(settings.reconciler.rowless_s),
            stop.clone(),
        );
        let retained = keep_bounded(retention, periodic.clone(), stop.clone());
        let stops = watch_stops(
            database.clone(),
            readiness.clone(),
            stopped,
            periodic.clone(),
            stop.clone(),
        );
        let github = submitter.inquiry.github.clone();
        let github = app_trouble.show(&readiness, &periodic, stop.clone(), move || {
            github.app_trouble()
        });
        let submissions = submission::run(
            submitter,
            Arc::clone(&wake),
            periodic.pulse("submission", SUBMISSION_ROUND),
            stop.clone(),
        );
        let pinged = database.clone();
        let reachable = readiness
            .clone()
            .watch(&periodic, "postgres", stop.clone(), || pinged.ping());
        let replans = replan_loop(
            periodic.clone(),
            database,
            policy,
            clock,
            wake,
            node_waits,
            stop.clone(),
        );
        let not_ready = async {
            stop.cancelled().await;
            stopping.cancel();
            readiness.not_ready("running", "stopping");
        };
        // Until the last call in flight is answered.
        let http = tokio::spawn({
            let (quit, stop) = (quit.clone(), stop.clone());
            async move {
                let Some(http) = http else { return Ok(()) };
                let served = http.run_until_stopped(quit).await;
                // It may have ended by itself.
                stop.cancel();
                served
            }
        });
        let reconciling = reconciler.run(periodic.clone(), stop.clone());
        let work = Box::pin(async {
            tokio::join!(
                consumer,
                submissions,
                watch,
                rowless,
                retained,
                stops,
                github,
                replans,
                reconciling,
                reachable,
                not_ready
            )
        });
        periodic.unless_stuck(&readiness, work).await?;
        quit.cancel();
        let served = http.await?;
        drained.cancel();
        operations.await??;
        served
    }
}

/// Removes what is old, again and again.
async fn keep_bounded(retention: Retention, periodic: Periodic, stop: CancellationToken) {
    let interval = span(retention.settings.interval_s);
    let round = || async {
        stop.run_until_cancelled(retention.round())
            .await
            .unwrap_or(Ok(()))
    };
    periodic
        .every("retention", interval)
        .may_take(RETENTION_ROUND)
        .run(stop.clone(), round)
        .await;
}

/// Shows people and monitoring whether launches are stopped, and has what runs cancelled, if that is wanted.
async fn watch_stops(
    database: Database,
    readiness: Readiness,
    metric: IntGauge,
    periodic: Periodic,
    stop: CancellationToken,
) {
    let round = || async {
        let mut conn = database.connection().await?;
        let current = stops::current(&mut conn).await?;
        metric.set(current.is_some().into());
        if current.as_ref().is_some_and(|stop| stop.cancel_running) {
            replan::request_running(&mut conn).await?;
        }
        readiness.note(
            "stopped",
            current
                .map(|current| format!("{} ({})", current.stop().explained(), current.stopped_by)),
        );
        Ok::<_, StorageError>(())
    };
    periodic.every("stops", STOP_SEEN).run(stop, round).await;
}

/// Where the labels that are served changed since the last start, open workflow jobs are decided again.
async fn note_labels(database: &Database, policy: &Policy) -> anyhow::Result<()> {
    let version = serde_json::to_string(&policy.labels)?;
    database
        .transaction("note the labels", async |conn: &mut AsyncPgConnection| {
            versions::seen(conn, versions::What::Labels, &version).await
        })
        .await?;
    Ok(())
}

/// The agent is called, or calls: then there is a mailbox.
fn way_to_the_agent(
    settings: &Settings,
    stopping: &CancellationToken,
) -> anyhow::Result<(Agent, Option<Arc<Mailbox>>)> {
    match settings.way_to_the_agent() {
        Ok(WayToAgent::Called(url)) => {
            let mut agent = Agent::new(url, &settings.cluster.tls).context("cluster.agent_url")?;
            if let Some(secret) = &settings.cluster.original_secret {
                agent = agent
                    .with_original_secret(secret)
                    .context("cluster.original_secret")?;
            }
            Ok((agent, None))
        }
        Ok(WayToAgent::Calls(keys)) => {
            KeySet::read_some(keys).context("cluster.agent_public_keys")?;
            let mailbox = Arc::new(Mailbox::new(stopping.clone()));
            Ok((Agent::asking(Arc::clone(&mailbox)), Some(mailbox)))
        }
        Err(wrong) => Err(wrong).context(wrong.key()),
    }
}

async fn handle(
    database: &Database,
    policy: &Policy,
    clock: &Clock,
    event: &Event,
    stop: &CancellationToken,
) -> Outcome {
    let started = std::time::Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match events::apply(database, policy, event, clock.now()).await {
            Ok(()) => return Outcome::Ack,
            Err(EventError::Storage(error)) if error.is_transient() && started.elapsed() < HOLD => {
                tracing::warn!(%error, "an event is held until the database is back");
                tokio::select! {
                    () = stop.cancelled() => return Outcome::PutBack,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
                }
            }
            Err(EventError::Storage(error)) if error.is_transient() => {
                tracing::error!(%error, "an event could not be applied yet; it goes to the end of the queue");
                return Outcome::PutBack;
            }
            Err(EventError::Storage(error)) => {
                return Outcome::DeadLetter {
                    reason: format!("it can never be stored: {error}"),
                };
            }
            Err(error @ EventError::Newer(_)) => {
                return Outcome::DeadLetter {
                    reason: error.to_string(),
                };
            }
        }
    }
}

/// Acts on replan requests: at once when notified, and by a sweep.
async fn replan_loop(
    periodic: Periodic,
    database: Database,
    policy: Arc<Policy>,
    clock: Clock,
    wake: Arc<Notify>,
    node_waits: Arc<NodeWaits>,
    stop: CancellationToken,
) {
    let notified = Arc::new(Notify::new());
    // Not periodic: it ends only when the connection breaks.
    let listener = async {
        let heard = |notice| match notice {
            Notice::Replan => notified.notify_one(),
            Notice::NodeWaits => node_waits.notify(),
        };
        while let Some(error) = stop
            .run_until_cancelled(notice::listen(&database, &heard))
            .await
        {
            tracing::warn!(%error, "no notices of other processes; looking by itself meanwhile");
            stop.run_until_cancelled(tokio::time::sleep(LISTEN_AGAIN))
                .await;
        }
    };
    let sweeper = periodic
        .every("replans", SWEEP)
        .wake(Arc::clone(&notified))
        .run(stop.clone(), || async {
            let swept = sweep(&database, &policy, &clock).await?;
            if swept > 0 {
                wake.notify_one();
            }
            let is_full = swept as i64 >= SWEPT_AT_ONCE;
            let pause = if is_full {
                Pause::For(Duration::ZERO)
            } else {
                Pause::Period
            };
            Ok::<_, StorageError>(pause)
        });
    tokio::join!(listener, sweeper);
}

async fn sweep(database: &Database, policy: &Policy, clock: &Clock) -> Result<usize, StorageError> {
    let scopes = {
        let mut conn = database.connection().await?;
        let margin = policy.limits.token_margin;
        replan::request_due(&mut conn, clock.now() + margin - TimeDelta::seconds(1)).await?;
        replan::pending(&mut conn, SWEPT_AT_ONCE).await?
    };
    for scope in &scopes {
        planning::take_replan_request(database, policy, *scope, clock.now()).await?;
    }
    Ok(scopes.len())
}
