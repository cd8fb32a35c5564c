//! The agent before a real Slurm, by Slurm's own programs.

use gha_slurm_test_support::PrivateSlurm;

use crate::agent_fixture::Site;
use crate::{doctor, original, real_slurm};

pub(crate) fn site(slurm: &PrivateSlurm) -> Site {
    let (site, output) = real_slurm::bare_site();
    site.with("SLURM__BACKEND", "sbatch")
        .with("SBATCH__RUN_AS", "root")
        .with("SBATCH__CONF", slurm.conf().to_str().unwrap())
        .with("SBATCH__OUTPUT_FOLDER", &output)
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
async fn what_a_slurm_job_used_comes_back() {
    real_slurm::usage(site).await;
}

#[tokio::test]
async fn a_doctor_finds_what_is_there_and_what_is_missing() {
    doctor::a_site(site, "the agent is root").await;
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
    let bin = site.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["squeue", "scancel"] {
        let real = std::path::Path::new("/usr/bin").join(program);
        std::os::unix::fs::symlink(real, bin.join(program)).unwrap();
    }
    // The first submission is accepted; nobody hears of it.
    let script = format!(
        "#!/bin/bash\n[[ \"$*\" == *--parsable* ]] && mkdir '{}' 2>/dev/null || exec /usr/bin/sbatch \"$@\"\n\
         /usr/bin/sbatch \"$@\" >/dev/null; exec sleep 600\n",
        site.path("lost").display()
    );
    let program = bin.join("sbatch");
    std::fs::write(&program, script).unwrap();
    let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, may_run).unwrap();
    let site = site.with("SBATCH__BIN", bin.to_str().unwrap());
    real_slurm::a_lost_answer(&slurm, site).await;
}
