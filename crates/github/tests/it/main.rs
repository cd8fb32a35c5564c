//! The client against single recorded-shape answers; the whole conversation is tested against the simulator.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use chrono::{TimeDelta, Utc};
use gha_slurm_domain::{Clock, InstallationId, LabelSet, RepositoryFullName, RepositoryId};
use gha_slurm_github::{Deletion, Github, GithubError, Scope};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use wiremock::matchers::{body_json, header, method, path, path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

fn private_key() -> SecretString {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n").into()
}

async fn client() -> (MockServer, Github, Scope) {
    let server = MockServer::start().await;
    let github = Github::new(&server.uri(), 7, &private_key(), None, Clock::system()).unwrap();
    let scope = Scope {
        installation: InstallationId(11),
        repository: RepositoryId(42),
        name: RepositoryFullName::new("acme", "widgets").unwrap(),
    };
    (server, github, scope)
}

async fn token(server: &MockServer, permissions: serde_json::Value, times: u64) {
    Mock::given(method("POST"))
        .and(path("/app/installations/11/access_tokens"))
        .and(body_json(
            json!({"repository_ids": [42], "permissions": permissions}),
        ))
        .respond_with(ResponseTemplate::new(201).set_body_json(
            json!({"token": "ghs_narrow", "expires_at": Utc::now() + TimeDelta::hours(1)}),
        ))
        .expect(times)
        .mount(server)
        .await;
}

#[tokio::test]
async fn a_registration_token_is_asked_for_once_with_a_narrowed_credential() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    Mock::given(method("POST"))
        .and(path(
            "/repos/acme/widgets/actions/runners/registration-token",
        ))
        .and(header("authorization", "Bearer ghs_narrow"))
        .respond_with(
            ResponseTemplate::new(201)
                .set_delay(Duration::from_millis(50))
                .set_body_json(
                    json!({"token": "AAAA", "expires_at": Utc::now() + TimeDelta::hours(1)}),
                ),
        )
        .expect(1)
        .mount(&server)
        .await;
    let calls = (0..20).map(|_| {
        let (github, scope) = (github.clone(), scope.clone());
        tokio::spawn(async move { github.registration_token(&scope).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let token = call.await.unwrap().unwrap();
        assert_eq!(token.token.expose_secret(), "AAAA");
    }
}

#[tokio::test]
async fn a_registration_token_near_its_end_is_not_reused() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    Mock::given(method("POST"))
        .and(path(
            "/repos/acme/widgets/actions/runners/registration-token",
        ))
        .respond_with(ResponseTemplate::new(201).set_body_json(
            json!({"token": "AAAA", "expires_at": Utc::now() + TimeDelta::minutes(14)}),
        ))
        .expect(2)
        .mount(&server)
        .await;
    github.registration_token(&scope).await.unwrap();
    github.registration_token(&scope).await.unwrap();
}

#[tokio::test]
async fn a_jit_runner_is_one_call_and_a_500_is_not_repeated() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    let jit = "/repos/acme/widgets/actions/runners/generate-jitconfig";
    Mock::given(method("POST"))
        .and(path(jit))
        .respond_with(ResponseTemplate::new(500))
        .up_to_n_times(1)
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path(jit))
        .and(body_json(json!({
            "name": "r1", "runner_group_id": 1, "labels": ["gpu", "self-hosted"], "work_folder": "_work",
        })))
        .respond_with(ResponseTemplate::new(201).set_body_json(
            json!({"runner": {"id": 5, "name": "r1"}, "encoded_jit_config": "e30="}),
        ))
        .expect(1)
        .mount(&server)
        .await;
    let labels: LabelSet = ["self-hosted", "GPU"].into_iter().collect();
    let error = github
        .create_jit_runner(&scope, "r1", &labels)
        .await
        .unwrap_err();
    assert!(matches!(error, GithubError::Unavailable { .. }), "{error}");
    let runner = github
        .create_jit_runner(&scope, "r1", &labels)
        .await
        .unwrap();
    assert_eq!(runner.id, 5);
}

/// A repository was renamed while its launch was queued: five attempts to register a runner failed.
#[tokio::test]
async fn every_call_follows_a_renamed_repository_with_its_method_and_body() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    token(&server, json!({"actions": "read"}), 1).await;
    let base = server.uri();
    let moved = move |request: &wiremock::Request| {
        let status = if request.method.as_str() == "GET" {
            301
        } else {
            307
        };
        let rest = request.url.path().replace("/repos/acme/widgets", "");
        let query = request.url.query().map(|query| format!("?{query}"));
        let query = query.unwrap_or_default();
        let to = format!("{base}/repositories/42{rest}{query}");
        ResponseTemplate::new(status)
            .insert_header("location", to)
            .set_body_json(json!({"message": "Moved Permanently"}))
    };
    Mock::given(path_regex("^/repos/acme/widgets/"))
        .respond_with(moved)
        .mount(&server)
        .await;
    let answer = |verb: &str, at: &str, status: u16, body: serde_json::Value| {
        Mock::given(method(verb))
            .and(path(format!("/repositories/42{at}")))
            .and(header("authorization", "Bearer ghs_narrow"))
            .respond_with(ResponseTemplate::new(status).set_body_json(body))
            .expect(1)
    };
    let labels: LabelSet = ["slurm"].into_iter().collect();
    answer(
        "POST",
        "/actions/runners/generate-jitconfig",
        201,
        json!({"runner": {"id": 5}, "encoded_jit_config": "e30="}),
    )
    .mount(&server)
    .await;
    let runner = github.create_jit_runner(&scope, "r1", &labels).await;
    assert_eq!(runner.unwrap().id, 5);
    let sent = server.received_requests().await.unwrap();
    let sent: serde_json::Value = sent.last().unwrap().body_json().unwrap();
    assert_eq!(sent.get("name"), Some(&json!("r1")));
    let expires_at = Utc::now() + TimeDelta::hours(1);
    answer(
        "POST",
        "/actions/runners/registration-token",
        201,
        json!({"token": "AAAA", "expires_at": expires_at}),
    )
    .mount(&server)
    .await;
    github.registration_token(&scope).await.unwrap();
    answer("DELETE", "/actions/runners/5", 204, json!({}))
        .mount(&server)
        .await;
    let deleted = github.delete_runner(&scope, 5).await.unwrap();
    assert_eq!(deleted, Deletion::Deleted);
    answer("GET", "/actions/runners", 200, json!({"runners": []}))
        .mount(&server)
        .await;
    assert!(github.find_runner(&scope, "r1").await.unwrap().is_none());
    answer("GET", "/actions/runs/9/jobs", 200, json!({"jobs": []}))
        .mount(&server)
        .await;
    github.workflow_jobs_of_run(&scope, 9).await.unwrap();
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    let elsewhere = MockServer::start().await;
    Mock::given(path_regex("^/repos/acme/widgets/"))
        .respond_with(
            ResponseTemplate::new(307)
                .insert_header("location", format!("{}/repositories/42", elsewhere.uri())),
        )
        .mount(&server)
        .await;
    github.delete_runner(&scope, 5).await.unwrap_err();
    github.find_runner(&scope, "r1").await.unwrap_err();
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

/// Its former name is that of another repository now, and it was transferred to where another installation reaches it.
#[tokio::test]
async fn a_call_reaches_a_transferred_repository_by_its_id() {
    let (server, github, scope) = client().await;
    Mock::given(path("/app/installations/11/access_tokens"))
        .respond_with(ResponseTemplate::new(422).set_body_json(
            json!({"message": "There is at least one repository that is not accessible to the parent installation."}),
        ))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/repositories/42/installation"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": 12})))
        .mount(&server)
        .await;
    Mock::given(path("/app/installations/12/access_tokens"))
        .and(body_json(
            json!({"repository_ids": [42], "permissions": {"administration": "write"}}),
        ))
        .respond_with(ResponseTemplate::new(201).set_body_json(json!({"token": "ghs_new"})))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/repositories/42/actions/runners/generate-jitconfig"))
        .and(header("authorization", "Bearer ghs_new"))
        .respond_with(
            ResponseTemplate::new(201)
                .set_body_json(json!({"runner": {"id": 5}, "encoded_jit_config": "e30="})),
        )
        .expect(1)
        .mount(&server)
        .await;
    let labels: LabelSet = ["slurm"].into_iter().collect();
    let runner = github.create_jit_runner(&scope, "r1", &labels).await;
    assert_eq!(runner.unwrap().id, 5);
}

#[tokio::test]
async fn a_revoked_installation_token_is_replaced() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 2).await;
    let runner = "/repos/acme/widgets/actions/runners/5";
    Mock::given(method("DELETE"))
        .and(path(runner))
        .respond_with(
            ResponseTemplate::new(401).set_body_json(json!({"message": "Bad credentials"})),
        )
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(method("DELETE"))
        .and(path(runner))
        .respond_with(ResponseTemplate::new(422))
        .expect(1)
        .mount(&server)
        .await;
    assert_eq!(
        github.delete_runner(&scope, 5).await.unwrap(),
        Deletion::Busy
    );
}

#[tokio::test]
async fn nothing_is_asked_while_a_rate_limit_is_used_up() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    Mock::given(method("DELETE"))
        .respond_with(ResponseTemplate::new(403).insert_header("retry-after", "30"))
        .expect(1)
        .mount(&server)
        .await;
    for _ in 0..3 {
        let error = github.delete_runner(&scope, 5).await.unwrap_err();
        let wait = error.retry_after().unwrap().as_secs();
        assert!((28..=30).contains(&wait), "{error}");
    }
}

/// Two concurrent calls are told to wait: the first for long, the second only briefly.
#[tokio::test]
async fn a_short_pause_does_not_shorten_a_long_one() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    for (id, after_ms, pause) in [(5, 0, "30"), (6, 300, "1")] {
        let refusal = ResponseTemplate::new(403).insert_header("retry-after", pause);
        Mock::given(path(format!("/repos/acme/widgets/actions/runners/{id}")))
            .respond_with(refusal.set_delay(Duration::from_millis(after_ms)))
            .expect(1)
            .mount(&server)
            .await;
    }
    let together = tokio::join!(
        github.delete_runner(&scope, 5),
        github.delete_runner(&scope, 6)
    );
    assert!(together.0.is_err() && together.1.is_err());
    let error = github.delete_runner(&scope, 7).await.unwrap_err();
    assert!(error.retry_after().unwrap().as_secs() > 20, "{error}");
}

/// A primary rate limit that is used up.
fn used_up() -> ResponseTemplate {
    ResponseTemplate::new(403)
        .insert_header("x-ratelimit-limit", "5000")
        .insert_header("x-ratelimit-remaining", "0")
        .insert_header("x-ratelimit-reset", "4000000000")
        .insert_header("retry-after", "30")
}

/// Strangers once made so many look-ups as the App that no runner was registered for 46 s.
#[tokio::test]
async fn a_limit_of_one_kind_of_call_stops_no_other() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    Mock::given(method("GET"))
        .and(path("/repos/acme/widgets/installation"))
        .respond_with(used_up())
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("DELETE"))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&server)
        .await;
    for _ in 0..2 {
        let error = github.installation_of(&scope.name).await.unwrap_err();
        assert!(matches!(error, GithubError::RateLimited { .. }), "{error}");
    }
    // It takes a new installation token, and a call with it.
    github.delete_runner(&scope, 5).await.unwrap();
}

/// What is used up of an installation's own limit is used up for every kind of call.
#[tokio::test]
async fn a_primary_limit_stops_all_calls_of_its_installation() {
    let (server, github, scope) = client().await;
    token(&server, json!({"administration": "write"}), 1).await;
    Mock::given(method("DELETE"))
        .respond_with(used_up())
        .expect(1)
        .mount(&server)
        .await;
    github.delete_runner(&scope, 5).await.unwrap_err();
    let labels = ["slurm"].into_iter().collect();
    let error = github.create_jit_runner(&scope, "r", &labels).await;
    assert!(matches!(error, Err(GithubError::RateLimited { .. })));
}

#[tokio::test]
async fn an_unknown_app_is_no_missing_installation() {
    let (server, github, scope) = client().await;
    Mock::given(path("/repos/acme/widgets/installation"))
        .respond_with(
            ResponseTemplate::new(404).set_body_json(json!({"message": "Integration not found"})),
        )
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/repos/acme/widgets/installation"))
        .respond_with(ResponseTemplate::new(404).set_body_json(json!({"message": "Not Found"})))
        .mount(&server)
        .await;
    let error = github.installation_of(&scope.name).await.unwrap_err();
    assert!(matches!(error, GithubError::Unauthorized { .. }), "{error}");
    assert!(github.app_trouble().unwrap().contains("app_id"));
    assert!(github.installation_of(&scope.name).await.unwrap().is_none());
    assert!(github.app_trouble().is_none());
}

/// That nothing changed costs nothing of the rate limit.
#[tokio::test]
async fn what_was_read_is_asked_for_conditionally() {
    let (server, github, scope) = client().await;
    token(&server, json!({"actions": "read"}), 1).await;
    let jobs = "/repos/acme/widgets/actions/runs/9/jobs";
    let limits = |answer: ResponseTemplate, remaining: &str| {
        answer
            .insert_header("x-ratelimit-limit", "5000")
            .insert_header("x-ratelimit-remaining", remaining)
            .insert_header("x-ratelimit-reset", "4000000000")
    };
    Mock::given(path(jobs))
        .and(header("if-none-match", "\"one\""))
        .respond_with(limits(ResponseTemplate::new(304), "3950"))
        .expect(2)
        .mount(&server)
        .await;
    let job = json!({"id": 1, "run_id": 9, "name": "test", "status": "queued", "labels": []});
    Mock::given(path(jobs))
        .respond_with(limits(
            ResponseTemplate::new(200)
                .insert_header("etag", "\"one\"")
                .set_body_json(json!({"jobs": [job]})),
            "4000",
        ))
        .expect(1)
        .mount(&server)
        .await;
    let first = github.workflow_jobs_of_run(&scope, 9).await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(github.percent_left(Some(scope.installation)).await, 80);
    for _ in 0..2 {
        let again = github.workflow_jobs_of_run(&scope, 9).await.unwrap();
        assert_eq!(again, first);
    }
    assert_eq!(github.percent_left(Some(scope.installation)).await, 79);
    assert_eq!(github.percent_left(None).await, 100, "nothing is known");
}

#[tokio::test]
async fn a_dead_address_is_trouble_not_a_panic() {
    let github = Github::new(
        "http://127.0.0.1:9",
        7,
        &private_key(),
        None,
        Clock::system(),
    )
    .unwrap();
    let name = RepositoryFullName::new("acme", "widgets").unwrap();
    let error = github.installation_of(&name).await.unwrap_err();
    assert!(matches!(error, GithubError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn deliveries_are_read_page_by_page() {
    let (server, github, _) = client().await;
    let at = Utc::now();
    let attempt = |id: i64, minutes: i64, status: &str| {
        json!({"id": id, "guid": format!("g{id}"), "delivered_at": at - TimeDelta::minutes(minutes),
               "status": status, "event": "workflow_job"})
    };
    Mock::given(method("GET"))
        .and(path("/app/hook/deliveries"))
        .and(query_param("cursor", "v1_2"))
        .respond_with(
            ResponseTemplate::new(200)
                .set_body_json(json!([attempt(2, 2, "timed out"), attempt(1, 99, "OK")])),
        )
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/app/hook/deliveries"))
        .respond_with(
            ResponseTemplate::new(200)
                .insert_header(
                    "link",
                    "<https://api.github.com/app/hook/deliveries?per_page=100&cursor=v1_2>; rel=\"next\"",
                )
                .set_body_json(json!([attempt(4, 0, "OK"), attempt(3, 1, "Invalid HTTP Response: 503")])),
        )
        .mount(&server)
        .await;
    let found = github
        .deliveries(at - TimeDelta::minutes(10))
        .await
        .unwrap();
    let failed: Vec<i64> = found
        .iter()
        .filter(|d| !d.succeeded())
        .map(|d| d.id)
        .collect();
    assert_eq!((found.len(), failed), (3, vec![3, 2]));
}

#[test]
fn a_wrong_key_says_so() {
    let Err(error) = Github::new(
        "https://api.github.com",
        7,
        &"nonsense".into(),
        None,
        Clock::system(),
    ) else {
        panic!("accepted");
    };
    assert!(error.to_string().contains("private_key"), "{error}");
}
