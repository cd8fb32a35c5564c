use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{Happening, Rejected};
use gha_slurm_domain::{Launch, LaunchId, LaunchState, RepositoryId};
use gha_slurm_storage::launches::Weights;
use gha_slurm_storage::{
    AsyncPgConnection, Database, ScopeLock, ScopeLocks, StorageError, launches,
};
use gha_slurm_test_support::TestDatabase;
use gha_slurm_test_support::seed::facts;

use crate::{LABELS, REPOSITORY, happen, map, now, plan, scope_with_queued, seed, stored, user};

const LEASE: TimeDelta = TimeDelta::seconds(60);
const OTHER: RepositoryId = RepositoryId(4712);

/// Leases what is due, as the submission loop does: found without a lock, looked at again under the locks that are free.
async fn claim(pool: &Database, at: DateTime<Utc>, room: i64) -> Vec<Launch> {
    pool.transaction("claim", async |conn: &mut AsyncPgConnection| {
        let due = launches::due(conn, at, room, &Weights::default()).await?;
        let scopes = due.iter().map(|(_, repository)| *repository).collect();
        let mut locks = ScopeLocks::try_take(conn, scopes).await?;
        let ids: Vec<LaunchId> = due
            .iter()
            .filter(|(_, repository)| locks.holds(*repository))
            .map(|(id, _)| *id)
            .collect();
        let mut leased = Vec::new();
        for before in launches::peek_all(locks.conn(), &ids).await? {
            let until = at + LEASE;
            if let Some(mut lock) = locks.one(before.launch.repository)
                && let Ok(applied) =
                    launches::happen_to(&mut lock, &before, Happening::Leased { until }, at).await?
            {
                leased.push(applied.launch);
            }
        }
        Ok::<_, StorageError>(leased)
    })
    .await
    .unwrap()
}

async fn claimed(pool: &Database, at: DateTime<Utc>) -> Vec<LaunchId> {
    claim(pool, at, 10).await.iter().map(|l| l.id).collect()
}

fn accepted() -> Happening {
    Happening::Accepted {
        cluster: "main".into(),
        slurm_job: Some("17".parse().unwrap()),
        token_expires_at: now() + TimeDelta::hours(25),
    }
}

async fn submitted(pool: &Database, launch: LaunchId) {
    happen(pool, launch, accepted()).await.unwrap();
}

fn delayed(reason: &str, is_limit: bool, next: DateTime<Utc>) -> Happening {
    Happening::Delayed {
        reason: reason.into(),
        is_limit,
        next,
    }
}

#[tokio::test]
async fn two_submitters_never_hold_the_same_launch() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 20).await;
    let planned: BTreeSet<_> = plan(&pool, &jobs).await.into_iter().collect();
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        claims.spawn(async move { claim(&pool, now(), 5).await });
    }
    let claimed: Vec<_> = claims
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|launch| launch.id)
        .collect();
    let distinct: BTreeSet<_> = claimed.iter().copied().collect();
    assert_eq!(distinct.len(), claimed.len(), "a launch was leased twice");
    let rest = claim(&pool, now(), 100).await;
    let all: BTreeSet<_> = distinct
        .into_iter()
        .chain(rest.into_iter().map(|launch| launch.id))
        .collect();
    assert_eq!(all, planned);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_again_and_a_submitted_one_never() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 2).await;
    plan(&pool, &jobs).await;
    let first = claim(&pool, now(), 10).await;
    assert_eq!(first.len(), 2);
    assert_eq!(claimed(&pool, now()).await, []);
    submitted(&pool, first[0].id).await;
    let again = claim(&pool, now() + LEASE, 10).await;
    assert_eq!(
        again
            .iter()
            .map(|l| (l.id, l.submission.attempts))
            .collect::<Vec<_>>(),
        [(first[1].id, 2)]
    );
}

/// Whose launch is due at each place.
async fn order(pool: &Database, room: i64, weights: &Weights) -> Vec<i64> {
    let mut conn = pool.connection().await.unwrap();
    let due = launches::due(&mut conn, now(), room, weights)
        .await
        .unwrap();
    due.into_iter()
        .map(|(_, repository)| repository.0)
        .collect()
}

#[tokio::test]
async fn repositories_are_served_in_turn() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let [large, one, two] = [REPOSITORY, OTHER, RepositoryId(4713)];
    map(&pool, &[large, one, two]).await;
    // The matrix was there first.
    for (repository, count, age) in [(large, 300, 3), (one, 1, 2), (two, 3, 1)] {
        let seed = seed(&pool, repository);
        let facts = facts(repository.0, &LABELS, None);
        let cause = seed.queued(&facts, now()).await;
        for _ in 0..count {
            seed.planned(&cause, now() - TimeDelta::seconds(age)).await;
        }
    }
    let of = |repository: RepositoryId| repository.0;
    let first = order(&pool, 6, &Weights::default()).await;
    assert_eq!(
        first,
        [large, one, two, large, two, large].map(of),
        "the single one waits for nobody"
    );
    let all = order(&pool, 1000, &Weights::default()).await;
    assert_eq!(all.len(), 304);
    let weights = Weights {
        repositories: vec![("acme/widgets-4713".into(), 3)],
        users: vec![(user().to_string(), 2)],
    };
    let weighted = order(&pool, 6, &weights).await;
    assert_eq!(
        weighted,
        [large, large, one, two, two, two].map(of),
        "two for each of the user's, three for the one that is named"
    );
}

/// Stores answers under the locks that are free. Returns the launches whose answers are left.
async fn store(pool: &Database, answers: &[(LaunchId, RepositoryId)]) -> Vec<LaunchId> {
    pool.transaction("store", async |conn: &mut AsyncPgConnection| {
        let scopes = answers.iter().map(|(_, repository)| *repository).collect();
        let mut locks = ScopeLocks::try_take(conn, scopes).await?;
        let mut left = Vec::new();
        for (id, repository) in answers {
            match locks.one(*repository) {
                Some(mut lock) => {
                    let _ = launches::happen(&mut lock, *id, accepted(), now()).await?;
                }
                None => left.push(*id),
            }
        }
        Ok::<_, StorageError>(left)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn answers_are_stored_together_but_for_what_another_transaction_has_locked() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool, &[REPOSITORY, OTHER]).await;
    let mut planned = Vec::new();
    for (id, repository) in [(1, REPOSITORY), (2, OTHER), (3, REPOSITORY)] {
        let seed = seed(&pool, repository);
        let job = seed.queued(&facts(id, &LABELS, None), now()).await;
        planned.push((seed.planned(&job, now()).await, repository));
    }
    let [first, second, third] = [planned[0].0, planned[1].0, planned[2].0];
    assert_eq!(claimed(&pool, now()).await.len(), 3);
    // Something refuses the second at this moment.
    let left = pool
        .in_scope("refuse", OTHER, async |mut lock: ScopeLock<'_>| {
            let words = "not wanted".into();
            let refused = Happening::Refused { words };
            let refused = launches::happen(&mut lock, second, refused, now()).await?;
            refused.unwrap();
            Ok::<_, StorageError>(store(&pool, &planned).await)
        })
        .await
        .unwrap();
    assert_eq!(left, [second]);
    let row = async |id: LaunchId| {
        let launch = stored(&pool, id).await;
        let job = launch.slurm.id.map(|id| id.to_string());
        (launch.state.stage(), job)
    };
    let job = Some("17".to_owned());
    assert_eq!(row(first).await, (LaunchState::Submitted, job.clone()));
    assert_eq!(row(third).await, (LaunchState::Submitted, job.clone()));
    assert_eq!(row(second).await, (LaunchState::Over, None));
    // It keeps its state, and learns its Slurm job.
    assert_eq!(store(&pool, &planned[1..2]).await, []);
    assert_eq!(row(second).await, (LaunchState::Over, job));
    let outcome = stored(&pool, second).await.over().unwrap().outcome.clone();
    assert_eq!(outcome.explained(), "not wanted");

    let without_row = LaunchId(uuid::Uuid::new_v4());
    assert_eq!(
        happen(&pool, without_row, accepted()).await,
        Err(Rejected::Late)
    );
}

#[tokio::test]
async fn a_delay_keeps_its_reason_and_waits() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    plan(&pool, &jobs).await;
    let launch = claimed(&pool, now()).await[0];
    let later = now() + TimeDelta::seconds(5);
    happen(&pool, launch, delayed("the cluster is down", false, later))
        .await
        .unwrap();
    let delay = stored(&pool, launch).await.submission.delay;
    assert_eq!(delay.as_deref(), Some("the cluster is down"));
    assert_eq!(claimed(&pool, now()).await, []);
    assert_eq!(claimed(&pool, later).await, [launch]);
}

/// Something has ended at the cluster. Returns how many try at once.
async fn try_limited(pool: &Database) -> usize {
    let limited = {
        let mut conn = pool.connection().await.unwrap();
        launches::limited(&mut conn, now(), 16).await.unwrap()
    };
    for (id, _) in &limited {
        happen(pool, *id, Happening::MayTryAgain).await.unwrap();
    }
    limited.len()
}

#[tokio::test]
async fn of_a_class_that_waits_behind_a_limit_the_oldest_tries_for_all() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 5).await;
    for (age, cause) in [5, 4, 3, 2, 1].into_iter().zip(&jobs) {
        let at = now() - TimeDelta::seconds(age);
        seed(&pool, REPOSITORY).planned(cause, at).await;
    }
    let first = claim(&pool, now(), 3).await;
    assert_eq!(first.len(), 3);
    // One is accepted, two are refused.
    submitted(&pool, first[0].id).await;
    let later = now() + TimeDelta::seconds(30);
    for launch in &first[1..] {
        happen(&pool, launch.id, delayed("full", true, later))
            .await
            .unwrap();
    }
    assert_eq!(claimed(&pool, now()).await, [], "nobody is asked again");
    // Something has ended.
    assert_eq!(try_limited(&pool).await, 1);
    assert_eq!(try_limited(&pool).await, 0);
    assert_eq!(claimed(&pool, now()).await, [first[1].id]);
    assert_eq!(claimed(&pool, later).await, [], "it is being tried");
    // There was room for it: perhaps there is for the next one; then for those that were never refused.
    submitted(&pool, first[1].id).await;
    assert_eq!(claimed(&pool, now()).await, [first[2].id]);
    submitted(&pool, first[2].id).await;
    assert_eq!(claimed(&pool, now()).await.len(), 2);
}
