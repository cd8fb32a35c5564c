//! What nodes say to token-broker through the agent.

use gha_slurm_auth::KeyFolder;
use gha_slurm_contract::Problem;
use gha_slurm_test_support::{free_port, wait_until};
use wiremock::matchers::{body_string, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site, claims, until_written};

/// A site with a relay before `upstream`, its agent, and the relay's address.
async fn relay(upstream: &str, script: &str) -> (Site, Agent, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{address}");
    let site = Site::new(script)
        .with("RELAY__LISTEN", &address)
        .with("RELAY__UPSTREAM", upstream)
        .with("RELAY__PUBLIC_URL", &url);
    let agent = site.agent().await;
    (site, agent, url)
}

fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().timeout(DEADLINE).no_proxy();
    builder.build().unwrap()
}

#[tokio::test]
async fn three_calls_pass_as_they_are_and_nothing_else() {
    let broker = MockServer::start().await;
    let problem = Problem::new(410, "not_wanted", "Not wanted any more").detail("Too late.");
    Mock::given(method("POST"))
        .and(path("/gha/runner"))
        .and(header("authorization", "Bearer secret-launch-token"))
        .and(header("content-type", "application/json"))
        .and(header("traceparent", "00-1-2-01"))
        .and(body_string(r#"{"node":"n1"}"#))
        .respond_with(
            ResponseTemplate::new(503)
                .insert_header("Retry-After", "7")
                .set_body_raw(
                    serde_json::to_vec(&problem).unwrap(),
                    "application/problem+json",
                ),
        )
        .mount(&broker)
        .await;
    for (at, status) in [("/gha/runner/release", 409), ("/gha/runner/progress", 204)] {
        Mock::given(method("POST"))
            .and(path(at))
            .respond_with(ResponseTemplate::new(status))
            .mount(&broker)
            .await;
    }
    let (_site, agent, url) = relay(&broker.uri(), "").await;
    let post = |at: &str, body: String| {
        client()
            .post(format!("{url}{at}"))
            .bearer_auth("secret-launch-token")
            .header("content-type", "application/json")
            .header("traceparent", "00-1-2-01")
            .body(body)
            .send()
    };
    let answer = post("/gha/runner", r#"{"node":"n1"}"#.into())
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.json::<Problem>().await.unwrap(), problem);
    for (at, status) in [
        ("/gha/runner/release", 409),
        ("/gha/runner/progress", 204),
        ("/gha/installations", 404),
        ("/.well-known/jwks.json", 404),
        ("/gha/runner/", 404),
        ("/gha/runner/../installations", 404),
        ("/runner/start", 404),
    ] {
        let answer = post(at, "{}".into()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{at}");
    }
    // Whoever shows no token is answered here.
    let nobody = client()
        .post(format!("{url}/gha/runner"))
        .send()
        .await
        .unwrap();
    assert_eq!(nobody.status().as_u16(), 401);
    let get = client()
        .get(format!("{url}/gha/runner"))
        .send()
        .await
        .unwrap();
    assert_eq!(get.status().as_u16(), 405);
    let answer = post("/gha/runner", "x".repeat((1 << 20) + 1))
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 413);
    assert_eq!(broker.received_requests().await.unwrap().len(), 3);

    let log = agent.log();
    assert!(!log.contains("secret-launch-token"), "{log}");
    agent.stop();
}

#[tokio::test]
async fn nodes_are_given_the_relay_instead_of_token_broker() {
    let script = r#"echo "$GHA_SLURM_TOKEN_URL" > "$GHA_SLURM_RUNNER_DIR/token-url""#;
    let (site, agent, url) = relay("http://127.0.0.1:1", script).await;
    agent.start(&site.request(&claims())).await;
    let given = until_written(&site.path("token-url")).await;
    assert_eq!(given.trim(), url);
    // token-broker is away.
    let answer = client()
        .post(format!("{url}/gha/runner"))
        .bearer_auth("a-launch-token")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(answer.json::<Problem>().await.unwrap().code, "unavailable");
    agent.stop();
}

#[tokio::test]
async fn the_way_out_leads_through_the_proxy_of_the_environment() {
    // A forward proxy is asked for the whole URL; this one answers itself.
    let proxy = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&proxy)
        .await;
    let address = format!("127.0.0.1:{}", free_port());
    let site = Site::new("")
        .with("INSECURE", "true")
        .with("RELAY__LISTEN", &address)
        .with("RELAY__UPSTREAM", "http://broker.invalid")
        .with("RELAY__PUBLIC_URL", &format!("http://{address}"))
        .with("OUTBOUND__LAUNCHERS", "http://launcher.invalid")
        .env("http_proxy", &proxy.uri())
        .env("no_proxy", "127.0.0.1");
    KeyFolder::new(site.path("identity")).generate(1).unwrap();
    let keys = site.path("identity");
    let site = site.with("IDENTITY__KEYS", keys.to_str().unwrap());
    let agent = site.spawn();
    let asked = || async {
        let _ = client()
            .post(format!("http://{address}/gha/runner"))
            .bearer_auth("a-launch-token")
            .send()
            .await;
        let calls = proxy.received_requests().await.unwrap();
        let hosts: Vec<String> = calls
            .iter()
            .map(|call| call.headers["host"].to_str().unwrap().to_owned())
            .collect();
        let all = ["broker.invalid", "launcher.invalid"];
        if all.iter().all(|host| hosts.iter().any(|h| h == host)) {
            Ok(())
        } else {
            Err(hosts)
        }
    };
    wait_until("both are asked for through the proxy", DEADLINE, asked).await;
    agent.stop();
}

#[tokio::test]
async fn what_is_wrong_is_named_at_the_start() {
    for (key, value, expected) in [
        (
            "RELAY__UPSTREAM",
            "broker.example",
            "relay.upstream (GHA_SLURM_MUNGE__RELAY__UPSTREAM): write https://HOST",
        ),
        (
            "OUTBOUND__LAUNCHERS",
            "launcher",
            "outbound.launchers (GHA_SLURM_MUNGE__OUTBOUND__LAUNCHERS): write",
        ),
        (
            "OUTBOUND__LAUNCHERS",
            "https://launcher.example",
            "identity.keys (GHA_SLURM_MUNGE__IDENTITY__KEYS): must be given for [outbound]",
        ),
        ("HTTP__TLS__CERTIFICATE", "/nowhere.pem", "http.tls.key"),
    ] {
        let mut site = Site::new("").with(key, value);
        if key.starts_with("RELAY") {
            site = site
                .with("RELAY__LISTEN", "127.0.0.1:0")
                .with("RELAY__PUBLIC_URL", "http://127.0.0.1:1");
        }
        let log = site.spawn().refusal().await;
        assert!(log.contains(expected), "{log}\nexpected: {expected}");
    }
}
