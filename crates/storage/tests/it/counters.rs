//! What is counted as rows change is what counting the rows gives.

use chrono::TimeDelta;
use gha_slurm_domain::launch::{
    Admission, Caller, Happening, Outcome, Phase, Run, RunnerMode, SlurmReport, Why,
};
use gha_slurm_domain::workflow_job::Decision;
use gha_slurm_domain::{LaunchId, RunnerId, SlurmState, WorkflowJobId};
use gha_slurm_storage::{Database, ScopeLock, StorageError, workflow_jobs};
use gha_slurm_test_support::TestDatabase;
use gha_slurm_test_support::seed::facts;

use crate::{LABELS, REPOSITORY, happen, map, now, seed, stored};

const STEPS: usize = 250;
const KINDS: [[&str; 2]; 2] = [LABELS, ["self-hosted", "slurm-4"]];

/// SplitMix64: the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % limit
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        match list.len() {
            0 => None,
            length => list.get(self.below(length)),
        }
    }
}

/// Something that may happen to a launch, whatever its state.
fn happening(random: &mut Random, id: LaunchId, jobs: i64) -> Happening {
    let at = now() + TimeDelta::seconds(random.below(60) as i64);
    let words = || "no".to_owned();
    let slurm_job = || Some("17".parse().unwrap());
    let phase = |phase| Happening::Progressed { phase, at: None };
    match random.below(24) {
        0 => Happening::Leased { until: at },
        1 | 2 => Happening::Accepted {
            cluster: "main".into(),
            slurm_job: slurm_job(),
            token_expires_at: at,
        },
        3 => Happening::Delayed {
            reason: words(),
            is_limit: random.below(2) == 0,
            next: at,
        },
        4 => Happening::Refused { words: words() },
        5 => Happening::SlurmReported {
            report: SlurmReport {
                state: [SlurmState::Running, SlurmState::NodeFailed][random.below(2)],
                reason: None,
                starts_at: Some(at),
                nodes: Some("n1".into()),
                usage_to_come: false,
            },
            slurm_job: slurm_job(),
            exit_code: None,
            ended_at: None,
        },
        6..=8 => Happening::CalledBack {
            caller: Caller {
                slurm_job: slurm_job(),
                restart_count: i32::from(random.below(8) == 0),
                node: Some("n1".into()),
            },
            mode: RunnerMode::Jit,
            admission: Admission {
                refusal: None,
                demand: 1,
                redeemed: random.below(6) / 5,
            },
            runner: RunnerId(uuid::Uuid::now_v7()),
            name: format!("{id}-{}", uuid::Uuid::new_v4()),
        },
        9..=11 => Happening::Minted {
            attempt: 1,
            github_id: Some(5),
            progress_token_hash: uuid::Uuid::new_v4().as_bytes().to_vec(),
        },
        12 => Happening::MintFailed { words: words() },
        13 => phase(Phase::Listening),
        14 | 15 => phase(Phase::WorkflowJobStarted {
            run: Some(Run { id: 9, attempt: 1 }),
        }),
        16 => phase(Phase::Finished {
            outcome: Outcome::NodeReported {
                reason: "completed".into(),
                exit_code: Some(1),
            },
            log_tail: None,
        }),
        17 => Happening::NotWanted(Why::NoDemand),
        18 => Happening::ReleaseWanted(Why::NoDemand),
        19 => Happening::Deregistered { attempt: 1 },
        20 => Happening::DeregistrationRefused,
        21 | 22 => Happening::Attributed(WorkflowJobId(1 + random.below(jobs as usize) as i64)),
        _ => [
            Happening::AttributionGivenUp,
            Happening::GaveUpIdle,
            Happening::Silent { attempt: 1 },
        ][random.below(3)]
        .clone(),
    }
}

/// A workflow job is decided again: it changes its class, or is not ours any more.
async fn decide(pool: &Database, id: i64, random: &mut Random) {
    let other = facts(id, &KINDS[random.below(2)], None);
    let is_refused = random.below(3) == 0;
    pool.in_scope("decide", REPOSITORY, async |mut lock: ScopeLock<'_>| {
        let before = workflow_jobs::find(lock.conn(), WorkflowJobId(id)).await?;
        let before = before.unwrap();
        let labels = other.labels.iter().collect();
        let user = crate::user();
        let class = gha_slurm_storage::classes::ensure(
            &mut lock,
            &user,
            &labels,
            &gha_slurm_domain::ResourceRequest::default(),
        )
        .await?;
        let decision = if is_refused {
            Decision::Refused("no".into())
        } else {
            Decision::Ours(class)
        };
        if let Some((after, entry)) = before.decided(decision, now()) {
            workflow_jobs::save(&mut lock, Some(&before), &after, entry.as_slice(), now()).await?;
        }
        Ok::<_, StorageError>(())
    })
    .await
    .unwrap();
}

/// Counted by what the rows say, not by the flags that are stored with them.
const MISCOUNTED: &str = "\
WITH demand AS (
    SELECT class_id, count(*) AS counted FROM workflow_jobs
    WHERE state = 'queued' AND verdict = 'ours' GROUP BY class_id
), supply AS (
    SELECT class_id, count(*) AS counted, count(*) FILTER (WHERE state NOT IN ('planned', 'submitted')) AS redeemed
    FROM launches LEFT JOIN runners ON runners.launch_id = launches.id
    WHERE state NOT IN ('busy', 'over')
        OR (state = 'busy' OR runners.busy_at IS NOT NULL)
            AND runners.workflow_job_id IS NULL AND NOT runners.attribution_given_up
    GROUP BY class_id
), counted AS (
    SELECT id, coalesce(d.counted, 0) AS demand, coalesce(s.counted, 0) AS supply, coalesce(s.redeemed, 0) AS redeemed
    FROM runner_classes LEFT JOIN demand d ON d.class_id = id LEFT JOIN supply s ON s.class_id = id
)
SELECT concat_ws(' ', id, stored.demand, counted.demand, stored.supply, counted.supply, stored.redeemed, counted.redeemed)
FROM runner_classes stored JOIN counted USING (id)
WHERE (stored.demand, stored.supply, stored.redeemed) <> (counted.demand, counted.supply, counted.redeemed)";

#[tokio::test]
async fn counters_of_a_class_are_what_its_rows_say() {
    for run in 0..4 {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        map(&pool, &[REPOSITORY]).await;
        let (client, connection) = tokio_postgres::connect(database.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let seed = seed(&pool, REPOSITORY);
        let mut random = Random(run);
        let (mut jobs, mut planned) = (Vec::new(), Vec::new());
        let mut applied = 0;
        for step in 0..STEPS {
            match random.below(12) {
                0 => {
                    let id = jobs.len() as i64 + 1;
                    let facts = facts(id, &KINDS[random.below(2)], None);
                    jobs.push(seed.queued(&facts, now()).await);
                }
                1 => {
                    if let Some(job) = random.one_of(&jobs) {
                        seed.completed(job.facts.id, now()).await;
                    }
                }
                2 => {
                    if let Some(job) = random.one_of(&jobs) {
                        decide(&pool, job.facts.id, &mut random).await;
                    }
                }
                3 => {
                    if let Some(cause) = random.one_of(&jobs) {
                        planned.push(seed.planned(cause, now()).await);
                    }
                }
                _ => {
                    // Those that came last, so that some get far.
                    let newest = planned.len().saturating_sub(3);
                    if let Some(id) = random.one_of(&planned[newest..]).copied() {
                        let happening = happening(&mut random, id, jobs.len() as i64);
                        if let Ok(after) = happen(&pool, id, happening.clone()).await {
                            applied += 1;
                            let stored = stored(&pool, id).await;
                            assert_eq!(
                                stored, after.launch,
                                "run {run}, step {step}: {happening:?}"
                            );
                        }
                    }
                }
            }
            let wrong: Vec<String> = client
                .query(MISCOUNTED, &[])
                .await
                .unwrap()
                .iter()
                .map(|row| row.get(0))
                .collect();
            assert!(wrong.is_empty(), "run {run}, step {step}: {wrong:?}");
        }
        assert!(
            applied > STEPS / 10,
            "run {run}: {applied} happenings were applied"
        );
    }
}
