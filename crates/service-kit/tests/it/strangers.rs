//! Routes that answer anybody, and what is said to everybody.

use super::*;

async fn open(service: &Service, from: &str) -> reqwest::Response {
    client()
        .get(format!("{}/open", service.url))
        .header("x-forwarded-for", from)
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn an_address_is_answered_so_often_and_others_meanwhile() {
    let service = start();
    for _ in 0..3 {
        assert_eq!(open(&service, "203.0.113.7").await.status(), 204);
    }
    let refused = open(&service, "203.0.113.7").await;
    assert_eq!(refused.headers()["retry-after"], "10");
    problem_of(refused, 429, "too_many_requests").await;
    // What the client itself claims to be is not believed.
    problem_of(
        open(&service, "198.51.100.1, 203.0.113.7").await,
        429,
        "too_many_requests",
    )
    .await;
    assert_eq!(open(&service, "203.0.113.8").await.status(), 204);
    // All addresses of an IPv6 network are one stranger.
    for last in 1..=3 {
        let from = format!("2001:db8::{last}");
        assert_eq!(open(&service, &from).await.status(), 204);
    }
    problem_of(
        open(&service, "2001:db8::ffff").await,
        429,
        "too_many_requests",
    )
    .await;
    assert_eq!(open(&service, "2001:db8:0:1::1").await.status(), 204);
    // A proxy that does not say for whom it calls is not held up for one of its clients.
    for _ in 0..10 {
        let response = client()
            .get(format!("{}/open", service.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 204);
    }
}

#[tokio::test]
async fn made_up_methods_become_no_time_series() {
    let service = start();
    for number in 0..50 {
        let method = reqwest::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        let url = format!("{}/typed", service.url);
        let response = client().request(method, url).send().await.unwrap();
        assert!(response.status().is_client_error());
    }
    let metrics = client()
        .get(format!("{}/metrics", service.operations_url))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("method=\"OTHER\""), "{metrics}");
    assert!(!metrics.contains("method=\"M"), "{metrics}");
}

#[tokio::test]
async fn no_cache_keeps_an_answer() {
    let service = start();
    for path in ["/nowhere", "/open"] {
        let response = client()
            .get(format!("{}{path}", service.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        // Nobody came by TLS.
        assert!(!response.headers().contains_key("strict-transport-security"));
    }
}
