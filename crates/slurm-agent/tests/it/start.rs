//! `POST /runner/start`: what is accepted, and what is not.

use gha_slurm_contract::Problem;
use gha_slurm_policy::BuildPolicy;
use gha_slurm_service_kit::settings::load;
use gha_slurm_slurm_agent::Settings;
use gha_slurm_slurm_agent::settings::{KeySource, UnknownTokenBroker};
use gha_slurm_slurm_agent::submission::JOB_SCRIPT;
use gha_slurm_test_support::Sample;
use serde_json::json;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::agent_fixture::*;
use crate::script_fixture::TRACEPARENT;

/// Leaves its environment behind.
const TELL: &str = "env > environment.new && mv environment.new environment.seen";

#[test]
fn the_sample_file_is_right() {
    let sample = Sample::filled("gha-slurm-munge.toml");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert_eq!(settings.http.unwrap().listen.port(), 5011);
    assert!(matches!(settings.keys, KeySource::Path(_)), "pinned");
    let both = [(
        "GHA_SLURM_MUNGE__KEYS__JWKS_URL".to_owned(),
        "https://broker.example.org/.well-known/jwks.json".to_owned(),
    )];
    let error = load::<Settings>(Some(sample.path()), both).unwrap_err();
    assert!(
        error.to_string().contains("give either public_keys"),
        "{error}"
    );
}

#[test]
fn what_the_sample_file_has_in_comments_is_right_too() {
    let sample = Sample::filled("gha-slurm-munge.toml").uncommented("# [http.tls]", "[operations]");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert!(settings.http.unwrap().tls.unwrap().client_ca.is_some());
    assert_eq!(settings.outbound.unwrap().launchers.len(), 1);
    assert!(settings.relay.unwrap().tls.is_some());
    let sample = Sample::filled("gha-slurm-munge.toml")
        .uncommented("# jwks_url", "# [identity]")
        .with(|text| text.replace("\npublic_keys", "\n# public_keys"));
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert!(matches!(settings.keys, KeySource::Jwks { tls, .. } if tls.ca_file.is_some()));
}

#[test]
fn launch_tokens_go_where_a_setting_says_or_the_key_sets_address() {
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/gha-slurm-munge.toml"
    );
    let text = std::fs::read_to_string(sample).unwrap();
    let pinned_keys = "public_keys = \"/etc/gha-slurm/public-keys\"";
    let pinned_urls = "urls = [\"https://gha-slurm.example.org\"]";
    assert!(text.contains(pinned_keys) && text.contains(pinned_urls));
    let text = text.replace(pinned_urls, "");
    let jwks = "jwks_url = \"https://gha-slurm.example.org/.well-known/jwks.json\"";
    let pinned = |keys: &str, urls: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, text.replace(pinned_keys, keys)).unwrap();
        let urls = (!urls.is_empty()).then(|| {
            (
                "GHA_SLURM_MUNGE__TOKEN_BROKER__URLS".to_owned(),
                urls.to_owned(),
            )
        });
        let settings: Settings = load(Some(&file), urls).unwrap();
        let urls = settings.token_broker_urls()?.into_iter();
        Ok::<_, UnknownTokenBroker>(urls.map(|url| url.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(pinned(jwks, "").unwrap(), ["https://gha-slurm.example.org"]);
    let two = "https://a.example/ https://b.example/base";
    assert_eq!(
        pinned(jwks, two).unwrap(),
        ["https://a.example", "https://b.example/base"]
    );
    let elsewhere = "jwks_url = \"https://keys.example.org/keys.json\"";
    for keys in [elsewhere, "public_keys = \"/keys\""] {
        assert_eq!(pinned(keys, "").unwrap_err(), UnknownTokenBroker);
        assert_eq!(pinned(keys, two).unwrap().len(), 2);
    }
}

#[test]
fn our_job_script_is_bash() {
    let check = std::process::Command::new("bash")
        .args(["-n", "-c", JOB_SCRIPT])
        .status();
    assert!(check.unwrap().success());
    assert!(!JOB_SCRIPT.contains("set -x\n"), "it would print secrets");
}

#[tokio::test]
async fn a_launch_token_becomes_a_slurm_job() {
    let site = Site::new(TELL);
    let agent = site.agent().await;
    let claims = claims();
    let request = site.request(&claims);
    let id = agent.start(&request).await;
    assert_eq!(id, "1");
    let environment = until_written(&site.slurm_job(&id).join("environment.seen")).await;
    for line in [
        "SLURM_JOB_ID=1".to_owned(),
        "SLURM_JOB_USER=alice".into(),
        "SLURM_JOB_NAME=gha-slurm-test-1".into(),
        "SLURM_RESTART_COUNT=0".into(),
        "SLURM_CLUSTER_NAME=main".into(),
        format!("GHA_SLURM_LAUNCH={}", claims.sub),
        format!("GHA_SLURM_LAUNCH_TOKEN={}", request.launcher_token),
        "GHA_SLURM_TOKEN_URL=http://127.0.0.1:1".into(),
        "GHA_SLURM_IDLE_DEADLINE_S=120".into(),
        format!(
            "GHA_SLURM_BUILD_POLICY={}",
            BuildPolicy::default().for_hook(1)
        ),
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line}\n{environment}"
        );
    }
    assert!(
        environment
            .lines()
            .any(|l| l.starts_with("SLURMD_NODENAME="))
    );
    assert!(
        !environment.contains("GHA_SLURM_MUNGE__"),
        "the agent's settings stay with it"
    );
    // The next token of the same launch, as the launcher signs one for each attempt.
    assert_eq!(agent.start(&site.request(&next_claims(&claims))).await, id);
    assert_eq!(site.slurm_jobs(), 1);
    assert!(!agent.log().contains(&request.launcher_token));
    assert!(
        agent.log().contains("For demos and tests only"),
        "{}",
        agent.log()
    );
    let entry = std::fs::read_to_string(site.entry(claims.sub)).unwrap();
    assert!(!entry.contains(&request.launcher_token));
    agent.stop();
}

fn next_claims(claims: &gha_slurm_contract::LaunchClaims) -> gha_slurm_contract::LaunchClaims {
    gha_slurm_contract::LaunchClaims {
        jti: uuid::Uuid::new_v4(),
        ..claims.clone()
    }
}

#[tokio::test]
async fn the_trace_goes_on_into_the_job_script() {
    let site = Site::new(TELL);
    let agent = site.agent().await;
    let id = agent.start(&site.request(&claims())).await;
    let environment = until_written(&site.slurm_job(&id).join("environment.seen")).await;
    let trace = TRACEPARENT.get(..35).unwrap();
    assert!(
        environment.contains(&format!("TRACEPARENT={trace}")),
        "{environment}"
    );
    agent.stop();
}

#[tokio::test]
async fn concurrent_duplicates_are_one_slurm_job() {
    let site = Site::new("echo x >> \"$GHA_SLURM_RUNNER_DIR/starts/$GHA_SLURM_LAUNCH\"");
    let agent = site.agent().await;
    let claims = claims();
    let request = site.request(&claims);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        calls.spawn(agent.ask(&request));
    }
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.push(answer.unwrap().unwrap().text().await.unwrap());
    }
    answers.dedup();
    assert_eq!(answers, [r#"{"status":"OK!","slurmJobId":"1"}"#]);
    until_written(&site.path("starts").join(claims.sub.to_string())).await;
    assert_eq!((site.slurm_jobs(), site.starts(claims.sub)), (1, 1));
    agent.stop();
}

async fn refusal(
    agent: &Agent,
    request: &gha_slurm_contract::launch_token::StartRequest,
) -> Problem {
    let response = agent.ask(request).await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status);
    problem
}

#[tokio::test]
async fn what_the_token_does_not_say_is_refused() {
    let site = Site::new("");
    let agent = site.agent().await;
    let claims = claims();
    let good = site.request(&claims);
    for (key, request) in [
        (
            "gitHubURL",
            json!({"gitHubURL": "https://github.com/evil/widgets"}),
        ),
        ("runnerLabels", json!({"runnerLabels": "self-hosted,gpu"})),
        ("tokenURL", json!({"tokenURL": "https://evil.example"})),
        ("runnerName", json!({"runnerName": "other"})),
    ] {
        let mut body = serde_json::to_value(&good).unwrap();
        body.as_object_mut()
            .unwrap()
            .extend(request.as_object().unwrap().clone());
        let problem = refusal(&agent, &serde_json::from_value(body).unwrap()).await;
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (422, "request_differs_from_token")
        );
        assert!(problem.detail.unwrap().contains(key));
    }
    let elsewhere = gha_slurm_contract::LaunchClaims {
        cluster: "other".into(),
        ..claims.clone()
    };
    let problem = refusal(&agent, &site.request(&elsewhere)).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (422, "cluster_wrong")
    );

    // Whatever answers a node says what runs as the user.
    for url in [
        "https://evil.example",
        "http://127.0.0.1:1.evil.example",
        "http://127.0.0.1:1@evil.example",
        "http://127.0.0.1:1/evil",
        "https://127.0.0.1:1",
    ] {
        let foreign = gha_slurm_contract::LaunchClaims {
            token_url: url.into(),
            ..self::claims()
        };
        let problem = refusal(&agent, &site.request(&foreign)).await;
        assert_eq!((problem.status, &*problem.code), (422, "policy_refused"));
        assert!(
            problem.detail.unwrap().contains("token_broker.urls"),
            "{url}"
        );
    }

    // The parser here reads a `\` as `/`, and curl on the node what is before an `@` as a user: the node gets the setting's text.
    let told = Site::new(TELL);
    let other = told.agent().await;
    let odd = gha_slurm_contract::LaunchClaims {
        token_url: "http://127.0.0.1:1\\@evil.example/..".into(),
        ..self::claims()
    };
    let id = other.start(&told.request(&odd)).await;
    let environment = until_written(&told.slurm_job(&id).join("environment.seen")).await;
    let url = "GHA_SLURM_TOKEN_URL=http://127.0.0.1:1\n";
    assert!(environment.contains(url), "{environment}");
    other.stop();

    let now = chrono::Utc::now().timestamp();
    let expired = gha_slurm_contract::LaunchClaims {
        exp: now - 60,
        ..claims.clone()
    };
    let stranger = gha_slurm_contract::LaunchClaims {
        iss: "another deployment".into(),
        ..claims.clone()
    };
    let forged = {
        let mut request = good.clone();
        request
            .launcher_token
            .truncate(request.launcher_token.len() - 8);
        request.launcher_token.push_str("AAAAAAAA");
        request
    };
    for request in [site.request(&expired), site.request(&stranger), forged] {
        let problem = refusal(&agent, &request).await;
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (401, "launch_token_invalid")
        );
    }
    assert_eq!(site.slurm_jobs(), 0);
    assert!(!site.entry(claims.sub).exists());
    agent.stop();
}

#[tokio::test]
async fn a_job_script_that_cannot_be_read_delays() {
    let site = Site::new("");
    let agent = site.agent().await;
    let request = site.request(&claims());
    std::fs::remove_file(site.path("script")).unwrap();
    let response = agent.ask(&request).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    std::fs::write(site.path("script"), "").unwrap();
    assert_eq!(agent.start(&request).await, "1");
    agent.stop();
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let broker = MockServer::start().await;
    let site = Site::new("").with(
        "KEYS__JWKS_URL",
        &format!("{}/.well-known/jwks.json", broker.uri()),
    );
    let serve = async |times: wiremock::Times| {
        broker.reset().await;
        Mock::given(path("/.well-known/jwks.json"))
            .respond_with(
                ResponseTemplate::new(200).set_body_json(site.keys.key_set().unwrap().to_jwks()),
            )
            .expect(times)
            .mount(&broker)
            .await;
    };
    // The broker is not there yet: not ready, and nothing is said about a token.
    let mut agent = site.spawn();
    let request = site.request(&claims());
    let status = gha_slurm_test_support::wait_until("it answers", crate::DEADLINE, || async {
        Some(agent.ask(&request).await.ok()?.status())
    })
    .await;
    assert_eq!(status, 503);
    serve(1.into()).await;
    agent.ready().await;
    agent.start(&request).await;
    // Rotated. However many unknown keys are named, the broker is asked rarely.
    site.keys.generate(2).unwrap();
    let rotated = site.request(&claims());
    let first = agent.ask(&rotated).await.unwrap().status();
    assert!(first == 401 || first.is_success(), "{first}");
    broker.verify().await;
    serve((1..).into()).await;
    gha_slurm_test_support::wait_until("the new key is known", crate::DEADLINE, || async {
        agent
            .ask(&rotated)
            .await
            .unwrap()
            .status()
            .is_success()
            .then_some(())
    })
    .await;
    assert!(broker.received_requests().await.unwrap().len() <= 2);
    agent.stop();
}
