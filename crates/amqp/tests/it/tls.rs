use std::sync::{Arc, Mutex};
use std::time::Duration;

use gha_slurm_amqp::{Broker, Publisher};
use gha_slurm_test_support::{PrivateRabbitMq, TestCa, wait_until};
use tokio_util::sync::CancellationToken;

use crate::event;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn events_go_by_tls_with_a_private_ca_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(folder.path(), "ca");
    let rabbitmq = PrivateRabbitMq::start_with_tls(ca.issue("rabbitmq", &[])).await;
    let ca_file = folder.path().join("ca.pem");
    let stop = CancellationToken::new();
    let broker = Broker::new(rabbitmq.amqps_url().into(), Some(&ca_file)).unwrap();
    let publisher = Publisher::start(broker, "test", DEADLINE, stop.clone(), |_| {});
    publisher.publish(&event("one")).await.unwrap();

    let stranger = Broker::new(rabbitmq.amqps_url().into(), None).unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    let _publisher = Publisher::start(stranger, "test", DEADLINE, stop.clone(), move |state| {
        *heard.lock().unwrap() = state
            .err()
            .map_or_else(|| "connected".into(), |error| error.to_string());
    });
    wait_until(
        "a CA that nobody named is not trusted",
        DEADLINE,
        || async {
            let said = said.lock().unwrap().clone();
            if said.contains("UnknownIssuer") {
                Ok(())
            } else {
                Err(said)
            }
        },
    )
    .await;
    stop.cancel();

    let error = Broker::new("amqps://x".into(), Some("/nowhere.pem".as_ref())).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("amqp.ca_file: /nowhere.pem: "),
        "{error}"
    );
}
