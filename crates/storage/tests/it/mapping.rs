use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{RepositoryId, SlurmUser};
use gha_slurm_storage::AsyncConnection;
use gha_slurm_storage::mappings::{self, Clusters, Entry, Replaced, Requested};
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
        charge: Some(charge(Some("chemistry"), None)),
        ..RepositoryId(2).into()
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
        let requested = mappings::request(&mut conn, &alice, id, &none, "main", true, now()).await;
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
        mappings::remove(conn, &alice, Clusters::All, "ACME", name)
            .await
            .unwrap()
    };
    mappings::withdraw(&mut conn, &waiting).await.unwrap();
    assert!(
        mappings::requests(&mut conn, None)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        ids(&mut conn, "alice").await.1,
        [1],
        "mapped, and it stays so"
    );
    let none = Charge::default();
    let again = mappings::request(
        &mut conn,
        &alice,
        RepositoryId(2),
        &none,
        "main",
        true,
        now(),
    )
    .await;
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

/// Two people of one name: what one of them asks for, has and removes is not the other's.
#[tokio::test]
async fn users_of_the_same_name_on_two_clusters_are_two() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    three_repositories(&mut conn).await;
    let alice: SlurmUser = "alice".parse().unwrap();
    let on = |name| Clusters::One {
        name,
        unnamed: false,
    };
    let ask = async |conn: &mut AsyncPgConnection, id, account, cluster| {
        let charge = charge(account, None);
        let id = RepositoryId(id);
        mappings::request(conn, &alice, id, &charge, cluster, false, now())
            .await
            .unwrap()
    };
    ask(&mut conn, 1, Some("chemistry"), "a").await;
    ask(&mut conn, 1, Some("physics"), "b").await;
    let asked = mappings::requests(&mut conn, Some(&alice)).await.unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].charge.account.as_deref(), Some("chemistry"));

    // What waits is another request once it asks for something else, and the same if it is repeated.
    let version_on_a = async |conn: &mut AsyncPgConnection| {
        let asked = mappings::requests(conn, Some(&alice)).await.unwrap();
        let on_a = asked.iter().find(|request| request.cluster == "a");
        on_a.unwrap().version
    };
    let version = version_on_a(&mut conn).await;
    ask(&mut conn, 1, Some("chemistry"), "a").await;
    assert_eq!(version_on_a(&mut conn).await, version);
    ask(&mut conn, 1, Some("biology"), "a").await;
    assert_ne!(version_on_a(&mut conn).await, version);

    let entry = Entry {
        cluster: Some("a".into()),
        ..RepositoryId(1).into()
    };
    mappings::add(&mut conn, &alice, entry.clone(), now())
        .await
        .unwrap();
    let waits = mappings::requests(&mut conn, Some(&alice)).await.unwrap();
    assert_eq!(waits.len(), 1, "the other's request is not granted");
    assert_eq!(waits[0].cluster, "b");
    assert_eq!(
        ask(&mut conn, 1, None, "b").await,
        Requested::TakenByOther,
        "it is the other's"
    );
    let of_b = Entry {
        cluster: Some("b".into()),
        ..entry
    };
    assert_eq!(
        mappings::add(&mut conn, &alice, of_b, now()).await.unwrap(),
        Replaced::TakenByOthers(vec![RepositoryId(1)])
    );
    replace(&mut conn, "alice", &[1, 2], None).await;
    let standing = repositories::standing(&mut conn, RepositoryId(1)).await;
    let mapping = standing.unwrap().unwrap().1.mapped_to.unwrap();
    assert_eq!(
        mapping.cluster.as_deref(),
        Some("a"),
        "a list of names changes none"
    );

    let removed = mappings::remove(&mut conn, &alice, on("b"), "acme", "one").await;
    assert_eq!(
        removed.unwrap(),
        Some((RepositoryId(1), false)),
        "what waits"
    );
    let removed = mappings::remove(&mut conn, &alice, on("b"), "acme", "one").await;
    assert_eq!(removed.unwrap(), None);
    let removed = mappings::remove(&mut conn, &alice, on("b"), "acme", "two").await;
    assert_eq!(removed.unwrap(), None, "an administrator named no cluster");
    let only = Clusters::One {
        name: "b",
        unnamed: true,
    };
    let removed = mappings::remove(&mut conn, &alice, only, "acme", "two").await;
    assert_eq!(removed.unwrap(), Some((RepositoryId(2), true)));
    assert_eq!(ids(&mut conn, "alice").await.1, [1]);
}
