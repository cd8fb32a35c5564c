use gha_slurm_domain::admission::for_class;
use gha_slurm_domain::launch::{
    Admission, Applied, Caller, Happening, Outcome, Phase, Rejected, Run, RunnerMode, Why,
};
use gha_slurm_domain::{LaunchId, RunnerId, WorkflowJobId};
use gha_slurm_storage::launches::{self, Callback};
use gha_slurm_storage::{Database, ScopeLock, StorageError};
use gha_slurm_test_support::TestDatabase;

use crate::{REPOSITORY, happen, now, plan, scope_with_queued, seed, standings, stored};

fn caller(slurm_job: &str) -> Caller {
    Caller {
        slurm_job: Some(slurm_job.parse().unwrap()),
        restart_count: 0,
        node: Some("n1".into()),
    }
}

/// What a node that calls back is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// A runner is to be registered.
    Mint {
        attempt: u32,
        name: String,
        /// Registration of an earlier attempt.
        superseded: Option<i64>,
    },
    Gone(String),
    Conflict(String),
}

/// A node calls back, as token-broker has it decided.
async fn call_back(pool: &Database, launch: LaunchId, caller: Caller) -> Answer {
    let (applied, superseded) = pool
        .for_callback(
            launch,
            async |(mut lock, callback): (ScopeLock<'_>, Callback)| {
                let before = &callback.loaded;
                let attempt = before.launch.runner().map_or(1, |r| r.mint_attempt + 1);
                let happening = Happening::CalledBack {
                    caller: caller.clone(),
                    mode: RunnerMode::Jit,
                    admission: Admission {
                        refusal: for_class(&callback.standing, &before.class.slurm_user, None),
                        demand: before.class.demand,
                        redeemed: callback.loaded.class.redeemed,
                    },
                    runner: RunnerId(uuid::Uuid::now_v7()),
                    name: format!("runner-{launch}-{attempt}"),
                };
                let applied = launches::happen_to(&mut lock, before, happening, now()).await?;
                let superseded = before.launch.runner().and_then(|r| r.github_id);
                Ok::<_, StorageError>((applied, superseded))
            },
        )
        .await
        .unwrap()
        .unwrap();
    match applied {
        Err(Rejected::Gone(why)) => Answer::Gone(why),
        Err(Rejected::Conflict(why)) => Answer::Conflict(why),
        Err(rejected) => panic!("{rejected}"),
        Ok(applied) => {
            if let Some(why) = applied.turned_away() {
                return Answer::Gone(why);
            }
            let runner = applied.launch.runner().unwrap();
            Answer::Mint {
                attempt: runner.mint_attempt,
                name: runner.name.clone(),
                superseded,
            }
        }
    }
}

/// The attempt that a node's call became.
async fn mint(pool: &Database, launch: LaunchId, slurm_job: &str) -> u32 {
    match call_back(pool, launch, caller(slurm_job)).await {
        Answer::Mint { attempt, .. } => attempt,
        other => panic!("expected a mint, got {other:?}"),
    }
}

/// Whether the registration that was made for an attempt counts.
async fn complete(pool: &Database, launch: LaunchId, attempt: u32, github_id: i64) -> bool {
    let minted = Happening::Minted {
        attempt,
        github_id: Some(github_id),
        progress_token_hash: github_id.to_be_bytes().to_vec(),
    };
    let applied = pool
        .for_callback(
            launch,
            async |(mut lock, callback): (ScopeLock<'_>, Callback)| {
                launches::happen_to(&mut lock, &callback.loaded, minted.clone(), now()).await
            },
        )
        .await
        .unwrap_or_else(|error: StorageError| panic!("{error}"))
        .unwrap();
    applied.is_ok()
}

async fn progress(pool: &Database, launch: LaunchId, phase: Phase) -> Result<Applied, Rejected> {
    happen(pool, launch, Happening::Progressed { phase, at: None }).await
}

/// Race: 10 pending, 9 cancelled, 10 nodes call back at once.
#[tokio::test]
async fn ten_callbacks_for_one_remaining_workflow_job_mint_once() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 10).await;
    let planned = plan(&pool, &jobs).await;
    for id in 2..=10 {
        seed(&pool, REPOSITORY).completed(id, now()).await;
    }
    let mut calls = tokio::task::JoinSet::new();
    for (n, launch) in planned.into_iter().enumerate() {
        let pool = pool.clone();
        calls.spawn(async move { call_back(&pool, launch, caller(&(n + 1).to_string())).await });
    }
    let answers = calls.join_all().await;
    let minted = answers
        .iter()
        .filter(|a| matches!(a, Answer::Mint { .. }))
        .count();
    let gone = answers
        .iter()
        .filter(|a| matches!(a, Answer::Gone(_)))
        .count();
    assert_eq!((minted, gone), (1, 9), "{answers:?}");
    let [class] = &standings(&pool).await[..] else {
        panic!("one class is active");
    };
    assert_eq!((class.view.demand, class.view.supply), (1, 1));
}

/// Race: token issued, not yet registered; the withdrawal comes between.
#[tokio::test]
async fn a_withdrawal_during_the_mint_wins() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let launch = plan(&pool, &jobs).await[0];
    let attempt = mint(&pool, launch, "17").await;
    happen(&pool, launch, Happening::NotWanted(Why::NoDemand))
        .await
        .unwrap();
    assert!(
        !complete(&pool, launch, attempt, 5).await,
        "the caller must delete the registration"
    );
    assert_eq!(
        call_back(&pool, launch, caller("17")).await,
        Answer::Gone(Why::NoDemand.explained())
    );
}

/// Race: workflow code reads the launch token and redeems again.
#[tokio::test]
async fn redemption_is_bound_and_closes_when_the_runner_listens() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let launch = plan(&pool, &jobs).await[0];
    let first = mint(&pool, launch, "17").await;
    let first_name = stored(&pool, launch).await.runner().unwrap().name.clone();
    assert!(complete(&pool, launch, first, 5).await);
    assert!(matches!(
        call_back(&pool, launch, caller("18")).await,
        Answer::Conflict(_)
    ));

    // The answer was lost on the way: the same Slurm job may ask again and gets a new registration.
    let second = call_back(&pool, launch, caller("17")).await;
    let Answer::Mint {
        attempt,
        name,
        superseded,
    } = second
    else {
        panic!("expected a mint, got {second:?}");
    };
    assert_eq!((attempt, superseded), (2, Some(5)));
    assert_ne!(name, first_name);
    assert!(
        !complete(&pool, launch, first, 5).await,
        "an older attempt must not complete"
    );
    assert!(complete(&pool, launch, attempt, 6).await);

    let found = {
        let mut conn = pool.connection().await.unwrap();
        launches::by_progress_token(&mut conn, &6_i64.to_be_bytes())
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(
        (found.launch.id, found.launch.repository),
        (launch, REPOSITORY)
    );
    progress(&pool, launch, Phase::Listening).await.unwrap();
    assert!(matches!(
        call_back(&pool, launch, caller("17")).await,
        Answer::Conflict(_)
    ));
}

/// Race: Slurm requeues a started launch.
#[tokio::test]
async fn a_restart_after_redemption_is_turned_away_and_replaced() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let launch = plan(&pool, &jobs).await[0];
    let attempt = mint(&pool, launch, "17").await;
    assert!(complete(&pool, launch, attempt, 5).await);
    let again = Caller {
        restart_count: 1,
        ..caller("17")
    };
    assert_eq!(
        call_back(&pool, launch, again).await,
        Answer::Gone(Outcome::Restarted.explained())
    );
    let classes = standings(&pool).await;
    assert_eq!(
        (classes[0].view.demand, classes[0].view.supply),
        (1, 0),
        "the planner may replace it"
    );
}

/// Race: the runner reports that it finished while the `in_progress` webhook is still on its way.
#[tokio::test]
async fn a_runner_leaves_supply_only_when_its_workflow_job_leaves_demand() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let launch = plan(&pool, &jobs).await[0];
    let attempt = mint(&pool, launch, "17").await;
    assert!(complete(&pool, launch, attempt, 5).await);
    let run = Some(Run {
        id: 101,
        attempt: 1,
    });
    progress(&pool, launch, Phase::WorkflowJobStarted { run })
        .await
        .unwrap();
    let outcome = Outcome::NodeReported {
        reason: "completed".into(),
        exit_code: Some(0),
    };
    let finished = Phase::Finished {
        outcome,
        log_tail: None,
    };
    let name = {
        let applied = progress(&pool, launch, finished).await.unwrap();
        applied.launch.runner().unwrap().name.clone()
    };
    let classes = standings(&pool).await;
    assert_eq!(
        (classes[0].view.demand, classes[0].view.supply),
        (1, 1),
        "no third launch"
    );

    seed(&pool, REPOSITORY).completed(1, now()).await;
    let attributed = pool
        .in_scope("test", REPOSITORY, async |mut lock: ScopeLock<'_>| {
            let Some(before) = launches::of_runner(&mut lock, &name).await? else {
                return Ok(None);
            };
            let happening = Happening::Attributed(WorkflowJobId(1));
            let applied = launches::happen_to(&mut lock, &before, happening, now()).await?;
            Ok::<_, StorageError>(applied.ok().map(|_| before.launch.class))
        })
        .await
        .unwrap();
    assert_eq!(attributed, jobs[0].class);
    assert_eq!(standings(&pool).await.len(), 0);
}

/// A runner that ends without work is counted as a failure and leaves supply at once.
#[tokio::test]
async fn an_idle_runner_is_a_failure_of_its_class() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let jobs = scope_with_queued(&pool, 1).await;
    let launch = plan(&pool, &jobs).await[0];
    let attempt = mint(&pool, launch, "17").await;
    assert!(complete(&pool, launch, attempt, 5).await);
    for _ in 0..2 {
        // Told twice, counted once.
        happen(&pool, launch, Happening::GaveUpIdle).await.unwrap();
    }
    let classes = standings(&pool).await;
    let failures = &classes[0].view.failures;
    assert_eq!((classes[0].view.supply, failures.count), (0, 1));
    assert_eq!(failures.last_reason, Some(Outcome::Idle.explained()));
}
