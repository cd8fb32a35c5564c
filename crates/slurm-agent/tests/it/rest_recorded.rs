//! v0.0.40 to v0.0.42 of slurmrestd's API, played from `recorded/`. No slurmrestd of these versions runs here: the statuses
//! and what differs between the versions were measured once on Slurm 24.11.5 (Debian 13), and the answers were written after
//! that and after the shapes in Slurm's OpenAPI documents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{AllocationStatus, CallPurpose};
use gha_slurm_domain::{AllocationId, SlurmState};
use gha_slurm_test_support::wait_until;
use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Site, claims};
use crate::real_slurm::{refusal, states};

const SUBMITTED_41: &str = include_str!("recorded/submitted-v0.0.41.json");
const SUBMITTED_42: &str = include_str!("recorded/submitted-v0.0.42.json");
const JOBS: &str = include_str!("recorded/jobs.json");
const INVALID_PARTITION: &str = include_str!("recorded/invalid-partition.json");
const BAD_TOKEN: &str = include_str!("recorded/bad-token.json");
const CANCELLED: &str = include_str!("recorded/cancelled.json");

/// Looks like a token of Slurm's.
fn token() -> String {
    let exp = chrono::Utc::now().timestamp() + 3600;
    let claims = json!({ "exp": exp, "iat": exp - 3600, "sun": "root" }).to_string();
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn site(slurmrestd: &MockServer) -> Site {
    let site = Site::new("");
    let file = site.path("token");
    std::fs::write(&file, token()).unwrap();
    site.with("SLURM__BACKEND", "slurmrestd")
        .with("SLURM__INTERVAL_S", "1")
        .with("POLICY__MIN_UID", "1")
        .with("SLURMRESTD__URL", &slurmrestd.uri())
        .with("SLURMRESTD__SERVICE_USER", "bin")
        .with("SLURMRESTD__TOKENS", "file")
        .with("SLURMRESTD__TOKEN_FILE", file.to_str().unwrap())
}

/// A Slurm job of a user that the system knows.
fn asked() -> LaunchClaims {
    let mut asked = claims();
    asked.slurm_user = "games".parse().unwrap();
    asked.resources.time_minutes = Some(30);
    asked
}

async fn answer(server: &MockServer, verb: &str, at: &str, status: u16, body: &str) {
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(ResponseTemplate::new(status).set_body_raw(body, "application/json"))
        .mount(server)
        .await;
}

fn jobs(allocation: AllocationId, state: &str) -> String {
    JOBS.replace("ALLOCATION", &allocation.to_string())
        .replace("PENDING", state)
        .replace("alice", "games")
}

#[tokio::test]
async fn each_version_takes_and_tells_what_it_should() {
    for (version, submitted) in [
        ("v0.0.40", SUBMITTED_41),
        ("v0.0.41", SUBMITTED_41),
        ("v0.0.42", SUBMITTED_42),
    ] {
        // What it does not know it answers with 404, as slurmrestd does.
        let slurmrestd = MockServer::start().await;
        let at = |rest: &str| format!("/slurm/{version}/{rest}");
        let asked = asked();
        answer(&slurmrestd, "POST", &at("job/submit"), 200, submitted).await;
        let pending = jobs(asked.sub, "PENDING");
        // What is listed before it is submitted would be that of an agent that lost its state folder.
        let is_submitted = Arc::new(AtomicBool::new(false));
        let listed = Arc::clone(&is_submitted);
        Mock::given(method("GET"))
            .and(path(at("jobs")))
            .respond_with(move |_: &wiremock::Request| {
                let jobs = listed.load(Ordering::SeqCst).then_some(pending.as_str());
                let body = jobs.unwrap_or(CANCELLED).to_owned();
                ResponseTemplate::new(200).set_body_raw(body, "application/json")
            })
            .mount(&slurmrestd)
            .await;
        answer(&slurmrestd, "DELETE", &at("job/17"), 200, CANCELLED).await;
        let site = site(&slurmrestd);
        let agent = site.agent().await;
        assert_eq!(agent.start(&site.request(&asked)).await, "17", "{version}");
        is_submitted.store(true, Ordering::SeqCst);
        wait_until("its state is known", DEADLINE, || async {
            let seen = states(&agent, &site, &[asked.sub]).await;
            let right = |status: &AllocationStatus| {
                let reason = status.reason.as_deref();
                (status.state, reason) == (SlurmState::Pending, Some("Resources"))
            };
            if seen.iter().any(right) {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await;
        let assertion = site.assertion(CallPurpose::Cancel, &[asked.sub]);
        let (status, told) = agent.call("/runner/cancel", &assertion, json!({})).await;
        assert_eq!((status, told), (200, json!({ "cancelled": [asked.sub] })));
        agent.stop();

        let requests = slurmrestd.received_requests().await.unwrap();
        let to = |verb: &str, rest: &str| {
            requests
                .iter()
                .filter(|r| r.method.as_str() == verb && r.url.path() == at(rest))
                .collect::<Vec<_>>()
        };
        let submissions = to("POST", "job/submit");
        assert_eq!(submissions.len(), 1);
        assert_eq!(submissions[0].headers["X-SLURM-USER-NAME"], "games");
        let body: Value = serde_json::from_slice(&submissions[0].body).unwrap();
        let number = |n: u32| json!({ "set": true, "infinite": false, "number": n });
        assert_eq!(body["job"]["time_limit"], number(30));
        assert_eq!(body["job"]["kill_warning_flags"], json!(["BATCH_JOB"]));
        assert_eq!(body["job"]["requeue"], json!(false));
        let environment = body["job"]["environment"].as_array().unwrap();
        let variable = format!("GHA_SLURM_ALLOCATION={}", asked.sub);
        assert!(environment.contains(&json!(variable)), "{environment:?}");
        // The owner cancels; lists are the service user's.
        assert_eq!(
            to("DELETE", "job/17")[0].headers["X-SLURM-USER-NAME"],
            "games"
        );
        assert_eq!(to("GET", "jobs")[0].headers["X-SLURM-USER-NAME"], "bin");
    }
}

#[tokio::test]
async fn errors_are_told_apart() {
    let slurmrestd = MockServer::start().await;
    let list = "/slurm/v0.0.42/jobs";
    let submit = "/slurm/v0.0.42/job/submit";
    answer(&slurmrestd, "GET", list, 200, CANCELLED).await;
    answer(&slurmrestd, "POST", submit, 500, INVALID_PARTITION).await;
    // It lists at its start alone.
    let site = site(&slurmrestd).with("SLURM__INTERVAL_S", "3600");
    let agent = site.agent().await;
    let problem = refusal(&agent, &site, &asked()).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (422, "slurm_rejected")
    );
    let detail = problem.detail.unwrap();
    assert!(
        detail.starts_with("Invalid partition name specified"),
        "{detail}"
    );

    slurmrestd.reset().await;
    let limit = INVALID_PARTITION.replace("2000", "2050").replace(
        "Invalid partition name specified",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    );
    answer(&slurmrestd, "GET", list, 200, CANCELLED).await;
    answer(&slurmrestd, "POST", submit, 500, &limit).await;
    let problem = refusal(&agent, &site, &asked()).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (429, "limit_reached")
    );

    // 511: once more, with the token that is in the file by then, and only after Slurm was searched.
    slurmrestd.reset().await;
    let old = std::fs::read_to_string(site.path("token")).unwrap();
    let bad = ResponseTemplate::new(511).set_body_raw(BAD_TOKEN, "application/json");
    Mock::given(method("POST"))
        .and(path(submit))
        .and(header("X-SLURM-USER-TOKEN", old.as_str()))
        .respond_with(bad)
        .mount(&slurmrestd)
        .await;
    let fresh = format!("{old}2");
    let (file, text) = (site.path("token"), fresh.clone());
    Mock::given(method("GET"))
        .and(path(list))
        .respond_with(move |_: &wiremock::Request| {
            std::fs::write(&file, &text).unwrap();
            ResponseTemplate::new(200).set_body_raw(CANCELLED, "application/json")
        })
        .mount(&slurmrestd)
        .await;
    Mock::given(method("POST"))
        .and(path(submit))
        .and(header("X-SLURM-USER-TOKEN", fresh.as_str()))
        .respond_with(ResponseTemplate::new(200).set_body_raw(SUBMITTED_42, "application/json"))
        .expect(1)
        .mount(&slurmrestd)
        .await;
    assert_eq!(agent.start(&site.request(&asked())).await, "17");
    let asked: Vec<String> = slurmrestd
        .received_requests()
        .await
        .unwrap()
        .iter()
        .map(|r| r.url.path().to_owned())
        .collect();
    assert_eq!(asked, [submit, list, submit]);
    agent.stop();
}
