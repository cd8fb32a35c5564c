//! Against a real RabbitMQ.
#![expect(clippy::unwrap_used, reason = "tests")]

mod tls;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gha_slurm_amqp::dead_letters::{self, DeadLetter};
use gha_slurm_amqp::{
    Broker, DEAD_QUEUE, LAUNCHER_QUEUE, Outcome, PublishError, Publisher, consume,
};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::{AuthorizationEvent, EVENT_VERSION, EventPayload};
use gha_slurm_test_support::{PrivateRabbitMq, TestBroker, wait_until};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);

fn at(url: &str) -> Broker {
    Broker::new(SecretString::from(url), None).unwrap()
}

fn event(delivery: &str) -> Event {
    Event {
        version: EVENT_VERSION,
        delivery: delivery.into(),
        received_at: chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        payload: EventPayload::GithubAppAuthorization(AuthorizationEvent {
            action: "revoked".into(),
            user_id: 1,
            user: "octocat".into(),
        }),
    }
}

fn publisher(url: &str, deadline: Duration, stop: &CancellationToken) -> Publisher {
    Publisher::start(at(url), "test", deadline, stop.clone(), |_| {})
}

type Seen = Arc<Mutex<Vec<String>>>;

fn consumer(
    url: &str,
    stop: &CancellationToken,
    decide: impl Fn(&Event, usize) -> Outcome + Send + Sync + 'static,
) -> (Seen, tokio::task::JoinHandle<()>) {
    let seen: Seen = Arc::default();
    let record = Arc::clone(&seen);
    let task = tokio::spawn(consume(
        at(url),
        "test",
        stop.clone(),
        |_| {},
        move |event: Event| {
            let times = {
                let mut seen = record.lock().unwrap();
                seen.push(event.delivery.clone());
                seen.iter().filter(|d| **d == event.delivery).count()
            };
            let outcome = decide(&event, times);
            async move { outcome }
        },
    ));
    (seen, task)
}

/// Waits until so many deliveries were seen, and none is left.
async fn handled(broker: &TestBroker, seen: &Seen, deliveries: usize) {
    wait_until("all is handled", DEADLINE, || async {
        let count = seen.lock().unwrap().len();
        let left = broker.depth(LAUNCHER_QUEUE).await;
        if count == deliveries && left == Some(0) {
            return Ok(());
        }
        Err(format!("{count} deliveries, {left:?} left"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_arrives_and_is_acknowledged() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    let mut sends = tokio::task::JoinSet::new();
    for n in 0..200 {
        let publisher = publisher.clone();
        sends.spawn(async move { publisher.publish(&event(&n.to_string())).await.unwrap() });
    }
    sends.join_all().await;
    let depth = |wanted: u64| {
        let broker = &broker;
        wait_until(
            "the queue has that many events",
            DEADLINE,
            move || async move { (broker.depth(LAUNCHER_QUEUE).await == Some(wanted)).then_some(()) },
        )
    };
    depth(200).await;
    let (seen, task) = consumer(broker.amqp_url(), &stop, |_, _| Outcome::Ack);
    wait_until("200 events are consumed", DEADLINE, || async {
        (seen.lock().unwrap().len() == 200).then_some(())
    })
    .await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(
        seen.lock().unwrap().iter().collect::<BTreeSet<_>>().len(),
        200
    );
    depth(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_back_and_the_hopeless_go_to_the_dead_letters() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    for name in ["twice", "never", "poison"] {
        publisher.publish(&event(name)).await.unwrap();
    }
    let (seen, _task) = consumer(broker.amqp_url(), &stop, |event, times| {
        match event.delivery.as_str() {
            "twice" if times < 3 => Outcome::Retry {
                after: Duration::from_millis(1),
            },
            "poison" => Outcome::Retry {
                after: Duration::ZERO,
            },
            "never" => Outcome::DeadLetter {
                reason: "test".into(),
            },
            _ => Outcome::Ack,
        }
    });
    wait_until(
        "two events are dead letters and none is left",
        DEADLINE,
        || async {
            let dead = broker.depth(DEAD_QUEUE).await == Some(2);
            (dead && broker.depth(LAUNCHER_QUEUE).await == Some(0)).then_some(())
        },
    )
    .await;
    stop.cancel();
    let count = |name: &str| seen.lock().unwrap().iter().filter(|d| *d == name).count();
    assert_eq!((count("twice"), count("never")), (3, 1));
    assert!((20..=21).contains(&count("poison")), "{}", count("poison"));
}

/// More often than a delivery limit lets an event come back: a database that is away for a night is not the event's fault.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_help_it_is_put_back_as_often_as_needed() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    publisher.publish(&event("patient")).await.unwrap();
    let (seen, task) = consumer(broker.amqp_url(), &stop, |_, times| {
        if times < 50 {
            Outcome::PutBack
        } else {
            Outcome::Ack
        }
    });
    handled(&broker, &seen, 50).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(broker.depth(DEAD_QUEUE).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_looked_at_and_put_back() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    for name in ["a", "poison", "b", "c"] {
        publisher.publish(&event(name)).await.unwrap();
    }
    let (_, task) = consumer(broker.amqp_url(), &stop, |event, _| {
        if event.delivery == "poison" {
            return Outcome::Retry {
                after: Duration::ZERO,
            };
        }
        Outcome::DeadLetter {
            reason: format!("{} is from the future", event.delivery),
        }
    });
    let dead = |count: u64| {
        let broker = &broker;
        wait_until("so many are dead letters", DEADLINE, move || async move {
            (broker.depth(DEAD_QUEUE).await == Some(count)).then_some(())
        })
    };
    dead(4).await;
    stop.cancel();
    task.await.unwrap();

    let at = at(broker.amqp_url());
    // As often as one likes; a delivery limit of RabbitMQ 4 would be 20.
    for _ in 0..25 {
        let (letters, all) = dead_letters::list(&at, 100).await.unwrap();
        assert_eq!((letters.len(), all), (4, 4));
        let reason = |delivery: &str| {
            let is_it = |letter: &&DeadLetter| letter.delivery.as_deref() == Some(delivery);
            let letter = letters.iter().find(is_it).unwrap();
            assert_eq!(letter.event.as_ref().unwrap(), &event(delivery));
            letter.reason.clone()
        };
        assert_eq!(reason("b"), "b is from the future");
        assert!(reason("poison").contains("failed 20 times"));
    }
    let (oldest, all) = dead_letters::list(&at, 1).await.unwrap();
    assert_eq!((oldest.len(), all), (1, 4));

    let wanted = |letter: &DeadLetter| matches!(letter.delivery.as_deref(), Some("b" | "poison"));
    assert_eq!(dead_letters::replay(&at, wanted).await.unwrap(), 2);
    assert_eq!(dead_letters::replay(&at, wanted).await.unwrap(), 0);
    dead(2).await;
    let stop = CancellationToken::new();
    // As new ones: none has used up a delivery, and none has a reason any more.
    let (seen, task) = consumer(broker.amqp_url(), &stop, |_, times| {
        if times < 15 {
            Outcome::Retry {
                after: Duration::ZERO,
            }
        } else {
            Outcome::Ack
        }
    });
    handled(&broker, &seen, 30).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(dead_letters::replay(&at, |_| true).await.unwrap(), 2);
    dead(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_whose_handler_panics_come_back_and_the_others_are_handled() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    // More than are in flight at once: where each kept its place, no other would be handled.
    let poison: Vec<String> = (0..20).map(|n| format!("panics once {n}")).collect();
    for name in poison.iter().map(String::as_str).chain(["fine"]) {
        publisher.publish(&event(name)).await.unwrap();
    }
    let (seen, task) = consumer(broker.amqp_url(), &stop, |event, times| {
        assert!(
            event.delivery == "fine" || times > 1,
            "not at the first time"
        );
        Outcome::Ack
    });
    handled(&broker, &seen, 2 * poison.len() + 1).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(broker.depth(DEAD_QUEUE).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_is_not_believed_when_no_queue_is_there() {
    let broker = TestBroker::create().await;
    let stop = CancellationToken::new();
    let publisher = publisher(broker.amqp_url(), DEADLINE, &stop);
    publisher.publish(&event("1")).await.unwrap();
    broker.delete_queue(LAUNCHER_QUEUE).await;
    let error = publisher.publish(&event("2")).await.unwrap_err();
    assert!(matches!(error, PublishError::Unroutable(_)), "{error}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_loses_nothing_that_was_confirmed() {
    let broker = PrivateRabbitMq::start().await;
    let url = broker.amqp_url();
    let stop = CancellationToken::new();
    let patient = publisher(&url, Duration::from_secs(90), &stop);
    let hasty = publisher(&url, Duration::from_millis(300), &stop);
    patient.publish(&event("before")).await.unwrap();
    wait_until("the hasty publisher is connected", DEADLINE, || async {
        hasty.publish(&event("hasty")).await.ok()
    })
    .await;

    broker.stop().await;
    let error = hasty.publish(&event("lost")).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable(_)), "{error}");
    let meanwhile = tokio::spawn(async move { patient.publish(&event("meanwhile")).await });
    broker.restart().await;
    meanwhile.await.unwrap().unwrap();

    let (seen, _task) = consumer(&url, &stop, |_, _| Outcome::Ack);
    wait_until("all confirmed events arrive", DEADLINE, || async {
        let seen = seen.lock().unwrap();
        ["before", "hasty", "meanwhile"]
            .iter()
            .all(|d| seen.iter().any(|s| s == d))
            .then_some(())
    })
    .await;
    stop.cancel();
}
