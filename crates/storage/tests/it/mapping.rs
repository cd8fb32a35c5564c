use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{RepositoryId, SlurmUser};
use gha_slurm_storage::AsyncConnection;
use gha_slurm_storage::mappings::{self, Entry, Replaced, Requested};
use gha_slurm_storage::repositories;
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
    let list: Vec<Entry> = list.iter().map(|id| RepositoryId(*id).into()).collect();
    conn.transaction::<_, StorageError, _>(async |conn| {
        mappings::replace(conn, &user, &list, expected, now()).await
    })
    .await
    .unwrap()
}

async fn ids(conn: &mut AsyncPgConnection, user: &str) -> (i64, Vec<i64>) {
    let (version, list) = mappings::list(conn, &user.parse().unwrap()).await.unwrap();
    (version, list.into_iter().map(|m| m.repository.id).collect())
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
    let (_, list) = mappings::list(&mut conn, &"alice".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (list[0].repository.name.as_str(), list[0].repository.private),
        ("renamed", Some(true))
    );
    let (_, standing) = repositories::standing(&mut conn, RepositoryId(9))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(standing.mapped_to, None);
}

fn charge(account: Option<&str>, qos: Option<&str>) -> Charge {
    Charge {
        account: account.map(str::to_owned),
        qos: qos.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_mapping_keeps_its_account_until_it_is_told_another() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    let alice: SlurmUser = "alice".parse().unwrap();
    replace(&mut conn, "alice", &[1, 2], None).await;
    let entry = Entry {
        repository: RepositoryId(2),
        charge: Some(charge(Some("chemistry"), None)),
    };
    let added = mappings::add(&mut conn, &alice, entry.clone(), now())
        .await
        .unwrap();
    let changed = vec![RepositoryId(2)];
    assert_eq!(
        added,
        Replaced::Done {
            version: 2,
            changed
        }
    );
    let again = mappings::add(&mut conn, &alice, entry, now())
        .await
        .unwrap();
    assert!(
        matches!(again, Replaced::Done { changed, .. } if changed.is_empty()),
        "nothing is new"
    );
    // A list of names says nothing about accounts.
    replace(&mut conn, "alice", &[3, 2], None).await;
    let (_, list) = mappings::list(&mut conn, &alice).await.unwrap();
    let seen: Vec<_> = list
        .into_iter()
        .map(|m| (m.repository.id, m.charge))
        .collect();
    assert_eq!(
        seen,
        [(3, Charge::default()), (2, charge(Some("chemistry"), None))]
    );
    let standing = repositories::standing(&mut conn, RepositoryId(2))
        .await
        .unwrap();
    let mapping = standing.unwrap().1.mapped_to.unwrap();
    assert_eq!(mapping.charge.account.as_deref(), Some("chemistry"));
}

#[tokio::test]
async fn a_request_waits_until_it_is_mapped_or_taken_back() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    let alice: SlurmUser = "alice".parse().unwrap();
    replace(&mut conn, "bob", &[3], None).await;
    let mut asked = Vec::new();
    for id in [1, 2, 3] {
        let id = RepositoryId(id);
        let none = Charge::default();
        let requested = mappings::request(&mut conn, &alice, id, &none, "main", now()).await;
        asked.push(requested.unwrap());
    }
    assert_eq!(
        asked,
        [Requested::Waits, Requested::Waits, Requested::TakenByOther]
    );
    assert_eq!(
        ids(&mut conn, "alice").await,
        (0, vec![]),
        "nothing is mapped"
    );
    mappings::add(&mut conn, &alice, RepositoryId(1).into(), now())
        .await
        .unwrap();
    let waiting = mappings::requests(&mut conn, Some(&alice)).await.unwrap();
    let names: Vec<_> = waiting.iter().map(|r| r.repository.name.as_str()).collect();
    assert_eq!(names, ["two"], "what was mapped does not wait any more");
    let remove = async |conn: &mut AsyncPgConnection, name| {
        mappings::remove(conn, &alice, "ACME", name).await.unwrap()
    };
    let mut withdraw = async |name| {
        let removed = mappings::remove_request(&mut conn, &alice, "ACME", name).await;
        removed.unwrap()
    };
    assert_eq!(withdraw("one").await, None, "mapped, and it stays so");
    assert_eq!(withdraw("Two").await, Some(RepositoryId(2)));
    assert_eq!(withdraw("two").await, None);
    let none = Charge::default();
    let again = mappings::request(&mut conn, &alice, RepositoryId(2), &none, "main", now()).await;
    assert_eq!(again.unwrap(), Requested::Waits);
    assert_eq!(
        remove(&mut conn, "Two").await,
        Some((RepositoryId(2), false))
    );
    assert_eq!(
        remove(&mut conn, "one").await,
        Some((RepositoryId(1), true))
    );
    assert_eq!(remove(&mut conn, "three").await, None, "bob's");
    assert!(
        mappings::requests(&mut conn, None)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(ids(&mut conn, "bob").await, (1, vec![3]));
}
