use chrono::{DateTime, Utc};
use gha_slurm_domain::{LabelSet, LaunchId, RepositoryId, ResourceRequest, Usage, WorkflowJobId};
use gha_slurm_storage::launches::{self, NewLaunch};
use gha_slurm_storage::runners::{self, Redeemer};
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use gha_slurm_storage::{
    AsyncConnection, AsyncPgConnection, StorageError, mappings, repositories, usage,
};
use serde_json::json;

use crate::builds::waiting;
use crate::support::Service;

/// A launch that ended at `ended` after `elapsed_s` seconds with 2 CPUs and a GPU. With a workflow job of this id.
async fn used(
    conn: &mut AsyncPgConnection,
    (repository, name): (i64, &str),
    user: &str,
    (id, has_workflow_job): (i64, bool),
    (ended, elapsed_s): (&str, u64),
) {
    let now = Utc::now();
    let scope = RepositoryId(repository);
    repositories::upsert(conn, scope, None, "acme", name, Some(true), now)
        .await
        .unwrap();
    // To this user alone, whoever had it before.
    for (somebody, list) in [
        ("alice", [].as_slice()),
        ("bob", &[]),
        (user, &[scope.into()]),
    ] {
        let somebody = somebody.parse().unwrap();
        mappings::replace(conn, &somebody, list, None, now)
            .await
            .unwrap();
    }
    let labels: LabelSet = ["slurm"].into_iter().collect();
    let resources = ResourceRequest::default();
    let class =
        workflow_jobs::ensure_class(conn, scope, &user.parse().unwrap(), &labels, &resources)
            .await
            .unwrap();
    let workflow_job = WorkflowJob {
        repository_id: repository,
        verdict: "ours".into(),
        class_id: Some(class.0),
        ..waiting(id)
    };
    workflow_jobs::save(conn, &workflow_job).await.unwrap();
    let launch = NewLaunch {
        id: LaunchId(uuid::Uuid::new_v4()),
        class,
        repository: scope,
        cause: WorkflowJobId(id),
        not_before: now,
        verify_demand: false,
        traceparent: None,
    };
    let launch_id = launch.id;
    launches::plan(conn, &[launch], now).await.unwrap();
    if has_workflow_job {
        let who = Redeemer {
            launch: launch_id,
            slurm_job_id: id.to_string(),
            restart_count: 0,
            node: None,
            mode: "jit",
        };
        let name = |_| format!("r{id}");
        conn.transaction::<_, StorageError, _>(async |conn| {
            runners::begin(conn, &who, &name, now).await?;
            launches::attribute(conn, &name(1), WorkflowJobId(id), now).await
        })
        .await
        .unwrap();
    }
    let used = Usage {
        elapsed_s,
        cpu_allocated_s: 2 * elapsed_s,
        cpu_used_s: elapsed_s,
        max_rss_bytes: Some(1000 + elapsed_s),
        tres: [("cpu", 2), ("gres/gpu", 1), ("mem", 100)]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
    };
    let ended: DateTime<Utc> = ended.parse().unwrap();
    usage::record(conn, launch_id, ended, &used).await.unwrap();
    // The first counts.
    let again = Usage {
        elapsed_s: 9,
        ..used
    };
    usage::record(conn, launch_id, ended, &again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_summed_per_repository_user_and_month() {
    let service = Service::start().await;
    {
        let mut conn = service.database.connection().await.unwrap();
        let conn = &mut *conn;
        let widgets = (1, "widgets");
        used(
            conn,
            widgets,
            "alice",
            (1, true),
            ("2026-11-01T00:00:00Z", 100),
        )
        .await;
        used(
            conn,
            widgets,
            "alice",
            (2, false),
            ("2026-11-30T23:59:59Z", 20),
        )
        .await;
        used(
            conn,
            widgets,
            "alice",
            (3, true),
            ("2026-10-31T23:59:59Z", 3),
        )
        .await;
        used(
            conn,
            widgets,
            "alice",
            (4, true),
            ("2026-12-01T00:00:00Z", 4),
        )
        .await;
        // The repository was mapped to somebody else then.
        used(
            conn,
            widgets,
            "bob",
            (5, true),
            ("2026-11-02T00:00:00Z", 10),
        )
        .await;
        used(
            conn,
            (2, "gadgets"),
            "alice",
            (6, true),
            ("2026-11-02T00:00:00Z", 500),
        )
        .await;
    }
    let sum = |name: &str, user: &str, counts: [u64; 2], seconds: u64, rss: u64| {
        json!({
            "repositoryUrl": format!("https://github.com/acme/{name}"), "slurmUser": user,
            "builds": counts[0], "launches": counts[1], "elapsedS": seconds,
            "cpuAllocatedS": 2 * seconds, "cpuUsedS": seconds, "gpuAllocatedS": seconds,
            "maxRssBytes": rss,
        })
    };
    let gadgets = sum("gadgets", "alice", [1, 1], 500, 1500);
    let widgets = sum("widgets", "alice", [1, 2], 120, 1100);
    let bobs = sum("widgets", "bob", [1, 1], 10, 1010);
    for (query, expected) in [
        ("month=2026-11", vec![&gadgets, &widgets, &bobs]),
        ("month=2026-11&user=alice", vec![&gadgets, &widgets]),
        (
            "month=2026-11&repository=Acme/Widgets",
            vec![&widgets, &bobs],
        ),
        (
            "month=2026-11&user=bob&repository=https://github.com/acme/widgets",
            vec![&bobs],
        ),
        ("month=2026-09", vec![]),
    ] {
        let answer = service.get(&format!("/api/usage?{query}")).await;
        let month = &query[6..13];
        assert_eq!(
            answer.body,
            json!({ "month": month, "sums": expected }),
            "{query}"
        );
    }
    let build = service.get("/api/builds/1").await;
    assert_eq!(
        build.body["usage"],
        json!({
            "elapsedS": 100, "cpuAllocatedS": 200, "cpuUsedS": 100, "gpuAllocatedS": 100,
            "maxRssBytes": 1100, "tres": "cpu=2,gres/gpu=1,mem=100M",
        }),
    );
    assert_eq!(service.get("/api/builds/2").await.body.get("usage"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_about_usage_are_named() {
    let service = Service::start().await;
    for query in [
        "",
        "month=2026",
        "month=2026-13",
        "month=2026-+1",
        "month=11-2026",
        "month=2026-11&user=-rf",
        "month=2026-11&repository=widgets",
        "month=2026-11&colour=red",
    ] {
        let answer = service.get(&format!("/api/usage?{query}")).await;
        let told = (answer.status, &answer.body["code"]);
        assert_eq!(
            told,
            (400, &json!("query_invalid")),
            "{query}: {}",
            answer.text
        );
    }
    let answer = service.get_without_token("/api/usage?month=2026-11").await;
    assert_eq!(answer.status, 401);
}
