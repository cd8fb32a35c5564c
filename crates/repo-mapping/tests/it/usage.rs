use chrono::{DateTime, Utc};
use gha_slurm_domain::{RepositoryId, Usage};
use gha_slurm_storage::{Database, mappings, repositories, usage};
use gha_slurm_test_support::seed::{Seed, facts};
use serde_json::json;

use crate::support::Service;

/// A launch that ended at `ended` after `elapsed_s` seconds with 2 CPUs and a GPU. With a workflow job of this id.
async fn used(
    database: &Database,
    (repository, name): (i64, &str),
    user: &str,
    (id, has_workflow_job): (i64, bool),
    (ended, elapsed_s): (&str, u64),
) {
    let now = Utc::now();
    let mut conn = database.connection().await.unwrap();
    let conn = &mut *conn;
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
    let seed = Seed {
        database,
        repository: scope,
        user: user.parse().unwrap(),
    };
    let job = seed.queued(&facts(id, &["slurm"], Some(now)), now).await;
    let launch_id = seed.planned(&job, now).await;
    if has_workflow_job {
        let (number, name) = (id.to_string(), format!("r{id}"));
        seed.registered(launch_id, &number, &name, (None, name.as_bytes()), now)
            .await;
        seed.attributed(launch_id, id, now).await;
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
        let conn = &service.database;
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
