//! What strangers send costs little.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A call that has sent its head and `sent` bytes of its body.
async fn begun(service: &Service, head: &str, sent: usize) -> TcpStream {
    let address = service.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{head}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

/// The head of a call to `/typed`, with these headers besides.
fn json_head(headers: &str) -> String {
    format!("POST /typed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}")
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer.truncate(read);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn who_is_not_let_in_is_answered_before_a_byte_of_the_body_has_come() {
    let service = start();
    let head = "POST /echo/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000";
    let answer = answer(begun(&service, head, 0).await).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn what_says_that_it_is_compressed_or_too_large_is_refused_at_once() {
    let service = start();
    let head = json_head("Content-Length: 199999\r\nContent-Encoding:");
    for encoding in [
        "gzip",
        "br",
        "identity, gzip",
        "identity\r\nContent-Encoding: gzip",
    ] {
        let answer = answer(begun(&service, &format!("{head} {encoding}"), 0).await).await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{encoding}: {answer}");
        assert!(answer.contains("content_encoding_unsupported"), "{answer}");
    }
    // Also where nothing reads a body.
    let head = "GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip";
    let refused = answer(begun(&service, head, 0).await).await;
    assert!(refused.starts_with("HTTP/1.1 415 "), "{refused}");

    let head = json_head("Content-Length: 200001");
    let answer = answer(begun(&service, &head, 0).await).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("At most 200000 bytes."), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let service = start();
    let head = json_head("Content-Length: 1000");
    let answer = answer(begun(&service, &head, 10).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn unfinished_large_bodies_keep_no_small_one_out() {
    let service = start();
    let large = |from: &str| {
        json_head(&format!(
            "X-Forwarded-For: {from}\r\nContent-Length: 131073"
        ))
    };
    // From four addresses. There is room for three.
    let mut open = Vec::new();
    for last in 1..=4 {
        open.push(begun(&service, &large(&format!("203.0.113.{last}")), 131_072).await);
    }
    let small = client()
        .post(format!("{}/typed", service.url))
        .header("content-type", "application/json")
        .body("[]");
    assert_eq!(small.send().await.unwrap().status(), 200);
    let mut answers = Vec::new();
    for stream in open {
        answers.push(answer(stream).await[..13].to_owned());
    }
    answers.sort();
    let (late, overloaded) = ("HTTP/1.1 408 ", "HTTP/1.1 503 ");
    assert_eq!(answers, [late, late, late, overloaded]);
}

#[tokio::test]
async fn one_address_does_not_take_the_whole_room() {
    let service = start();
    let head = json_head("X-Forwarded-For: 203.0.113.7\r\nContent-Length: 100001");
    // A quarter of the small room, but always one of the largest small bodies.
    let first = begun(&service, &head, 100_000).await;
    let second = begun(&service, &head, 100_000).await;
    let (first, second) = tokio::join!(answer(first), answer(second));
    // Whichever came first has the room until it is given up.
    let mut answers = [first, second];
    answers.sort();
    let [late, refused] = &answers;
    assert!(late.starts_with("HTTP/1.1 408 "), "{answers:?}");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{answers:?}");
    assert!(refused.contains("from this address"), "{refused}");
}

/// To promise a large body, or to send it without its length, takes nothing from others.
#[tokio::test]
async fn silent_connections_keep_no_large_body_out() {
    let service = start();
    let mut silent = Vec::new();
    for framing in ["Content-Length: 190000", "Transfer-Encoding: chunked"].repeat(10) {
        silent.push(begun(&service, &json_head(framing), 0).await);
    }
    let large = format!("[\"{}\"]", "x".repeat(180_000));
    let response = client()
        .post(format!("{}/typed", service.url))
        .header("content-type", "application/json")
        .body(large)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    for stream in silent {
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

/// A connection whose body was not read is closed, however the body is framed and whoever answers: nothing else would end it.
#[tokio::test]
async fn a_connection_ends_whose_body_was_not_read() {
    let service = start();
    for (call, status) in [
        ("POST /echo/x", "401"),
        ("POST /nowhere", "404"),
        ("GET /echo/x", "405"),
        ("GET /open", "204"),
        ("POST /typed", "415"),
    ] {
        for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
            let head = format!("{call} HTTP/1.1\r\nHost: x\r\n{framing}");
            let mut stream = begun(&service, &head, 0).await;
            let mut told = Vec::new();
            tokio::time::timeout(DEADLINE, stream.read_to_end(&mut told))
                .await
                .unwrap_or_else(|_| panic!("{call}, {framing}: the connection stays open"))
                .unwrap();
            let told = String::from_utf8_lossy(&told);
            assert_eq!(told.get(9..12), Some(status), "{call}, {framing}: {told}");
        }
    }
    // Also when it did not come in time.
    let head = json_head("Transfer-Encoding: chunked");
    let mut stream = begun(&service, &head, 0).await;
    let mut told = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut told))
        .await
        .unwrap()
        .unwrap();
    assert!(told.starts_with(b"HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_connection_is_used_again_unless_a_body_was_chunked() {
    let service = start();
    let sized = json_head("Content-Length: 2\r\n\r\n[]");
    let chunked = json_head("Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n");
    let address = service.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    for request in [&sized, &sized, &chunked] {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
    }
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}
