//! Launches are stopped.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use gha_slurm_auth::KeyFolder;
use gha_slurm_test_support::seed::facts;
use gha_slurm_test_support::wait_until;
use serde_json::json;

use crate::support::Broker;

const DEADLINE: Duration = Duration::from_secs(10);
const BODY: &str = r#"{"slurmJobId": "77", "node": "n1"}"#;

async fn stop(broker: &Broker) {
    let stopped = broker
        .database
        .stop_launches("root@host", "a key was stolen", false);
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_turned_away_with_the_reason_and_what_runs_goes_on() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [running, waiting] = broker.submitted(2).await.try_into().unwrap();
    let redeemed = broker.redeem(running, 77).await;
    let progress = redeemed.body["progressToken"].as_str().unwrap().to_owned();
    stop(&broker).await;

    let refused = broker.redeem(waiting, 78).await;
    assert_eq!(refused.status, 410, "{}", refused.body);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        detail.contains("stopped since") && detail.ends_with("a key was stolen"),
        "{detail}"
    );
    let outcomes = broker
        .query("SELECT outcome->'why'->>'kind' FROM launches WHERE state = 'over'")
        .await;
    assert_eq!(outcomes, ["stopped"]);
    for phase in ["listening", "workflow_job_started"] {
        let told = broker.progress(&progress, json!({"phase": phase})).await;
        assert_eq!(told.status, 204, "{}", told.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_before_stays_revoked_when_launches_go_on() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let stolen = format!("Bearer {}", broker.token(launch));
    stop(&broker).await;
    broker.database.resume_launches("root@host").await.unwrap();
    let body = || serde_json::from_str(BODY).ok();
    let refused = broker.post("/gha/runner", &stolen, body()).await;
    assert_eq!(refused.status, 410, "{}", refused.body);
    let query = "/gha/installations?url=acme/widgets";
    let asked = broker
        .get_with(query, stolen.trim_start_matches("Bearer "))
        .await;
    assert_eq!(asked.status, 410, "{}", asked.body);
    let finished = Some(json!({"phase": "finished"}));
    let told = broker.post("/gha/runner/progress", &stolen, finished).await;
    assert_eq!(told.status, 410, "{}", told.body);

    // The next launch, with a launch token from after the stop.
    let seed = broker.seed();
    let facts = facts(2, &["self-hosted", "slurm"], None);
    let job = seed.queued(&facts, Utc::now()).await;
    let next = seed.planned(&job, Utc::now()).await;
    seed.submitted(next, None, Utc::now()).await;
    let later = Broker::claims(next, Utc::now() + TimeDelta::seconds(2));
    let fresh = format!("Bearer {}", broker.sign(&later));
    let answer = broker.post("/gha/runner", &fresh, body()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_the_registration_deletes_it_again() {
    let broker = Broker::start().await;
    broker.github_registers_what_is_deleted().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let stopping = async {
        wait_until("the runner is being registered", DEADLINE, || async {
            let calls = broker.github_calls("POST", "generate-jitconfig").await;
            (calls == 1).then_some(())
        })
        .await;
        stop(&broker).await;
    };
    let (answer, ()) = tokio::join!(broker.redeem(launch, 77), stopping);
    assert_eq!(answer.status, 410, "{}", answer.body);
}

/// It was accepted until token-broker restarted or somebody asked for the key set.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_is_refused_within_seconds() {
    let broker = Broker::start().await;
    broker.github_registers().await;
    let [launch] = broker.submitted(1).await.try_into().unwrap();
    let stolen = format!("Bearer {}", broker.token(launch));
    let folder = KeyFolder::new(broker.keys.path());
    folder.replace_all(2).unwrap();
    wait_until("the old key is refused", DEADLINE, || async {
        let body = Some(json!({"slurmJobId": "nonsense", "node": "n1"}));
        let status = broker.post("/gha/runner", &stolen, body).await.status;
        if status == 401 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(broker.redeem(launch, 77).await.status, 200);
}
