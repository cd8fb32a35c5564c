use gha_slurm_contract::event::{
    EventPayload, InstallationEvent, InstallationRepositoriesEvent, RepositoryFacts,
};
use gha_slurm_domain::admission::Charge;
use gha_slurm_storage::launches::{self, Weights};
use gha_slurm_test_support::TestDatabase;

use crate::*;

#[tokio::test]
async fn the_same_delivery_twenty_times_plans_one_launch() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let pool = pool.clone();
        deliveries.spawn(async move { apply(&pool, queued(1)).await });
    }
    deliveries.join_all().await;
    assert_eq!(states(database.url()).await, [("planned".to_owned(), true)]);
}

#[tokio::test]
async fn events_in_any_order_end_with_nothing_in_supply() {
    let story = [
        queued(1),
        given_to("in_progress", 1, "somebody-else"),
        given_to("completed", 1, "somebody-else"),
    ];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        map(&pool).await;
        for step in order {
            apply(&pool, story.get(step).unwrap().clone()).await;
        }
        let states = states(database.url()).await;
        assert!(states.len() <= 1, "{order:?}: {states:?}");
        assert_eq!(supply(&states), 0, "{order:?}: {states:?}");
    }
}

#[tokio::test]
async fn an_unmapped_repository_waits_and_starts_when_it_is_mapped() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    apply(&pool, queued(1)).await;
    assert_eq!(verdict(database.url(), 1).await.0, "waiting_for_mapping");
    assert_eq!(states(database.url()).await, []);
    map(&pool).await;
    replan_now(&pool).await;
    assert_eq!(verdict(database.url(), 1).await, ("ours".to_owned(), None));
    assert_eq!(supply(&states(database.url()).await), 1);
}

/// A label spent another account than the administrator granted.
#[tokio::test]
async fn a_label_does_not_override_what_is_granted() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let entry = |account: Option<&str>| mappings::Entry {
        charge: Some(Charge {
            account: account.map(str::to_owned),
            qos: None,
        }),
        ..REPOSITORY.into()
    };
    map_as(&pool, entry(Some("chemistry"))).await;
    replan_now(&pool).await;
    let labels = ["self-hosted", "slurm", "slurm-account-physics"];
    apply(&pool, workflow_job("queued", facts(1, &labels))).await;
    let (verdict_now, reason) = verdict(database.url(), 1).await;
    let reason = reason.unwrap();
    assert!(
        verdict_now == "refused"
            && reason.contains("account physics")
            && reason.contains("fixes the account chemistry"),
        "{verdict_now}: {reason}"
    );
    assert_eq!(states(database.url()).await, []);
    // Where the mapping leaves it at the default, labels choose.
    map_as(&pool, entry(None)).await;
    replan_now(&pool).await;
    assert_eq!(verdict(database.url(), 1).await, ("ours".to_owned(), None));
}

/// No other runners will take it, so that it is refused with the reason, and not left to them.
#[tokio::test]
async fn a_wrong_value_of_a_label_is_refused_with_the_reason() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    let decided = async |id, labels: &[&str]| {
        apply(&pool, workflow_job("queued", facts(id, labels))).await;
        verdict(database.url(), id).await
    };
    let (wrong, reason) = decided(1, &["self-hosted", "slurm", "slurm-cpus-many"]).await;
    assert_eq!(wrong, "refused");
    assert!(reason.is_some_and(|reason| reason.contains("slurm-cpus-many")));
    let (twice, reason) = decided(2, &["slurm-cpus-1", "slurm-cpus-2"]).await;
    assert_eq!(twice, "refused");
    assert!(reason.is_some_and(|reason| reason.contains("contradict")));
    // Another label shows that it is meant for others.
    let theirs = decided(3, &["slurm-cpus-many", "windows"]).await;
    assert_eq!(theirs.0, "not_ours");
    let elsewhere = decided(4, &["slurm-cpus-1", "slurm-cluster-other"]).await;
    assert_eq!(elsewhere.0, "not_ours");
    assert_eq!(states(database.url()).await, []);
}

/// With the webhook secret, events could end a workflow job for good, and start launches for it elsewhere.
#[tokio::test]
async fn a_webhook_moves_no_workflow_job_to_another_repository() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    apply(&pool, queued(1)).await;
    for action in ["queued", "completed"] {
        let mut forged = workflow_job(action, facts(1, &["self-hosted", "slurm"]));
        if let EventPayload::WorkflowJob(event) = &mut forged.payload {
            event.repository.id = REPOSITORY.0 + 1;
            event.repository.name = "other".into();
        }
        apply(&pool, forged).await;
    }
    let client = crate::connect(database.url()).await;
    let query = "SELECT repository_id, state::text FROM workflow_jobs WHERE id = 1";
    let row = client.query_one(query, &[]).await.unwrap();
    let seen: (i64, String) = (row.get(0), row.get(1));
    assert_eq!(seen, (REPOSITORY.0, "queued".to_owned()));
    assert_eq!(supply(&states(database.url()).await), 1);
}

/// alice of another cluster is not this cluster's alice.
#[tokio::test]
async fn a_mapping_to_a_user_of_another_cluster_is_not_served() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let of = |cluster: &str| mappings::Entry {
        cluster: Some(cluster.into()),
        ..REPOSITORY.into()
    };
    map_as(&pool, of("other")).await;
    apply(&pool, queued(1)).await;
    let (verdict_now, reason) = verdict(database.url(), 1).await;
    assert_eq!(verdict_now, "refused");
    assert!(reason.unwrap().contains("another cluster"));
    let mut conn = pool.connection().await.unwrap();
    mappings::replace(&mut conn, &"alice".parse().unwrap(), &[], None, now())
        .await
        .unwrap();
    map_as(&pool, of("main")).await;
    replan_now(&pool).await;
    assert_eq!(verdict(database.url(), 1).await, ("ours".to_owned(), None));
}

#[tokio::test]
async fn what_a_mapping_charges_is_in_the_runner_class() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    apply(&pool, queued(1)).await;
    let charge = Some(Charge {
        account: Some("chemistry".into()),
        qos: None,
    });
    let repository = REPOSITORY;
    let entry = mappings::Entry {
        charge,
        ..repository.into()
    };
    map_as(&pool, entry).await;
    replan_now(&pool).await;
    let states = states(database.url()).await;
    assert_eq!(
        states.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(),
        ["withdrawn", "planned"],
        "what was planned for no account is of no use now"
    );
    let client = crate::connect(database.url()).await;
    let query = "SELECT detail FROM timeline WHERE kind = 'withdrawn'";
    let why: String = client.query_one(query, &[]).await.unwrap().get(0);
    assert!(why.contains("what its workflow job is charged to"), "{why}");
    let mut conn = pool.connection().await.unwrap();
    let due = launches::due(&mut conn, Utc::now(), 10, &Weights::default())
        .await
        .unwrap();
    let due: Vec<_> = due.into_iter().map(|(id, _)| id).collect();
    let due = launches::peek_all(&mut conn, &due).await.unwrap();
    let accounts: Vec<_> = due
        .iter()
        .map(|d| d.class.resources.account.as_deref())
        .collect();
    assert_eq!(accounts, [Some("chemistry")]);
}

#[tokio::test]
async fn a_cancelled_workflow_job_withdraws_the_newest_pending_launch() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    for id in 1..=3 {
        apply(&pool, queued(id)).await;
    }
    assert_eq!(supply(&states(database.url()).await), 3);
    apply(&pool, cancelled(1)).await;
    let after = states(database.url()).await;
    assert_eq!(
        supply(&after),
        2,
        "nothing binds a launch to the workflow job that caused it"
    );
    assert_eq!(after.last().unwrap().0, "withdrawn", "{after:?}");
}

#[tokio::test]
async fn others_workflow_jobs_are_recorded_with_the_reason_and_left_alone() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    for (id, labels) in [
        (1, vec!["ubuntu-latest"]),
        (2, vec![]),
        (3, vec!["self-hosted", "linux"]),
        (4, vec!["slurm", "gpu"]),
    ] {
        apply(&pool, workflow_job("queued", facts(id, &labels))).await;
        let (verdict, reason) = verdict(database.url(), id).await;
        assert_eq!(verdict, "not_ours", "{labels:?}");
        assert!(reason.is_some());
    }
    assert_eq!(states(database.url()).await, []);
}

#[tokio::test]
async fn a_public_repository_is_refused() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    let mut event = queued(1);
    if let EventPayload::WorkflowJob(e) = &mut event.payload {
        e.repository.private = Some(false);
    }
    apply(&pool, event).await;
    let (verdict, reason) = verdict(database.url(), 1).await;
    assert_eq!(verdict, "refused");
    assert!(reason.unwrap().contains("public"));
}

/// More than one transaction's worth.
#[tokio::test]
async fn the_repositories_of_a_large_installation_are_recorded() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let repositories: Vec<RepositoryFacts> = (1000..2100)
        .map(|id| RepositoryFacts {
            id,
            owner: "acme".into(),
            name: format!("r{id}"),
            private: Some(true),
        })
        .collect();
    let installation = |payload| gha_slurm_contract::Event {
        payload,
        ..queued(1)
    };
    let created = InstallationEvent {
        action: "created".into(),
        installation_id: 1,
        account: Some("acme".into()),
        repositories: repositories.clone(),
    };
    let removed = InstallationRepositoriesEvent {
        action: "removed".into(),
        installation_id: 1,
        added: vec![],
        removed: repositories,
    };
    let client = connect(database.url()).await;
    let count = async |condition: &str| -> i64 {
        let question = format!("SELECT count(*) FROM {condition}");
        client.query_one(&question, &[]).await.unwrap().get(0)
    };
    apply(&pool, installation(EventPayload::Installation(created))).await;
    assert_eq!(count("repositories WHERE reachable").await, 1100);
    assert_eq!(count("replan_requests").await, 1100);
    let removed = EventPayload::InstallationRepositories(removed);
    apply(&pool, installation(removed)).await;
    assert_eq!(count("repositories WHERE reachable").await, 0);
}

#[tokio::test]
async fn a_protected_environment_is_no_demand_until_it_is_approved() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    // GitHub's published example #6: action `queued`, status `waiting`.
    let held = WorkflowJobFacts {
        status: "waiting".into(),
        ..facts(1, &["slurm"])
    };
    apply(&pool, workflow_job("queued", held)).await;
    assert_eq!(states(database.url()).await, []);
    apply(&pool, workflow_job("queued", facts(1, &["slurm"]))).await;
    assert_eq!(supply(&states(database.url()).await), 1);
}

#[tokio::test]
async fn an_event_of_a_newer_version_is_not_applied() {
    let database = TestDatabase::create().await;
    let event = Event {
        version: EVENT_VERSION + 1,
        ..queued(1)
    };
    let result =
        gha_slurm_launcher::events::apply(&database.pool(), &policy(), &event, now()).await;
    assert!(result.unwrap_err().to_string().contains("newer"));
}
