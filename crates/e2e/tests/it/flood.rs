//! What strangers send to webhook-ingest does not make it grow.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use gha_slurm_auth::webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stack::{REPOSITORY, Service, Stack};

const MIB: usize = 1 << 20;
/// Larger than GitHub sends.
const LARGE: usize = 30 * MIB;
const CHUNK: usize = 256 << 10;
const LARGE_BODIES: usize = 40;
const BROKEN_BODIES: usize = 200;
const AT_ONCE: usize = 8;
/// Limit of webhook-ingest's memory: the bodies that it is handling (`webhook.max_bodies_bytes`, 40 MiB), and its own. The test sends
/// 1.3 GB.
const MOST: usize = 100 * MIB;

#[tokio::test]
async fn memory_is_bounded_whatever_is_sent() {
    let mut stack = Stack::builder()
        .setting(Service::WebhookIngest, "WEBHOOK__BODY_DEADLINE_S", "1")
        .start()
        .await;
    let before = stack.peak_memory(Service::WebhookIngest);
    let one = |n: usize| {
        let stack = &stack;
        async move { large(stack, n.is_multiple_of(2)).await }
    };
    let statuses: Vec<Option<u16>> = stream::iter(0..LARGE_BODIES)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let address = stack.webhook_url().split('/').nth(2).unwrap().to_owned();
    let signature = webhook::sign(&stack.webhook_secret(), b"");
    let broken: Vec<Option<u16>> = stream::iter(0..BROKEN_BODIES)
        .map(|n| broken(&address, &signature, n.is_multiple_of(2)))
        .buffer_unordered(BROKEN_BODIES / 2)
        .collect()
        .await;
    // Some of those who go on sending see a closed connection instead of the answer, as HTTP has it.
    for status in statuses.iter().flatten() {
        assert!([408, 413, 503].contains(status), "{statuses:?}");
    }
    assert!(
        statuses.iter().flatten().any(|status| *status == 413),
        "{statuses:?}"
    );
    // The slow ones are told, or turned away at once; the truncated ones are gone.
    let told: Vec<u16> = broken.into_iter().flatten().collect();
    assert_eq!(told.len(), BROKEN_BODIES / 2);
    assert!(
        told.iter().all(|status| [408, 503].contains(status)),
        "{told:?}"
    );
    assert!(told.contains(&408), "{told:?}");
    let after = stack.peak_memory(Service::WebhookIngest);
    println!(
        "peak: {} MiB before, {} MiB after",
        before / MIB,
        after / MIB
    );
    assert!(after < MOST, "it had {} MiB", after / MIB);

    // It still does its work.
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("true");
    stack.until_completed(id).await;
    stack.finish().await;
}

/// A body that is too large, its length told or not. `None`: the connection was closed before the answer was read.
async fn large(stack: &Stack, length_is_told: bool) -> Option<u16> {
    let chunks =
        stream::iter((0..LARGE / CHUNK).map(|_| Ok::<_, std::io::Error>(vec![b' '; CHUNK])));
    let mut request = stack
        .http()
        .post(stack.webhook_url())
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", "workflow_job")
        .header("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header(
            "X-Hub-Signature-256",
            webhook::sign(&stack.webhook_secret(), b""),
        );
    if length_is_told {
        request = request.header("Content-Length", LARGE);
    }
    let answer = request
        .body(reqwest::Body::wrap_stream(chunks))
        .send()
        .await;
    answer.ok().map(|answer| answer.status().as_u16())
}

/// Half a body, and then silence, or the end of the connection.
async fn broken(address: &str, signature: &str, slow: bool) -> Option<u16> {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/github/webhooks HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         X-GitHub-Event: workflow_job\r\nX-GitHub-Delivery: 72d3162e\r\nX-Hub-Signature-256: {signature}\r\n\
         Content-Length: {MIB}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&vec![b' '; MIB / 2]).await.unwrap();
    if !slow {
        return None;
    }
    let mut answer = [0; 12];
    let read = connection.read_exact(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .unwrap()
        .unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().ok()
}
