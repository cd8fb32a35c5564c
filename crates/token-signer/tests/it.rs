//! The sample of the settings, and what the program says of them. What it answers is tested with a real Slurm: slurm-agent's
//! `rest` tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use gha_slurm_settings::load;
use gha_slurm_token_signer::Settings;

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/config/gha-slurm-token-signer.toml"
);

#[test]
fn the_sample_is_right() {
    let settings: Settings = load(Some(Path::new(SAMPLE)), []).unwrap();
    assert_eq!(settings.max_lifespan_s.get(), 600);
}

fn signer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gha-slurm-token-signer"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn settings_are_checked_and_readiness_is_that_of_the_socket() {
    let fine = signer(&["--config", SAMPLE, "--check-config"]);
    assert!(fine.status.success());
    let said = String::from_utf8(fine.stdout).unwrap();
    assert!(said.starts_with("settings are fine"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(SAMPLE).unwrap();
    let socket = folder.path().join("socket");
    let text = text.replace(
        "/run/gha-slurm-token-signer/socket",
        socket.to_str().unwrap(),
    );
    let file = folder.path().join("signer.toml");
    std::fs::write(&file, format!("mistaken = 1\n{text}")).unwrap();
    let wrong = signer(&["--config", file.to_str().unwrap(), "--check-config"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        !wrong.status.success() && said.contains("mistaken"),
        "{said}"
    );

    std::fs::write(&file, text).unwrap();
    let ready = ["--config", file.to_str().unwrap(), "--check-ready"];
    let absent = signer(&ready);
    let said = String::from_utf8(absent.stderr).unwrap();
    assert!(
        !absent.status.success() && said.contains("socket"),
        "{said}"
    );
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(signer(&ready).status.success());
}
