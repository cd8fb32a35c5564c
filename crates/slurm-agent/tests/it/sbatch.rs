//! The agent before a real Slurm, by Slurm's own programs.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::SlurmState;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, slurm_api_versions, wait_until};

use crate::agent_fixture::Site;
use crate::real_slurm::{self, of, queue, states};
use crate::{DEADLINE, doctor, original};

pub(crate) fn site(slurm: &PrivateSlurm) -> Site {
    let (site, output) = real_slurm::bare_site();
    site.with("SLURM__BACKEND", "sbatch")
        .with("SBATCH__RUN_AS", "root")
        .with("SBATCH__CONF", slurm.conf().to_str().unwrap())
        .with("SBATCH__OUTPUT_FOLDER", &output)
}

/// The script stands where the program is; the others are Slurm's.
pub(crate) fn with_program(site: Site, program: &str, script: &str) -> Site {
    let bin = site.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for real in ["sbatch", "squeue", "scancel", "sacct"] {
        if real != program {
            symlink(Path::new("/usr/bin").join(real), bin.join(real)).unwrap();
        }
    }
    let program = bin.join(program);
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    site.with("SBATCH__BIN", bin.to_str().unwrap())
}

#[tokio::test]
async fn two_users_on_one_node_get_what_they_asked_for_and_see_nothing_of_each_other() {
    real_slurm::two_users_on_one_node(site).await;
}

#[tokio::test]
async fn what_slurm_says_is_told_apart() {
    real_slurm::what_slurm_says(site).await;
}

#[tokio::test]
async fn an_agent_that_was_killed_finds_its_slurm_job_again() {
    real_slurm::a_killed_agent(site).await;
}

#[tokio::test]
async fn slurms_truth_comes_back_and_what_is_not_wanted_is_cancelled() {
    real_slurm::states_and_cancelling(site).await;
}

#[tokio::test]
async fn the_slurm_side_has_the_last_word() {
    real_slurm::policy(site).await;
}

#[tokio::test]
async fn hostile_names_reach_neither_a_shell_nor_a_path() {
    real_slurm::hostile_names(|slurm| site(slurm).with("SBATCH__REPOSITORY_IN_COMMENT", "true"))
        .await;
}

#[tokio::test]
async fn what_a_slurm_job_used_comes_back_as_json_where_sacct_can() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let script = format!(
        "#!/bin/bash\necho \"$*\" >> '{}'\nexec /usr/bin/sacct \"$@\"\n",
        asked.display()
    );
    real_slurm::usage(|slurm| with_program(site(slurm), "sacct", &script)).await;
    // Nobody asked where there is no Slurm.
    if let Ok(asked) = std::fs::read_to_string(asked) {
        let newest = slurm_api_versions().pop().unwrap();
        let how = if newest.as_str() >= "v0.0.40" {
            "--json=v0.0.4"
        } else {
            "--parsable2"
        };
        let jobs = asked.lines().filter(|line| line.contains("--jobs="));
        assert!(
            jobs.clone().count() > 0 && jobs.clone().all(|line| line.contains(how)),
            "{how}: {asked}"
        );
    }
}

#[tokio::test]
async fn a_doctor_finds_what_is_there_and_what_is_missing() {
    doctor::a_site(site, "the agent is root").await;
}

#[tokio::test]
async fn a_doctor_finds_a_node_that_is_too_old() {
    doctor::an_old_node(site).await;
}

#[tokio::test]
async fn a_dry_run_shows_sbatchs_arguments() {
    if let Some(said) = doctor::a_dry_run(site).await {
        for word in [
            "/usr/bin/sbatch\n",
            "  --cpus-per-task=3\n",
            "  --uid=games\n",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[tokio::test]
async fn a_request_of_the_original_app_runs_the_sites_template() {
    original::a_template_runs(site).await;
}

#[tokio::test]
async fn a_request_of_the_original_app_runs_our_template_where_the_site_has_none() {
    original::our_template_runs(site).await;
}

#[tokio::test]
async fn the_last_place_is_given_once_and_the_persons_own_slurm_jobs_count() {
    real_slurm::places(site).await;
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_found_again() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    // The first submission is accepted; nobody hears of it.
    let script = format!(
        "#!/bin/bash\n[[ \"$*\" == *--parsable* ]] && mkdir '{}' 2>/dev/null || exec /usr/bin/sbatch \"$@\"\n\
         /usr/bin/sbatch \"$@\" >/dev/null; exec sleep 600\n",
        site.path("lost").display()
    );
    let site = with_program(site, "sbatch", &script);
    real_slurm::a_lost_answer(&slurm, site).await;
}

/// Slurm is asked once in each interval, however many launches there are and however often they are asked about.
#[tokio::test]
async fn one_look_tells_of_all_launches() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let log = site.path("looks");
    let script = format!(
        "#!/bin/bash\necho look >> '{}'\nexec /usr/bin/squeue \"$@\"\n",
        log.display()
    );
    let site = with_program(site, "squeue", &script);
    let looks = || std::fs::read_to_string(&log).unwrap_or_default();
    real_slurm::one_look(site, || looks().lines().count()).await;
}

#[tokio::test]
async fn json_of_sacct_that_is_of_no_use_is_replaced_by_text() {
    real_slurm::usage(|slurm| {
        let script = "#!/bin/bash\n\
            [[ \"$*\" != --json=list ]] || exec echo data_parser/v0.0.42\n\
            [[ \"$*\" != *--json* ]] || exec echo '{ \"jobs\": [ { \"job_id\": '\n\
            exec /usr/bin/sacct \"$@\"\n";
        with_program(site(slurm), "sacct", script)
    })
    .await;
}

#[tokio::test]
async fn a_comment_that_looks_like_lines_of_squeue_is_one_comment() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm).with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let [user, other] = SLURM_USERS;
    let mut asked = of(user, "r1");
    // Listed after the other.
    asked.resources.partition = Some("other".into());
    let id = agent.start(&site.request(&asked)).await;
    // As if the Slurm job of somebody else had failed.
    let launch = asked.sub;
    let line = [
        &id,
        "FAILED",
        "None",
        "N/A",
        "N/A",
        "n9",
        &format!("gha-slurm:{launch}"),
        user,
        "0",
        "",
    ];
    let comment = format!("--comment=x\n{}\n", line.join("\u{1f}"));
    let uid = format!("--uid={other}");
    let words = [
        "--parsable",
        "--output=/dev/null",
        &uid,
        &comment,
        "--wrap=sleep 600",
    ];
    slurm.run("sbatch", &words).await.unwrap();
    let listed = queue(&slurm).await;
    assert!(
        listed
            .iter()
            .any(|line| line.starts_with(&format!("{id}\u{1f}FAILED"))),
        "{listed:?}"
    );
    // Two lists more.
    let second = of(user, "r2");
    agent.start(&site.request(&second)).await;
    let both = [launch, second.sub];
    wait_until("both run", DEADLINE, || async {
        let seen = states(&agent, &site, &both).await;
        assert!(seen.iter().all(|s| !s.state.is_over()), "{seen:?}");
        let runs = |s: &LaunchStatus| {
            s.state == SlurmState::Running && s.reason.is_none() && s.nodes.as_deref() == Some("n1")
        };
        if seen.len() == both.len() && seen.iter().all(runs) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    agent.stop();
}
