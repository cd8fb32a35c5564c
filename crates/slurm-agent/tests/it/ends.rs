//! What Slurm says of Slurm jobs that wait, and of those that it ends.

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::SlurmState;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, skip_for_kernel, wait_until};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site};
use crate::real_slurm::{By, by_both, of, states};

by_both!(
    slurms_word_for_each_end_comes_back,
    out_of_memory_comes_back,
);

/// What is preempted would be requeued, if our Slurm jobs could be.
const PREEMPTION: &str = "PreemptType=preempt/partition_prio\n\
    PreemptMode=REQUEUE\n\
    PartitionName=urgent Nodes=ALL PriorityTier=10 State=UP\n";

/// Waits until a launch is told to be as wanted.
async fn until(
    agent: &Agent,
    site: &Site,
    asked: &LaunchClaims,
    wanted: impl Fn(&LaunchStatus) -> bool,
) -> LaunchStatus {
    let what = format!("{} is as wanted", asked.runner_name);
    wait_until(&what, DEADLINE, || async {
        let told = states(agent, site, &[asked.sub]).await.pop();
        match told {
            Some(status) if wanted(&status) => Ok(status),
            other => Err((other, agent.log())),
        }
    })
    .await
}

async fn slurms_word_for_each_end_comes_back(by: By) {
    let Some(slurm) = PrivateSlurm::for_test_with(4, PREEMPTION).await else {
        return;
    };
    let site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let [user, other] = SLURM_USERS;
    // One for each node.
    let mut running = Vec::new();
    for name in ["slow", "unlucky", "humble", "unwanted"] {
        let mut asked = of(user, name);
        asked.resources.exclusive = true;
        asked.resources.time_minutes = Some(30);
        let id = agent.start(&site.request(&asked)).await;
        let status = until(&agent, &site, &asked, |s| s.state == SlurmState::Running).await;
        running.push((asked, id, status.nodes.unwrap()));
    }
    let mut nodes: Vec<&str> = running.iter().map(|(_, _, node)| node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3", "n4"]);
    let [slow, unlucky, humble, unwanted] = &running[..] else {
        unreachable!()
    };
    let scontrol = async |words: &[&str]| slurm.run("scontrol", words).await.unwrap();

    let mut wide = of(user, "wide");
    wide.resources.nodes = Some(2);
    wide.resources.exclusive = true;
    agent.start(&site.request(&wide)).await;
    let status = until(&agent, &site, &wide, |s| s.starts_at.is_some()).await;
    assert_eq!(status.state, SlurmState::Pending);
    assert_eq!(status.reason.as_deref(), Some("Resources"));
    let wait = status.starts_at.unwrap() - chrono::Utc::now();
    assert!((20..=31).contains(&wait.num_minutes()), "{status:?}");

    // Slurm looks at time limits each half minute; the others are faster.
    scontrol(&["update", &format!("JobId={}", slow.1), "EndTime=now"]).await;
    let down = ["State=DOWN", "Reason=test"];
    scontrol(&[
        "update",
        &format!("NodeName={}", unlucky.2),
        down[0],
        down[1],
    ])
    .await;
    let (uid, node) = (format!("--uid={other}"), format!("--nodelist={}", humble.2));
    let urgent = [
        "--partition=urgent",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 600",
        &uid,
        &node,
    ];
    slurm.run("sbatch", &urgent).await.unwrap();
    let status = slurm.command_as(user, "scancel").arg(&unwanted.1).status();
    assert!(status.unwrap().success());

    for ((asked, ..), state, reason) in [
        (unlucky, SlurmState::NodeFailed, Some("NodeDown")),
        (humble, SlurmState::Preempted, None),
        (unwanted, SlurmState::Cancelled, None),
        (slow, SlurmState::TimedOut, Some("TimeLimit")),
    ] {
        let status = until(&agent, &site, asked, |s| s.state.is_over()).await;
        let said = (status.state, status.reason.as_deref());
        assert_eq!(said, (state, reason), "{}", asked.runner_name);
        assert!(status.ended_at.is_some(), "{status:?}");
    }
    // Of the nodes that are free again.
    let status = until(&agent, &site, &wide, |s| s.state == SlurmState::Running).await;
    assert!(status.nodes.is_some_and(|nodes| nodes.starts_with("n[")));

    // A node without the output folder runs it all the same.
    let output = site.path("output");
    std::fs::remove_dir_all(&output).unwrap();
    let lost = of(user, "lost");
    agent.start(&site.request(&lost)).await;
    until(&agent, &site, &lost, |s| s.state == SlurmState::Running).await;
    agent.stop();
}

/// Memory is only watched over where there are control groups.
async fn out_of_memory_comes_back(by: By) {
    const HIERARCHY: &str = "/sys/fs/cgroup/memory/cgroup.procs";
    if !std::path::Path::new(HIERARCHY).exists() {
        skip_for_kernel(&format!("Slurm 22.05 limits memory by {HIERARCHY}"));
        return;
    }
    let limits = "TaskPlugin=task/cgroup\nSelectTypeParameters=CR_CPU_Memory\n";
    let Some(slurm) = PrivateSlurm::for_test_with(1, limits).await else {
        return;
    };
    let site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let script = "#!/bin/bash\ntext=$(head -c 300000000 /dev/zero | tr '\\0' x)\nsleep 600\n";
    std::fs::write(site.path("script"), script).unwrap();
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r");
    asked.resources.memory_mib = Some(50);
    agent.start(&site.request(&asked)).await;
    let status = until(&agent, &site, &asked, |s| s.state.is_over()).await;
    assert_eq!(status.state, SlurmState::OutOfMemory, "{status:?}");
    agent.stop();
}
