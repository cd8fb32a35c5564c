use std::time::Instant;

use gha_slurm_test_support::{Sample, TestBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::queue::drain;
use crate::*;

#[test]
fn the_sample_file_is_right_and_wrong_keys_are_named() {
    let sample = Sample::filled("webhook-ingest.toml");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert_eq!(settings.webhook.max_body_bytes.get(), 25 << 20);
    let wrong = [
        ("WEBHOOK__PUBLISH_DEADLINE_S", "0"),
        ("WEBHOOK__SECRET", ""),
        ("WEBHOOK__SECRETS", "x"),
    ]
    .map(|(key, value)| (format!("WEBHOOK_INGEST__{key}"), value.to_owned()));
    let sample = sample.with(|text| text.replace("secret_file", "# "));
    let error = load::<Settings>(Some(sample.path()), wrong).unwrap_err();
    let keys: Vec<&str> = error.problems.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "webhook.publish_deadline_s",
            "webhook.secret",
            "webhook.secrets"
        ],
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_secrets_are_accepted_during_a_rotation() {
    let broker = TestBroker::create().await;
    let (old, new) = (
        "old 9f2c4e8b7a6d5c3b1a0f9e8d7c6b",
        "new 4f1d0a0b7e5c49c6a8a2b1c3d4e5",
    );
    let both = format!("{old}\n{new}\n");
    let (older, together) = (format!("{old}er"), format!("{old}\n{new}"));
    let ingest = Ingest::start(broker.amqp_url(), &[("WEBHOOK__SECRET", &both)]).await;
    for (secret, status) in [
        (old, 202),
        (new, 202),
        (older.as_str(), 401),
        (together.as_str(), 401),
    ] {
        let delivery = queued();
        let signature = sign(secret, &delivery.body);
        let response = ingest.send(delivery.signature(signature)).await;
        assert_eq!(response.status(), status, "{secret}");
    }
    assert_eq!(drain(broker.amqp_url()).await.len(), 2);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_by_us_is_refused() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let refused = |signature: &str, code: &'static str| {
        let delivery = queued().signature(signature);
        let ingest = &ingest;
        async move { problem(ingest.send(delivery).await, 401, code).await }
    };
    refused("", "signature_missing").await;
    for malformed in [
        "sha256=",
        "sha256=zz",
        "sha1=c0ffee",
        "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    ] {
        refused(malformed, "signature_invalid").await;
    }
    let other = sign("another secret", &queued().body);
    refused(&other, "signature_invalid").await;

    // One byte changed, and the signature of another body.
    let mut changed = queued();
    changed.body[100] ^= 1;
    problem(ingest.send(changed).await, 401, "signature_invalid").await;
    // Who does not know the secret learns nothing about headers or payload.
    let stranger = Delivery::new("", "garbage").signature(other);
    problem(ingest.send(stranger).await, 401, "signature_invalid").await;
    // Only SHA-1.
    let old = queued().signature("");
    let request = old.request(&client(), &ingest.url);
    let response = request.header("X-Hub-Signature", "sha1=00").send().await;
    problem(response.unwrap(), 401, "signature_missing").await;

    assert_eq!(drain(broker.amqp_url()).await.len(), 0);
    let metrics = ingest.metrics().await;
    let counted =
        r#"gha_slurm_webhook_deliveries_total{event="unverified",outcome="signature_missing"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_but_wrong_is_named() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let example = examples("workflow_job")[5].clone();
    let text = example.to_string();
    let mut number_as_text = example.clone();
    number_as_text["workflow_job"]["id"] = "12".into();
    let mut no_repository = example;
    no_repository.as_object_mut().unwrap().remove("repository");
    for (body, named) in [
        ("garbage".to_owned(), "expected value"),
        (String::new(), "EOF"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        ("[]".to_owned(), "payload: invalid length 0"),
        (number_as_text.to_string(), "workflow_job.id: invalid type"),
        (no_repository.to_string(), "missing field `repository`"),
        (format!("{text}{text}"), "trailing characters"),
    ] {
        let response = ingest.send(Delivery::new("workflow_job", body)).await;
        let detail = problem(response, 400, "payload_invalid").await.detail;
        let detail = detail.unwrap();
        assert!(detail.contains(named), "{detail}");
    }
    for (event, guid, named) in [
        ("", "g", "X-GitHub-Event"),
        ("work flow", "g", "X-GitHub-Event"),
        ("workflow_job", "", "X-GitHub-Delivery"),
        ("workflow_job", &"g".repeat(65), "X-GitHub-Delivery"),
        ("workflow_job", "{}", "X-GitHub-Delivery"),
    ] {
        let delivery = Delivery {
            event: event.into(),
            guid: guid.into(),
            ..queued()
        };
        let problem = problem(ingest.send(delivery).await, 400, "header_invalid").await;
        assert!(problem.detail.unwrap().contains(named));
    }
    assert_eq!(drain(broker.amqp_url()).await.len(), 0);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_events_are_accepted_and_counted() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    for body in ["{}", "not even JSON"] {
        let response = ingest.send(Delivery::new("push", body)).await;
        assert_eq!(response.status(), 202);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["outcome"], "ignored");
    }
    ingest.send(queued()).await;
    assert_eq!(drain(broker.amqp_url()).await.len(), 1);
    let metrics = ingest.metrics().await;
    for counted in [
        r#"gha_slurm_webhook_deliveries_total{event="other",outcome="ignored"} 2"#,
        r#"gha_slurm_webhook_deliveries_total{event="workflow_job",outcome="published"} 1"#,
        r#"gha_slurm_webhook_publish_seconds_count{outcome="confirmed"} 1"#,
    ] {
        assert!(metrics.contains(counted), "{counted} in {metrics}");
    }
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_content_types_are_refused() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let method: reqwest::Method = method.parse().unwrap();
        let response = client().request(method, &ingest.url).send().await.unwrap();
        assert_eq!(response.headers()["allow"], "POST");
        problem(response, 405, "method_not_allowed").await;
    }
    for content_type in ["", "text/plain", "application/jsonp", "multipart/form-data"] {
        let response = ingest.send(queued().content_type(content_type)).await;
        problem(response, 415, "content_type_unsupported").await;
    }
    let delivery = queued().content_type("application/json; charset=utf-8");
    assert_eq!(ingest.send(delivery).await.status(), 202);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_bodies_are_refused_whether_they_say_so_or_not() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[("WEBHOOK__MAX_BODY_BYTES", "20000")]).await;
    let text = examples("workflow_job")[5].to_string();
    let padded = |length: usize| {
        let mut body = text.clone().into_bytes();
        body.resize(length, b' ');
        Delivery::new("workflow_job", body)
    };
    assert_eq!(ingest.send(padded(20_000)).await.status(), 202);
    problem(ingest.send(padded(20_001)).await, 413, "body_too_large").await;

    let chunked = |delivery: Delivery| {
        let body = delivery.body.clone();
        let chunks = body
            .chunks(1000)
            .map(|c| Ok::<_, std::io::Error>(c.to_vec()));
        let stream = futures_util::stream::iter(chunks.collect::<Vec<_>>());
        delivery
            .request(&client(), &ingest.url)
            .body(reqwest::Body::wrap_stream(stream))
            .send()
    };
    assert_eq!(chunked(padded(20_000)).await.unwrap().status(), 202);
    let response = chunked(padded(20_001)).await.unwrap();
    problem(response, 413, "body_too_large").await;
    ingest.stop().await;

    // By default GitHub's cap; 30 MB are refused before they are read, and the sender hears it.
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    let response = ingest
        .send(Delivery::new("workflow_job", vec![b' '; 30_000_000]))
        .await;
    problem(response, 413, "body_too_large").await;
    assert_eq!(ingest.send(padded(25 << 20)).await.status(), 202);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_given_up() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[("WEBHOOK__BODY_DEADLINE_S", "1")]).await;
    let delivery = queued();
    let head = format!(
        "POST /api/github/webhooks HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n\
         X-GitHub-Event: workflow_job\r\nX-GitHub-Delivery: g\r\n\
         X-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n",
        delivery.signature,
        delivery.body.len()
    );
    let address = ingest.url.split('/').nth(2).unwrap();
    let start = Instant::now();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&delivery.body[..100]).await.unwrap();
    // Others are served meanwhile.
    assert_eq!(ingest.send(queued()).await.status(), 202);
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, slow.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"body_timeout""#), "{answer}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    ingest.stop().await;
}

/// A delivery that has sent its head and `sent` of the `promised` bytes of its body.
async fn begun(ingest: &Ingest, from: &str, promised: usize, sent: usize) -> TcpStream {
    let address = ingest.url.split('/').nth(2).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/github/webhooks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {from}\r\nContent-Type: {JSON}\r\n\
         X-Hub-Signature-256: {}\r\nContent-Length: {promised}\r\n\r\n",
        sign("x", b"")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

/// Four uploads of 7 MB that were never finished once kept 81 of 82 deliveries out.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_uploads_keep_no_usual_delivery_out() {
    let broker = TestBroker::create().await;
    let settings = [
        ("WEBHOOK__MAX_BODY_BYTES", "500000"),
        ("WEBHOOK__MAX_BODIES_BYTES", "1000000"),
        ("WEBHOOK__BODY_DEADLINE_S", "5"),
    ];
    let ingest = Ingest::start(broker.amqp_url(), &settings).await;
    let mut hogs = Vec::new();
    for last in 1..=4 {
        let from = format!("203.0.113.{last}");
        hogs.push(begun(&ingest, &from, 200_000, 199_999).await);
    }
    let large = |ingest: &Ingest| {
        let mut delivery = queued();
        delivery.body.resize(300_000, b' ');
        delivery.signature = sign(SECRET, &delivery.body);
        delivery.request(&client(), &ingest.url).send()
    };
    let refused = wait_until("there is no room for a large one", DEADLINE, || async {
        let response = large(&ingest).await.unwrap();
        (response.status() != 202).then_some(response)
    })
    .await;
    assert_eq!(refused.headers()["retry-after"], "10");
    problem(refused, 503, "overloaded").await;
    for _ in 0..20 {
        assert_eq!(ingest.send(queued()).await.status(), 202);
    }
    wait_until("the room is given back", DEADLINE, || async {
        (large(&ingest).await.unwrap().status() == 202).then_some(())
    })
    .await;
    drop(hogs);
    ingest.stop().await;
}

#[tokio::test]
async fn a_room_that_is_too_small_for_one_body_is_named_at_the_start() {
    let settings = [
        ("WEBHOOK__SECRET", SECRET),
        ("AMQP__URL", "amqp://127.0.0.1:1"),
        ("WEBHOOK__MAX_BODIES_BYTES", "33554432"),
    ];
    let environment =
        settings.map(|(key, value)| (format!("WEBHOOK_INGEST__{key}"), value.to_owned()));
    let settings = load::<Settings>(None, environment).unwrap();
    let error = format!("{:#}", Application::build(&settings).err().unwrap());
    assert!(
        error.starts_with("webhook.max_bodies_bytes: 33554432 is too little"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_addresses_in_the_settings_are_let_in() {
    let broker = TestBroker::create().await;
    let settings = [(
        "WEBHOOK__ALLOWED_ADDRESSES",
        "192.30.252.0/22,2a0a:a440::/29",
    )];
    let ingest = Ingest::start(broker.amqp_url(), &settings).await;
    for (address, status) in [
        (Some("192.30.252.1"), 202),
        (Some("2a0a:a440::1"), 202),
        (Some("203.0.113.7"), 403),
        (Some("192.30.252.1, 203.0.113.7"), 403),
        // Whoever it is.
        (None, 403),
    ] {
        let mut request = queued().request(&client(), &ingest.url);
        if let Some(address) = address {
            request = request.header("x-forwarded-for", address);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{address:?}");
    }
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_events_become_no_time_series() {
    let broker = TestBroker::create().await;
    let ingest = Ingest::start(broker.amqp_url(), &[]).await;
    for number in 0..20 {
        let made_up = Delivery::new(&format!("event_{number}"), "{}");
        assert_eq!(ingest.send(made_up).await.status(), 202);
    }
    let metrics = ingest.metrics().await;
    assert!(
        metrics.contains("event=\"other\",outcome=\"ignored\"} 20"),
        "{metrics}"
    );
    assert!(!metrics.contains("event_1"), "{metrics}");
    ingest.stop().await;
}
