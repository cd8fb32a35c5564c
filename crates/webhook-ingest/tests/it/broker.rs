use gha_slurm_amqp::LAUNCHER_QUEUE;
use gha_slurm_test_support::{PrivateRabbitMq, TestBroker};

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_away_github_is_told_to_come_again() {
    let broker = PrivateRabbitMq::start().await;
    let settings = [("WEBHOOK__PUBLISH_DEADLINE_S", "1")];
    let ingest = Ingest::start(&broker.amqp_url(), &settings).await;
    assert_eq!(ingest.send(queued()).await.status(), 202);

    broker.stop().await;
    let response = ingest.send(queued()).await;
    assert_eq!(response.headers()["retry-after"], "10");
    problem(response, 503, "broker_unavailable").await;
    ingest.until_ready(false).await;
    // What needs no broker works on.
    let ping = Delivery::new("ping", examples("ping")[0].to_string());
    assert_eq!(ingest.send(ping).await.status(), 200);
    problem(
        ingest.send(queued().signature("")).await,
        401,
        "signature_missing",
    )
    .await;

    broker.restart().await;
    ingest.until_ready(true).await;
    let delivery = queued();
    let guid = delivery.guid.clone();
    assert_eq!(ingest.send(delivery).await.status(), 202);
    let seen = queue::drain_until(&broker.amqp_url(), &[guid].into()).await;
    assert!((2..=3).contains(&seen.len()), "{seen:?}");
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_a_broker() {
    let ingest = Ingest::spawn(
        "amqp://guest:guest@127.0.0.1:1/%2f",
        &[("WEBHOOK__PUBLISH_DEADLINE_S", "1")],
    );
    ingest.until_ready(false).await;
    problem(ingest.send(queued()).await, 503, "broker_unavailable").await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_without_a_queue_is_no_202() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    assert_eq!(ingest.send(queued()).await.status(), 202);
    broker.delete_queue(LAUNCHER_QUEUE).await;
    let response = ingest.send(queued()).await;
    assert_eq!(response.headers()["retry-after"], "10");
    problem(response, 503, "broker_unroutable").await;
    ingest.stop().await;
}
