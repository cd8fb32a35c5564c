//! Strangers on the network, without any credential.

use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use gha_slurm_auth::webhook;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stack::{REPOSITORY, Service, Stack};

const MIB: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(30);
/// No service may use more memory than this, whatever strangers send.
const MOST: usize = 100 * MIB;
const AT_ONCE: usize = 32;
/// Services that answer to a network, and a path of each that takes a body.
const SERVICES: [(Service, &str); 4] = [
    (Service::WebhookIngest, "/api/github/webhooks"),
    (Service::TokenBroker, "/gha/runner"),
    (Service::RepoMapping, "/repositories/alice"),
    (Service::Agent, "/runner/start"),
];

/// The stack still does its work, and no service has ever had more memory than it may.
async fn unharmed(mut stack: Stack) {
    for (service, _) in SERVICES {
        let peak = stack.peak_memory(service);
        assert!(peak < MOST, "{service:?} had {} MiB", peak / MIB);
    }
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("true");
    stack.until_completed(id).await;
    stack.finish().await;
}

/// Sends this, and reads the beginning of the answer.
async fn answer(address: &str, head: &str, body: &[u8]) -> String {
    let talk = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(head.as_bytes()).await?;
        // A refused client may find the connection closed while it is still sending.
        let _ = connection.write_all(body).await;
        let mut answer = vec![0; 1024];
        let read = connection.read(&mut answer).await?;
        answer.truncate(read);
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let told = tokio::time::timeout(DEADLINE, talk).await.unwrap();
    told.unwrap_or_default()
}

fn status(answer: &str) -> Option<u16> {
    answer.get(9..12)?.parse().ok()
}

fn address_of(stack: &Stack, service: Service) -> String {
    let url = stack.url(service);
    url.split_once("://").unwrap().1.to_owned()
}

/// 30,000 of them were 58 MiB in each service and 45 MB of metrics.
#[tokio::test]
async fn made_up_methods() {
    let stack = Stack::start().await;
    for (service, path) in SERVICES {
        let url = format!("{}{path}", stack.url(service));
        stream::iter(0..3_000)
            .for_each_concurrent(AT_ONCE, |number| {
                let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
                let call = stack.http().request(method, &url);
                async move {
                    assert!(call.send().await.unwrap().status().is_client_error());
                }
            })
            .await;
        let metrics = stack.metrics(service).await;
        assert!(metrics.contains("method=\"OTHER\""), "{service:?}");
        assert!(
            metrics.len() < 200_000,
            "{service:?}: {} bytes of metrics",
            metrics.len()
        );
    }
    unharmed(stack).await;
}

/// 32 of them, of 65 kB each, were 1.5 GiB in each service.
#[tokio::test]
async fn compressed_bodies() {
    let stack = Stack::start().await;
    let compress = "head -c 67108864 /dev/zero | gzip -9";
    let bomb = Command::new("sh").args(["-c", compress]).output().unwrap();
    let bomb = bomb.stdout;
    assert!(bomb.len() < 100_000);
    for (service, path) in SERVICES {
        let address = address_of(&stack, service);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nX-Hub-Signature-256: sha256=00\r\n\
             Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            bomb.len()
        );
        let answers = join_all((0..32).map(|_| answer(&address, &head, &bomb))).await;
        for answer in answers.iter().filter(|answer| !answer.is_empty()) {
            assert_eq!(status(answer), Some(415), "{service:?}: {answer}");
        }
        assert!(answers.iter().any(|answer| !answer.is_empty()));
    }
    unharmed(stack).await;
}

/// 300 bodies whose last byte never came held 413 MiB indefinitely.
#[tokio::test]
async fn unfinished_bodies() {
    let stack = Stack::start().await;
    for (service, path) in SERVICES {
        let address = address_of(&stack, service);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nX-Hub-Signature-256: sha256=00\r\n\
             Content-Type: application/json\r\nContent-Length: {MIB}\r\n\r\n"
        );
        let body = vec![b' '; MIB - 1];
        let answers: Vec<String> = stream::iter(0..300)
            .map(|_| answer(&address, &head, &body))
            .buffer_unordered(300)
            .collect()
            .await;
        let told: Vec<u16> = answers.iter().filter_map(|answer| status(answer)).collect();
        // The agent's launch token and the webhook's signature are about the body; others are not let in.
        assert!(!told.is_empty(), "{service:?}");
        for status in told {
            assert!(
                [400, 401, 408, 413, 429, 503].contains(&status),
                "{service:?}: {status}"
            );
        }
    }
    unharmed(stack).await;
}

/// 40 connections that read nothing were 1 GB, with 5 MB of requests.
#[tokio::test]
async fn answers_that_nobody_reads() {
    let stack = Stack::start().await;
    let mut hogs = Vec::new();
    for (service, _) in SERVICES {
        let address = address_of(&stack, service);
        let requests = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4_600);
        for _ in 0..40 {
            let mut hog = TcpStream::connect(&address).await.unwrap();
            let sent = hog.write_all(requests.as_bytes());
            // What is not taken at once stays with the client.
            let _ = tokio::time::timeout(Duration::from_millis(20), sent).await;
            hogs.push(hog);
        }
        answer(&address, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", b"").await;
    }
    drop(hogs);
    unharmed(stack).await;
}

/// 4,000 of them were 550 MiB.
#[tokio::test]
async fn unfinished_heads() {
    let stack = Stack::start().await;
    let head = format!("GET /x HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(120_000));
    for (service, _) in SERVICES {
        let address = address_of(&stack, service);
        let answers = join_all((0..300).map(|_| answer(&address, &head, b""))).await;
        let told: Vec<u16> = answers.iter().filter_map(|answer| status(answer)).collect();
        // Who is still sending may find the connection closed.
        assert!(told.iter().all(|status| *status == 431), "{told:?}");
    }
    unharmed(stack).await;
}

/// A connection that began a second request and then fell silent was never closed.
#[tokio::test]
async fn silence_after_the_first_request() {
    let stack = Stack::start().await;
    let ends = SERVICES.map(|(service, _)| {
        let address = address_of(&stack, service);
        async move {
            let mut connection = TcpStream::connect(&address).await.unwrap();
            let first = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
            connection.write_all(first.as_bytes()).await.unwrap();
            assert!(connection.read(&mut [0; 1024]).await.unwrap() > 0);
            connection.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
            let mut bytes = [0; 1024];
            let end = tokio::time::timeout(DEADLINE, connection.read(&mut bytes)).await;
            assert!(matches!(end, Ok(Ok(0) | Err(_))), "{service:?}: {end:?}");
        }
    });
    join_all(ends).await;
    unharmed(stack).await;
}

/// Four of them kept 81 of 82 signed webhooks out.
#[tokio::test]
async fn unfinished_uploads_beside_webhooks() {
    let stack = Stack::start().await;
    let address = address_of(&stack, Service::WebhookIngest);
    let head = format!(
        "POST /api/github/webhooks HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256={:064}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        0,
        20 * MIB
    );
    let mut hogs = Vec::new();
    for _ in 0..4 {
        let mut hog = TcpStream::connect(&address).await.unwrap();
        hog.write_all(head.as_bytes()).await.unwrap();
        let _ = tokio::time::timeout(
            Duration::from_secs(5),
            hog.write_all(&vec![b' '; 20 * MIB - 1]),
        )
        .await;
        hogs.push(hog);
    }
    let body = r#"{"zen": "Keep it logically awesome."}"#;
    for _ in 0..82 {
        let delivery = stack
            .http()
            .post(stack.webhook_url())
            .header("Content-Type", "application/json")
            .header("X-GitHub-Event", "ping")
            .header("X-GitHub-Delivery", "72d3162e")
            .header(
                "X-Hub-Signature-256",
                webhook::sign(&stack.webhook_secret(), body.as_bytes()),
            )
            .body(body);
        assert_eq!(delivery.send().await.unwrap().status(), 200);
    }
    drop(hogs);
    unharmed(stack).await;
}

/// 300 of them were 300 calls to GitHub as the App, and told which private repositories there are.
#[tokio::test]
async fn questions_about_installations() {
    let stack = Stack::start().await;
    let calls = || {
        let state = stack.github.state();
        state.calls.values().sum::<u64>()
    };
    let before = calls();
    let url = format!(
        "{}/gha/installations?url={REPOSITORY}",
        stack.url(Service::TokenBroker)
    );
    stream::iter(0..300)
        .for_each_concurrent(AT_ONCE, |_| async {
            let answer = stack.http().get(&url).send().await.unwrap();
            assert_eq!(answer.status(), 401);
        })
        .await;
    assert!(calls() < before + 10, "GitHub was asked for strangers");
    unharmed(stack).await;
}

/// Each of them was a folder that was read.
#[tokio::test]
async fn questions_for_the_keys() {
    let stack = Stack::start().await;
    let url = format!("{}/.well-known/jwks.json", stack.url(Service::TokenBroker));
    let ask = |from: &'static str| {
        stack
            .http()
            .get(&url)
            .header("X-Forwarded-For", from)
            .send()
    };
    let statuses: Vec<u16> = stream::iter(0..2_000)
        .map(|_| async { ask("203.0.113.7").await.unwrap().status().as_u16() })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 0, "a stranger may ask without end");
    assert_eq!(ask("203.0.113.8").await.unwrap().status(), 200);
    unharmed(stack).await;
}
