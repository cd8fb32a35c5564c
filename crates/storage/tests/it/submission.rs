use std::collections::BTreeSet;

use chrono::TimeDelta;
use diesel::sql_types;
use diesel_async::RunQueryDsl;
use gha_slurm_domain::LaunchId;
use gha_slurm_storage::launches::{self, Due, Locked, Submitted, claim_due};
use gha_slurm_storage::{AsyncConnection, AsyncPgConnection, StorageError};
use gha_slurm_test_support::TestDatabase;

use crate::{now, plan, scope_with_queued};

#[tokio::test]
async fn two_submitters_never_hold_the_same_launch() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut conn = pool.connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 20).await;
    let planned: BTreeSet<_> = plan(&mut conn, class, &(1..=20).collect::<Vec<_>>())
        .await
        .into_iter()
        .collect();
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        claims.spawn(async move {
            let mut conn = pool.connection().await.unwrap();
            claim_due(&mut conn, now(), TimeDelta::seconds(60), 5)
                .await
                .unwrap()
        });
    }
    let claimed: Vec<_> = claims
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|d| d.id)
        .collect();
    let distinct: BTreeSet<_> = claimed.iter().copied().collect();
    assert_eq!(distinct.len(), claimed.len(), "a launch was leased twice");
    let rest = claim_due(&mut conn, now(), TimeDelta::seconds(60), 100)
        .await
        .unwrap();
    let all: BTreeSet<_> = distinct
        .into_iter()
        .chain(rest.into_iter().map(|d| d.id))
        .collect();
    assert_eq!(all, planned);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_again_and_a_submitted_one_never() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 2).await;
    plan(&mut conn, class, &[1, 2]).await;
    let lease = TimeDelta::seconds(60);
    let first = claim_due(&mut conn, now(), lease, 10).await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(
        claim_due(&mut conn, now(), lease, 10).await.unwrap().len(),
        0
    );
    submitted(&mut conn, &[&first[0]]).await;
    let again = claim_due(&mut conn, now() + lease, lease, 10)
        .await
        .unwrap();
    assert_eq!(
        again.iter().map(|d| (d.id, d.attempt)).collect::<Vec<_>>(),
        [(first[1].id, 2)]
    );
}

#[tokio::test]
async fn answers_are_stored_together_but_for_what_another_transaction_has_locked() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 3).await;
    plan(&mut conn, class, &[1, 2, 3]).await;
    let lease = TimeDelta::seconds(60);
    let due = claim_due(&mut conn, now(), lease, 10).await.unwrap();
    let mut answers: Vec<_> = due.iter().map(answer).collect();
    let without_row = LaunchId(uuid::Uuid::new_v4());
    answers.push(Submitted {
        id: without_row,
        ..answers[0].clone()
    });
    let mut other = database.pool().connection().await.unwrap();
    // Something withdraws the second at this moment.
    let left = other
        .transaction::<_, StorageError, _>(async |other| {
            launches::refused(other, due[1].id, "not wanted", now()).await?;
            conn.transaction(async |conn| {
                launches::submitted(conn, "main", &answers, Locked::Skip).await
            })
            .await
        })
        .await
        .unwrap();
    assert_eq!(left, [due[1].id, without_row]);
    let row = async |conn: &mut AsyncPgConnection, id: LaunchId| {
        diesel::sql_query("SELECT state, slurm_job_id FROM launches WHERE id = $1")
            .bind::<sql_types::Uuid, _>(id.0)
            .get_result::<Row>(conn)
            .await
            .unwrap()
    };
    let row_of = |state: &str, job: Option<&str>| Row {
        state: state.into(),
        slurm_job_id: job.map(str::to_owned),
    };
    let submitted_row = row_of("submitted", Some("17"));
    assert_eq!(row(&mut conn, due[0].id).await, submitted_row);
    assert_eq!(row(&mut conn, due[2].id).await, submitted_row);
    assert_eq!(row(&mut conn, due[1].id).await, row_of("refused", None));
    // It keeps its state, and learns its Slurm job.
    submitted(&mut conn, &[&due[1]]).await;
    let refused = row_of("refused", Some("17"));
    assert_eq!(row(&mut conn, due[1].id).await, refused);
}

#[derive(Debug, PartialEq, diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = sql_types::Text)]
    state: String,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
    slurm_job_id: Option<String>,
}

#[tokio::test]
async fn a_delay_keeps_its_reason_and_waits() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    plan(&mut conn, class, &[1]).await;
    let lease = TimeDelta::seconds(60);
    let due = claim_due(&mut conn, now(), lease, 1).await.unwrap();
    let later = now() + TimeDelta::seconds(5);
    launches::submission_delayed(
        &mut conn,
        due[0].id,
        "the cluster is down",
        false,
        later,
        now(),
    )
    .await
    .unwrap();
    assert_eq!(
        claim_due(&mut conn, now(), lease, 1).await.unwrap().len(),
        0
    );
    assert_eq!(
        claim_due(&mut conn, later, lease, 1).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn of_a_class_that_waits_behind_a_limit_the_oldest_tries_for_all() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 5).await;
    for (age, cause) in [(5, 1), (4, 2), (3, 3), (2, 4), (1, 5)] {
        plan_at(&mut conn, class, cause, now() - TimeDelta::seconds(age)).await;
    }
    let lease = TimeDelta::seconds(60);
    let first = claim_due(&mut conn, now(), lease, 3).await.unwrap();
    assert_eq!(first.len(), 3);
    // One is accepted, two are refused.
    submitted(&mut conn, &[&first[0]]).await;
    let later = now() + TimeDelta::seconds(30);
    for due in &first[1..] {
        launches::submission_delayed(&mut conn, due.id, "full", true, later, now())
            .await
            .unwrap();
    }
    let claimed = async |conn: &mut AsyncPgConnection, at| {
        let due = claim_due(conn, at, lease, 10).await.unwrap();
        due.into_iter().map(|d| d.id).collect::<Vec<_>>()
    };
    assert_eq!(claimed(&mut conn, now()).await, [], "nobody is asked again");
    // Something has ended.
    assert_eq!(
        launches::try_limited(&mut conn, now(), 16).await.unwrap(),
        1
    );
    assert_eq!(
        launches::try_limited(&mut conn, now(), 16).await.unwrap(),
        0
    );
    assert_eq!(claimed(&mut conn, now()).await, [first[1].id]);
    assert_eq!(claimed(&mut conn, later).await, [], "it is being tried");
    // There was room for it: perhaps there is for the next one; then for those that were never refused.
    submitted(&mut conn, &[&first[1]]).await;
    assert_eq!(claimed(&mut conn, now()).await, [first[2].id]);
    submitted(&mut conn, &[&first[2]]).await;
    assert_eq!(claimed(&mut conn, now()).await.len(), 2);
}

async fn submitted(conn: &mut AsyncPgConnection, due: &[&Due]) {
    let answers: Vec<_> = due.iter().map(|due| answer(due)).collect();
    let left = launches::submitted(conn, "main", &answers, Locked::Wait).await;
    assert_eq!(left.unwrap(), []);
}

fn answer(due: &Due) -> Submitted {
    Submitted {
        id: due.id,
        slurm_job_id: Some("17".parse().unwrap()),
        token_expires_at: now() + TimeDelta::hours(25),
        at: now(),
    }
}

async fn plan_at(
    conn: &mut AsyncPgConnection,
    class: gha_slurm_storage::workflow_jobs::ClassId,
    cause: i64,
    at: chrono::DateTime<chrono::Utc>,
) {
    let new = launches::NewLaunch {
        id: LaunchId(uuid::Uuid::new_v4()),
        class,
        repository: crate::REPOSITORY,
        cause: gha_slurm_domain::WorkflowJobId(cause),
        not_before: at,
        verify_demand: false,
        traceparent: None,
    };
    launches::plan(conn, &[new], at).await.unwrap();
}
