//! Periodic work: one driver for everything that a process does again and again.
//!
//! ```
//! # use std::time::Duration;
//! # use gha_slurm_service_kit::{CancellationToken, every::Periodic};
//! # async fn sweep() -> std::io::Result<()> { Ok(()) }
//! # use gha_slurm_domain::Clock;
//! # use gha_slurm_telemetry::Metrics;
//! # async fn example(metrics: &Metrics, clock: Clock, stop: CancellationToken) -> anyhow::Result<()> {
//! let periodic = Periodic::register(metrics, clock)?; // once in a process
//! periodic
//!     .every("sweep", Duration::from_secs(5))
//!     .run(stop, || async { sweep().await })
//!     .await;
//! # Ok(())
//! # }
//! ```

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use gha_slurm_domain::Clock;
use gha_slurm_telemetry::prometheus::{self, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use gha_slurm_telemetry::{Metrics, panic_message};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::loops::{Loops, Pulse, Stuck};
use crate::operations::Readiness;

/// A round that takes longer than so many periods, and longer than [`LEAST_ROUND`], is stuck.
const STUCK_PERIODS: u32 = 10;
const LEAST_ROUND: Duration = Duration::from_secs(10 * 60);

/// The condition of [`Readiness`] while a loop is stuck.
const STUCK: &str = "loops";

/// The share of a period by which a pause is longer or shorter, unless [`Every::jitter`] is called.
const JITTER: f64 = 0.1;

/// The metrics of all periodic tasks of a process. Cheap to clone.
///
/// - `gha_slurm_periodic_last_success_timestamp_seconds{task}`: Unix time of the end of the last successful round, 0 before it;
/// - `gha_slurm_periodic_failures_total{task,cause}`: failed rounds, by `error` or `panic`.
#[derive(Debug, Clone)]
pub struct Periodic {
    last_success: IntGaugeVec,
    failures: IntCounterVec,
    clock: Clock,
    loops: Loops,
}

impl Periodic {
    /// Registers the metrics, whose times are `clock`'s. Fails when called twice for one registry.
    pub fn register(metrics: &Metrics, clock: Clock) -> prometheus::Result<Self> {
        Ok(Self {
            last_success: metrics.gauge(
                "gha_slurm_periodic_last_success_timestamp_seconds",
                "Unix time of the last successful round of a periodic task",
                &["task"],
            )?,
            failures: metrics.counter(
                "gha_slurm_periodic_failures_total",
                "Failed rounds of a periodic task, by cause",
                &["task", "cause"],
            )?,
            clock,
            loops: Loops::default(),
        })
    }

    /// A loop that is not periodic and is watched as if it were: it has to [beat](Pulse::beat) at least every `limit`.
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        self.loops.watch(name, limit)
    }

    /// Does `work`, and watches the loops meanwhile: while one is stuck, the service is not ready. When one has been stuck for as long
    /// again, `work` is given up, since nothing but a new process helps.
    pub async fn unless_stuck<T>(
        &self,
        readiness: &Readiness,
        work: impl Future<Output = T>,
    ) -> Result<T, Stuck> {
        let report = |stuck: Option<&Stuck>| match stuck {
            Some(stuck) => readiness.not_ready(STUCK, stuck.to_string()),
            None => readiness.ready(STUCK),
        };
        tokio::select! {
            done = work => Ok(done),
            stuck = self.loops.stuck(report) => Err(stuck),
        }
    }

    /// A task that runs every `period`. `task` names it in logs, spans and metrics.
    pub fn every(&self, task: &'static str, period: Duration) -> Every {
        Every {
            task,
            period,
            jitter: JITTER,
            wake: None,
            rest: Duration::ZERO,
            limit: LEAST_ROUND.max(period * STUCK_PERIODS),
            loops: self.loops.clone(),
            clock: self.clock.clone(),
            last_success: self.last_success.with_label_values(&[task]),
            errors: self.failures.with_label_values(&[task, "error"]),
            panics: self.failures.with_label_values(&[task, "panic"]),
        }
    }
}

/// How long to wait before the next round. A round that returns `()` waits for its period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The task's period, with jitter.
    Period,
    /// Exactly this long; zero starts the next round at once.
    For(Duration),
}

impl From<()> for Pause {
    fn from((): ()) -> Self {
        Self::Period
    }
}

/// One periodic task; see [`Periodic::every`].
#[derive(Debug)]
#[must_use = "nothing happens until `run`"]
pub struct Every {
    task: &'static str,
    period: Duration,
    jitter: f64,
    wake: Option<Arc<Notify>>,
    rest: Duration,
    limit: Duration,
    loops: Loops,
    clock: Clock,
    last_success: IntGauge,
    errors: IntCounter,
    panics: IntCounter,
}

impl Every {
    /// Makes each pause up to `share` (0 to 1) of the period longer or shorter, so that processes that were started together
    /// spread out. A tenth unless set.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share.clamp(0.0, 1.0);
        self
    }

    /// Ends the pause before the next round when `wake` is notified.
    pub fn wake(mut self, wake: Arc<Notify>) -> Self {
        self.wake = Some(wake);
        self
    }

    /// However often it is woken, the next round begins no sooner than `rest` after the end of the one before.
    pub fn rest(mut self, rest: Duration) -> Self {
        self.rest = rest;
        self
    }

    /// A round may take so long, instead of ten minutes and ten periods, before it counts as [stuck](Periodic::unless_stuck).
    pub fn may_take(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs rounds until `stop`: the first one at once, each further one a pause after the end of the one before.
    ///
    /// A round that fails is tried again after the period. Only the first failure in a row is logged as a warning, and the
    /// success after it. A round that panics counts as failed; what it changed stays as the panic left it.
    ///
    /// `stop` ends the pause, not a round. A round that may take long wraps its work in `CancellationToken::run_until_cancelled`.
    ///
    /// State that rounds change goes in a `tokio::sync::Mutex` that the closure borrows.
    pub async fn run<F, Fut, P, E>(self, stop: CancellationToken, mut round: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<P, E>>,
        P: Into<Pause>,
        E: Display,
    {
        let mut failing = false;
        let pulse = self.loops.watch(self.task, self.limit);
        while !stop.is_cancelled() {
            pulse.beat();
            let span = tracing::info_span!(parent: None, "periodic", task = self.task, otel.name = self.task);
            let result = AssertUnwindSafe(async { round().await })
                .catch_unwind()
                .instrument(span.clone())
                .await;
            let pause = span.in_scope(|| self.record(result, &mut failing));
            let pause = match pause {
                Pause::Period => self.jittered(),
                Pause::For(pause) => pause,
            };
            pulse.rest(pause.max(self.rest));
            let rested = Instant::now() + self.rest;
            let woken = async {
                match &self.wake {
                    Some(wake) => wake.notified().await,
                    None => std::future::pending().await,
                }
                tokio::time::sleep_until(rested).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = woken => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn record<P: Into<Pause>, E: Display>(
        &self,
        result: std::thread::Result<Result<P, E>>,
        failing: &mut bool,
    ) -> Pause {
        let task = self.task;
        let (error, counter) = match result {
            Ok(Ok(pause)) => {
                self.last_success.set(self.clock.now().timestamp());
                if std::mem::take(failing) {
                    tracing::info!(task, "a periodic task works again");
                }
                return pause.into();
            }
            Ok(Err(error)) => (format!("{error:#}"), &self.errors),
            Err(panic) => (
                format!("panicked: {}", panic_message(&*panic)),
                &self.panics,
            ),
        };
        counter.inc();
        if std::mem::replace(failing, true) {
            tracing::debug!(task, error, "a periodic task still fails");
        } else {
            tracing::warn!(
                task,
                error,
                "a periodic task failed; it is tried again, and further failures in a row are not logged"
            );
        }
        Pause::Period
    }

    fn jittered(&self) -> Duration {
        let factor = 1.0 + self.jitter * (2.0 * fastrand::f64() - 1.0);
        self.period.mul_f64(factor)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::subscriber::DefaultGuard;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn periodic() -> (Metrics, Periodic) {
        let metrics = Metrics::default();
        let periodic = Periodic::register(&metrics, Clock::system()).unwrap();
        (metrics, periodic)
    }

    fn value(metrics: &Metrics, series: &str) -> i64 {
        let text = metrics.text().unwrap();
        let line = text.lines().find(|line| line.starts_with(series)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// Runs `rounds` rounds, and returns how long after the start each began.
    async fn begins<P: Into<Pause>, E: Display>(
        every: Every,
        rounds: usize,
        mut result: impl FnMut(usize) -> Result<P, E>,
    ) -> Vec<Duration> {
        let (stop, start, mut begins) = (CancellationToken::new(), Instant::now(), Vec::new());
        let round = || {
            begins.push(start.elapsed());
            if begins.len() == rounds {
                stop.cancel();
            }
            std::future::ready(result(begins.len()))
        };
        every.run(stop.clone(), round).await;
        begins
    }

    type Lines = Arc<Mutex<Vec<u8>>>;

    /// Captures what this thread logs at level INFO and above.
    fn logs() -> (Lines, DefaultGuard) {
        struct Writer(Lines);
        impl std::io::Write for Writer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || Writer(Arc::clone(&writer)))
            .with_ansi(false)
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn count(lines: &Lines, text: &str) -> usize {
        let lines = lines.lock().unwrap();
        String::from_utf8_lossy(&lines).matches(text).count()
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_follow_each_other_by_the_period_and_its_jitter() {
        let (metrics, periodic) = periodic();
        let ok = |_| Ok::<_, String>(());
        let exact = begins(periodic.every("exact", PERIOD).jitter(0.0), 3, ok).await;
        assert_eq!(exact, [Duration::ZERO, PERIOD, PERIOD * 2]);
        let jittered = begins(periodic.every("jittered", PERIOD).jitter(0.5), 50, ok).await;
        let pauses: Vec<Duration> = jittered
            .windows(2)
            .map(|w| w[1].checked_sub(w[0]).unwrap())
            .collect();
        let (low, high) = (PERIOD / 2, PERIOD * 3 / 2);
        assert!(
            pauses.iter().all(|p| (low..=high).contains(p)),
            "{pauses:?}"
        );
        assert!(pauses.iter().any(|p| *p < PERIOD) && pauses.iter().any(|p| *p > PERIOD));
        let series = "gha_slurm_periodic_last_success_timestamp_seconds{task=\"exact\"}";
        assert!(value(&metrics, series) > 1_700_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_may_ask_for_another_pause() {
        let (_, periodic) = periodic();
        let pauses = [
            Pause::For(Duration::ZERO),
            Pause::For(PERIOD * 10),
            Pause::Period,
        ];
        let every = periodic.every("test", PERIOD).jitter(0.0);
        let begins = begins(every, 4, |n| {
            Ok::<_, String>(*pauses.get(n - 1).unwrap_or(&Pause::Period))
        })
        .await;
        assert_eq!(
            begins,
            [Duration::ZERO, Duration::ZERO, PERIOD * 10, PERIOD * 11]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_logged_once_and_so_is_the_next_success() {
        let (metrics, periodic) = periodic();
        let (lines, _guard) = logs();
        let every = periodic.every("test", PERIOD).jitter(0.0);
        // Rounds 2 to 4 fail, and 6.
        let begins = begins(every, 7, |n| match n {
            2..=4 | 6 => Err("no route to host"),
            _ => Ok(()),
        })
        .await;
        assert_eq!(begins.last(), Some(&(PERIOD * 6)));
        assert_eq!(count(&lines, "no route to host"), 2);
        assert_eq!(count(&lines, "works again"), 2);
        let failures = "gha_slurm_periodic_failures_total{cause=\"error\",task=\"test\"}";
        assert_eq!(value(&metrics, failures), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_logged_and_counted_and_the_next_round_runs() {
        let (metrics, periodic) = periodic();
        let (lines, _guard) = logs();
        let every = periodic.every("test", PERIOD).jitter(0.0);
        let begins = begins(every, 3, |n| {
            assert_ne!(n, 2, "round two");
            Ok::<_, String>(())
        })
        .await;
        assert_eq!(begins, [Duration::ZERO, PERIOD, PERIOD * 2]);
        assert_eq!(count(&lines, "round two"), 1);
        assert_eq!(count(&lines, "works again"), 1);
        let panics = "gha_slurm_periodic_failures_total{cause=\"panic\",task=\"test\"}";
        assert_eq!(value(&metrics, panics), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_does_not_end_makes_the_service_not_ready_and_then_ends_it() {
        let (_, periodic) = periodic();
        let readiness = Readiness::default();
        let start = Instant::now();
        let idle = periodic
            .every("idle", 100 * LEAST_ROUND)
            .run(CancellationToken::new(), || async { Ok::<_, String>(()) });
        let hangs = periodic
            .every("hangs", PERIOD)
            .run(CancellationToken::new(), || async {
                std::future::pending::<Result<(), String>>().await
            });
        let not_ready = async {
            while readiness.obstacles().is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            start.elapsed()
        };
        let work = async { tokio::join!(idle, hangs) };
        let (stuck, not_ready) = tokio::join!(periodic.unless_stuck(&readiness, work), not_ready);
        assert!(
            (LEAST_ROUND..2 * LEAST_ROUND).contains(&not_ready),
            "{not_ready:?}"
        );
        assert!(start.elapsed() >= 2 * LEAST_ROUND);
        let text = stuck.unwrap_err().to_string();
        assert!(text.contains("`hangs`"), "{text}");
        assert!(readiness.obstacles()["loops"].contains("`hangs`"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_goes_on_makes_the_service_ready_again_and_one_that_ended_is_forgotten() {
        let (_, periodic) = periodic();
        let readiness = Readiness::default();
        let pulse = periodic.pulse("own", PERIOD);
        let becomes = async |is_ready: bool| {
            while readiness.obstacles().is_empty() != is_ready {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let lives = async {
            becomes(false).await;
            pulse.beat();
            becomes(true).await;
            drop(pulse);
            tokio::time::sleep(100 * PERIOD).await;
        };
        periodic.unless_stuck(&readiness, lives).await.unwrap();
        assert!(readiness.obstacles().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_ends_the_pause_and_stop_ends_the_task() {
        let (_, periodic) = periodic();
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let rounds = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        // Spawned, as services do: the future must be `Send`.
        let task = tokio::spawn({
            let (stop, rounds) = (stop.clone(), Arc::clone(&rounds));
            let every = periodic.every("test", PERIOD).wake(Arc::clone(&wake));
            async move {
                let round = || async {
                    tokio::task::yield_now().await;
                    rounds.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, String>(())
                };
                every.run(stop, round).await;
            }
        });
        for expected in 1..=3 {
            while rounds.load(Ordering::SeqCst) < expected {
                tokio::task::yield_now().await;
            }
            wake.notify_one();
        }
        while rounds.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        task.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(rounds.load(Ordering::SeqCst), 4);
    }
}
