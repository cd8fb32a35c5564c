use gha_slurm_contract::event::EventPayload;
use gha_slurm_test_support::TestBroker;
use serde_json::Value;

use crate::queue::drain;
use crate::*;

/// GitHub's published payloads of every accepted event, from every product, through the service and into the queue.
#[tokio::test(flavor = "multi_thread")]
async fn every_published_example_becomes_an_event_of_the_published_schema() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let mut sent = Vec::new();
    for product in std::fs::read_dir(EXAMPLES).unwrap() {
        let product = product.unwrap().path();
        if !product.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(product).unwrap() {
            let file = file.unwrap().path();
            let event = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let list: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            for payload in list {
                let delivery = Delivery::new(&event, payload.to_string());
                let guid = delivery.guid.clone();
                let response = ingest.send(delivery).await;
                let status = response.status().as_u16();
                let answer: Value = response.json().await.unwrap();
                assert_eq!(answer["delivery"], guid.as_str());
                if event == "ping" {
                    assert_eq!((status, &answer["outcome"]), (200, &"pong".into()));
                } else {
                    assert_eq!((status, &answer["outcome"]), (202, &"published".into()));
                    sent.push((guid, event.clone(), payload));
                }
            }
        }
    }
    assert_eq!(
        sent.len(),
        46,
        "as many as the fixtures hold, without pings"
    );

    let schema = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../proto-schemas/event.schema.json"
    );
    let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let messages = drain(broker.amqp_url()).await;
    assert_eq!(messages.len(), sent.len());
    for (message, (guid, event, payload)) in messages.iter().zip(&sent) {
        if let Err(error) = schema.validate(&message.body) {
            panic!("{event}: {error}: {}", message.body);
        }
        let published = message.event();
        assert_eq!(
            (published.name(), &published.delivery),
            (event.as_str(), guid)
        );
        assert_eq!(Some(published.action()), payload["action"].as_str());
        match published.payload {
            EventPayload::WorkflowJob(e) => {
                let job = &payload["workflow_job"];
                assert_eq!(Some(e.workflow_job.id), job["id"].as_i64());
                assert_eq!(serde_json::json!(e.workflow_job.labels), job["labels"]);
                assert_eq!(
                    e.workflow_job.conclusion.as_deref(),
                    job["conclusion"].as_str()
                );
                assert_eq!(
                    e.workflow_job.runner_name.as_deref(),
                    job["runner_name"].as_str()
                );
                assert_eq!(e.installation_id, payload["installation"]["id"].as_i64());
                assert_eq!(Some(e.repository.id), payload["repository"]["id"].as_i64());
                assert_eq!(
                    e.repository.private,
                    payload["repository"]["private"].as_bool()
                );
                assert_eq!(e.sender.as_deref(), payload["sender"]["login"].as_str());
            }
            EventPayload::Installation(e) => {
                let installation = &payload["installation"];
                assert_eq!(Some(e.installation_id), installation["id"].as_i64());
                assert_eq!(
                    e.account.as_deref(),
                    installation["account"]["login"].as_str()
                );
                let named = payload["repositories"].as_array().map_or(0, Vec::len);
                assert_eq!(e.repositories.len(), named);
            }
            EventPayload::InstallationRepositories(e) => {
                let named = |key: &str| payload[key].as_array().unwrap().len();
                assert_eq!(e.added.len(), named("repositories_added"));
                assert_eq!(e.removed.len(), named("repositories_removed"));
            }
            EventPayload::GithubAppAuthorization(e) => {
                assert_eq!(Some(e.user.as_str()), payload["sender"]["login"].as_str());
            }
        }
    }
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_is_persistent_and_carries_trace_and_guid() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let delivery = queued();
    let guid = delivery.guid.clone();
    assert_eq!(ingest.send(delivery).await.status(), 202);
    let messages = drain(broker.amqp_url()).await;
    let [message] = messages.as_slice() else {
        panic!("{} messages", messages.len())
    };
    assert_eq!(message.routing_key, "workflow_job.queued");
    let properties = &message.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), guid);
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "workflow_job");
    assert_eq!(
        properties.content_type().as_ref().unwrap().as_str(),
        "application/json"
    );
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_github_adds_later_is_published() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let mut payload = examples("workflow_job")[5].clone();
    payload["action"] = "re-queued by 東京".into();
    let response = ingest
        .send(Delivery::new("workflow_job", payload.to_string()))
        .await;
    assert_eq!(response.status(), 202);
    let messages = drain(broker.amqp_url()).await;
    assert_eq!(messages[0].event().action(), "re-queued by 東京");
    assert_eq!(messages[0].routing_key, "workflow_job.requeuedby");
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_read_like_json() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let mut payload = examples("workflow_job")[5].clone();
    payload["workflow_job"]["name"] = "a+b & c=d, 100% ünïcode".into();
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", &payload.to_string())
        .finish();
    for content_type in [FORM, "Application/X-WWW-Form-URLencoded; charset=UTF-8"] {
        let delivery = Delivery::new("workflow_job", form.clone()).content_type(content_type);
        assert_eq!(ingest.send(delivery).await.status(), 202);
    }
    for message in drain(broker.amqp_url()).await {
        let EventPayload::WorkflowJob(event) = message.event().payload else {
            panic!("another event")
        };
        assert_eq!(event.workflow_job.name, "a+b & c=d, 100% ünïcode");
    }
    let delivery = Delivery::new("workflow_job", "payloads=%7B%7D").content_type(FORM);
    let problem = problem(ingest.send(delivery).await, 400, "payload_invalid").await;
    assert!(problem.detail.unwrap().contains("no field `payload`"));
    ingest.stop().await;
}
