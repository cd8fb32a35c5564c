use chrono::Utc;
use gha_slurm_domain::{RepositoryId, WorkflowJobId};
use gha_slurm_storage::repositories;
use gha_slurm_storage::timeline::{self, Entry};
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use serde_json::json;

use crate::support::Service;

async fn build(service: &Service, id: i64) {
    let now = Utc::now();
    let mut conn = service.database.connection().await.unwrap();
    let scope = RepositoryId(1);
    repositories::upsert(&mut conn, scope, None, "acme", "widgets", Some(true), now)
        .await
        .unwrap();
    workflow_jobs::save(&mut conn, &waiting(id)).await.unwrap();
    let entry = Entry::workflow_job(now, WorkflowJobId(id), "queued", "GitHub queued it");
    timeline::append(&mut conn, &[entry]).await.unwrap();
}

/// In a repository that nobody has mapped.
pub(crate) fn waiting(id: i64) -> WorkflowJob {
    let now = Utc::now();
    WorkflowJob {
        id,
        repository_id: 1,
        installation_id: None,
        run_id: 100 + id,
        run_attempt: 1,
        name: "test".into(),
        workflow_name: Some("CI".into()),
        html_url: None,
        head_branch: None,
        labels: vec!["self-hosted".into(), "slurm".into()],
        state: "queued".into(),
        conclusion: None,
        verdict: "waiting_for_mapping".into(),
        reason: Some("no Slurm user has mapped this repository yet".into()),
        class_id: None,
        runner_name: None,
        queued_at: Some(now),
        started_at: None,
        completed_at: None,
        traceparent: None,
        updated_at: now,
    }
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
