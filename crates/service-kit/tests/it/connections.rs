//! What one client, or one address, may make a service hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gha_slurm_test_support::wait_until;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const LARGE: usize = 1 << 20;
/// More answers than the buffers of two sockets have room for.
const REQUESTS: usize = 5000;

/// Counts calls of `/large`, whose answer is large. Everybody here is a stranger, with three connections.
fn start_counting() -> (String, Arc<AtomicUsize>, Metrics, CancellationToken) {
    let settings = json!({
        "listen": "127.0.0.1:0", "trusted_proxies": "192.0.2.1", "connections_per_address": 3
    });
    let settings = serde_json::from_value(settings).unwrap();
    let (calls, metrics) = (Arc::new(AtomicUsize::new(0)), Metrics::default());
    let counter = Arc::clone(&calls);
    let http = HttpService::bind(&settings, &metrics, move |config| {
        let counter = Arc::clone(&counter);
        let large = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(HttpResponse::Ok().body(vec![b'x'; LARGE]))
        };
        config.route("/large", web::get().to(large));
    });
    let http = http.unwrap();
    let address = format!("127.0.0.1:{}", http.port());
    let stop = CancellationToken::new();
    tokio::spawn(http.run_until_stopped(stop.clone()));
    (address, calls, metrics, stop)
}

/// Holds so many connections on which nothing is sent.
async fn idle(address: &str, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    held
}

/// It takes 16 of an address, so that others can still read it.
#[tokio::test]
async fn idle_connections_to_the_operations_port_are_few_and_stop_nothing() {
    let service = start();
    let operations = service.operations_url.trim_start_matches("http://");
    let mut held = idle(operations, 200).await;
    let ends = async {
        let mut ended = 0;
        let mut byte = [0; 1];
        for stream in &mut held {
            let read = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte));
            ended += usize::from(matches!(read.await, Ok(Ok(0) | Err(_))));
        }
        ended
    };
    let ended = ends.await;
    assert!(ended >= 200 - 32, "{ended} were closed");
    let main = service.url.trim_start_matches("http://");
    assert!(is_answered(main).await);
    drop(held);
    wait_until("there is room again", DEADLINE, || async {
        is_answered(operations).await
    })
    .await;
    service.stop.cancel();
}

async fn is_answered(address: &str) -> bool {
    let call = client().get(format!("http://{address}/nowhere"));
    call.header("connection", "close").send().await.is_ok()
}

/// The answers to 5,000 pipelined requests would have 5 GB.
#[tokio::test]
async fn who_does_not_read_answers_gets_no_more_of_them() {
    let (address, calls, _, stop) = start_counting();
    let mut client = TcpStream::connect(&address).await.unwrap();
    let requests = "GET /large HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS);
    // As many as are taken.
    let _ = tokio::time::timeout(
        Duration::from_secs(1),
        client.write_all(requests.as_bytes()),
    )
    .await;
    for _ in 0..20 {
        assert!(is_answered(&address).await);
    }
    let answered = calls.load(Ordering::Relaxed);
    assert!((1..50).contains(&answered), "{answered} answers were made");
    // Who reads gets them.
    let mut left = 3 * LARGE;
    let mut bytes = vec![0; LARGE];
    while left > 0 {
        let read = tokio::time::timeout(DEADLINE, client.read(&mut bytes)).await;
        left = left.saturating_sub(read.unwrap().unwrap());
    }
    stop.cancel();
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let (address, _, metrics, stop) = start_counting();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(&address).await.unwrap());
    }
    // Two threads accept: it need not be the last one.
    wait_until("one is refused", DEADLINE, || async {
        let counted = metrics.text().unwrap();
        let refused = "gha_slurm_http_connections_refused_total 1";
        if counted.contains(refused) {
            Ok(())
        } else {
            Err(counted)
        }
    })
    .await;
    let ends = held.iter_mut().map(|stream| async {
        let mut byte = [0; 1];
        matches!(stream.read(&mut byte).await, Ok(0) | Err(_))
    });
    let ended = futures_util::future::select_all(ends.map(Box::pin)).await;
    assert!(ended.0, "it is closed");
    drop(held);
    wait_until("there is room again", DEADLINE, || async {
        is_answered(&address).await
    })
    .await;
    stop.cancel();
}

/// 30 MB exceed the buffers of both sockets, so the client is still sending when the response is sent. If the connection were closed then,
/// the client's kernel would discard the response.
#[tokio::test]
async fn a_client_that_sends_before_it_reads_hears_why_it_is_refused() {
    let service = start();
    let address = service.url.trim_start_matches("http://");
    let body = vec![b'x'; 30_000_000];
    let post =
        |path: &str, header: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    let large = format!("content-length: {}", body.len());
    for (head, status) in [
        (post("/echo/x", &large), "413"),
        (post("/nowhere", &large), "404"),
        (
            post("/echo/x", "x: y").replace("\r\n\r\n", "\r\nx: "),
            "431",
        ),
        (
            post("/echo/x", "transfer-encoding: chunked") + "nonsense",
            "401",
        ),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        let sent = tokio::time::timeout(DEADLINE, client.write_all(&body)).await;
        sent.expect("it is taken").expect(&head);
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await;
        read.expect("it ends").expect(&head);
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
    }
    service.stop.cancel();
}
