use std::collections::BTreeMap;

use serde_json::json;
use wiremock::matchers::{method, path};
use wiremock::{Mock, ResponseTemplate};

use crate::support::Broker;

async fn kinds(broker: &Broker) -> Vec<String> {
    broker.query("SELECT kind FROM timeline ORDER BY id").await
}

async fn deletion(broker: &Broker, status: u16) {
    Mock::given(method("DELETE"))
        .and(path("/repos/acme/widgets/actions/runners/900"))
        .respond_with(ResponseTemplate::new(status))
        .expect(1..)
        .mount(&broker.github)
        .await;
}

/// One redeemed runner and its progress token.
async fn redeemed(broker: &Broker) -> String {
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let answer = broker.redeem(launch, 77).await;
    answer.body["progressToken"].as_str().unwrap().to_owned()
}

/// Posts to this path from an address behind the proxy, and returns the status.
async fn post_from(broker: &Broker, address: &str, path: &str, token: &str) -> u16 {
    let call = broker.http.post(format!("{}{path}", broker.url));
    let call = call.bearer_auth(token).header("x-forwarded-for", address);
    let body = json!({"phase": "set_up", "node": "n1"});
    call.json(&body).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_progress_tokens_are_few_and_known_ones_are_always_heard() {
    const PROGRESS: &str = "/gha/runner/progress";
    const RELEASE: &str = "/gha/runner/release";
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let unknown = |n: usize| format!("{n:0>width$}", width = token.len());
    let (flooded, other) = ("203.0.113.7", "203.0.113.8");
    let mut statuses = BTreeMap::new();
    for n in 0..150 {
        let path = if n % 2 == 0 { PROGRESS } else { RELEASE };
        let status = post_from(&broker, flooded, path, &unknown(n)).await;
        *statuses.entry(status).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(401, 100), (429, 50)]));
    for path in [PROGRESS, RELEASE] {
        assert_eq!(post_from(&broker, other, path, &unknown(200)).await, 401);
    }
    // A runner behind the same address.
    let status = post_from(&broker, flooded, PROGRESS, &token).await;
    assert_eq!(status, 204);
    deletion(&broker, 204).await;
    assert_eq!(post_from(&broker, flooded, RELEASE, &token).await, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_node_fills_no_timeline() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let node = format!("n\0{}", "x".repeat(100_000));
    for at in [
        "-9000-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "+262142-12-31T23:59:59Z",
    ] {
        let body = json!({"phase": "set_up", "node": node, "at": at});
        let answer = broker.progress(&token, body).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    let entries = "SELECT length(detail) < 400 AND happened_at > now() - interval '1 day' FROM timeline WHERE kind = 'set_up'";
    assert_eq!(broker.query(entries).await, ["t"]);
    let finished = json!({"phase": "finished", "reason": "r\0".repeat(50_000)});
    for _ in 0..2 {
        let answer = broker.progress(&token, finished.clone()).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    // What is over stays as it is.
    let late = json!({"phase": "set_up", "node": "n1"});
    assert_eq!(broker.progress(&token, late).await.status, 204);
    assert_eq!(
        kinds(&broker).await.last().unwrap(),
        "ended_without_workflow_job"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_has_a_timeline() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    for body in [
        json!({"phase": "allocated", "node": "n1"}),
        json!({"phase": "set_up", "node": "n1"}),
        json!({"phase": "listening"}),
        json!({"phase": "listening"}),
        json!({"phase": "workflow_job_started"}),
        json!({"phase": "workflow_job_started", "runId": 101, "runAttempt": 1}),
        json!({"phase": "finished", "reason": "completed", "exitCode": 0}),
        json!({"phase": "finished", "reason": "completed", "exitCode": 0}),
    ] {
        let answer = broker.progress(&token, body).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    let wanted = [
        "queued",
        "planned",
        "submitted",
        "allocated",
        "registered",
        "set_up",
        "listening",
        "workflow_job_started",
        "finished",
    ];
    assert_eq!(kinds(&broker).await, wanted);
    assert_eq!(broker.query("SELECT run_id FROM runners").await, ["101"]);
    // It has worked, so it is supply until GitHub says that its workflow job left demand.
    assert_eq!(broker.query("SELECT in_supply FROM launches").await, ["t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_runner_is_released() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    deletion(&broker, 204).await;
    assert_eq!(broker.release(&token).await.status, 204);
    assert_eq!(broker.release(&token).await.status, 204);
    assert_eq!(broker.github_calls("DELETE", "runners").await, 1);
    assert_eq!(broker.query("SELECT in_supply FROM launches").await, ["f"]);
    let requests = broker.query("SELECT reason FROM replan_requests").await;
    assert_eq!(requests, ["a launch changed"]);
}

/// A node tells why its runner failed, and then gives the registration back.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_over_is_still_deleted_at_github() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    deletion(&broker, 204).await;
    let body = json!({"phase": "finished", "reason": "runner_outdated", "exitCode": 7});
    assert_eq!(broker.progress(&token, body).await.status, 204);
    // If it cannot give it back any more, the launcher does.
    let by_launcher = "SELECT deregister_at > now() FROM launches";
    assert_eq!(broker.query(by_launcher).await, ["t"]);
    assert_eq!(broker.release(&token).await.status, 204);
    let not_any_more = "SELECT deregister_at IS NULL FROM launches";
    assert_eq!(broker.query(not_any_more).await, ["t"]);
    let reason = broker
        .query("SELECT outcome->>'reason' || ' ' || (outcome->>'exit_code') FROM launches")
        .await;
    assert_eq!(reason, ["runner_outdated 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_github_calls_busy_goes_on() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    deletion(&broker, 422).await;
    let answer = broker.release(&token).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (409, &json!("runner_busy"))
    );
    assert_eq!(broker.query("SELECT in_supply FROM launches").await, ["t"]);
}

/// Any process of the same user can read the progress token. Each release was a call to GitHub.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_releases_asks_github_a_few_times() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    deletion(&broker, 422).await;
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..50 {
        let answer = broker.release(&token).await;
        assert_eq!(answer.status == 429, answer.retry_after.is_some());
        *statuses.entry(answer.status).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(409, 6), (429, 44)]));
    assert_eq!(broker.github_calls("DELETE", "runners").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_token_ends_with_its_launch() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let finished = json!({"phase": "finished", "reason": "runner_failed"});
    assert_eq!(broker.progress(&token, finished.clone()).await.status, 204);
    let passes = "UPDATE launches SET ended_at = ended_at - interval '15 minutes'";
    broker.execute(passes).await;
    for answer in [
        broker.progress(&token, finished).await,
        broker.release(&token).await,
    ] {
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (410, &json!("not_wanted"))
        );
        assert_eq!(answer.body["detail"], "runner_failed");
    }
    assert_eq!(broker.github_calls("DELETE", "runners").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_with_a_workflow_job_is_not_even_asked_about() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    broker
        .progress(&token, json!({"phase": "workflow_job_started"}))
        .await;
    assert_eq!(broker.release(&token).await.status, 409);
    assert_eq!(broker.github_calls("DELETE", "runners").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_keeps_the_end_of_the_log() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let body = json!({"phase": "finished", "reason": "runner_failed", "exitCode": 1,
                      "logTail": "no space left\u{0} on device"});
    assert_eq!(broker.progress(&token, body).await.status, 204);
    let tails = broker
        .query("SELECT log_tail FROM timeline WHERE kind = 'ended_without_workflow_job'")
        .await;
    assert_eq!(tails, ["no space left on device"]);
    assert_eq!(
        broker.query("SELECT failures FROM runner_classes").await,
        ["1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_token_ends_only_what_never_got_a_runner() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [never, redeemed] = broker.submitted(2).await.try_into().unwrap();
    assert_eq!(broker.redeem(redeemed, 78).await.status, 200);
    let finished = || json!({"phase": "finished", "reason": "the callback failed"});
    for launch in [never, redeemed] {
        let answer = broker.progress(&broker.token(launch), finished()).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    let state = |id| format!("SELECT state FROM launches WHERE id = '{id}'");
    assert_eq!(broker.query(&state(never)).await, ["over"]);
    assert_eq!(broker.query(&state(redeemed)).await, ["registered"]);
    let answer = broker
        .progress(&broker.token(redeemed), json!({"phase": "listening"}))
        .await;
    assert_eq!(answer.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phase_of_a_newer_job_script_changes_nothing() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let before = kinds(&broker).await;
    let answer = broker.progress(&token, json!({"phase": "flying"})).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    assert_eq!(kinds(&broker).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_401_and_garbage_is_400() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let answer = broker
        .progress("stranger", json!({"phase": "listening"}))
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (401, &json!("progress_token_invalid"))
    );
    assert_eq!(broker.release("stranger").await.status, 401);
    let answer = broker.progress(&token, json!({"phase": 7})).await;
    assert_eq!(answer.status, 400);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("expected value"), "{detail}");
    let answer = broker.get("/gha/runner").await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (405, &json!("method_not_allowed"))
    );
}

/// A step can read the progress token: what it reports with it stays small, and its own calls are what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_progress_writes_next_to_nothing() {
    let broker = Broker::start().await;
    let token = redeemed(&broker).await;
    let tail = "x".repeat(60_000);
    let mut refused = 0;
    for round in 0..200 {
        let phase = [
            "workflow_job_started",
            "listening",
            "set_up",
            "allocated",
            "flying",
        ][round % 5];
        let body = json!({"phase": phase, "node": tail, "reason": tail, "logTail": tail});
        let answer = broker.progress(&token, body).await;
        match answer.status {
            204 => {}
            429 => refused += 1,
            status => panic!("{status} {}", answer.body),
        }
    }
    assert!(refused >= 100, "{refused} of 200");
    let size = "SELECT sum(length(detail) + coalesce(length(log_tail), 0)) < 2000 AND count(*) < 10 FROM timeline";
    assert_eq!(broker.query(size).await, ["t"]);
    // What came first was the furthest.
    assert_eq!(kinds(&broker).await.last().unwrap(), "workflow_job_started");
}
