//! Postgres dies and comes back, and RabbitMQ closes every connection.

use gha_slurm_test_support::PrivatePostgres;

use crate::stack::{REPOSITORY, Stack};

/// One workflow job runs and ends, another is queued, while there is no database.
#[tokio::test]
async fn builds_outlive_the_death_of_postgres_and_lost_connections() {
    // Its own: other tests share the usual one.
    let postgres = PrivatePostgres::start().await;
    let database_url = postgres.database("e2e").await.unwrap();
    let mut stack = Stack::builder().database(&database_url).start().await;
    stack.map(&[REPOSITORY]).await;
    let (script, go) = stack.until_there("go");
    let runs = stack.queue(&script);
    stack.until_in_progress(runs).await;
    stack.until_kind(runs, "in_progress").await;

    postgres.kill9().await;
    stack.broker.close_connections().await;
    // webhook-ingest has no database, and waits for RabbitMQ.
    let queued = stack.queue("true");
    stack.until_answered(queued, "queued", 1).await;
    std::fs::write(go, "").unwrap();
    stack.until_succeeded(runs).await;
    stack.until_answered(runs, "completed", 1).await;
    postgres.restart().await;

    stack.until_succeeded(queued).await;
    for id in [runs, queued] {
        stack.until_completed(id).await;
        let caused = format!("workflow_job_id = {id}");
        assert_eq!(stack.launches(&caused).await, 1);
    }
    stack.expect_error("lapin");
    stack.finish().await;
}
