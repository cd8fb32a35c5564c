//! Which Slurm jobs an agent knows, whose they are, and which are gone.

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{CallClaims, CallPurpose, ListAnswer, StatesAnswer};
use gha_slurm_domain::{LaunchId, SlurmState};
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, wait_until};
use serde_json::json;
use uuid::Uuid;

use crate::DEADLINE;
use crate::agent_fixture::*;
use crate::real_slurm::of;
use crate::{rest, sbatch};

const OURS: Uuid = Uuid::from_u128(7);
const THEIRS: Uuid = Uuid::from_u128(8);

/// Runs until it is told to end.
const LONG: &str = "sleep 1000";

fn asked_by(launcher: Uuid) -> LaunchClaims {
    LaunchClaims {
        launcher: Some(launcher),
        ..claims()
    }
}

fn call_of(launcher: Uuid, sub: CallPurpose, launches: &[LaunchId]) -> CallClaims {
    CallClaims {
        launcher: Some(launcher),
        ..Site::call_claims(sub, launches)
    }
}

async fn listed(agent: &Agent, site: &Site, launcher: Uuid) -> Vec<(LaunchId, SlurmState)> {
    let claims = call_of(launcher, CallPurpose::List, &[]);
    let assertion = site.assertion_of(&claims);
    let (status, answer) = agent.call("/runner/list", &assertion, json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let answer: ListAnswer = serde_json::from_value(answer).unwrap();
    let mut listed: Vec<_> = answer
        .launches
        .into_iter()
        .map(|status| (status.launch, status.state))
        .collect();
    listed.sort_by_key(|(launch, _)| *launch);
    listed
}

async fn states(agent: &Agent, site: &Site, ids: &[LaunchId]) -> Vec<(String, SlurmState)> {
    let assertion = site.assertion(CallPurpose::States, &[]);
    let body = json!({ "launches": ids });
    let (_, answer) = agent.call("/runner/states", &assertion, body).await;
    let answer: StatesAnswer = serde_json::from_value(answer).unwrap();
    let states = answer.launches.into_iter();
    states.map(|s| (s.slurm_job_id, s.state)).collect()
}

async fn cancel(agent: &Agent, site: &Site, claims: &CallClaims) -> usize {
    let assertion = site.assertion_of(claims);
    let (status, answer) = agent.call("/runner/cancel", &assertion, json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer["cancelled"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_launcher_lists_and_cancels_what_it_had_submitted() {
    let site = Site::new(LONG)
        .with("SLURM__INTERVAL_S", "1")
        .with("LOCAL__MAX_RUNNING", "1");
    let agent = site.agent().await;
    let (running, pending, foreign) = (asked_by(OURS), asked_by(OURS), asked_by(THEIRS));
    for claims in [&running, &pending, &foreign] {
        agent.start(&site.request(claims)).await;
    }
    let both = {
        let mut both = [
            (running.sub, SlurmState::Running),
            (pending.sub, SlurmState::Pending),
        ];
        both.sort_by_key(|(launch, _)| *launch);
        both
    };
    wait_until("ours are listed", DEADLINE, || async {
        let seen = listed(&agent, &site, OURS).await;
        if seen == both { Ok(()) } else { Err(seen) }
    })
    .await;
    let theirs = listed(&agent, &site, THEIRS).await;
    assert_eq!(theirs, [(foreign.sub, SlurmState::Pending)]);
    // Who does not say which launcher it is has no list, and an assertion is good for one kind of call.
    let nobody = site.assertion(CallPurpose::List, &[]);
    let other = site.assertion_of(&call_of(OURS, CallPurpose::States, &[]));
    for assertion in [nobody, other] {
        let (status, _) = agent.call("/runner/list", &assertion, json!({})).await;
        assert_eq!(status, 401);
    }
    let all = [running.sub, pending.sub, foreign.sub];
    let only_pending = CallClaims {
        only_pending: true,
        ..call_of(OURS, CallPurpose::Cancel, &all)
    };
    assert_eq!(cancel(&agent, &site, &only_pending).await, 1);
    wait_until("the pending one is cancelled", DEADLINE, || async {
        let seen = listed(&agent, &site, OURS).await;
        if seen == [(running.sub, SlurmState::Running)] {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    assert_eq!(
        cancel(&agent, &site, &call_of(OURS, CallPurpose::Cancel, &all)).await,
        1,
        "the running one"
    );
    wait_until("theirs runs", DEADLINE, || async {
        listed(&agent, &site, THEIRS).await == [(foreign.sub, SlurmState::Running)]
    })
    .await;
    let theirs = call_of(THEIRS, CallPurpose::Cancel, &all);
    assert_eq!(cancel(&agent, &site, &theirs).await, 1);
    agent.stop();
}

#[tokio::test]
async fn an_agent_that_lost_its_ledger_looks_in_slurms_list() {
    let site = Site::new(LONG).with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let (claims, never) = (asked_by(OURS), asked_by(OURS));
    let request = site.request(&claims);
    let id = agent.start(&request).await;
    agent.kill();
    std::fs::remove_dir_all(site.path("state/launches")).unwrap();
    let agent = site.agent().await;
    let both = [claims.sub, never.sub];
    let begun = std::time::Instant::now();
    wait_until("one runs, and the other is gone", DEADLINE, || async {
        let expected = [
            (id.clone(), SlurmState::Running),
            (String::new(), SlurmState::Gone),
        ];
        let seen = states(&agent, &site, &both).await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
    // Of two lists, at least one comes an interval after the question.
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(agent.start(&request).await, id);
    assert_eq!(site.slurm_jobs(), 1);

    agent.kill();
    std::fs::remove_dir_all(site.path("state/launches")).unwrap();
    let agent = site.agent().await;
    let ours = call_of(OURS, CallPurpose::Cancel, &both);
    assert_eq!(cancel(&agent, &site, &ours).await, 1);
    wait_until("it is over", DEADLINE, || async {
        let seen = states(&agent, &site, &[claims.sub]).await;
        seen.iter().any(|(_, state)| state.is_over())
    })
    .await;
    agent.stop();
}

/// It ends while the agent is away, and then slurmctld loses its state: accounting alone knows how it ended.
async fn accounting_tells_how_it_ended(site: fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test_with_accounting(1).await else {
        return;
    };
    let site = site(&slurm).with("SLURM__INTERVAL_S", "1");
    let go = site.path("go");
    let script = format!(
        "#!/bin/bash\nuntil [ -e '{}' ]; do sleep 0.1; done; exit 3\n",
        go.display()
    );
    std::fs::write(site.path("script"), script).unwrap();
    let agent = site.agent().await;
    let claims = of(SLURM_USERS[0], "r1");
    let id = agent.start(&site.request(&claims)).await;
    wait_until("it runs", DEADLINE, || async {
        states(&agent, &site, &[claims.sub]).await == [(id.clone(), SlurmState::Running)]
    })
    .await;
    agent.kill();
    std::fs::write(go, "").unwrap();
    let job = format!("--jobs={id}");
    let words = ["--noheader", "--allocations", "--format=State", &job];
    wait_until("accounting knows its end", DEADLINE, || async {
        let said = slurm.run("sacct", &words).await.unwrap();
        if said.trim() == "FAILED" {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    slurm.lose_state().await.unwrap();
    let agent = site.agent().await;
    let state = wait_until("its end is told", DEADLINE, || async {
        states(&agent, &site, &[claims.sub]).await.pop()
    })
    .await;
    assert_eq!(state, (id, SlurmState::Failed));
    agent.stop();
}

#[tokio::test]
async fn accounting_tells_how_it_ended_by_programs() {
    accounting_tells_how_it_ended(sbatch::site).await;
}

#[tokio::test]
async fn accounting_tells_how_it_ended_by_rest() {
    accounting_tells_how_it_ended(rest::site).await;
}
