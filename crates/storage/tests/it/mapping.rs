use gha_slurm_domain::{RepositoryId, SlurmUser};
use gha_slurm_storage::AsyncConnection;
use gha_slurm_storage::repositories::{self, Replaced, mapping_list, replace_mapping_list};
use gha_slurm_storage::{AsyncPgConnection, StorageError};
use gha_slurm_test_support::TestDatabase;

use crate::now;

async fn replace(
    conn: &mut AsyncPgConnection,
    user: &str,
    list: &[i64],
    expected: Option<i64>,
) -> Replaced {
    let user: SlurmUser = user.parse().unwrap();
    let list: Vec<RepositoryId> = list.iter().copied().map(RepositoryId).collect();
    conn.transaction::<_, StorageError, _>(async |conn| {
        replace_mapping_list(conn, &user, &list, expected, now()).await
    })
    .await
    .unwrap()
}

async fn ids(conn: &mut AsyncPgConnection, user: &str) -> (i64, Vec<i64>) {
    let (version, list) = mapping_list(conn, &user.parse().unwrap()).await.unwrap();
    (version, list.into_iter().map(|r| r.id).collect())
}

async fn three_repositories(conn: &mut AsyncPgConnection) {
    for (id, name) in [(1, "one"), (2, "two"), (3, "three")] {
        repositories::upsert(
            conn,
            RepositoryId(id),
            None,
            "acme",
            name,
            Some(true),
            now(),
        )
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_whole_list_is_replaced_and_versioned() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    assert_eq!(ids(&mut conn, "alice").await, (0, vec![]));
    assert_eq!(
        replace(&mut conn, "alice", &[2, 1], Some(0)).await,
        Replaced::Done {
            version: 1,
            changed: vec![RepositoryId(2), RepositoryId(1)]
        }
    );
    assert_eq!(ids(&mut conn, "alice").await, (1, vec![2, 1]));
    assert_eq!(
        replace(&mut conn, "alice", &[3, 1], Some(1)).await,
        Replaced::Done {
            version: 2,
            changed: vec![RepositoryId(2), RepositoryId(3)]
        }
    );
    assert_eq!(ids(&mut conn, "alice").await, (2, vec![3, 1]));
}

#[tokio::test]
async fn a_lost_update_is_refused() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    replace(&mut conn, "alice", &[1], None).await;
    assert_eq!(
        replace(&mut conn, "alice", &[2], Some(0)).await,
        Replaced::VersionMismatch { current: 1 }
    );
    assert_eq!(ids(&mut conn, "alice").await, (1, vec![1]));
}

#[tokio::test]
async fn a_repository_has_one_slurm_user_and_nothing_is_half_done() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    replace(&mut conn, "alice", &[1], None).await;
    assert_eq!(
        replace(&mut conn, "bob", &[2, 1], None).await,
        Replaced::TakenByOthers(vec![RepositoryId(1)])
    );
    assert_eq!(ids(&mut conn, "bob").await.1, Vec::<i64>::new());
    replace(&mut conn, "alice", &[], None).await;
    assert!(matches!(
        replace(&mut conn, "bob", &[2, 1], None).await,
        Replaced::Done { .. }
    ));
}

#[tokio::test]
async fn a_rename_keeps_the_mapping_and_a_recreated_name_does_not_inherit_it() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    replace(&mut conn, "alice", &[1], None).await;
    repositories::upsert(
        &mut conn,
        RepositoryId(1),
        None,
        "acme",
        "renamed",
        None,
        now(),
    )
    .await
    .unwrap();
    repositories::upsert(
        &mut conn,
        RepositoryId(9),
        None,
        "acme",
        "one",
        Some(true),
        now(),
    )
    .await
    .unwrap();
    let (_, list) = mapping_list(&mut conn, &"alice".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (list[0].name.as_str(), list[0].private),
        ("renamed", Some(true))
    );
    let standing = repositories::standing(&mut conn, RepositoryId(9))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(standing.mapped_to, None);
}
