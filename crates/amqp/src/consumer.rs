//! The consumer: acknowledges what was handled, and nothing else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use gha_slurm_contract::Event;
use gha_slurm_telemetry::panic_message;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::dead_letters::Letters;
use crate::topology::{Broker, Interrupted, LAUNCHER_QUEUE, Pauses, depth, open};

/// Events in flight at once.
const PREFETCH: u16 = 16;

/// How often the consumer looks at what waits in the queue.
const LOOK: Duration = Duration::from_secs(15);
/// While events wait, one of them is done with at least this often.
const STALLED: Duration = Duration::from_secs(2 * 60);

/// The pause before an event whose handler panicked is handled again.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its effect is committed.
    Ack,
    /// Not now, and that is its own fault: it comes back after a pause. Counts against the delivery limit.
    Retry {
        /// The pause.
        after: Duration,
    },
    /// Not now, and it cannot help it, since what it needs is away: it goes to the end of the queue, as often as needed.
    PutBack,
    /// Never: a person has to look at it.
    DeadLetter {
        /// Why.
        reason: String,
    },
}

/// Consumes events until `stop`, then finishes those in flight. Reconnects forever: RabbitMQ ends a stream with `None`
/// and no error when the queue is deleted, so any end is a failure. `on_state` is called with whether the broker is connected, and
/// whether events are done with: one may block all others.
///
/// An event whose handler panics is handled again after a second; as any other retry, it goes to the dead letters when its
/// deliveries are used up.
pub async fn consume<H, Fut>(
    broker: Broker,
    name: &'static str,
    stop: CancellationToken,
    on_state: impl Fn(Result<(), Interrupted>) + Send,
    handler: H,
) where
    H: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let handler = Arc::new(handler);
    let mut pauses = Pauses::new();
    while !stop.is_cancelled() {
        let result = session(&broker, name, &stop, &on_state, &handler, &mut pauses).await;
        if stop.is_cancelled() {
            return;
        }
        let reason = match result {
            Ok(()) => Interrupted::Ended,
            Err(error) => Interrupted::Failed(error),
        };
        tracing::warn!(error = %reason, "the subscription is lost");
        on_state(Err(reason));
        tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(pauses.next()) => {} }
    }
}

async fn session<H, Fut>(
    broker: &Broker,
    name: &'static str,
    stop: &CancellationToken,
    on_state: &(impl Fn(Result<(), Interrupted>) + Send),
    handler: &Arc<H>,
    pauses: &mut Pauses,
) -> lapin::Result<()>
where
    H: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let (connection, channel) = open(broker, name).await?;
    let letters = Letters::on(channel.clone()).await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let mut stream = channel
        .basic_consume(
            LAUNCHER_QUEUE.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    *pauses = Pauses::new();
    on_state(Ok(()));
    let mut in_hand = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When an event was done with, or none waited.
    let mut went_on = Instant::now();
    let mut is_stalled = false;
    let result = loop {
        tokio::select! {
            _ = look.tick() => {
                let waiting = depth(&channel, LAUNCHER_QUEUE).await? as usize + in_hand.len();
                if waiting == 0 {
                    went_on = Instant::now();
                }
                let since = went_on.elapsed();
                if since >= STALLED {
                    is_stalled = true;
                    on_state(Err(Interrupted::Stalled { waiting, since }));
                }
            }
            () = stop.cancelled() => {
                channel.basic_cancel(stream.tag(), BasicCancelOptions::default()).await?;
                break Ok(());
            }
            delivery = stream.next() => match delivery {
                Some(Ok(delivery)) => {
                    let (handler, letters) = (Arc::clone(handler), letters.clone());
                    let stop = stop.clone();
                    in_hand.spawn(async move { handle(delivery, &letters, &*handler, &stop).await });
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            // A panic of a handler is caught in `handle`.
            Some(ended) = in_hand.join_next() => if ended.unwrap_or(false) {
                went_on = Instant::now();
                if std::mem::take(&mut is_stalled) {
                    on_state(Ok(()));
                }
            }
        }
    };
    while in_hand.join_next().await.is_some() {}
    if stop.is_cancelled() {
        let _ = connection.close(200, "bye".into()).await;
    }
    result
}

/// Returns whether the event is done with.
async fn handle<H, Fut>(
    delivery: Delivery,
    letters: &Letters,
    handler: &H,
    stop: &CancellationToken,
) -> bool
where
    H: Fn(Event) -> Fut,
    Fut: Future<Output = Outcome>,
{
    let outcome = match serde_json::from_slice::<Event>(&delivery.data) {
        Ok(event) => {
            let span = tracing::info_span!("event", event.name = event.name(), event.delivery = %event.delivery);
            if let Some(parent) = traceparent(&delivery) {
                gha_slurm_telemetry::set_parent(&span, &parent);
            }
            // A task that died of the panic would hold its event until RabbitMQ's own timeout, 30 minutes.
            let handled = AssertUnwindSafe(async { handler(event).await })
                .catch_unwind()
                .instrument(span)
                .await;
            handled.unwrap_or_else(|panic| {
                let reason = panic_message(&*panic);
                tracing::error!(
                    reason,
                    "the handler of an event panicked; it is tried again"
                );
                Outcome::Retry { after: PANIC_PAUSE }
            })
        }
        Err(error) => Outcome::DeadLetter {
            reason: format!("not an event of a version we know: {error}"),
        },
    };
    let is_done = matches!(outcome, Outcome::Ack | Outcome::DeadLetter { .. });
    let done = match outcome {
        Outcome::Ack => delivery.ack(BasicAckOptions::default()).await,
        Outcome::Retry { after } => {
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(after) => {} }
            delivery
                .nack(BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                })
                .await
        }
        Outcome::PutBack => letters.put_back(&delivery).await,
        Outcome::DeadLetter { reason } => {
            tracing::error!(reason, "an event goes to the dead letters");
            letters.bury(&delivery, &reason).await
        }
    };
    // A lost connection gives the event back by itself; handling it again changes nothing.
    if let Err(error) = done {
        tracing::debug!(%error, "the broker did not hear what became of an event");
    }
    is_done
}

fn traceparent(delivery: &Delivery) -> Option<String> {
    match delivery
        .properties
        .headers()
        .as_ref()?
        .inner()
        .get("traceparent")?
    {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}
