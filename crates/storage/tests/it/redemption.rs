use gha_slurm_domain::LaunchId;
use gha_slurm_storage::runners::{self, Ending, Mint, Redeemer, Redemption};
use gha_slurm_storage::{
    AsyncConnection, AsyncPgConnection, Database, StorageError, launches, workflow_jobs,
};
use gha_slurm_test_support::TestDatabase;

use crate::{REPOSITORY, now, plan, scope_with_queued, workflow_job};

fn redeemer(launch: LaunchId, slurm_job_id: &str) -> Redeemer {
    Redeemer {
        launch,
        slurm_job_id: slurm_job_id.into(),
        restart_count: 0,
        node: Some("n1".into()),
        mode: "jit",
    }
}

async fn begin(conn: &mut AsyncPgConnection, who: Redeemer) -> Redemption {
    let name = move |attempt: u32| format!("runner-{}-{attempt}", who.launch);
    conn.transaction::<_, StorageError, _>(async |conn| {
        runners::begin(conn, &who, &name, now()).await
    })
    .await
    .unwrap()
}

async fn complete(conn: &mut AsyncPgConnection, mint: &Mint, github_id: i64) -> bool {
    let hash = github_id.to_be_bytes();
    conn.transaction::<_, StorageError, _>(async |conn| {
        runners::complete(conn, mint, Some(github_id), &hash, now()).await
    })
    .await
    .unwrap()
}

fn mint(redemption: Redemption) -> Mint {
    match redemption {
        Redemption::Mint(mint) => mint,
        other => panic!("expected a mint, got {other:?}"),
    }
}

/// Race: 10 pending, 9 cancelled, 10 nodes call back at once.
#[tokio::test]
async fn ten_callbacks_for_one_remaining_workflow_job_mint_once() {
    let database = TestDatabase::create().await;
    let pool: Database = database.pool();
    let mut conn = pool.connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 10).await;
    let planned = plan(&mut conn, class, &(1..=10).collect::<Vec<_>>()).await;
    for id in 2..=10 {
        let mut job = workflow_job(id, class);
        job.state = "completed".into();
        job.conclusion = Some("cancelled".into());
        workflow_jobs::save(&mut conn, &job).await.unwrap();
    }
    let mut calls = tokio::task::JoinSet::new();
    for (n, launch) in planned.into_iter().enumerate() {
        let pool = pool.clone();
        calls.spawn(async move {
            let mut conn = pool.connection().await.unwrap();
            begin(&mut conn, redeemer(launch, &n.to_string())).await
        });
    }
    let answers = calls.join_all().await;
    let minted = answers
        .iter()
        .filter(|a| matches!(a, Redemption::Mint(_)))
        .count();
    let gone = answers
        .iter()
        .filter(|a| matches!(a, Redemption::Gone(_)))
        .count();
    assert_eq!((minted, gone), (1, 9), "{answers:?}");
}

/// Race: token issued, not yet registered; the withdrawal comes between.
#[tokio::test]
async fn a_withdrawal_during_the_mint_wins() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    let planned = plan(&mut conn, class, &[1]).await;
    let mint = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    let gone = launches::withdraw(&mut conn, &planned, "cancelled", now())
        .await
        .unwrap();
    assert_eq!(gone, planned);
    assert!(
        !complete(&mut conn, &mint, 5).await,
        "the caller must delete the registration"
    );
    assert_eq!(
        begin(&mut conn, redeemer(planned[0], "17")).await,
        Redemption::Gone("cancelled".into())
    );
}

/// Race: workflow code reads the launch token and redeems again.
#[tokio::test]
async fn redemption_is_bound_and_closes_when_the_runner_listens() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    let planned = plan(&mut conn, class, &[1]).await;
    let first = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    assert!(complete(&mut conn, &first, 5).await);
    assert!(matches!(
        begin(&mut conn, redeemer(planned[0], "18")).await,
        Redemption::Conflict(_)
    ));

    // The answer was lost on the way: the same Slurm job may ask again and gets a new registration.
    let second = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    assert_eq!((second.attempt, second.superseded), (2, Some(5)));
    assert_ne!(second.name, first.name);
    assert!(
        !complete(&mut conn, &first, 5).await,
        "an older attempt must not complete"
    );
    assert!(complete(&mut conn, &second, 6).await);

    let (runner, scope) = runners::by_progress_token(&mut conn, &6_i64.to_be_bytes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(scope, REPOSITORY);
    runners::listening(&mut conn, &runner, now()).await.unwrap();
    assert!(matches!(
        begin(&mut conn, redeemer(planned[0], "17")).await,
        Redemption::Conflict(_)
    ));
}

/// Race: Slurm requeues a started launch.
#[tokio::test]
async fn a_restart_after_redemption_is_turned_away_and_replaced() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    let planned = plan(&mut conn, class, &[1]).await;
    let first = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    assert!(complete(&mut conn, &first, 5).await);
    let again = Redeemer {
        restart_count: 1,
        ..redeemer(planned[0], "17")
    };
    assert!(matches!(begin(&mut conn, again).await, Redemption::Gone(_)));
    let classes = launches::scope_classes(&mut conn, REPOSITORY)
        .await
        .unwrap();
    assert_eq!(
        (classes[0].view.demand, classes[0].view.supply.len()),
        (1, 0),
        "the planner may replace it"
    );
}

/// Race: the runner reports that it finished while the `in_progress` webhook is still on its way.
#[tokio::test]
async fn a_runner_leaves_supply_only_when_its_workflow_job_leaves_demand() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    let planned = plan(&mut conn, class, &[1]).await;
    let mint = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    assert!(complete(&mut conn, &mint, 5).await);
    let (runner, scope) = runners::by_launch(&mut conn, planned[0])
        .await
        .unwrap()
        .unwrap();
    runners::busy(&mut conn, &runner, Some((101, 1)), now())
        .await
        .unwrap();
    conn.transaction::<_, StorageError, _>(async |conn| {
        runners::end(conn, scope, &runner, &Ending::because("completed"), now()).await
    })
    .await
    .unwrap();
    let classes = launches::scope_classes(&mut conn, REPOSITORY)
        .await
        .unwrap();
    assert_eq!(
        (classes[0].view.demand, classes[0].view.supply.len()),
        (1, 1),
        "no third launch"
    );

    let mut job = workflow_job(1, class);
    job.state = "completed".into();
    workflow_jobs::save(&mut conn, &job).await.unwrap();
    assert_eq!(
        launches::attribute(
            &mut conn,
            &mint.name,
            gha_slurm_domain::WorkflowJobId(1),
            now()
        )
        .await
        .unwrap(),
        Some(class)
    );
    assert_eq!(
        launches::scope_classes(&mut conn, REPOSITORY)
            .await
            .unwrap(),
        []
    );
}

/// A runner that ends without work is counted as a failure and leaves supply at once.
#[tokio::test]
async fn an_idle_runner_is_a_failure_of_its_class() {
    let database = TestDatabase::create().await;
    let mut conn = database.pool().connection().await.unwrap();
    let class = scope_with_queued(&mut conn, 1).await;
    let planned = plan(&mut conn, class, &[1]).await;
    let mint = mint(begin(&mut conn, redeemer(planned[0], "17")).await);
    assert!(complete(&mut conn, &mint, 5).await);
    let (runner, scope) = runners::by_launch(&mut conn, planned[0])
        .await
        .unwrap()
        .unwrap();
    for _ in 0..2 {
        // Told twice, counted once.
        conn.transaction::<_, StorageError, _>(async |conn| {
            runners::end(conn, scope, &runner, &Ending::because("idle"), now()).await
        })
        .await
        .unwrap();
    }
    let classes = launches::scope_classes(&mut conn, REPOSITORY)
        .await
        .unwrap();
    assert_eq!(
        (classes[0].view.supply.len(), classes[0].view.failures),
        (0, 1)
    );
    assert_eq!(classes[0].last_failure_reason.as_deref(), Some("idle"));
}
