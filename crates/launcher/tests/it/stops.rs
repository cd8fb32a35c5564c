//! Launches are stopped, and go on.

use gha_slurm_domain::launch::{Happening, Phase};
use gha_slurm_domain::{LaunchId, RepositoryId, WorkflowJobId};
use gha_slurm_test_support::TestDatabase;
use gha_slurm_test_support::seed::Seed;

use crate::*;

async fn launch_in(url: &str, condition: &str) -> (LaunchId, RepositoryId) {
    let client = connect(url).await;
    let query = format!("SELECT id::text, repository_id FROM launches WHERE {condition}");
    let row = client.query_one(&query, &[]).await.unwrap();
    let id: &str = row.get(0);
    (id.parse().unwrap(), RepositoryId(row.get(1)))
}

async fn count(url: &str, condition: &str) -> i64 {
    let client = connect(url).await;
    let query = format!("SELECT count(*) FROM launches WHERE {condition}");
    client.query_one(&query, &[]).await.unwrap().get(0)
}

/// One launch is busy, one is idle, one is submitted, one planned.
async fn four(database: &TestDatabase) -> Database {
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    for id in 1..=3 {
        apply(&pool, queued(id)).await;
    }
    for (number, phase) in [
        (1, Some(Phase::WorkflowJobStarted { run: None })),
        (2, Some(Phase::Listening)),
        (3, None),
    ] {
        let (launch, repository) = launch_in(
            database.url(),
            &format!("state = 'planned' AND workflow_job_id = {number}"),
        )
        .await;
        let seed = Seed {
            database: &pool,
            repository,
            user: "alice".parse().unwrap(),
        };
        seed.submitted(launch, Some(&number.to_string()), now())
            .await;
        if let Some(phase) = phase {
            let name = format!("runner-{number}");
            let token = (Some(900 + number), name.as_bytes());
            seed.registered(launch, &number.to_string(), &name, token, now())
                .await;
            let progressed = Happening::Progressed { phase, at: None };
            seed.happen(launch, progressed, now()).await;
        }
    }
    apply(&pool, queued(4)).await;
    pool
}

#[tokio::test]
async fn what_has_no_workflow_job_is_withdrawn_and_planned_again() {
    let database = TestDatabase::create().await;
    let pool = four(&database).await;
    let url = database.url();
    let stopped = pool.stop_launches("root@host", "a key was stolen", false);
    stopped.await.unwrap();
    replan_now(&pool).await;
    assert_eq!(count(url, "state = 'busy' AND cancel_at IS NULL").await, 1);
    assert_eq!(count(url, "outcome->'why'->>'kind' = 'stopped'").await, 2);
    assert_eq!(
        count(url, "state = 'over' AND cancel_at IS NOT NULL").await,
        1,
        "in Slurm's queue"
    );
    assert_eq!(
        count(url, "state = 'listening' AND deregister_at IS NOT NULL").await,
        1
    );

    apply(&pool, queued(5)).await;
    assert_eq!(count(url, "state = 'planned'").await, 0);
    let build = {
        let mut conn = pool.connection().await.unwrap();
        gha_slurm_storage::builds::find(&mut conn, WorkflowJobId(5)).await
    };
    let why = build
        .unwrap()
        .unwrap()
        .surroundings()
        .class
        .cloned()
        .unwrap()
        .stopped
        .unwrap();
    assert!(why.ends_with("a key was stolen"), "{why}");

    // The idle one was not deregistered yet: it is wanted again.
    pool.resume_launches("root@host").await.unwrap().unwrap();
    replan_now(&pool).await;
    assert_eq!(count(url, "deregister_at IS NOT NULL").await, 0);
    assert_eq!(count(url, "in_supply").await, 5);
}

#[tokio::test]
async fn what_runs_is_cancelled_if_that_is_wanted() {
    let database = TestDatabase::create().await;
    let pool = four(&database).await;
    pool.stop_launches("root@host", "why", true).await.unwrap();
    replan_now(&pool).await;
    assert_eq!(
        count(database.url(), "state = 'busy' AND cancel_at IS NOT NULL").await,
        1
    );
    // GitHub says that the idle one has work after all.
    let (idle, repository) = launch_in(database.url(), "state = 'listening'").await;
    let refused = Happening::DeregistrationRefused;
    pool.happen("test", repository, idle, &refused, now())
        .await
        .unwrap()
        .unwrap();
    let mut conn = pool.connection().await.unwrap();
    gha_slurm_storage::replan::request_running(&mut conn)
        .await
        .unwrap();
    drop(conn);
    replan_now(&pool).await;
    assert_eq!(
        count(database.url(), "state = 'busy' AND cancel_at IS NOT NULL").await,
        2
    );
}
