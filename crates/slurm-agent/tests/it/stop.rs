//! `gha-slurm-munge stop` and `resume` beside a running agent.

use gha_slurm_contract::LaunchClaims;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, wait_until};
use serde_json::Value;

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site, claims};
use crate::real_slurm::{By, by_both, of, queue};

pub(crate) fn switch(site: &Site, words: &[&str]) -> (bool, String) {
    let output = site.task(words, "");
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said + &errors)
}

async fn answer(agent: &Agent, site: &Site, claims: &LaunchClaims) -> (u16, Option<String>, Value) {
    let response = agent.ask(&site.request(claims)).await.unwrap();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    (status, retry_after, response.json().await.unwrap())
}

/// A delay, with the administrator's words.
async fn is_stopped(agent: &Agent, site: &Site, claims: &LaunchClaims, words: &str) {
    let (status, retry_after, problem) = answer(agent, site, claims).await;
    assert_eq!((status, &problem["code"]), (503, &Value::from("stopped")));
    assert!(retry_after.is_some(), "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{detail}");
}

fn claims_of(user: &str) -> LaunchClaims {
    LaunchClaims {
        slurm_user: user.parse().unwrap(),
        ..claims()
    }
}

#[tokio::test]
async fn what_an_administrator_stopped_waits_until_it_is_resumed() {
    let site = Site::new("sleep 1000");
    let agent = site.agent().await;
    let before = claims();
    let id = agent.start(&site.request(&before)).await;

    let (fine, said) = switch(
        &site,
        &["stop", "--user", "alice", "--reason", "odd builds"],
    );
    assert!(
        fine && said.contains("of alice are stopped: odd builds"),
        "{said}"
    );
    let (alice, bob) = (claims_of("alice"), claims_of("bob"));
    is_stopped(&agent, &site, &alice, "of alice: odd builds").await;
    agent.start(&site.request(&bob)).await;
    // What is a Slurm job already is answered as before.
    assert_eq!(agent.start(&site.request(&before)).await, id);

    let (fine, said) = switch(&site, &["stop", "--reason", "maintenance"]);
    assert!(
        fine && said.contains("of all users are stopped: maintenance"),
        "{said}"
    );
    is_stopped(&agent, &site, &claims_of("bob"), "maintenance").await;
    agent.kill();
    let agent = site.agent().await;
    is_stopped(&agent, &site, &claims_of("bob"), "maintenance").await;
    let (fine, said) = switch(&site, &["stop", "--status"]);
    assert!(fine && said.lines().count() == 2, "{said}");
    let (_, said) = switch(&site, &["--doctor"]);
    assert!(
        said.contains("all users are stopped: maintenance"),
        "{said}"
    );

    let (fine, said) = switch(&site, &["resume"]);
    assert!(fine && said.contains("of alice are stopped"), "{said}");
    agent.start(&site.request(&claims_of("bob"))).await;
    is_stopped(&agent, &site, &alice, "odd builds").await;
    let (fine, said) = switch(&site, &["resume", "--user", "alice"]);
    assert!(fine && said.contains("nothing is stopped"), "{said}");
    agent.start(&site.request(&alice)).await;

    // Whatever somebody wrote there by hand.
    std::fs::write(site.path("state/stop.toml"), "user = alice").unwrap();
    is_stopped(&agent, &site, &claims_of("bob"), "cannot be read").await;
    let (fine, said) = switch(&site, &["resume"]);
    assert!(!fine && said.contains("fix or remove it"), "{said}");
    agent.stop();
}

by_both!(pending_slurm_jobs_of_gha_slurm_are_cancelled_with_a_stop);

async fn pending_slurm_jobs_of_gha_slurm_are_cancelled_with_a_stop(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = by.site(&slurm);
    let [user, other] = SLURM_USERS;
    let agent = site.agent().await;
    let exclusive = |user: &str, name: &str| {
        let mut asked = of(user, name);
        asked.resources.exclusive = true;
        asked
    };
    let mut ids = Vec::new();
    for (user, name) in [(user, "r1"), (user, "r2"), (other, "r3")] {
        ids.push(agent.start(&site.request(&exclusive(user, name))).await);
    }
    let runs =
        |line: &String| line.starts_with(&format!("{} ", ids[0])) && line.contains("RUNNING");
    wait_until("the first one runs", DEADLINE, || async {
        let seen = queue(&slurm).await;
        if seen.iter().any(runs) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    let (fine, said) = switch(&site, &["stop", "--user", user, "--cancel"]);
    assert!(
        fine && said.contains("pending Slurm jobs cancelled: 1"),
        "{said}"
    );
    let seen = queue(&slurm).await;
    let cancelled: Vec<&String> = seen.iter().filter(|l| l.contains("CANCELLED")).collect();
    assert!(
        cancelled.len() == 1 && cancelled[0].starts_with(&format!("{} ", ids[1])),
        "{seen:?}"
    );
    is_stopped(
        &agent,
        &site,
        &of(user, "r4"),
        "stopped by an administrator",
    )
    .await;
    agent.stop();
}
