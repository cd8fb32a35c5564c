//! Stops of all launches.

use std::time::Duration;

use gha_slurm_domain::launch::{Happening, Why};
use gha_slurm_storage::launches::Weights;
use gha_slurm_storage::{AsyncPgConnection, Database, StorageError, launches, replan, stops};
use gha_slurm_test_support::TestDatabase;

use crate::{REPOSITORY, happen, now, plan, scope_with_queued, seed, standings};

async fn due(pool: &Database) -> usize {
    let mut conn = pool.connection().await.unwrap();
    launches::due(&mut conn, now(), 10, &Weights::default())
        .await
        .unwrap()
        .len()
}

async fn requests(pool: &Database) -> usize {
    let mut conn = pool.connection().await.unwrap();
    replan::pending(&mut conn, 10).await.unwrap().len()
}

#[tokio::test]
async fn nothing_is_wanted_or_submitted_until_launches_go_on() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 2).await;
    let launch = plan(&pool, &jobs[..1]).await[0];
    assert_eq!(due(&pool).await, 1);

    let (stop, is_new) = pool
        .stop_launches("root@host", "a key was stolen", false)
        .await
        .unwrap();
    assert!(is_new);
    assert_eq!((due(&pool).await, requests(&pool).await), (0, 1));
    let [class] = &standings(&pool).await[..] else {
        panic!("one class is active");
    };
    assert_eq!(class.view.stop, Some(stop.stop()));

    // Again: nothing but the wish to end what runs is added.
    let (again, is_new) = pool
        .stop_launches("bob@host", "other words", true)
        .await
        .unwrap();
    assert!(!is_new && again.cancel_running);
    assert_eq!((&again.reason, again.since), (&stop.reason, stop.since));

    let counts = async {
        let mut conn = pool.connection().await.unwrap();
        stops::counts(&mut conn).await.unwrap()
    };
    assert_eq!(counts.await.planned, 1);
    let why = Why::Stopped { stop: stop.stop() };
    happen(&pool, launch, Happening::NotWanted(why))
        .await
        .unwrap();

    let ended = pool.resume_launches("root@host").await.unwrap().unwrap();
    // The test's clock is ahead of the database's.
    assert_eq!(ended.withdrawn, 1);
    assert_eq!(ended.stop.since, stop.since);
    assert_eq!(pool.resume_launches("root@host").await.unwrap(), None);
    let [class] = &standings(&pool).await[..] else {
        panic!("one class is active");
    };
    assert_eq!(class.view.stop, None);
    // What was issued before stays revoked.
    let mut conn = pool.connection().await.unwrap();
    let revoked = stops::revoked_until(&mut conn).await.unwrap();
    assert_eq!(revoked, Some(stop.since));
}

/// A decision that was made before the stop is finished before it begins, so that whatever it launched is withdrawn.
#[tokio::test]
async fn a_stop_waits_for_the_decisions_that_are_being_made() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let (read, may_go_on) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let deciding = pool.transaction("decide", async |conn: &mut AsyncPgConnection| {
        assert_eq!(stops::current(conn).await?, None);
        read.notify_one();
        may_go_on.notified().await;
        replan::request(conn, REPOSITORY, false, "decided").await
    });
    let stopping = async {
        read.notified().await;
        let stop = pool.stop_launches("root@host", "why", false);
        tokio::pin!(stop);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut stop).await;
        assert!(early.is_err(), "it began before the decision was made");
        may_go_on.notify_one();
        stop.await.unwrap();
    };
    let (decided, ()) = tokio::join!(deciding, stopping);
    decided.unwrap_or_else(|error: StorageError| panic!("{error}"));
    assert_eq!(requests(&pool).await, 1);
    let _ = seed(&pool, REPOSITORY).planned(&jobs[0], now()).await;
    assert_eq!(due(&pool).await, 0);
}
