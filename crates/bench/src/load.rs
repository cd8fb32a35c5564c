//! Load on one address: as fast as it answers, or on a schedule.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A call, with everything but the connection.
pub(crate) type Call = Request<Full<Bytes>>;

/// Where load goes, and what counts as an answer: any other status ends the benchmark.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) expected: StatusCode,
}

/// What one stretch of load has shown.
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    latencies: Histogram<u64>,
}

impl Measured {
    /// The latency that this share of the requests did not exceed, milliseconds.
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Each connection sends its next call when the last one is answered, until `calls` has no more.
pub(crate) async fn closed_loop<F>(
    target: &Target,
    connections: usize,
    calls: F,
) -> Result<Measured>
where
    F: Fn(u64) -> Option<Call> + Send + Sync + 'static,
{
    let shared = Arc::new((AtomicU64::new(0), calls));
    let opened = open(target, connections).await?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in opened {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let (next, calls) = shared.as_ref();
            let mut latencies = latencies()?;
            while let Some(call) = calls(next.fetch_add(1, Ordering::Relaxed)) {
                let sent = Instant::now();
                connection.send(call).await?;
                record(&mut latencies, sent.elapsed());
            }
            Ok(latencies)
        });
    }
    gather(tasks, start).await
}

/// As [`closed_loop`], for what is not a call of ours: `calls` of them, by as many `submitters`.
pub(crate) async fn closed_loop_of<F, W>(submitters: usize, calls: u64, call: F) -> Result<Measured>
where
    F: Fn() -> W + Send + Sync + 'static,
    W: Future<Output = Result<()>> + Send,
{
    let shared = Arc::new((AtomicU64::new(0), call));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..submitters {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let (next, call) = shared.as_ref();
            let mut latencies = latencies()?;
            while next.fetch_add(1, Ordering::Relaxed) < calls {
                let sent = Instant::now();
                call().await?;
                record(&mut latencies, sent.elapsed());
            }
            Ok(latencies)
        });
    }
    gather(tasks, start).await
}

/// `calls` calls at `rate` per second, each sent by whichever connection is free when it is due. Latency counts from when
/// a call was due, so a target that stalls does not hide what would have been sent meanwhile.
pub(crate) async fn open_loop<F>(
    target: &Target,
    connections: usize,
    rate: u32,
    calls: u64,
    call: F,
) -> Result<Measured>
where
    F: Fn(u64) -> Call + Send + Sync + 'static,
{
    let opened = open(target, connections).await?;
    let schedule = Arc::new(Schedule::new(Instant::now() + LEAD, rate, calls));
    let pacer = {
        let schedule = Arc::clone(&schedule);
        std::thread::spawn(move || schedule.run())
    };
    let shared = Arc::new(call);
    let mut tasks = JoinSet::new();
    for mut connection in opened {
        let (schedule, shared) = (Arc::clone(&schedule), Arc::clone(&shared));
        tasks.spawn(async move {
            let mut latencies = latencies()?;
            while let Some((number, due)) = schedule.next().await {
                connection.send(shared(number)).await?;
                record(&mut latencies, due.elapsed());
            }
            Ok(latencies)
        });
    }
    let measured = gather(tasks, schedule.start).await;
    if pacer.join().is_err() {
        bail!("the schedule's thread has panicked");
    }
    measured
}

/// Between making a schedule and its first call.
const LEAD: Duration = Duration::from_millis(20);

/// When calls are due, at equal distances.
struct Schedule {
    start: Instant,
    rate: u32,
    calls: u64,
    /// A permit for each call that is due.
    due: Semaphore,
    next: AtomicU64,
}

impl Schedule {
    fn new(start: Instant, rate: u32, calls: u64) -> Self {
        Self {
            start,
            rate,
            calls,
            due: Semaphore::new(0),
            next: AtomicU64::new(0),
        }
    }

    fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }

    /// Makes calls due at their time. A thread of its own: tokio's timers are good to a millisecond only.
    fn run(&self) {
        for number in 0..self.calls {
            #[expect(clippy::disallowed_methods, reason = "paces, on a thread of its own")]
            std::thread::sleep(self.due(number).saturating_duration_since(Instant::now()));
            self.due.add_permits(1);
        }
    }

    /// Waits for the next call that is due: its number and its time. `None` after the last one.
    async fn next(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.calls {
            return None;
        }
        self.due.acquire().await.ok()?.forget();
        Some((number, self.due(number)))
    }
}

/// A connection that is kept.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    expected: StatusCode,
}

async fn open(target: &Target, connections: usize) -> Result<Vec<Connection>> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with its sender; why it ended early is what the sender says.
        tokio::spawn(connection);
        opened.push(Connection {
            sender,
            expected: target.expected,
        });
    }
    Ok(opened)
}

impl Connection {
    async fn send(&mut self, call: Call) -> Result<()> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(call).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != self.expected {
            bail!("answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}

/// Microseconds, to one part in a thousand.
fn latencies() -> Result<Histogram<u64>> {
    Histogram::new(3).context("a histogram")
}

fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    // This histogram grows: there is nothing it does not take.
    let _ = latencies.record(latency.as_micros() as u64);
}

async fn gather(mut tasks: JoinSet<Result<Histogram<u64>>>, start: Instant) -> Result<Measured> {
    let mut all = latencies()?;
    while let Some(task) = tasks.join_next().await {
        all.add(task??)?;
    }
    Ok(Measured {
        requests: all.len(),
        per_second: all.len() as f64 / start.elapsed().as_secs_f64(),
        latencies: all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn calls_are_due_at_equal_distances() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3, 100);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(3), start + Duration::from_secs(1));
        assert_eq!(schedule.due(4), start + Duration::from_nanos(1_333_333_333));
        // The distance is not rounded and then multiplied.
        assert_eq!(
            schedule.due(3_000_000),
            start + Duration::from_secs(1_000_000)
        );
    }

    /// A target that answers one call after another, each after `pause`.
    async fn slow_target(pause: Duration) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.unwrap() > 0 {
                tokio::time::sleep(pause).await;
                let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        Target {
            address,
            expected: StatusCode::ACCEPTED,
        }
    }

    fn call() -> Call {
        Request::get("/").body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn waiting_for_a_connection_counts_on_a_schedule() {
        // Ten calls due within 10 ms, one connection, 20 ms each: the last is answered 190 ms after it was due, at least.
        let target = slow_target(Duration::from_millis(20)).await;
        let measured = open_loop(&target, 1, 1000, 10, |_| call()).await.unwrap();
        assert_eq!(measured.requests, 10);
        assert!(measured.millis(1.0) > 180.0, "{}", measured.millis(1.0));

        let target = slow_target(Duration::from_millis(20)).await;
        let measured = closed_loop(&target, 1, |n| (n < 5).then(call))
            .await
            .unwrap();
        assert_eq!(measured.requests, 5);
        assert!(measured.millis(0.0) < 180.0, "{}", measured.millis(0.0));
    }

    #[tokio::test]
    async fn another_status_ends_it() {
        let mut target = slow_target(Duration::ZERO).await;
        target.expected = StatusCode::OK;
        let error = closed_loop(&target, 1, |n| (n < 5).then(call)).await;
        let error = error.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("answered 202 Accepted: "));
    }
}
