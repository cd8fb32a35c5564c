//! Workflow jobs and runs over REST.

use gha_slurm_simulator::request::NewWorkflowJob;
use serde_json::json;

use crate::Sim;

const ACTIONS: &str = "/repos/acme/widgets/actions";

#[tokio::test]
async fn runs_follow_their_workflow_jobs() {
    let sim = Sim::start();
    let token = sim.token().await;
    let first = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]))
        .unwrap();
    let second = NewWorkflowJob {
        run_id: Some(first.run_id),
        name: Some("second".into()),
        ..NewWorkflowJob::of("acme/widgets", &["slurm", "gpu"])
    };
    let second = sim.handle.queue(second).unwrap();

    let job = sim
        .get(&format!("{ACTIONS}/jobs/{}", first.id), &token)
        .await;
    assert_eq!(job.status, 200);
    assert_eq!(
        (&job.body["status"], &job.body["labels"]),
        (&json!("queued"), &json!(["slurm"]))
    );
    assert_eq!(
        (&job.body["runner_id"], &job.body["conclusion"]),
        (&json!(null), &json!(null))
    );
    let jobs = sim
        .get(&format!("{ACTIONS}/runs/{}/jobs", first.run_id), &token)
        .await;
    assert_eq!(jobs.body["total_count"], 2);
    assert_eq!(jobs.body["jobs"][1]["id"], second.id);

    let count = async |status: &str| {
        let path = format!("{ACTIONS}/runs?status={status}");
        sim.get(&path, &token).await.body["total_count"].clone()
    };
    assert_eq!(count("queued").await, 1);
    sim.handle.cancel(first.id).unwrap();
    // One is over, the other still waits: the run is in progress, and in no list of queued ones.
    assert_eq!(
        (count("queued").await, count("in_progress").await),
        (json!(0), json!(1))
    );
    sim.handle.skip(second.id).unwrap();
    assert_eq!(
        (count("completed").await, count("cancelled").await),
        (json!(1), json!(1))
    );
    let run = sim
        .get(&format!("{ACTIONS}/runs/{}", first.run_id), &token)
        .await;
    assert_eq!(
        (&run.body["status"], &run.body["conclusion"]),
        (&json!("completed"), &json!("cancelled"))
    );

    assert_eq!(
        sim.get(&format!("{ACTIONS}/jobs/1"), &token).await.status,
        404
    );
    assert_eq!(
        sim.get(&format!("{ACTIONS}/runs/1"), &token).await.status,
        404
    );
}

#[tokio::test]
async fn a_run_says_where_its_commit_comes_from() {
    let sim = Sim::start();
    let token = sim.token().await;
    let own = sim
        .handle
        .queue(NewWorkflowJob::of("acme/widgets", &["slurm"]))
        .unwrap();
    let fork = NewWorkflowJob {
        event: Some("pull_request".into()),
        fork: Some("mallory/widgets".into()),
        actor: Some("mallory".into()),
        ..NewWorkflowJob::of("acme/widgets", &["slurm"])
    };
    let fork = sim.handle.queue(fork).unwrap();
    let run = sim
        .get(&format!("{ACTIONS}/runs/{}", own.run_id), &token)
        .await
        .body;
    assert_eq!(
        (&run["event"], &run["head_repository"]["id"]),
        (&json!("push"), &json!(sim.widgets.id))
    );
    let run = sim
        .get(&format!("{ACTIONS}/runs/{}", fork.run_id), &token)
        .await
        .body;
    assert_eq!(
        (&run["event"], &run["actor"]["login"]),
        (&json!("pull_request"), &json!("mallory"))
    );
    assert_eq!(run["repository"]["id"], sim.widgets.id);
    assert_eq!(run["head_repository"]["full_name"], "mallory/widgets");
    assert_ne!(run["head_repository"]["id"], sim.widgets.id);
    assert_eq!(run["head_repository"]["fork"], true);
}
