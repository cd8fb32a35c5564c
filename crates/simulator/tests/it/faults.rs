//! REST answers that go wrong as asked.

use std::collections::BTreeMap;

use gha_slurm_simulator::request::{RestEffect, RestFault};
use serde_json::json;

use crate::{Sim, app_jwt, settings};

const JIT: &str = "POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig";

#[tokio::test]
async fn the_next_answers_of_a_route_go_wrong_and_no_others() {
    let sim = Sim::start();
    sim.handle.add_rest_fault(RestFault::on(
        JIT,
        2,
        RestEffect::Answer {
            status: 503,
            headers: BTreeMap::from([("retry-after".into(), "7".into())]),
            message: None,
        },
    ));
    for _ in 0..2 {
        let answer = sim.jit("r", &["slurm"]).await;
        assert_eq!(answer.status, 503);
        assert_eq!(
            (answer.message(), answer.header("retry-after")),
            ("Service Unavailable", "7")
        );
    }
    assert_eq!(sim.jit("r", &["slurm"]).await.status, 201);
    assert_eq!(sim.handle.calls(JIT), 3);
    assert_eq!(sim.handle.state().runners.len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_done_all_the_same() {
    let sim = Sim::start();
    sim.handle
        .add_rest_fault(RestFault::on(JIT, 1, RestEffect::LoseAnswer));
    assert_eq!(sim.jit("r", &["slurm"]).await.status, 502);
    assert_eq!(sim.jit("r", &["slurm"]).await.status, 409);
}

#[tokio::test]
async fn rate_limits_say_how_long_to_wait() {
    let sim = Sim::start();
    let token = sim.token().await;
    let route = "GET /repos/{owner}/{repo}";
    sim.handle.add_rest_fault(RestFault::on(
        route,
        1,
        RestEffect::PrimaryRateLimit {
            reset_after_seconds: 30,
        },
    ));
    sim.handle.add_rest_fault(RestFault::on(
        route,
        1,
        RestEffect::SecondaryRateLimit {
            retry_after_seconds: 5,
        },
    ));
    let primary = sim.get("/repos/acme/widgets", &token).await;
    assert_eq!(
        (
            primary.status.as_u16(),
            primary.header("x-ratelimit-remaining")
        ),
        (403, "0")
    );
    let wait = primary.header("x-ratelimit-reset").parse::<i64>().unwrap()
        - chrono::Utc::now().timestamp();
    assert!((28..=30).contains(&wait), "{wait}");
    let secondary = sim.get("/repos/acme/widgets", &token).await;
    assert_eq!(
        (secondary.status.as_u16(), secondary.header("retry-after")),
        (429, "5")
    );
    assert_eq!(sim.get("/repos/acme/widgets", &token).await.status, 200);
}

#[tokio::test]
async fn calls_use_up_the_installations_limit() {
    let mut settings = settings();
    settings.timing.rate_limit = 3;
    let sim = Sim::start_with(settings);
    let token = sim.token().await;
    let first = sim.get("/repos/acme/widgets", &token).await;
    assert_eq!(
        (
            first.header("x-ratelimit-limit"),
            first.header("x-ratelimit-remaining")
        ),
        ("3", "2")
    );
    let seen = sim.get("/rate_limit", &token).await;
    assert_eq!(seen.body["resources"]["core"]["used"], 1);
    for _ in 0..2 {
        assert_eq!(sim.get("/repos/acme/widgets", &token).await.status, 200);
    }
    let refused = sim.get("/repos/acme/widgets", &token).await;
    assert_eq!(
        (
            refused.status.as_u16(),
            refused.header("x-ratelimit-remaining")
        ),
        (403, "0")
    );
    // The App's own calls are counted apart.
    assert_eq!(sim.get("/app", &app_jwt()).await.status, 200);
}

#[tokio::test]
async fn faults_can_be_taken_back() {
    let sim = Sim::start();
    let fault = RestFault {
        route: None,
        times: 100,
        effect: RestEffect::LoseAnswer,
    };
    sim.handle.add_rest_fault(fault);
    assert_eq!(sim.mint(json!({})).await.status, 502);
    sim.handle.clear_rest_faults();
    assert_eq!(sim.mint(json!({})).await.status, 201);
}
