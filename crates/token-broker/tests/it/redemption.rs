use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use gha_slurm_auth::KeyFolder;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_domain::launch::{Happening, Why};
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmState};
use gha_slurm_test_support::wait_until;
use serde_json::{Value, json};
use wiremock::matchers::{body_partial_json, method, path, path_regex, query_param};
use wiremock::{Mock, ResponseTemplate};

use crate::support::{Broker, JIT, SERVICE_TOKEN};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_token_becomes_a_runner_once() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();

    let first = broker.redeem(launch, 77).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.body["mode"], "jit");
    assert_eq!(first.body["encodedJitConfig"], "jit-900");
    assert_eq!(first.body["url"], "https://github.com/acme/widgets");
    assert_eq!(first.body["labels"], json!(["self-hosted", "slurm"]));
    assert!(first.body["token"].is_null());

    // A workflow step that has read the launch token is another Slurm job, or too late.
    let thief = broker.redeem(launch, 78).await;
    assert_eq!(
        (thief.status, &thief.body["code"]),
        (409, &json!("redeemed"))
    );
    let progress = first.body["progressToken"].as_str().unwrap();
    let listening = broker
        .progress(progress, json!({"phase": "listening"}))
        .await;
    assert_eq!(listening.status, 204, "{}", listening.body);
    let late = broker.redeem(launch, 77).await;
    assert_eq!(late.status, 409, "{}", late.body);
    assert_eq!(broker.github_calls("POST", "generate-jitconfig").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_slurm_job_may_ask_again_until_it_listens() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    Mock::given(method("DELETE"))
        .and(path("/repos/acme/widgets/actions/runners/900"))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&broker.github)
        .await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let first = broker.redeem(launch, 77).await;
    let again = broker.redeem(launch, 77).await;
    assert_eq!(again.body["encodedJitConfig"], "jit-901", "{}", again.body);
    assert_ne!(first.body["name"], again.body["name"]);
    // The earlier progress token is worth nothing now.
    let old = first.body["progressToken"].as_str().unwrap();
    let answer = broker.progress(old, json!({"phase": "listening"})).await;
    assert_eq!(answer.status, 401);
}

/// Any process of the same user can read a launch token before its runner listens. A hundred redemptions used up the calls to GitHub of
/// all repositories: each asked for the runners of all before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_token_is_redeemed_a_few_times_at_a_constant_price() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    Mock::given(method("DELETE"))
        .and(path_regex("^/repos/acme/widgets/actions/runners/[0-9]+$"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&broker.github)
        .await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let mut redeemed: usize = 0;
    let end = loop {
        let answer = broker.redeem(launch, 77).await;
        match answer.status {
            200 => redeemed += 1,
            429 => {
                assert_eq!(answer.body["code"], "redeemed_too_soon");
                let pause: u64 = answer.retry_after.unwrap().parse().unwrap();
                assert!((1..=321).contains(&pause), "{pause}");
                let passes = "UPDATE runners SET created_at = created_at - interval '1 second' * ";
                broker.execute(&format!("{passes}{pause}")).await;
            }
            _ => break answer,
        }
        assert!(redeemed <= 8, "it is redeemed without end");
        let calls = broker.github_calls("", "/runners").await;
        // Each deletes the one before it, and registers.
        assert_eq!(calls, 2 * redeemed - 1);
    };
    assert_eq!((end.status, redeemed), (410, 8), "{}", end.body);
    let detail = end.body["detail"].as_str().unwrap();
    assert!(detail.contains("redeemed 8 times"), "{detail}");
    let over = "SELECT (outcome->>'kind') || ' ' || in_supply || ' ' || (deregister_at <= now()) FROM launches";
    assert_eq!(broker.query(over).await, ["redeemed_too_often false true"]);
    let failures = "SELECT failures FROM runner_classes";
    assert_eq!(broker.query(failures).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_nodes_call_back_for_one_workflow_job() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let launches = broker.submitted(10).await;
    broker.cancel(1..=9).await;
    let calls = launches
        .iter()
        .enumerate()
        .map(|(job, launch)| broker.redeem(*launch, 100 + job as u32));
    let answers = futures_util::future::join_all(calls).await;
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for answer in &answers {
        *statuses.entry(answer.status).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 1), (410, 9)]));
    assert_eq!(broker.github_calls("POST", "generate-jitconfig").await, 1);
    let withdrawn = broker
        .query(
            "SELECT count(*) FROM launches WHERE outcome->>'kind' = 'withdrawn' AND NOT in_supply",
        )
        .await;
    assert_eq!(withdrawn, ["9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_github_is_503_and_the_next_call_cleans_up() {
    let broker = Broker::start().await;
    Mock::given(method("POST"))
        .and(path(JIT))
        .respond_with(ResponseTemplate::new(502))
        .up_to_n_times(1)
        .mount(&broker.github)
        .await;
    broker.github_registers().await;
    // The 502 came from a proxy: GitHub had made the runner all the same.
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let name = gha_slurm_domain::naming::runner_name("gha-slurm", "test", launch, 1);
    Mock::given(method("GET"))
        .and(path("/repos/acme/widgets/actions/runners"))
        .and(query_param("name", &name))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({
            "total_count": 1,
            "runners": [{"id": 55, "name": name, "busy": false, "status": "offline"}]
        })))
        .expect(1)
        .mount(&broker.github)
        .await;
    Mock::given(method("DELETE"))
        .and(path("/repos/acme/widgets/actions/runners/55"))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&broker.github)
        .await;
    let first = broker.redeem(launch, 77).await;
    assert_eq!(first.status, 503, "{}", first.body);
    assert!(first.retry_after.is_some());
    let second = broker.redeem(launch, 77).await;
    assert_eq!(second.status, 200, "{}", second.body);
    assert_eq!(second.body["name"], format!("{name}-2"));
}

/// Three of 214 registrations stayed at GitHub: the third attempt cleared only the name before it.
#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_that_fail_in_a_row_leave_no_registration() {
    let broker = Broker::start().await;
    // GitHub had made the runners all the same.
    Mock::given(method("POST"))
        .and(path(JIT))
        .respond_with(ResponseTemplate::new(502))
        .up_to_n_times(2)
        .mount(&broker.github)
        .await;
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let name =
        |attempt| gha_slurm_domain::naming::runner_name("gha-slurm", "test", launch, attempt);
    for (attempt, id) in [(1, 55), (2, 56)] {
        // The first look at either fails.
        Mock::given(method("GET"))
            .and(path("/repos/acme/widgets/actions/runners"))
            .and(query_param("name", name(attempt)))
            .respond_with(ResponseTemplate::new(502))
            .up_to_n_times(1)
            .mount(&broker.github)
            .await;
        let found = json!([{"id": id, "name": name(attempt), "busy": false, "status": "offline"}]);
        broker.github_finds(Some(&name(attempt)), found).await;
        Mock::given(method("DELETE"))
            .and(path(format!("/repos/acme/widgets/actions/runners/{id}")))
            .respond_with(ResponseTemplate::new(204))
            .expect(1..)
            .mount(&broker.github)
            .await;
    }
    broker.github_finds(None, json!([])).await;
    loop {
        let answer = broker.redeem(launch, 77).await;
        match answer.status {
            200 => break,
            429 => {
                let passes = "UPDATE runners SET created_at = created_at - interval '1 hour'";
                broker.execute(passes).await;
            }
            status => assert_eq!(status, 503, "{}", answer.body),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_left_for_another() {
    let broker = Broker::start().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let name = gha_slurm_domain::naming::runner_name("gha-slurm", "test", launch, 1);
    Mock::given(method("POST"))
        .and(path(JIT))
        .and(body_partial_json(json!({"name": name})))
        .respond_with(
            ResponseTemplate::new(409).set_body_json(json!({"message": "Already exists"})),
        )
        .expect(1)
        .mount(&broker.github)
        .await;
    broker.github_registers().await;
    broker.github_finds(None, json!([])).await;
    let answer = broker.redeem(launch, 77).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["name"], format!("{name}-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_while_registering_is_deleted_again() {
    let broker = Broker::start().await;
    broker.github_registers_what_is_deleted().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let withdraw = async {
        wait_until(
            "the runner is being registered",
            Duration::from_secs(10),
            || async {
                let calls = broker.github_calls("POST", "generate-jitconfig").await;
                (calls == 1).then_some(())
            },
        )
        .await;
        let not_wanted = Happening::NotWanted(Why::NoDemand);
        broker.seed().happen(launch, not_wanted, Utc::now()).await;
    };
    let (answer, ()) = tokio::join!(broker.redeem(launch, 77), withdraw);
    assert_eq!(answer.status, 410, "{}", answer.body);
}

/// Its node called back after its repository was renamed: GitHub answered 307, five times.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_repository_gets_its_runner() {
    let broker = Broker::start().await;
    let moved = format!(
        "{}/repositories/4711/actions/runners/generate-jitconfig",
        broker.github.uri()
    );
    Mock::given(method("POST"))
        .and(path(JIT))
        .respond_with(ResponseTemplate::new(307).insert_header("location", moved))
        .mount(&broker.github)
        .await;
    let made = json!({"runner": {"id": 900}, "encoded_jit_config": "jit-900"});
    Mock::given(method("POST"))
        .and(path(
            "/repositories/4711/actions/runners/generate-jitconfig",
        ))
        .respond_with(ResponseTemplate::new(201).set_body_json(made))
        .mount(&broker.github)
        .await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let answer = broker.redeem(launch, 77).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["encodedJitConfig"], "jit-900");
}

/// The App's key was changed, or the clock of this machine is wrong: launches ended, as if GitHub had refused their runners.
#[tokio::test(flavor = "multi_thread")]
async fn the_apps_own_refusal_ends_no_launch() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    Mock::given(path_regex("^/app/installations/11/access_tokens$"))
        .respond_with(
            ResponseTemplate::new(401)
                .set_body_json(json!({"message": "A JSON web token could not be decoded"})),
        )
        .with_priority(1)
        .up_to_n_times(1)
        .mount(&broker.github)
        .await;
    // What an earlier attempt may have registered is looked up.
    broker.github_finds(None, json!([])).await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let first = broker.redeem(launch, 77).await;
    assert_eq!(
        (first.status, &first.body["code"]),
        (503, &json!("github_unavailable"))
    );
    assert!(first.retry_after.is_some());
    let states = "SELECT state || ' ' || in_supply FROM launches";
    assert_eq!(broker.query(states).await, ["redeeming true"]);
    let read = async |path: &str| {
        let url = format!("{}{path}", broker.operations);
        broker.http.get(url).send().await.unwrap().text().await
    };
    let is_shown = async |expected: bool| {
        let ready = read("/health/ready").await.unwrap();
        let metrics = read("/metrics").await.unwrap();
        let metric = format!("gha_slurm_github_app_refused {}", u8::from(expected));
        let is_shown = ready.contains("private_key") == expected && metrics.contains(&metric);
        is_shown.then_some(()).ok_or(ready)
    };
    wait_until("people are told", DEADLINE, || is_shown(true)).await;

    let second = broker.redeem(launch, 77).await;
    assert_eq!(second.status, 200, "{}", second.body);
    wait_until("it is over", DEADLINE, || is_shown(false)).await;
}

/// A proxy's page is no verdict on a runner.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_githubs_ends_no_launch() {
    let broker = Broker::start().await;
    Mock::given(method("POST"))
        .and(path(JIT))
        .respond_with(ResponseTemplate::new(200).set_body_string("<html>Log in first</html>"))
        .up_to_n_times(1)
        .mount(&broker.github)
        .await;
    broker.github_registers().await;
    broker.github_finds(None, json!([])).await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    assert_eq!(broker.redeem(launch, 77).await.status, 503);
    assert_eq!(broker.redeem(launch, 77).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_github_ends_the_runner_with_githubs_words() {
    let broker = Broker::start().await;
    Mock::given(method("POST"))
        .and(path(JIT))
        .respond_with(
            ResponseTemplate::new(403)
                .set_body_json(json!({"message": "Resource not accessible by integration"})),
        )
        .mount(&broker.github)
        .await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let answer = broker.redeem(launch, 77).await;
    assert_eq!(answer.status, 410);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("Resource not accessible"), "{detail}");
    let states = broker
        .query("SELECT state || ' ' || in_supply || ' ' || (outcome->>'kind') FROM launches")
        .await;
    assert_eq!(states, ["over false refused_by_github"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmapped_or_suspended_repository_gets_nothing() {
    let broker = Broker::start().await;
    let [first, second] = broker.submitted(2).await.try_into().unwrap();
    broker
        .execute("UPDATE installations SET suspended = true")
        .await;
    let answer = broker.redeem(first, 77).await;
    assert_eq!(answer.status, 410, "{}", answer.body);
    broker
        .execute("UPDATE installations SET suspended = false")
        .await;
    broker.execute("DELETE FROM repository_mappings").await;
    let answer = broker.redeem(second, 78).await;
    assert_eq!(answer.status, 410, "{}", answer.body);
    let requests = broker
        .query("SELECT repository_id FROM replan_requests")
        .await;
    assert_eq!(requests, ["4711"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_ours_are_401() {
    let broker = Broker::start().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let body = || Some(json!({"slurmJobId": "1", "node": "n1"}));
    let expired = Broker::claims(launch, Utc::now() - TimeDelta::hours(2));
    let mut elsewhere = Broker::claims(launch, Utc::now());
    elsewhere.iss = "another-deployment".into();
    let mut other_audience = Broker::claims(launch, Utc::now());
    other_audience.aud = vec!["gha-slurm-munge".into()];
    let strangers = tempfile::tempdir().unwrap();
    KeyFolder::new(strangers.path()).generate(1).unwrap();
    for (authorization, code) in [
        (String::new(), "token_missing"),
        ("Bearer nonsense".into(), "launch_token_invalid"),
        ("Bearer a.b.c".into(), "launch_token_invalid"),
        (
            format!("Bearer {}", broker.sign(&expired)),
            "launch_token_expired",
        ),
        (
            format!("Bearer {}", broker.sign(&elsewhere)),
            "launch_token_invalid",
        ),
        (
            format!("Bearer {}", broker.sign(&other_audience)),
            "launch_token_invalid",
        ),
    ] {
        let answer = broker.post("/gha/runner", &authorization, body()).await;
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!(code)));
    }
    let unknown = broker.redeem(LaunchId(uuid::Uuid::now_v7()), 1).await;
    assert_eq!(unknown.status, 410, "{}", unknown.body);
    let wrong = broker
        .redeem_as(launch, json!({"slurmJobId": "1; reboot", "node": "n"}))
        .await;
    assert_eq!(
        (wrong.status, &wrong.body["code"]),
        (400, &json!("slurm_job_id_invalid"))
    );
    let unknown_field = broker
        .redeem_as(launch, json!({"slurmJobId": "1", "nodes": "n"}))
        .await;
    assert_eq!(unknown_field.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_known_without_a_restart() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let kid = KeyFolder::new(broker.keys.path())
        .generate(Utc::now().timestamp())
        .unwrap();
    wait_until("agents see the new key", DEADLINE, || async {
        let set = broker.get("/.well-known/jwks.json").await;
        let mut keys = set.body["keys"].as_array().unwrap().iter();
        keys.any(|key| key["kid"] == kid.as_str()).then_some(())
    })
    .await;
    assert_eq!(broker.redeem(launch, 77).await.status, 200);
}

/// Whoever read a launch token on a node once asked for a registration token with it, and registered a runner that stayed.
#[tokio::test(flavor = "multi_thread")]
async fn registration_tokens_are_given_where_the_settings_allow_them() {
    let broker = Broker::start().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let body = json!({"slurmJobId": "77", "node": "n1", "mode": "registration"});
    let for_registration = broker.token_for_registration(launch);
    let authorization = format!("Bearer {for_registration}");
    let asked = broker
        .post("/gha/runner", &authorization, Some(body.clone()))
        .await;
    assert_eq!(
        (asked.status, &asked.body["code"]),
        (403, &json!("registration_tokens_off"))
    );
    let original = broker.post("/gha/runner", &for_registration, None).await;
    assert_eq!(
        (original.status, &original.body["code"]),
        (403, &json!("original_contract_off"))
    );
    // Nothing has happened to the launch, and nobody asked GitHub.
    assert!(broker.github.received_requests().await.unwrap().is_empty());
    // Nor does the body of a call decide.
    broker.github_registers().await;
    assert_eq!(broker.redeem_as(launch, body).await.body["mode"], "jit");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_launch_token_decides_which_runner_token_it_is_good_for() {
    let broker = Broker::start_with(&[
        ("RUNNERS__ORIGINAL_CONTRACT", "true"),
        ("RUNNERS__REGISTRATION_TOKENS", "true"),
    ])
    .await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let original = broker
        .post("/gha/runner", &broker.token(launch), None)
        .await;
    assert_eq!(
        (original.status, &original.body["code"]),
        (403, &json!("mode_differs"))
    );
    broker.github_registers().await;
    let body = json!({"slurmJobId": "8", "node": "n1", "mode": "registration"});
    assert_eq!(broker.redeem_as(launch, body).await.body["mode"], "jit");
}

/// The user of a pending Slurm job can read its script, and the launch token with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_token_is_good_once_slurm_has_started_its_job() {
    let broker = Broker::start_with(&[("RUNNERS__ORIGINAL_CONTRACT", "true")]).await;
    let [launch, of_original] = broker.submitted(2).await.try_into().unwrap();
    let (seed, now) = (broker.seed(), Utc::now());
    seed.submitted(launch, Some("7"), now).await;
    seed.submitted(of_original, Some("8"), now).await;
    broker.github_registers().await;
    let raw = broker.token_for_registration(of_original);
    for state in [None, Some(SlurmState::Pending)] {
        if let Some(state) = state {
            seed.reported(launch, state, now).await;
            seed.reported(of_original, state, now).await;
        }
        let early = broker.redeem(launch, 7).await;
        assert_eq!(
            (early.status, &early.body["code"]),
            (503, &json!("not_started"))
        );
        let early = broker.post("/gha/runner", &raw, None).await;
        assert_eq!(
            (early.status, &early.body["code"]),
            (503, &json!("not_started"))
        );
    }
    assert!(broker.github.received_requests().await.unwrap().is_empty());
    // What is known while a call waits counts at once.
    let (redeemed, ()) = tokio::join!(
        broker.redeem(launch, 7),
        seed.reported(launch, SlurmState::Running, now)
    );
    assert_eq!(redeemed.status, 200, "{}", redeemed.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_contract_is_answered_once() {
    let broker = Broker::start_with(&[
        ("RUNNERS__ORIGINAL_CONTRACT", "true"),
        ("RUNNERS__REGISTRATION_TOKENS", "true"),
    ])
    .await;
    Mock::given(method("POST"))
        .and(path(
            "/repos/acme/widgets/actions/runners/registration-token",
        ))
        .respond_with(ResponseTemplate::new(201).set_body_json(
            json!({"token": "AAAA", "expires_at": Utc::now() + TimeDelta::hours(1)}),
        ))
        .expect(1)
        .mount(&broker.github)
        .await;
    let [first, second] = broker.submitted(2).await.try_into().unwrap();
    let seed = broker.seed();
    seed.submitted(first, Some("7"), Utc::now()).await;
    seed.reported(first, SlurmState::Running, Utc::now()).await;
    let raw = broker.token_for_registration(first);
    let answer = broker.post("/gha/runner", &raw, None).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, json!({"token": "AAAA"}))
    );
    assert_eq!(broker.post("/gha/runner", &raw, None).await.status, 409);
    // It is bound to the launch's Slurm job, which the call did not name.
    let bound = "SELECT slurm_job_id FROM runners";
    assert_eq!(broker.query(bound).await, ["7"]);
    // Another runner of the repository: the token comes from the cache.
    let authorization = format!("Bearer {}", broker.token_for_registration(second));
    let body = json!({"slurmJobId": "8", "node": "n1"});
    let answer = broker.post("/gha/runner", &authorization, Some(body)).await;
    assert_eq!(answer.body["token"], "AAAA", "{}", answer.body);
    assert!(answer.body["expiresAt"].is_string());
    let go = answer.body["progressToken"].as_str().unwrap();
    assert_eq!(
        broker
            .progress(go, json!({"phase": "registered"}))
            .await
            .status,
        204
    );
    let finished = json!({"phase": "finished", "reason": "signal"});
    assert_eq!(broker.progress(go, finished).await.status, 204);
    assert_eq!(
        broker
            .progress(go, json!({"phase": "registered"}))
            .await
            .status,
        410
    );
}

/// Each stranger's call once read the folder.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_is_answered_from_memory_and_not_without_end() {
    let broker = Broker::start().await;
    let keys = "/.well-known/jwks.json";
    let before = broker.get(keys).await.body;
    KeyFolder::new(broker.keys.path()).generate(2).unwrap();
    let mut last = 0;
    for _ in 0..300 {
        let url = format!("{}{keys}", broker.url);
        let answer = broker
            .http
            .get(url)
            .header("x-forwarded-for", "203.0.113.7");
        last = answer.send().await.unwrap().status().as_u16();
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 429, "a stranger may read it without end");
    // Agents elsewhere are answered, and see the new key soon.
    wait_until("the new key is there", DEADLINE, || async {
        let now = broker.get(keys).await;
        assert_eq!(now.status, 200);
        (now.body != before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn says_whether_the_app_is_installed() {
    let broker = Broker::start().await;
    Mock::given(method("GET"))
        .and(path("/repos/acme/widgets/installation"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": 11})))
        .mount(&broker.github)
        .await;
    Mock::given(method("GET"))
        .and(path_regex("^/repos/acme/gadgets/installation$"))
        .respond_with(ResponseTemplate::new(404).set_body_json(json!({"message": "Not Found"})))
        .mount(&broker.github)
        .await;
    let asked = |repository: &str| format!("/gha/installations?url={repository}");
    for (repository, status, answer) in [
        ("https://github.com/acme/widgets", 200, json!(true)),
        ("acme/gadgets", 200, json!(false)),
        ("https://evil.example/a/b", 400, Value::Null),
    ] {
        let told = broker.get_with(&asked(repository), SERVICE_TOKEN).await;
        assert_eq!(told.status, status, "{repository}: {}", told.body);
        assert!(status != 200 || told.body == answer, "{repository}");
    }

    // A node may ask about its own repository.
    let launch = broker.submitted(1).await[0];
    let token = broker.token(launch);
    let own = broker.get_with(&asked("acme/widgets"), &token).await;
    assert_eq!((own.status, own.body), (200, json!(true)));
    let before = broker.github.received_requests().await.unwrap().len();
    let others = broker.get_with(&asked("acme/gadgets"), &token).await;
    assert_eq!(
        (others.status, &others.body["code"]),
        (403, &json!("another_repository"))
    );
    // Nobody else, and GitHub is not asked for them.
    let nobody = broker.get(&asked("acme/widgets")).await;
    assert_eq!(
        (nobody.status, &nobody.body["code"]),
        (401, &json!("token_missing"))
    );
    let wrong = broker.get_with(&asked("acme/widgets"), "a-guess").await;
    assert_eq!(wrong.status, 401);
    assert_eq!(
        broker.github.received_requests().await.unwrap().len(),
        before
    );
}

/// GitHub has the App, and one repository on which it is installed.
async fn github_has_widgets(broker: &Broker) {
    for (name, answer) in [
        ("/repos/acme/widgets/installation", json!({"id": 11})),
        (
            "/repos/acme/widgets",
            json!({"id": 7, "full_name": "Acme/Widgets", "private": true}),
        ),
        (
            "/app",
            json!({"html_url": "https://github.com/apps/gha-slurm"}),
        ),
    ] {
        Mock::given(method("GET"))
            .and(path(name))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount(&broker.github)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_learns_what_the_app_sees_of_a_repository() {
    let broker = Broker::start().await;
    github_has_widgets(&broker).await;
    let asked = |repository: &str| format!("/gha/repositories?url={repository}");
    let found = broker.get_with(&asked("acme/widgets"), SERVICE_TOKEN).await;
    let widgets =
        json!({"id": 7, "fullName": "Acme/Widgets", "private": true, "installationId": 11});
    assert_eq!((found.status, found.body), (200, widgets));
    let other = broker.get_with(&asked("acme/gadgets"), SERVICE_TOKEN).await;
    assert_eq!(
        (other.status, &other.body["code"]),
        (404, &json!("repository_unreachable"))
    );
    assert_eq!(
        other.body["errors"][0]["link"],
        "https://github.com/apps/gha-slurm/installations/new"
    );
    let wrong = broker
        .get_with(&asked("https://evil.example/a/b"), SERVICE_TOKEN)
        .await;
    assert_eq!(wrong.status, 400, "{}", wrong.body);

    // Nodes and strangers do not, and GitHub is not asked for them.
    let launch = broker.submitted(1).await[0];
    let of_a_node = broker.token(launch);
    let before = broker.github.received_requests().await.unwrap().len();
    for token in [of_a_node.as_str(), "a-guess"] {
        let refused = broker.get_with(&asked("acme/widgets"), token).await;
        assert_eq!(refused.status, 401, "{}", refused.body);
    }
    let nobody = broker.get(&asked("acme/widgets")).await;
    assert_eq!(nobody.status, 401, "{}", nobody.body);
    assert_eq!(
        broker.github.received_requests().await.unwrap().len(),
        before
    );

    // Trouble at GitHub is told from a repository that is not there.
    Mock::given(method("GET"))
        .and(path("/repos/acme/doodads/installation"))
        .respond_with(ResponseTemplate::new(502))
        .mount(&broker.github)
        .await;
    let trouble = broker.get_with(&asked("acme/doodads"), SERVICE_TOKEN).await;
    assert_eq!(
        (trouble.status, &trouble.body["code"]),
        (503, &json!("github_unavailable"))
    );
    assert!(trouble.retry_after.is_some());
}

/// Each question was two calls to GitHub, whose limit is for all: users of a cluster and nodes can ask in a loop.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_sees_is_asked_of_github_once() {
    let broker = Broker::start().await;
    github_has_widgets(&broker).await;
    for (name, status) in [
        ("acme/widgets", 200),
        ("Acme/Widgets", 200),
        ("acme/none", 404),
        ("acme/none", 404),
    ] {
        let asked = format!("/gha/repositories?url={name}");
        let answer = broker.get_with(&asked, SERVICE_TOKEN).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    // The installation of each, and the one repository.
    assert_eq!(broker.github_calls("GET", "/repos/").await, 3);

    let launch = broker.submitted(1).await[0];
    let token = broker.token(launch);
    let own = "/gha/installations?url=acme/widgets";
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..20 {
        let answer = broker.get_with(own, &token).await;
        *statuses.entry(answer.status).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 6), (429, 14)]));
    assert_eq!(broker.github_calls("GET", "/repos/").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_over_learns_nothing_about_installations() {
    let broker = Broker::start().await;
    let launch = broker.submitted(1).await[0];
    broker.cancel(1..=1).await;
    let not_wanted = Happening::NotWanted(Why::NoDemand);
    broker.seed().happen(launch, not_wanted, Utc::now()).await;
    let unknown = LaunchId(uuid::Uuid::now_v7());
    for launch in [launch, unknown] {
        let own = "/gha/installations?url=acme/widgets";
        let answer = broker.get_with(own, &broker.token(launch)).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (410, &json!("not_wanted"))
        );
    }
    assert!(broker.github.received_requests().await.unwrap().is_empty());
}

/// Neither the key of launch tokens nor the database alone decides whose account is spent and which repository's code runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_token_says_of_its_launch_what_the_database_does() {
    let broker = Broker::start().await;
    let launch = broker.submitted(1).await[0];
    let own = Broker::claims(launch, Utc::now());
    let charged = |account: &str| ResourceRequest {
        account: Some(account.into()),
        ..ResourceRequest::default()
    };
    for differing in [
        LaunchClaims {
            slurm_user: "bin".parse().unwrap(),
            ..own.clone()
        },
        LaunchClaims {
            repository_id: own.repository_id + 1,
            ..own.clone()
        },
        LaunchClaims {
            cluster: "other".into(),
            ..own.clone()
        },
        LaunchClaims {
            resources: charged("physics"),
            ..own.clone()
        },
    ] {
        let token = broker.sign(&differing);
        let body = json!({"slurmJobId": "100", "node": "n1"});
        let answer = broker
            .post("/gha/runner", &format!("Bearer {token}"), Some(body))
            .await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (403, &json!("launch_differs")),
            "{}",
            answer.body
        );
        let path = "/gha/installations?url=acme/widgets";
        assert_eq!(broker.get_with(path, &token).await.status, 403);
    }
}
