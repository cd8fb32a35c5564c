//! Commands that run the Slurm agent's program, which is built beside this one.

use gha_slurm_auth::KeyFolder;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::gha_slurm;

const LAUNCHER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/config/launcher.toml"
);

/// An agent's settings: `slurm` is the end of the file.
fn agent(home: &TempDir, slurm: &str) -> PathBuf {
    let dir = home.path().display();
    // No program of Slurm runs: the arguments are only shown.
    for name in ["sbatch", "squeue", "scancel"] {
        std::fs::write(home.path().join(name), "").unwrap();
    }
    let keys = KeyFolder::new(home.path().join("keys"));
    if keys.key_set().is_err() {
        keys.generate(1).unwrap();
    }
    let file = home.path().join("agent.toml");
    let text = format!(
        "deployment.name = 'test'\ncluster.name = 'main'\nkeys.public_keys = '{dir}/keys'\n\
         token_broker.urls = 'https://broker.example'\nstate.folder = '{dir}/state'\n\
         runner.folder = '/opt/actions-runner'\n\
         [policy]\nmin_uid = 1\npartitions = ['Main', 'gpu']\nmax.cpus = 16\ndefaults.partition = 'Main'\n{slurm}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn sbatch(home: &TempDir) -> PathBuf {
    let dir = home.path().display();
    let text = format!(
        "[slurm]\nbackend = 'sbatch'\n[sbatch]\nbin = '{dir}'\noutput_folder = '/scratch'\n"
    );
    agent(home, &text)
}

fn explain(more: &[&str]) -> crate::Answer {
    let mut words = vec!["explain", "--launcher-config", LAUNCHER];
    words.extend(more);
    gha_slurm(&words, &[])
}

fn with_agent(config: &Path, user: &str, labels: &[&str]) -> crate::Answer {
    let mut words = vec!["--user", user, "--agent-config", config.to_str().unwrap()];
    words.extend(labels);
    explain(&words)
}

#[test]
fn labels_are_explained() {
    let known = explain(&["self-hosted", "Slurm", "slurm-cpus-8"]);
    assert!(known.ok, "{}", known.err);
    for line in [
        "Runs on this cluster. Runner class:",
        "  labels: self-hosted,slurm,slurm-cpus-8 (every runner also has linux,self-hosted,x64)",
        "    cpus = 8",
        "    memoryMib = 4096",
    ] {
        assert!(
            known.out.lines().any(|l| l == line),
            "{line}\n{}",
            known.out
        );
    }
    let fixed = explain(&["--account", "chemistry", "slurm", "slurm-account-physics"]);
    assert!(
        !fixed.ok
            && fixed.err.contains("the account physics")
            && fixed.err.contains("fixes the account chemistry"),
        "{}",
        fixed.err
    );
    for (labels, reason) in [
        (["slurm", "windows"], "label `windows` is not served here"),
        (
            ["slurm", "slurm-cpus-0"],
            "label `slurm-cpus-0`: the value must be a whole number from 1 to 4096",
        ),
        (["self-hosted", "linux"], "add one of: slurm, slurm-large"),
        (["slurm", "slurm-large"], "contradict each other"),
    ] {
        let refused = explain(&labels);
        assert!(!refused.ok && refused.out.is_empty(), "{}", refused.out);
        assert!(
            refused.err.contains("not for this cluster: ") && refused.err.contains(reason),
            "{}",
            refused.err
        );
    }
    let nowhere = gha_slurm(
        &["explain", "--launcher-config", "/nowhere.toml", "slurm"],
        &[],
    );
    assert!(
        !nowhere.ok && nowhere.err.contains("/nowhere.toml"),
        "{}",
        nowhere.err
    );
}

#[test]
fn what_the_agent_would_submit_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let config = sbatch(&home);
    let labels = [
        "slurm",
        "slurm-cpus-8",
        "slurm-time-4h",
        "slurm-partition-gpu",
    ];
    let shown = with_agent(&config, "games", &labels);
    assert!(shown.ok, "{}", shown.err);
    let (_, preview) = shown
        .out
        .split_once("The Slurm agent would submit:\n")
        .unwrap();
    let words: Vec<&str> = preview.lines().map(str::trim).collect();
    let sbatch = home.path().join("sbatch");
    assert_eq!(
        words[..6],
        ["sudo", "-n", "-u", "games", "--", sbatch.to_str().unwrap()]
    );
    for word in [
        "--cpus-per-task=8",
        "--mem=4096M",
        "--time=240",
        "--partition=gpu",
        "--no-requeue",
        "GHA_SLURM_LAUNCH_TOKEN=***",
    ] {
        assert!(words.contains(&word), "{word}\n{preview}");
    }
}

#[test]
fn a_slurmrestd_body_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let config = agent(
        &home,
        "[slurm]\nbackend = 'slurmrestd'\n[slurmrestd]\nurl = 'http://127.0.0.1:1'\napi_version = 'v0.0.41'\n\
         service_user = 'games'\ntokens = 'file'\ntoken_file = '/nowhere/%u'\n",
    );
    let shown = with_agent(&config, "games", &["slurm-large"]);
    assert!(shown.ok, "{}", shown.err);
    let (_, body) = shown.out.split_once("/job/submit as games\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["job"]["cpus_per_task"], 16);
    assert_eq!(body["job"]["memory_per_node"]["number"], 65536);
    assert_eq!(body["job"]["partition"], "Main");
}

#[test]
fn what_the_policy_refuses_is_told_with_what_was_asked() {
    let home = tempfile::tempdir().unwrap();
    let config = sbatch(&home);
    for (user, label, reason) in [
        (
            "games",
            "slurm-cpus-17",
            "17 CPUs are more than the 16 that the site allows",
        ),
        (
            "games",
            "slurm-partition-secret",
            "not one of those that may be used: Main, gpu",
        ),
        ("root", "slurm", "root has the uid 0"),
        ("no-such-user", "slurm", "there is no user no-such-user"),
    ] {
        let refused = with_agent(&config, user, &[label]);
        assert!(!refused.ok, "{}", refused.out);
        assert!(
            refused.err.contains("Runner class") && refused.err.contains(reason),
            "{}",
            refused.err
        );
    }
    let anonymous = explain(&["--agent-config", config.to_str().unwrap(), "slurm"]);
    assert!(
        !anonymous.ok && anonymous.err.contains("--user"),
        "{}",
        anonymous.err
    );
}

#[test]
fn a_doctor_is_the_agents() {
    let home = tempfile::tempdir().unwrap();
    let config = agent(&home, "[slurm]\nbackend = 'local'\n");
    let config = config.to_str().unwrap();
    let keys = home.path().join("keys");
    std::fs::remove_dir_all(&keys).unwrap();
    let ill = gha_slurm(&["doctor", "--config", config], &[]);
    assert!(
        !ill.ok && ill.err.contains("keys.public_keys"),
        "{}",
        ill.err
    );
    assert!(gha_slurm(&["keys", "generate", "--dir", keys.to_str().unwrap()], &[]).ok);
    let well = gha_slurm(&["doctor", "--config", config], &[]);
    assert!(
        well.ok
            && well.out.contains("warning  slurm.backend: ")
            && well.out.ends_with("no problem found\n"),
        "{}",
        well.out
    );
    let hostile = gha_slurm(&["doctor", "--config", config, "--node", "--uid=root"], &[]);
    assert!(!hostile.ok, "{}", hostile.out);
}
