//! The way out of a cluster: proxies and a private authority, for curl, for the runner and for its steps.

use crate::proxy_fixture::{HOST, Proxy, tls_before};
use crate::script_fixture::*;

/// A step that shows what it was given, and uses it.
fn runner() -> String {
    format!(
        r#"env | grep -Ei '^(https?_proxy|no_proxy|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS|CURL_CA_BUNDLE|GIT_SSL_CAINFO)=' > "$SEEN/environment"
        cp "$SSL_CERT_FILE" "$SEEN/ca.pem" 2>/dev/null
        {ONE_WORKFLOW_JOB}
        curl --silent --show-error --request POST --data '{{"phase": "step"}}' "$STEP_URL/gha/runner/progress" 2> "$SEEN/step"
        echo "$?" >> "$SEEN/step""#
    )
}

#[tokio::test]
async fn everything_goes_through_the_proxy_and_trusts_the_sites_authority() {
    let launch = Launch::new(&runner()).await;
    let broker = *launch.broker.address();
    let tls = tls_before(broker, launch.folder.path());
    let proxy = Proxy::start(tls, broker);
    let address = format!("http://alice:hunter2@{}", proxy.address);
    let ca = launch.path("ca.pem").to_str().unwrap().to_owned();
    let url = format!("https://{HOST}");
    let launch = launch
        .with("GHA_SLURM_TOKEN_URL", &url)
        .with("STEP_URL", &url)
        .with("GHA_SLURM_HTTPS_PROXY", &address)
        .with("GHA_SLURM_NO_PROXY", "registry.test")
        .with("GHA_SLURM_CA_FILE", &ca);
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");
    assert_eq!(launch.seen("step"), "0\n");
    let asked = proxy.asked();
    assert!(
        asked.len() >= 6,
        "the job script's calls and the step's: {asked:?}"
    );
    for head in asked {
        assert!(head.starts_with(&format!("CONNECT {HOST}:443 ")), "{head}");
    }
    assert!(!outcome.output.contains("hunter2"), "{}", outcome.output);
    let environment = launch.seen("environment");
    for line in [
        format!("https_proxy={address}"),
        "no_proxy=registry.test".into(),
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line}\n{environment}"
        );
    }
    assert_eq!(environment.matches("/ca.pem").count(), 4, "{environment}");
    assert!(!environment.contains("http_proxy="), "{environment}");
    let trusted = launch.seen("ca.pem");
    let own = std::fs::read_to_string(&ca).unwrap();
    assert!(trusted.contains(own.trim_end()));
    if let Ok(system) = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") {
        assert!(
            trusted.contains(system.trim_end()),
            "what the node trusts stays trusted"
        );
    }
}

#[tokio::test]
async fn http_goes_through_its_own_proxy_and_no_proxy_past_it() {
    let launch = Launch::new(&runner()).await;
    let broker = *launch.broker.address();
    let proxy = Proxy::start(broker, broker);
    let address = format!("http://alice:hunter2@{}", proxy.address);
    let past = format!("http://{broker}");
    let url = format!("http://{HOST}");
    let launch = launch
        .with("GHA_SLURM_HTTP_PROXY", &address)
        .with("GHA_SLURM_TOKEN_URL", &url)
        .with("STEP_URL", &past)
        .with("GHA_SLURM_NO_PROXY", "127.0.0.1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.seen("step"), "0\n");
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .all(|head| head.starts_with(&format!("POST {url}/gha/runner"))),
        "{asked:?}"
    );
    let past: Vec<_> = launch.progress().await;
    let past = past.iter().filter(|p| p["phase"] == "step").count();
    let got = launch.broker.received_requests().await.unwrap();
    let got: Vec<_> = got.iter().map(|r| r.url.path().to_owned()).collect();
    assert_eq!((past, asked.len()), (1, got.len() - 1), "{asked:?} {got:?}");
}

#[tokio::test]
async fn what_is_wrong_with_the_way_out_is_said() {
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_CA_FILE", "/nonexistent/ca.pem");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let over = "over: node_unfit: /nonexistent/ca.pem (runner.network.ca_file) cannot be read\n";
    assert!(outcome.output.contains(over), "{}", outcome.output);

    // A proxy that does not let it through, and a password that nobody may see.
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let broker = *launch.broker.address();
    let proxy = Proxy::start(broker, broker);
    let launch = launch
        .with(
            "GHA_SLURM_HTTPS_PROXY",
            &format!("http://alice:wrong-password@{}", proxy.address),
        )
        .with("GHA_SLURM_TOKEN_URL", &format!("https://{HOST}"))
        .with("GHA_SLURM_CALLBACK_DEADLINE_S", "1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.output.contains("407"), "{}", outcome.output);
    assert!(
        !outcome.output.contains("wrong-password"),
        "{}",
        outcome.output
    );
}
