//! The units of deploy/systemd: how much each leaves open, as systemd-analyze(1) counts it.

use std::path::Path;
use std::process::Command;

use gha_slurm_test_support::skip;

/// `systemd-analyze security` of a unit, from 0.0 to 10.0. Drop-ins beside the file count.
fn exposure(unit: &Path) -> f64 {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().rev().find(|l| l.contains("exposure level"));
    let value = line.and_then(|l| l.split(": ").nth(1)?.split(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn every_unit_is_sandboxed() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        skip("systemd-analyze is missing: apt-get install systemd");
        return;
    }
    let units = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd"));
    let mut seen = 0;
    for unit in std::fs::read_dir(units).unwrap() {
        let unit = unit.unwrap().path();
        if unit.extension().is_none_or(|e| e != "service") {
            continue;
        }
        // As in deploy: the agent's has the drop-in for slurmrestd beside it.
        let score = exposure(&unit);
        assert!(score < 3.0, "{}: {score}", unit.display());
        let text = std::fs::read_to_string(&unit).unwrap();
        if !text.contains("NoNewPrivileges=yes") {
            // Alone, it is for sudo.
            let folder = tempfile::tempdir().unwrap();
            let alone = folder.path().join(unit.file_name().unwrap());
            std::fs::write(&alone, &text).unwrap();
            let score = exposure(&alone);
            assert!(score < 5.0, "{}, with sudo: {score}", unit.display());
        }
        assert!(text.contains("\nLimitNOFILE="), "{}", unit.display());
        seen += 1;
    }
    assert!(seen >= 2, "{seen} units");
}
