//! The agent before a real Slurm: what holds whichever way Slurm is spoken to. Each scenario gets the site's settings.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::Instant;

use gha_slurm_contract::agent::{CallPurpose, LaunchStatus, StatesAnswer};
use gha_slurm_contract::{LaunchClaims, Problem};
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmState};
use gha_slurm_test_support::{
    PrivateSlurm, SLURM_ACCOUNT, SLURM_USERS, output_file, output_of, wait_until,
};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site, claims};

/// How Slurm is spoken to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    Programs,
    Rest,
}

impl By {
    /// A site before `slurm`.
    pub(crate) fn site(self, slurm: &PrivateSlurm) -> Site {
        match self {
            Self::Programs => crate::sbatch::site(slurm),
            Self::Rest => crate::rest::site(slurm),
        }
    }
}

/// Each of these scenarios, by Slurm's programs and by slurmrestd.
macro_rules! by_both {
    ($($test:ident),* $(,)?) => {
        mod by_programs { $(#[tokio::test] async fn $test() { super::$test(crate::real_slurm::By::Programs).await; })* }
        mod by_rest { $(#[tokio::test] async fn $test() { super::$test(crate::real_slurm::By::Rest).await; })* }
    };
}
pub(crate) use by_both;

by_both!(
    what_is_asked_for_reaches_slurm_and_its_limits_are_waited_for,
    labels_in_lower_case_name_what_slurm_writes_with_capitals,
    nothing_of_the_agents_world_gets_into_slurm_jobs,
    what_may_pass_is_not_final_and_a_change_of_slurm_is_a_new_version,
    users_are_named_as_their_directory_has_them,
    slurm_jobs_that_slurm_hides_are_not_gone,
    nobody_else_decides_where_output_goes,
    another_users_slurm_job_with_the_comment_is_not_adopted,
    what_its_user_changes_hides_no_slurm_job,
);

/// Says who and where it is, and waits for its end.
const SCRIPT: &str = r#"#!/bin/bash
umask 077
file=$(mktemp --suffix=.log "$GHA_SLURM_OUTPUT.XXXXXXXXXX") && exec >>"$file" 2>&1
echo "user=$(id -un) group=$(id -gn) home=${HOME:-} token=${GHA_SLURM_LAUNCH_TOKEN:+yes} launch=$GHA_SLURM_LAUNCH cpus=${SLURM_CPUS_ON_NODE:-}"
[ -z "${AGENT_ONLY:-}" ] || echo "AGENT_ONLY leaked"
exec sleep 600
"#;

/// A site before `slurm`, and the folder for what job scripts print. How Slurm is spoken to comes on top.
pub(crate) fn bare_site() -> (Site, String) {
    let site = Site::new(SCRIPT);
    let output = site.path("output");
    std::fs::create_dir(&output).unwrap();
    std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(site.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = output.to_str().unwrap().to_owned();
    (site.with("POLICY__MIN_UID", "1"), output)
}

pub(crate) fn of(user: &str, name: &str) -> LaunchClaims {
    LaunchClaims {
        slurm_user: user.parse().unwrap(),
        runner_name: name.into(),
        ..claims()
    }
}

/// Numbers, states and comments of all Slurm jobs.
pub(crate) async fn queue(slurm: &PrivateSlurm) -> Vec<String> {
    let listing = slurm
        .run("squeue", &["-h", "-t", "all", "-o", "%i %T %u %k"])
        .await
        .unwrap();
    listing.lines().map(|l| l.trim().to_owned()).collect()
}

pub(crate) fn of_launch(queue: &[String], launch: LaunchId) -> Vec<&String> {
    let comment = format!("gha-slurm:{launch}");
    queue.iter().filter(|l| l.ends_with(&comment)).collect()
}

pub(crate) async fn refusal(agent: &Agent, site: &Site, claims: &LaunchClaims) -> Problem {
    let response = agent.ask(&site.request(claims)).await.unwrap();
    response.json().await.unwrap()
}

/// Another user has read the comment in the queue, and submits a Slurm job of their own with it.
async fn another_users_slurm_job_with_the_comment_is_not_adopted(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let [user, other] = SLURM_USERS;
    let asked = of(user, "r1");
    let submitted = slurm
        .command_as(other, "sbatch")
        .args(["--parsable", "--output=/dev/null", "--wrap=sleep 600"])
        .arg(format!("--comment=gha-slurm:{}", asked.sub))
        .output()
        .unwrap();
    let foreign = String::from_utf8(submitted.stdout).unwrap();
    let foreign = foreign.trim();
    let running = format!("{foreign} RUNNING {other} ");
    wait_until("the other user's runs", DEADLINE, || async {
        let seen = queue(&slurm).await;
        let runs = seen.iter().any(|line| line.starts_with(&running));
        if runs { Ok(()) } else { Err(seen) }
    })
    .await;
    let agent = site.agent().await;
    let request = site.request(&asked);
    let id = agent.start(&request).await;
    assert_ne!(id, foreign);
    let of_user = async || {
        let seen = queue(&slurm).await;
        let mine = seen
            .iter()
            .filter(|l| l.contains(&format!(" {user} gha-slurm:")));
        assert_eq!(mine.count(), 1, "{seen:?}");
    };
    of_user().await;
    // The answer is lost, and the intent is all that the ledger has.
    agent.kill();
    forget_the_answer(&site, asked.sub);
    let agent = site.agent().await;
    wait_until("its own state alone is told", DEADLINE, || async {
        let seen = states(&agent, &site, &[asked.sub]).await;
        let ids: Vec<&str> = seen.iter().map(|s| s.slurm_job_id.as_str()).collect();
        if ids == [id.as_str()] {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    let assertion = site.assertion(CallPurpose::Cancel, &[asked.sub]);
    let (status, answer) = agent
        .call("/runner/cancel", &assertion, serde_json::json!({}))
        .await;
    assert_eq!(
        (status, answer["cancelled"].as_array().map(Vec::len)),
        (200, Some(1))
    );
    let seen = queue(&slurm).await;
    assert!(
        seen.iter().any(|line| line.starts_with(&running)),
        "{seen:?}"
    );
    assert_eq!(
        agent.start(&request).await,
        id,
        "found, although it is over"
    );
    agent.stop();
}

/// As if the agent had been killed before it wrote Slurm's answer down.
fn forget_the_answer(site: &Site, launch: LaunchId) {
    let ledger = std::fs::read_to_string(site.entry(launch)).unwrap();
    let intent = ledger.lines().find(|line| !line.is_empty()).unwrap();
    assert!(!intent.contains("slurmJobId"), "{intent}");
    std::fs::write(site.entry(launch), format!("{intent}\n")).unwrap();
}

/// A workflow changes whatever its user may change of its Slurm job, and of pending ones. They are still counted, reported and cancelled,
/// by the agent and by `stop --cancel`.
async fn what_its_user_changes_hides_no_slurm_job(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = by
        .site(&slurm)
        .with("SLURM__INTERVAL_S", "1")
        .with("POLICY__LIVE__PER_USER", "3");
    let agent = site.agent().await;
    let user = SLURM_USERS[0];
    let mut launches = Vec::new();
    let mut numbers = Vec::new();
    for number in 0..3 {
        let mut asked = of(user, &format!("r{number}"));
        asked.resources.exclusive = true;
        asked.resources.time_minutes = Some(30);
        numbers.push(agent.start(&site.request(&asked)).await);
        launches.push(asked.sub);
        if number == 0 {
            wait_until("the first one runs", DEADLINE, || async {
                let seen = states(&agent, &site, &launches).await;
                seen.iter()
                    .any(|status| status.state == SlurmState::Running)
            })
            .await;
        }
    }
    for (number, id) in numbers.iter().enumerate() {
        // Also that of another launch of the same user.
        let comment = ["hidden".to_owned(), format!("gha-slurm:{}", launches[0])];
        let changed = slurm
            .command_as(user, "scontrol")
            .args([
                "update",
                &format!("JobId={id}"),
                "JobName=mine",
                "TimeLimit=20",
            ])
            .arg(format!("Comment={}", comment[number % 2]))
            .output()
            .unwrap();
        assert!(changed.status.success(), "{changed:?}");
    }
    let queue = queue(&slurm).await;
    assert!(
        queue.iter().any(|line| line.ends_with(" hidden")),
        "{queue:?}"
    );
    // Something that was never submitted is gone after two lists.
    let mut asked = launches.clone();
    asked.push(LaunchId(uuid::Uuid::now_v7()));
    let seen = wait_until("two lists", DEADLINE, || async {
        let seen = states(&agent, &site, &asked).await;
        if seen.len() == asked.len() {
            Ok(seen)
        } else {
            Err(seen)
        }
    })
    .await;
    let told: Vec<(&str, SlurmState)> = seen
        .iter()
        .map(|status| (status.slurm_job_id.as_str(), status.state))
        .collect();
    let expected = [
        (numbers[0].as_str(), SlurmState::Running),
        (numbers[1].as_str(), SlurmState::Pending),
        (numbers[2].as_str(), SlurmState::Pending),
        ("", SlurmState::Gone),
    ];
    assert_eq!(told, expected);
    let problem = refusal(&agent, &site, &of(user, "r3")).await;
    assert_eq!(problem.code, "limit_reached", "{problem:?}");

    let cancel = async |launch: LaunchId| {
        let assertion = site.assertion(CallPurpose::Cancel, &[launch]);
        let (status, answer) = agent
            .call("/runner/cancel", &assertion, serde_json::json!({}))
            .await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer, serde_json::json!({ "cancelled": [launch] }));
    };
    cancel(launches[1]).await;
    let stopped = site.task(&["stop", "--user", user, "--cancel"], "");
    let said = String::from_utf8_lossy(&stopped.stdout);
    assert!(said.contains("pending Slurm jobs cancelled: 1"), "{said}");
    cancel(launches[0]).await;
    wait_until("all are cancelled", DEADLINE, || async {
        let seen = states(&agent, &site, &launches).await;
        let cancelled = seen.iter().all(|s| s.state == SlurmState::Cancelled);
        if cancelled { Ok(()) } else { Err(seen) }
    })
    .await;
    agent.stop();
}

/// Slurm accepts it, but its answer never comes: `site` sees to that, once. The next call finds the Slurm job.
pub(crate) async fn a_lost_answer(slurm: &PrivateSlurm, site: Site) {
    let agent = site.agent().await;
    let asked = of(SLURM_USERS[0], "r1");
    let request = site.request(&asked);
    let first = agent.ask(&request).await.unwrap();
    assert_eq!(first.status(), 503, "{}", first.text().await.unwrap());
    let listed = queue(slurm).await;
    let [accepted] = of_launch(&listed, asked.sub)[..] else {
        panic!("Slurm has it all the same: {listed:?}");
    };
    let id = agent.start(&request).await;
    assert!(accepted.starts_with(&format!("{id} ")), "{id}: {accepted}");
    let listed = queue(slurm).await;
    assert_eq!(of_launch(&listed, asked.sub).len(), 1, "{listed:?}");
    agent.stop();
}

/// Two users get what they asked for and see nothing of each other.
pub(crate) async fn two_users_on_one_node(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let agent = site.agent().await;
    for (number, user) in SLURM_USERS.into_iter().enumerate() {
        let asked = LaunchClaims {
            resources: ResourceRequest {
                cpus: Some(2 + number as u32),
                time_minutes: Some(30),
                memory_mib: Some(100),
                ..ResourceRequest::default()
            },
            ..of(user, &format!("r{number}"))
        };
        let id = agent.start(&site.request(&asked)).await;
        let folder = site.path("output");
        let name = format!("r{number}");
        let said = wait_until("the job script speaks", DEADLINE, || async {
            let text = output_of(&folder, &name);
            text.ends_with('\n').then_some(text)
        })
        .await;
        let output = output_file(&folder, &name).unwrap();
        let expected = format!(
            "user={user} group={user} home= token=yes launch={} cpus={}\n",
            asked.sub,
            2 + number
        );
        assert_eq!(said, expected);
        let owner = std::fs::metadata(&output).unwrap();
        assert_eq!(owner.mode() & 0o777, 0o600, "nobody else may read it");
        let uid = std::process::Command::new("id")
            .args(["-u", user])
            .output()
            .unwrap();
        assert_eq!(
            owner.uid().to_string(),
            String::from_utf8(uid.stdout).unwrap().trim()
        );
        let shown = slurm.run("scontrol", &["show", "job", &id]).await.unwrap();
        for wanted in ["TimeLimit=00:30:00", "Requeue=0", "JobName=r"] {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
        assert!(
            !shown.contains("acme"),
            "repositories are nobody's business: {shown}"
        );
    }
    agent.stop();
}

/// Slurm's no, and its absence.
pub(crate) async fn what_slurm_says(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r");
    asked.resources.partition = Some("nowhere".into());
    let problem = refusal(&agent, &site, &asked).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (422, "slurm_rejected")
    );
    assert!(
        problem.detail.unwrap().contains("Invalid partition name"),
        "in Slurm's own words"
    );

    slurm.stop_controller();
    let asked = of(SLURM_USERS[0], "r");
    let problem = refusal(&agent, &site, &asked).await;
    assert_eq!(problem.status, 503, "{problem:?}");
    slurm.start_controller().await.unwrap();
    let id = agent.start(&site.request(&asked)).await;
    let queue = queue(&slurm).await;
    assert_eq!(
        of_launch(&queue, asked.sub).len(),
        1,
        "one Slurm job, {id}: {queue:?}"
    );
    agent.stop();
}

/// However many launches there are, Slurm is asked once in each interval; `looks` counts how often it was.
pub(crate) async fn one_look(site: Site, looks: impl Fn() -> usize) {
    let site = site.with("SLURM__INTERVAL_S", "2");
    let agent = site.agent().await;
    let mut asked = Vec::new();
    for number in 0..20 {
        let one = of(SLURM_USERS[0], &format!("r{number}"));
        agent.start(&site.request(&one)).await;
        asked.push(one.sub);
    }
    let (before, since) = (looks(), Instant::now());
    wait_until("two looks", DEADLINE, || async {
        let told = states(&agent, &site, &asked).await;
        looks() >= before + 2 && told.len() == asked.len()
    })
    .await;
    // One may have been on its way.
    let most = since.elapsed().as_secs() as usize / 2 + 2;
    let looked = looks() - before;
    assert!(looked <= most, "{looked} of {most}");
    agent.stop();
}

/// An agent that was killed finds its Slurm job again.
pub(crate) async fn a_killed_agent(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let agent = site.agent().await;
    let asked = of(SLURM_USERS[1], "r");
    let request = site.request(&asked);
    let id = agent.start(&request).await;
    agent.kill();
    // As if it had been killed before it wrote the answer down.
    let entry = site.entry(asked.sub);
    let text = std::fs::read_to_string(&entry).unwrap();
    let (intent, answer) = text.trim().split_once('\n').unwrap();
    assert!(!intent.contains("slurmJobId"), "{text}");
    assert!(answer.contains("slurmJobId"), "{text}");
    std::fs::write(&entry, intent).unwrap();
    let agent = site.agent().await;
    assert_eq!(agent.start(&request).await, id);
    let queue = queue(&slurm).await;
    assert_eq!(of_launch(&queue, asked.sub).len(), 1, "{queue:?}");
    agent.stop();
}

/// What the agent says of these launches.
pub(crate) async fn states(agent: &Agent, site: &Site, asked: &[LaunchId]) -> Vec<LaunchStatus> {
    let assertion = site.assertion(CallPurpose::States, &[]);
    let body = serde_json::json!({ "launches": asked });
    let (status, answer) = agent.call("/runner/states", &assertion, body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: StatesAnswer = serde_json::from_value(answer).unwrap();
    answer.launches
}

/// Slurm's truth comes back, and what is not wanted is cancelled.
pub(crate) async fn states_and_cancelling(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm).with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r1");
    asked.resources.exclusive = true;
    agent.start(&site.request(&asked)).await;
    let running = asked.sub;
    let until = async |ids: &[LaunchId], expected: &[(SlurmState, &str, &str)]| {
        wait_until(&format!("{expected:?}"), DEADLINE, || async {
            let seen = states(&agent, &site, ids).await;
            let short: Vec<(SlurmState, &str, &str)> = seen
                .iter()
                .map(|status| {
                    let text = |t: &'_ Option<String>| t.clone().unwrap_or_default().leak() as &str;
                    (status.state, text(&status.reason), text(&status.nodes))
                })
                .collect();
            if short == expected { Ok(()) } else { Err(seen) }
        })
        .await;
    };
    until(&[running], &[(SlurmState::Running, "", "n1")]).await;
    let waiting = of(SLURM_USERS[1], "r2");
    let id = agent.start(&site.request(&waiting)).await;
    until(
        &[running, waiting.sub],
        &[
            (SlurmState::Running, "", "n1"),
            (SlurmState::Pending, "Resources", ""),
        ],
    )
    .await;

    // Only the launcher may cancel, and only by an assertion for that.
    for wrong in [
        "nonsense".to_owned(),
        site.assertion(CallPurpose::States, &[waiting.sub]),
        site.request(&waiting).launcher_token,
    ] {
        let (status, _) = agent
            .call("/runner/cancel", &wrong, serde_json::json!({}))
            .await;
        assert_eq!(status, 401);
    }
    let never = LaunchId(uuid::Uuid::now_v7());
    let assertion = site.assertion(CallPurpose::Cancel, &[waiting.sub, never]);
    let (status, answer) = agent
        .call("/runner/cancel", &assertion, serde_json::json!({}))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer, serde_json::json!({ "cancelled": [waiting.sub] }));
    let seen = slurm
        .run("squeue", &["-h", "-t", "all", "-j", &id, "-o", "%T"])
        .await
        .unwrap();
    assert_eq!(seen.trim(), "CANCELLED");
    // Its user ends the other.
    slurm
        .run("scancel", &["--user", SLURM_USERS[0]])
        .await
        .unwrap();
    until(
        &[running, waiting.sub],
        &[
            (SlurmState::Cancelled, "", "n1"),
            (SlurmState::Cancelled, "", ""),
        ],
    )
    .await;
    // There is no accounting here, which is said once.
    let none = || async { agent.log().contains("Slurm has no accounting here") };
    wait_until("the agent says so", DEADLINE, none).await;
    let body = serde_json::json!({ "launches": [running] });
    let assertion = site.assertion(CallPurpose::States, &[]);
    let (_, told) = agent.call("/runner/states", &assertion, body).await;
    assert_eq!(told["launches"][0].get("usageToCome"), None, "{told}");
    // It is remembered, also by the next agent.
    agent.stop();
    let agent = site.agent().await;
    assert_eq!(states(&agent, &site, &[running]).await.len(), 1);
    agent.stop();
}

/// The cluster has the last word.
pub(crate) async fn policy(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm)
        .with("POLICY__GROUP", SLURM_USERS[0])
        .with("POLICY__MAX__CPUS", "4")
        .with("POLICY__LIVE__PER_USER", "1")
        .with("SLURM__INTERVAL_S", "1");
    let consents = site.path("consents");
    std::fs::write(&consents, format!("{} 1\n", SLURM_USERS[0])).unwrap();
    let site = site.with("POLICY__CONSENTS", consents.to_str().unwrap());
    let agent = site.agent().await;
    let refused = async |claims: LaunchClaims, status: u16, text: &str| {
        let problem = refusal(&agent, &site, &claims).await;
        let detail = problem.detail.unwrap_or_default();
        assert_eq!(problem.status, status, "{detail}");
        assert!(detail.contains(text), "{detail}");
    };
    refused(of("root", "r"), 422, "uid 0").await;
    refused(of("nosuchuser", "r"), 503, "no user").await;
    refused(of(SLURM_USERS[1], "r"), 503, "opted in").await;
    let mut large = of(SLURM_USERS[0], "r");
    large.resources.cpus = Some(5);
    refused(large, 422, "5 CPUs").await;
    let foreign = LaunchClaims {
        repository_id: 2,
        ..of(SLURM_USERS[0], "r")
    };
    refused(foreign, 422, "not consented").await;
    let first = of(SLURM_USERS[0], "r");
    agent.start(&site.request(&first)).await;
    let second = of(SLURM_USERS[0], "s");
    refused(second.clone(), 429, "1 launches").await;
    // Room again.
    let assertion = site.assertion(CallPurpose::Cancel, &[first.sub]);
    agent
        .call("/runner/cancel", &assertion, serde_json::json!({}))
        .await;
    wait_until("there is room", DEADLINE, || async {
        let answer = agent.ask(&site.request(&second)).await.unwrap();
        answer.status().is_success()
    })
    .await;
    let queue = queue(&slurm).await;
    assert_eq!(queue.len(), 2, "nothing else was submitted: {queue:?}");
    agent.stop();
}

/// Hostile names reach neither a shell nor a path. The repository is in the comment.
pub(crate) async fn hostile_names(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let harm = site.path("output/harm");
    let touch = format!("touch {}", harm.display());
    let hostile = [
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("'; {touch}; '"),
        format!("\"; {touch}; \""),
        format!("a\n{touch}\nb"),
        "a\0b".to_owned(),
        "--uid=root".to_owned(),
        format!("../../../..{}", harm.display()),
        "x".repeat(10_000),
    ];
    // What would run would run as the user, who may write there.
    let script = "#!/bin/bash\nexec sleep 600\n";
    std::fs::write(site.path("script"), script).unwrap();
    let agent = site.agent().await;
    for (number, text) in hostile.iter().enumerate() {
        let mut asked = of(SLURM_USERS[0], &format!("r{number}"));
        asked.owner.clone_from(text);
        // A launch token has a size, too.
        if text.len() < 1000 {
            asked.repository_name.clone_from(text);
            asked.repository_url = format!("https://github.com/{text}");
            asked.labels.clone_from(text);
        }
        agent.start(&site.request(&asked)).await;
        let named = of(SLURM_USERS[0], text);
        let problem = refusal(&agent, &site, &named).await;
        assert_eq!(problem.code, "runner_name_invalid", "{problem:?}");
        let text = || Some(text.clone());
        for wrong in [
            ResourceRequest {
                partition: text(),
                ..ResourceRequest::default()
            },
            ResourceRequest {
                qos: text(),
                ..ResourceRequest::default()
            },
            ResourceRequest {
                account: text(),
                ..ResourceRequest::default()
            },
            ResourceRequest {
                constraint: text(),
                ..ResourceRequest::default()
            },
            ResourceRequest {
                reservation: text(),
                ..ResourceRequest::default()
            },
            ResourceRequest {
                gres: text(),
                ..ResourceRequest::default()
            },
        ] {
            let mut asked = of(SLURM_USERS[0], "s");
            asked.resources = wrong;
            let answer = agent.ask(&site.request(&asked)).await.unwrap();
            let status = answer.status().as_u16();
            let said = answer.text().await.unwrap();
            // A Slurm without accounting takes any account and QOS.
            let named = asked.resources.account.is_some() || asked.resources.qos.is_some();
            // What is not known to be final is tried again.
            let unknown = status == 503 && said.contains("slurm_failed");
            assert!(
                status == 422 || unknown || named && status == 200,
                "{status} {said}: {:?}",
                asked.resources
            );
        }
    }
    wait_until("they run", DEADLINE, || async {
        let queue = queue(&slurm).await;
        let running = queue.iter().filter(|line| line.contains(" RUNNING "));
        if running.count() >= 8 {
            Ok(())
        } else {
            Err(queue)
        }
    })
    .await;
    assert!(!harm.exists());
    for number in 0..hostile.len() {
        // One may wait for a place.
        if let Some(path) = output_file(&site.path("output"), &format!("r{number}")) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut left = std::fs::read_dir(site.path("output")).unwrap();
    // Those that a Slurm without accounting took are named so.
    let odd = left.find(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_str().unwrap().starts_with("s.")
    });
    assert!(odd.is_none(), "{odd:?}");
    agent.stop();
}

/// Its variables, its limits and its time zone are not the Slurm job's; and a time of Slurm's is the same wherever the agent is.
async fn nothing_of_the_agents_world_gets_into_slurm_jobs(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let mut site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let foreign = [
        ("TZ", "Pacific/Kiritimati"),
        ("LANG", "tlh_KL.UTF-8"),
        ("LC_ALL", "tlh_KL.UTF-8"),
        ("SLURM_TIME_FORMAT", "%H"),
        ("SBATCH_TIMELIMIT", "7"),
        ("AGENT_ONLY", "1"),
    ];
    for (name, value) in foreign {
        site = site.env(name, value);
    }
    let script = "#!/bin/bash\numask 077\nfile=$(mktemp --suffix=.log \"$GHA_SLURM_OUTPUT.XXXXXXXXXX\") && exec >>\"$file\" 2>&1\n\
                  env\necho \"files=$(ulimit -Sn)\"\necho over\nexec sleep 600\n";
    std::fs::write(site.path("script"), script).unwrap();
    let limited = ["bash", "-c", "ulimit -Sn 777; exec \"$@\"", "bash"].map(str::to_owned);
    let mut agent = site.spawn_through(&limited);
    agent.ready().await;
    let asked = of(SLURM_USERS[0], "r1");
    let before = chrono::Utc::now();
    let id = agent.start(&site.request(&asked)).await;
    let folder = site.path("output");
    let said = wait_until("the job script speaks", DEADLINE, || async {
        let text = output_of(&folder, "r1");
        text.ends_with("over\n").then_some(text)
    })
    .await;
    for (name, _) in foreign {
        let line = said.lines().find(|l| l.starts_with(&format!("{name}=")));
        assert_eq!(line, None, "{said}");
    }
    assert!(!said.contains("files=777\n"), "{said}");
    let shown = slurm.run("scontrol", &["show", "job", &id]).await.unwrap();
    assert!(!shown.contains("TimeLimit=00:07:00"), "{shown}");
    let seen = wait_until("it runs", DEADLINE, || async {
        let seen = states(&agent, &site, &[asked.sub]).await;
        seen.into_iter().find(|s| s.state == SlurmState::Running)
    })
    .await;
    let starts_at = seen.starts_at.unwrap();
    let off = (starts_at - before).num_minutes();
    assert!((-1..10).contains(&off), "{starts_at} {before}");
    agent.stop();
}

/// A drained partition takes Slurm jobs again some time. What is refused for good may be accepted when Slurm's configuration changes, which
/// launchers hear of.
async fn what_may_pass_is_not_final_and_a_change_of_slurm_is_a_new_version(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = by
        .site(&slurm)
        .with("SLURM__INTERVAL_S", "1")
        .with("SLURM__CONFIGURATION_INTERVAL_S", "1");
    let scontrol = async |words: &[&str]| slurm.run("scontrol", words).await.unwrap();
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r1");
    asked.resources.partition = Some("other".into());
    scontrol(&["update", "PartitionName=other", "State=DRAIN"]).await;
    let answer = agent.ask(&site.request(&asked)).await.unwrap();
    let pause = answer.headers().get("retry-after").cloned();
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (503, "slurm_failed"),
        "{problem:?}"
    );
    assert_eq!(pause, None, "the launcher's pauses grow");
    let said = problem.detail.unwrap();
    assert!(said.contains("inactive or drain"), "{said}");
    scontrol(&["update", "PartitionName=other", "State=UP"]).await;
    agent.start(&site.request(&asked)).await;

    let version = async |agent: &Agent| {
        let assertion = site.assertion(CallPurpose::States, &[]);
        let body = serde_json::json!({ "launches": [] });
        let (status, answer) = agent.call("/runner/states", &assertion, body).await;
        assert_eq!(status, 200, "{answer}");
        answer["policy"].as_str().unwrap().to_owned()
    };
    let mut wanted = of(SLURM_USERS[0], "r2");
    wanted.resources.partition = Some("new".into());
    let problem = refusal(&agent, &site, &wanted).await;
    assert_eq!(problem.code, "slurm_rejected", "{problem:?}");
    crate::agent_fixture::until_written(&site.path("state/slurm-configuration")).await;
    let before = version(&agent).await;
    let mut seen = before;
    for change in [
        ["create", "PartitionName=new", "Nodes=n1"],
        ["update", "PartitionName=new", "MaxTime=50"],
        ["update", "NodeName=n1", "AvailableFeatures=fast"],
    ] {
        scontrol(&change).await;
        seen = wait_until("the version changes", DEADLINE, || async {
            let now = version(&agent).await;
            (now != seen).then_some(now)
        })
        .await;
    }
    agent.stop();
    // A start of the agent is no change.
    let agent = site.agent().await;
    assert_eq!(version(&agent).await, seen);
    agent.start(&site.request(&wanted)).await;
    agent.stop();
}

/// Names of Active Directory: with `@`, dots, capitals, or a digit first. Only a mount namespace knows them.
async fn users_are_named_as_their_directory_has_them(by: By) {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("passwd");
    let mount = format!(
        "mount --bind {} /etc/passwd; exec \"$@\"",
        directory.display()
    );
    let within = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-ec",
        &mount,
        "bash",
    ];
    let within = within.map(str::to_owned);
    let names = ["Jane.Doe@corp.example.org", "DOE", "1doe"];
    let mut text = std::fs::read_to_string("/etc/passwd").unwrap();
    for (name, uid) in names.into_iter().zip(61_301_u32..) {
        let line = [
            name,
            ":*:",
            &uid.to_string(),
            ":65534::/nonexistent:/bin/bash\n",
        ];
        text.push_str(&line.concat());
    }
    std::fs::write(&directory, text).unwrap();
    let Some(slurm) = PrivateSlurm::for_test_within(1, "", &within).await else {
        return;
    };
    let site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let mut agent = site.spawn_through(&within);
    agent.ready().await;
    let mut launches = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let asked = of(name, &format!("r{number}"));
        agent.start(&site.request(&asked)).await;
        launches.push(asked.sub);
    }
    wait_until("all of them run, and are recognised", DEADLINE, || async {
        let seen = states(&agent, &site, &launches).await;
        let running = seen.iter().filter(|s| s.state == SlurmState::Running);
        if running.count() == names.len() {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    let said = wait_until("the first one speaks", DEADLINE, || async {
        let text = output_of(&site.path("output"), "r0");
        text.ends_with('\n').then_some(text)
    })
    .await;
    let user = std::fs::metadata(output_file(&site.path("output"), "r0").unwrap()).unwrap();
    assert_eq!(user.uid(), 61_301, "{said}");
    let unknown = refusal(&agent, &site, &of("doe@corp.example.org", "r9")).await;
    assert_eq!(unknown.code, "user_unknown", "{unknown:?}");
    let assertion = site.assertion(CallPurpose::Cancel, &launches);
    let (status, answer) = agent
        .call("/runner/cancel", &assertion, serde_json::json!({}))
        .await;
    let cancelled = answer["cancelled"].as_array().map(Vec::len);
    assert_eq!((status, cancelled), (200, Some(3)), "{answer}");
    agent.stop();
}

/// With `PrivateData=jobs`, who is no operator sees no Slurm jobs of others. One that no list ever had is not gone, so that it is not
/// replaced, and both the log and the doctor say what to do.
async fn slurm_jobs_that_slurm_hides_are_not_gone(by: By) {
    let Some(slurm) = PrivateSlurm::for_test_with(1, "PrivateData=jobs\n").await else {
        return;
    };
    let mut site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    if matches!(by, By::Programs) {
        // The agent is root here, who would see everything.
        let squeue = "#!/bin/sh\nexec setpriv --reuid=bin --clear-groups --regid=bin /usr/bin/squeue \"$@\"\n";
        site = crate::sbatch::with_program(site, "squeue", squeue);
    }
    let agent = site.agent().await;
    let asked = of(SLURM_USERS[0], "r1");
    let id = agent.start(&site.request(&asked)).await;
    wait_until("the agent notices", DEADLINE, || async {
        let log = agent.log();
        if log.contains("PrivateData=jobs") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert_eq!(states(&agent, &site, &[asked.sub]).await, []);
    assert_eq!(agent.start(&site.request(&asked)).await, id);
    let seen = queue(&slurm).await;
    assert_eq!(of_launch(&seen, asked.sub).len(), 1, "{seen:?}");
    agent.kill();
    forget_the_answer(&site, asked.sub);
    // It cannot be found: another is submitted, which never runs beside it.
    let agent = site.agent().await;
    let second = agent.start(&site.request(&asked)).await;
    assert_ne!(second, id);
    let reasons = || async {
        let words = ["--noheader", "--sort=i", "--format=%i %T %r"];
        let listing = slurm.run("squeue", &words).await.unwrap();
        listing.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = [
        format!("{id} RUNNING None"),
        format!("{second} PENDING Dependency"),
    ];
    wait_until("the second waits for the first", DEADLINE, || async {
        let seen = reasons().await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
    agent.stop();
    let doctor = site.task(&["--doctor", "--node", SLURM_USERS[0]], "");
    let said = String::from_utf8_lossy(&doctor.stdout);
    let line = said
        .lines()
        .find(|l| l.starts_with("problem  node: Slurm accepted Slurm job"));
    assert!(
        line.is_some_and(|l| l.contains("adminlevel=operator")),
        "{said}"
    );
}

/// GitHub's labels have no capitals, and Slurm compares names as they are written.
async fn labels_in_lower_case_name_what_slurm_writes_with_capitals(by: By) {
    let large = "NodeName=n9 NodeAddr=127.0.0.1 Port=9 CPUs=8 RealMemory=20000 Gres=gpu:A100:2 Feature=Haswell,IB State=UNKNOWN\n\
                 PartitionName=Large Nodes=n9 MaxTime=60 State=UP\n";
    let Some(slurm) = PrivateSlurm::for_test_with(1, large).await else {
        return;
    };
    let site = by.site(&slurm);
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r1");
    asked.resources = ResourceRequest {
        time_minutes: Some(5),
        partition: Some("large,main".into()),
        gres: Some("gpu:a100:1".into()),
        constraint: Some("haswell".into()),
        ..ResourceRequest::default()
    };
    let id = agent.start(&site.request(&asked)).await;
    let shown = slurm.run("scontrol", &["show", "job", &id]).await.unwrap();
    let shown = shown.replace("=gres/", "=gres:");
    for wanted in [
        "Partition=Large,main",
        "TresPerNode=gres:gpu:A100:1",
        "Features=Haswell",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    // What Slurm does not know, it refuses in its own words.
    let mut unknown = of(SLURM_USERS[0], "r2");
    unknown.resources.constraint = Some("broadwell".into());
    let problem = refusal(&agent, &site, &unknown).await;
    assert_eq!(problem.code, "slurm_rejected", "{problem:?}");
    agent.stop();
}

/// Whatever can be asked for gets to Slurm. Its own limits are waited for, with its reason; an account that it does not have is
/// refused in its words.
async fn what_is_asked_for_reaches_slurm_and_its_limits_are_waited_for(by: By) {
    let Some(slurm) = PrivateSlurm::for_test_with_accounting(1).await else {
        return;
    };
    let site = by.site(&slurm).with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let user = SLURM_USERS[0];
    let mut asked = of(user, "r");
    asked.resources.account = Some("nowhere".into());
    let problem = refusal(&agent, &site, &asked).await;
    let said = problem.detail.unwrap();
    assert_eq!(problem.code, "slurm_rejected", "{said}");
    assert!(said.contains("Invalid account"), "{said}");

    let of_user = format!("user={user}");
    let sacctmgr = async |words: &[&str]| {
        let words = [&["-i"], words].concat();
        slurm.run("sacctmgr", &words).await.unwrap();
    };
    let scontrol = async |words: &[&str]| slurm.run("scontrol", words).await.unwrap();
    let user_is = ["modify", "user", "where", &of_user, "set"];
    sacctmgr(&["add", "qos", "long"]).await;
    sacctmgr(&[&user_is[..], &["qos+=long"]].concat()).await;
    sacctmgr(&[&user_is[..], &["MaxSubmitJobs=1"]].concat()).await;
    let features = ["AvailableFeatures=fast", "ActiveFeatures=fast"];
    scontrol(&[&["update", "NodeName=n1"], &features[..]].concat()).await;
    let users = format!("Users={user}");
    let reservation = [
        "ReservationName=week",
        "StartTime=now",
        "Duration=60",
        "Nodes=n1",
    ];
    scontrol(&[&["create", &users], &reservation[..]].concat()).await;
    let mut first = of(user, "r1");
    first.resources = ResourceRequest {
        cpus: Some(2),
        memory_mib: Some(300),
        time_minutes: Some(40),
        gres: Some("gpu:2".into()),
        partition: Some("other".into()),
        account: Some(SLURM_ACCOUNT.into()),
        qos: Some("long".into()),
        constraint: Some("fast".into()),
        reservation: Some("week".into()),
        nodes: Some(1),
        exclusive: true,
        container: None,
    };
    let id = agent.start(&site.request(&first)).await;
    // 24.11 writes `gres/gpu:2`.
    let shown = scontrol(&["show", "job", &id])
        .await
        .replace("=gres/", "=gres:");
    for wanted in [
        "CPUs/Task=2",
        "MinMemoryNode=300M",
        "TimeLimit=00:40:00",
        "Partition=other",
        "Account=builds QOS=long",
        "Features=fast",
        "Reservation=week",
        "NumNodes=1",
        "OverSubscribe=NO",
        "TresPerNode=gres:gpu:2",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let second = of(user, "r2");
    let answer = agent.ask(&site.request(&second)).await.unwrap();
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    let problem: Problem = answer.json().await.unwrap();
    let said = problem.detail.unwrap();
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (429, "limit_reached"),
        "{said}"
    );
    assert!(
        said.contains("Job violates accounting/QOS policy"),
        "{said}"
    );
    // sbatch names it in a line before; slurmrestd 22.05 does not.
    if matches!(by, By::Programs) {
        assert!(said.contains("AssocMaxSubmitJobLimit"), "{said}");
    }
    slurm.run("scancel", &[&id]).await.unwrap();
    wait_until("there is room", DEADLINE, || async {
        let answer = agent.ask(&site.request(&second)).await.unwrap();
        answer.status().is_success()
    })
    .await;
    agent.stop();
}

/// What a Slurm job used comes back after its end, and is remembered.
pub(crate) async fn usage(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test_with_accounting(1).await else {
        return;
    };
    let site = site(&slurm).with("SLURM__INTERVAL_S", "1");
    // Some CPU time, and some memory for as long as it takes to be looked at.
    let script = "#!/bin/bash\n\
        for ((i = 0; i < 400000; i++)); do :; done\n\
        text=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 2; exit 3\n";
    std::fs::write(site.path("script"), script).unwrap();
    let agent = site.agent().await;
    let mut asked = of(SLURM_USERS[0], "r1");
    asked.resources.cpus = Some(2);
    asked.resources.gres = Some("gpu:1".into());
    asked.resources.memory_mib = Some(100);
    agent.start(&site.request(&asked)).await;
    // Ends at the same time: accounting is asked for both in one call.
    let mut twin = of(SLURM_USERS[0], "r2");
    twin.resources = asked.resources.clone();
    agent.start(&site.request(&twin)).await;
    let body = serde_json::json!({ "launches": [asked.sub, twin.sub] });
    let assertion = site.assertion(CallPurpose::States, &[]);
    let seen = std::sync::Mutex::new(Vec::new());
    let status = wait_until("their usage is told", DEADLINE, || async {
        let (_, answer) = agent.call("/runner/states", &assertion, body.clone()).await;
        let answer: StatesAnswer = serde_json::from_value(answer).unwrap();
        seen.lock().unwrap().extend(answer.launches.clone());
        match answer.launches.as_slice() {
            [status, twin] if twin.usage.is_some() && status.usage.is_some() => Ok(status.clone()),
            _ => Err(answer),
        }
    })
    .await;
    assert_eq!(
        (status.state, status.exit_code, status.usage_to_come),
        (SlurmState::Failed, Some(3), false)
    );
    // Until then it was said whether to ask again.
    let seen = seen.into_inner().unwrap();
    let earlier = || seen.iter().filter(|s| s.usage.is_none());
    assert!(
        earlier().all(|s| s.usage_to_come == s.state.is_over()),
        "{seen:?}"
    );
    let usage = status.usage.unwrap();
    assert!((2..60).contains(&usage.elapsed_s), "{usage:?}");
    assert_eq!(usage.cpu_allocated_s, 2 * usage.elapsed_s, "{usage:?}");
    assert!(usage.cpu_used_s >= 1, "{usage:?}");
    assert!(usage.cpu_used_s <= usage.cpu_allocated_s, "{usage:?}");
    assert!(usage.max_rss_bytes.unwrap() > 25_000_000, "{usage:?}");
    assert_eq!(usage.gpu_allocated_s(), usage.elapsed_s, "{usage:?}");
    for (tres, count) in [("cpu", 2), ("node", 1), ("gres/gpu", 1)] {
        assert_eq!(usage.tres.get(tres), Some(&count), "{usage:?}");
    }
    agent.stop();
    let agent = site.agent().await;
    let (_, again) = agent.call("/runner/states", &assertion, body).await;
    let again: StatesAnswer = serde_json::from_value(again).unwrap();
    assert_eq!(again.launches[0].usage.as_ref(), Some(&usage));
    agent.stop();
}

/// The last place is given once, however many ask at the same moment; and what people submitted themselves counts.
pub(crate) async fn places(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let [person, other] = SLURM_USERS;
    let own = async || {
        let uid = format!("--uid={person}");
        let words = ["--parsable", "--output=/dev/null", &uid, "--wrap=sleep 600"];
        let id = slurm.run("sbatch", &words).await.unwrap();
        id.trim().to_owned()
    };
    let owns = [own().await, own().await];
    let site = site(&slurm)
        .with("SLURM__INTERVAL_S", "1")
        .with("POLICY__LIVE__PER_USER_WITH_OWN", "3")
        .with("POLICY__LIVE__TOTAL", "4");
    let agent = site.agent().await;
    let first = of(person, "r1");
    agent.start(&site.request(&first)).await;
    let second = of(person, "r2");
    let problem = refusal(&agent, &site, &second).await;
    let detail = problem.detail.unwrap();
    assert_eq!(problem.status, 429, "{detail}");
    assert!(
        detail.contains("1 launches and 2 Slurm jobs of their own"),
        "{detail}"
    );
    slurm.run("scancel", &[&owns[0]]).await.unwrap();
    wait_until("there is room for the person's", DEADLINE, || async {
        let answer = agent.ask(&site.request(&second)).await.unwrap();
        answer.status().is_success()
    })
    .await;
    // Two of four places are left.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        calls.spawn(agent.ask(&site.request(&of(other, &format!("s{number}")))));
    }
    let mut accepted = 0;
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert!([200, 429].contains(&answer.status().as_u16()), "{answer:?}");
        accepted += u32::from(answer.status() == 200);
    }
    assert_eq!(accepted, 2, "{}", agent.log());
    let queue = queue(&slurm).await;
    let ours = queue.iter().filter(|line| line.contains("gha-slurm:"));
    assert_eq!(ours.count(), 4, "{queue:?}");
    agent.stop();
}

/// Whoever saw a name in squeue could create the output file first: the launch failed, or, with a link, its output was appended to a
/// file of the user's.
async fn nobody_else_decides_where_output_goes(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = by.site(&slurm);
    let [user, other] = SLURM_USERS;
    let id = |name: &str| {
        nix::unistd::User::from_name(name)
            .unwrap()
            .unwrap()
            .uid
            .as_raw()
    };
    let output = site.path("output");
    let victim = site.path("victim");
    std::fs::write(&victim, "mine\n").unwrap();
    chown(&victim, Some(id(user)), None).unwrap();
    let taken = output.join("r0.log");
    std::fs::write(&taken, "").unwrap();
    std::fs::set_permissions(&taken, std::fs::Permissions::from_mode(0o600)).unwrap();
    chown(&taken, Some(id(other)), None).unwrap();
    let link = output.join("r1.log");
    symlink(&victim, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(id(other)), None).unwrap();
    let agent = site.agent().await;
    for name in ["r0", "r1"] {
        let number = agent.start(&site.request(&of(user, name))).await;
        wait_until("the job script speaks", DEADLINE, || async {
            output_of(&output, name).ends_with('\n').then_some(())
        })
        .await;
        let made = std::fs::symlink_metadata(output_file(&output, name).unwrap()).unwrap();
        assert!(made.is_file() && made.uid() == id(user) && made.mode() & 0o777 == 0o600);
        // What everybody may ask for.
        let shown = slurm
            .run("scontrol", &["show", "job", &number])
            .await
            .unwrap();
        assert!(shown.contains("StdOut=/dev/null"), "{shown}");
        assert!(!shown.contains(output.to_str().unwrap()), "{shown}");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine\n");
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "");
    agent.stop();
}
