//! The sample of the settings, and what the program says of them. What it answers is tested with a real Slurm: slurm-agent's
//! `rest` tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
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
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(SAMPLE).unwrap();
    let key = folder.path().join("jwt_hs256.key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = text.replace(
        "/var/spool/slurm/statesave/jwt_hs256.key",
        key.to_str().unwrap(),
    );
    let socket = folder.path().join("socket");
    let text = text.replace(
        "/run/gha-slurm-token-signer/socket",
        socket.to_str().unwrap(),
    );
    let file = folder.path().join("signer.toml");
    std::fs::write(&file, &text).unwrap();
    let fine = signer(&["--config", file.to_str().unwrap(), "--check-config"]);
    let said = String::from_utf8(fine.stdout).unwrap();
    assert!(
        fine.status.success() && said.starts_with("settings are fine"),
        "{said}{}",
        String::from_utf8_lossy(&fine.stderr)
    );
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
