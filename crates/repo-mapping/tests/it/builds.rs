use chrono::Utc;
use gha_slurm_domain::workflow_job::{Decision, Heard};
use gha_slurm_domain::{RepositoryId, WorkflowJob, WorkflowJobState};
use gha_slurm_storage::{ScopeLock, repositories, workflow_jobs};
use gha_slurm_test_support::seed::facts;
use serde_json::json;

use crate::support::Service;

async fn build(service: &Service, id: i64) {
    let now = Utc::now();
    let mut conn = service.database.connection().await.unwrap();
    let scope = RepositoryId(1);
    repositories::upsert(&mut conn, scope, None, "acme", "widgets", Some(true), now)
        .await
        .unwrap();
    drop(conn);
    let facts = facts(id, &["self-hosted", "slurm"], Some(now));
    service
        .database
        .in_scope("seed", scope, async |mut lock: ScopeLock<'_>| {
            let heard = Heard {
                facts: facts.clone(),
                state: WorkflowJobState::Queued,
                repository: scope,
                installation: None,
                traceparent: None,
            };
            let learned = WorkflowJob::learn(None, heard, now);
            let waiting = "no Slurm user has mapped this repository yet".to_owned();
            let decided = learned
                .job
                .decided(Decision::WaitingForMapping(waiting), now);
            let (job, _) = decided.unwrap();
            workflow_jobs::save(&mut lock, None, &job, learned.entry.as_slice(), now).await
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_and_their_timelines_are_shown() {
    let service = Service::start().await;
    build(&service, 5).await;
    build(&service, 6).await;
    let list = service.get("/api/builds?limit=1").await;
    assert_eq!(list.body.as_array().unwrap().len(), 1, "{}", list.text);
    let list = service.get("/api/builds").await;
    assert_eq!(list.body[0]["workflowJobId"], 6);
    assert_eq!(
        list.body[0]["repositoryUrl"],
        "https://github.com/acme/widgets"
    );
    let one = service.get("/api/builds/5").await;
    assert_eq!(one.body["build"]["verdict"], "waiting_for_mapping");
    assert_eq!(one.body["timeline"][0]["kind"], "queued");
    // Nobody's, until somebody maps the repository.
    assert_eq!(service.get("/api/builds?user=alice").await.body, json!([]));
    service.at_github("widgets", 1, true).await;
    service.post("alice", &["acme/widgets"], None).await;
    let mine = service.get("/api/builds?user=alice").await;
    assert_eq!(mine.body.as_array().unwrap().len(), 2);
    assert_eq!(mine.body[0]["slurmUser"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_named() {
    let service = Service::start().await;
    for (path, status, code) in [
        ("/api/builds/99", 404, "build_unknown"),
        ("/api/builds/x", 404, "build_unknown"),
        ("/api/builds?limit=0", 400, "query_invalid"),
        ("/api/builds?user=-rf", 400, "query_invalid"),
        ("/api/builds?colour=red", 400, "query_invalid"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
}
