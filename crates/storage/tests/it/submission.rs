use std::collections::BTreeSet;

use chrono::TimeDelta;
use gha_slurm_storage::allocations::{self, claim_due};
use gha_slurm_test_support::TestDatabase;

use crate::{now, plan, scope_with_queued};

#[tokio::test]
async fn two_submitters_never_hold_the_same_allocation() {
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
    assert_eq!(
        distinct.len(),
        claimed.len(),
        "an allocation was leased twice"
    );
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
    let job = "17".parse().unwrap();
    let expires = now() + TimeDelta::hours(25);
    allocations::submitted(&mut conn, first[0].id, "main", Some(&job), expires, now())
        .await
        .unwrap();
    let again = claim_due(&mut conn, now() + lease, lease, 10)
        .await
        .unwrap();
    assert_eq!(
        again.iter().map(|d| (d.id, d.attempt)).collect::<Vec<_>>(),
        [(first[1].id, 2)]
    );
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
    allocations::submission_delayed(&mut conn, due[0].id, "the cluster is down", later, now())
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
