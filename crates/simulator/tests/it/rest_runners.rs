//! Runners of a repository over REST.

use std::time::Duration;

use gha_slurm_simulator::model::Status;
use gha_slurm_simulator::request::NewWorkflowJob;
use gha_slurm_test_support::wait_until;
use reqwest::Method;
use serde_json::json;

use crate::{DEADLINE, Sim};

const RUNNERS: &str = "/repos/acme/widgets/actions/runners";

#[tokio::test]
async fn a_just_in_time_configuration_registers_once_per_name() {
    let sim = Sim::start();
    let made = sim
        .jit("r1", &["self-hosted", "Linux", "slurm", "SLURM"])
        .await;
    assert_eq!(made.status, 201);
    let runner = &made.body["runner"];
    assert_eq!(
        (&runner["name"], &runner["status"], &runner["busy"]),
        (&json!("r1"), &json!("offline"), &json!(false))
    );
    // Exactly the labels that were sent, each with an id; one spelling of each.
    let labels = runner["labels"].as_array().unwrap();
    assert_eq!(labels.len(), 3);
    assert!(labels.iter().all(|label| label["id"].is_i64()));
    assert_eq!(
        (&labels[0]["type"], &labels[2]["type"]),
        (&json!("read-only"), &json!("custom"))
    );

    let again = sim.jit("R1", &["slurm"]).await;
    assert_eq!(again.status, 409);
    assert_eq!(
        again.message(),
        "Already exists - A runner with the name R1 already exists."
    );

    let token = sim.token().await;
    let id = runner["id"].as_i64().unwrap();
    let found = sim.get(&format!("{RUNNERS}/{id}"), &token).await;
    assert_eq!(
        (found.status.as_u16(), &found.body["ephemeral"]),
        (200, &json!(true))
    );
    let listed = sim.get(&format!("{RUNNERS}?name=r1"), &token).await;
    assert_eq!(listed.body["total_count"], 1);
    assert_eq!(
        sim.get(&format!("{RUNNERS}?name=r2"), &token).await.body["total_count"],
        0
    );

    let path = format!("{RUNNERS}/{id}");
    assert_eq!(
        sim.call(Method::DELETE, &path, &token, None).await.status,
        204
    );
    assert_eq!(
        sim.call(Method::DELETE, &path, &token, None).await.status,
        404
    );
    assert_eq!(sim.get(&path, &token).await.status, 404);
    assert_eq!(sim.jit("r1", &["slurm"]).await.status, 201);
}

#[tokio::test]
async fn malformed_requests_for_a_configuration_are_refused() {
    let sim = Sim::start();
    let token = sim.token().await;
    let many: Vec<String> = (0..101).map(|n| format!("l{n}")).collect();
    for wrong in [
        json!({ "runner_group_id": 1, "labels": ["a"] }),
        json!({ "name": "", "runner_group_id": 1, "labels": ["a"] }),
        json!({ "name": "x".repeat(65), "runner_group_id": 1, "labels": ["a"] }),
        json!({ "name": "r", "labels": ["a"] }),
        json!({ "name": "r", "runner_group_id": 2, "labels": ["a"] }),
        json!({ "name": "r", "runner_group_id": 1, "labels": [] }),
        json!({ "name": "r", "runner_group_id": 1, "labels": many }),
    ] {
        let answer = sim
            .post(
                &format!("{RUNNERS}/generate-jitconfig"),
                &token,
                wrong.clone(),
            )
            .await;
        assert_eq!(answer.status, 422, "{wrong}");
        assert_eq!(answer.message(), "Validation Failed");
    }
    assert!(sim.handle.state().runners.is_empty());
}

#[tokio::test]
async fn a_busy_runner_is_not_deleted() {
    let sim = Sim::start();
    let runner = sim.listening_runner("busy", &["slurm"]).await;
    let script = "while [ ! -e go ]; do sleep 0.05; done";
    let job = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]).script(script))
        .unwrap();
    let job = sim
        .handle
        .wait_for_status(job.id, Status::InProgress, DEADLINE)
        .await
        .unwrap();
    let token = sim.token().await;
    let path = format!("{RUNNERS}/{}", job.runner_id.unwrap());
    let seen = sim.get(&path, &token).await;
    assert_eq!(
        (&seen.body["busy"], &seen.body["status"]),
        (&json!(true), &json!("online"))
    );
    assert_eq!(seen.body["version"], "2.336.0");
    let refused = sim.call(Method::DELETE, &path, &token, None).await;
    assert_eq!(refused.status, 422);
    assert_eq!(
        refused.message(),
        "Bad request - Runner \"busy\" is still running a job\""
    );

    // It has the workflow job before it has made a folder for it.
    let go = runner.folder.path().join("_work/widgets/widgets/go");
    wait_until("the step may go on", DEADLINE, || async {
        std::fs::write(&go, "")
    })
    .await;
    sim.handle
        .wait_for_status(job.id, Status::Completed, DEADLINE)
        .await
        .unwrap();
    assert_eq!(runner.ended().await.code, Some(0));
    // Ephemeral: gone with its one workflow job.
    assert_eq!(sim.get(&path, &token).await.status, 404);
}

#[tokio::test]
async fn registration_tokens_last_an_hour() {
    let sim = Sim::start();
    let token = sim.token().await;
    let given = sim
        .post(&format!("{RUNNERS}/registration-token"), &token, json!({}))
        .await;
    assert_eq!(given.status, 201);
    let text = given.body["token"].as_str().unwrap();
    assert!(text.len() == 29 && text.starts_with('A'), "{text}");
    let expires: chrono::DateTime<chrono::Utc> =
        given.body["expires_at"].as_str().unwrap().parse().unwrap();
    let left = (expires - chrono::Utc::now()).to_std().unwrap();
    assert!(
        left > Duration::from_secs(3500) && left <= Duration::from_secs(3600),
        "{left:?}"
    );
    let given = sim
        .post(&format!("{RUNNERS}/remove-token"), &token, json!({}))
        .await;
    assert_eq!(given.status, 201);

    let reader = sim
        .mint(json!({ "permissions": { "administration": "read" } }))
        .await;
    let reader = reader.body["token"].as_str().unwrap();
    assert_eq!(sim.get(RUNNERS, reader).await.status, 200);
    let refused = sim
        .post(&format!("{RUNNERS}/registration-token"), reader, json!({}))
        .await;
    assert_eq!(refused.status, 403);
}
