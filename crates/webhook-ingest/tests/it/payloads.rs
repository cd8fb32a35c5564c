use gha_slurm_contract::event::EventPayload;
use gha_slurm_domain::LabelSettings;
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

/// Who knows the webhook secret decides what is in it.
#[tokio::test(flavor = "multi_thread")]
async fn however_large_a_payload_is_its_event_is_small() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let mut payload = examples("workflow_job").swap_remove(5);
    let long = "ä".repeat(2_500_000);
    payload["action"] = "queued".repeat(100_000).into();
    let job = &mut payload["workflow_job"];
    for key in ["name", "workflow_name", "head_branch", "conclusion"] {
        job[key] = long.as_str().into();
    }
    job["html_url"] = "javascript:alert(1)".into();
    let mut labels = vec!["slurm".to_owned(), format!("slurm{}", "-".repeat(300))];
    labels.extend((0..100_000).map(|n| n.to_string()));
    job["labels"] = labels.into();
    let delivery = Delivery::new("workflow_job", payload.to_string());
    assert_eq!(ingest.send(delivery).await.status(), 202);

    let messages = drain(broker.amqp_url()).await;
    let size = messages[0].body.to_string().len();
    assert!(size < 16 << 10, "{size} bytes");
    let EventPayload::WorkflowJob(event) = messages[0].event().payload else {
        panic!("another event")
    };
    let job = event.workflow_job;
    for text in [
        Some(&job.name),
        job.workflow_name.as_ref(),
        job.head_branch.as_ref(),
        job.conclusion.as_ref(),
    ] {
        let cut = text.unwrap().strip_suffix('…').unwrap();
        assert!(long.starts_with(cut));
    }
    assert!(event.action.starts_with("queuedqueued"), "{}", event.action);
    assert_eq!(job.html_url, None);
    // It is still for nobody here.
    assert_eq!(job.labels.len(), 101);
    let policy = LabelSettings::default().policy("main");
    for labels in [&job.labels[..], &job.labels[..2], &job.labels[100..]] {
        let refusal = policy.classify(labels).unwrap_err();
        assert!(!refusal.is_mistake(), "{refusal}");
    }
    ingest.stop().await;
}

/// A part of a name is another name.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_too_long_are_refused() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let long: Value = "x".repeat(4_000_000).into();
    for pointer in [
        "/repository/name",
        "/repository/owner/login",
        "/sender/login",
        "/workflow_job/runner_name",
    ] {
        let mut payload = examples("workflow_job").swap_remove(5);
        *payload.pointer_mut(pointer).unwrap() = long.clone();
        let delivery = Delivery::new("workflow_job", payload.to_string());
        let problem = problem(ingest.send(delivery).await, 400, "payload_invalid").await;
        let detail = problem.detail.unwrap();
        assert!(detail.len() < 300, "{detail}");
        let path = pointer.trim_start_matches('/').replace('/', ".");
        assert!(detail.contains(&path), "{detail}");
    }
    let mut payload = examples("installation").swap_remove(0);
    let name = format!("acme/{}", "x".repeat(300));
    payload["repositories"] = serde_json::json!([{"id": 1, "full_name": name}]);
    let delivery = Delivery::new("installation", payload.to_string());
    problem(ingest.send(delivery).await, 400, "payload_invalid").await;
    assert_eq!(drain(broker.amqp_url()).await.len(), 0);
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
