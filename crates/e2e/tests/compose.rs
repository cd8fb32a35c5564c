//! docker-compose.yml against the services it starts and the .env that `make env` writes, without Docker.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use gha_slurm_auth::KeyFolder;
use gha_slurm_test_support::binary;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SECRETS: &str = "/run/secrets/";
const KEYS: &str = "/var/lib/gha-slurm/keys";
const PAGE: &str = "/usr/share/gha-slurm/web";

#[test]
fn the_services_accept_what_the_compose_file_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    let variables = new_env(folder.path());
    let compose = std::fs::read_to_string(Path::new(ROOT).join("docker-compose.yml")).unwrap();

    let mut used: BTreeSet<&str> = compose
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split([':', '}']).next())
        .collect();
    for (name, variable) in compose.lines().filter_map(secret) {
        used.insert(variable);
        let value = variables.get(variable).map_or("", String::as_str);
        std::fs::write(folder.path().join(name), value).unwrap();
    }
    let written: BTreeSet<&str> = variables.keys().map(String::as_str).collect();
    assert_eq!(
        used, written,
        "variables of docker-compose.yml, and of .env"
    );

    let (keys, page) = (folder.path().join("keys"), folder.path().join("page"));
    KeyFolder::new(&keys).generate(1).unwrap();
    std::fs::create_dir(&page).unwrap();
    std::fs::write(page.join("index.html"), "page").unwrap();
    let mut services: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    for (key, value) in compose.lines().filter_map(setting) {
        let prefix = key.split("__").next().unwrap();
        let value = match value.strip_prefix("${").and_then(|v| v.split(':').next()) {
            Some(variable) => variables[variable].clone(),
            None => value
                .replace(SECRETS, &format!("{}/", folder.path().display()))
                .replace(KEYS, keys.to_str().unwrap())
                .replace(PAGE, page.to_str().unwrap()),
        };
        services
            .entry(prefix.to_lowercase().replace('_', "-"))
            .or_default()
            .insert(key, value);
    }
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        [
            "gha-slurm-munge",
            "launcher",
            "repo-mapping",
            "token-broker",
            "webhook-ingest"
        ],
    );
    for (program, settings) in &services {
        let mut command = Command::new(binary(program));
        command.arg("--check-config").env_clear().envs(settings);
        succeeds(program, &command.output().unwrap());
    }
}

/// Runs `make env` in a folder of its own; what a program that is given all of it sees.
fn new_env(folder: &Path) -> BTreeMap<String, String> {
    let scripts = folder.join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    std::fs::copy(
        Path::new(ROOT).join("scripts/env.sh"),
        scripts.join("env.sh"),
    )
    .unwrap();
    let mut make = Command::new("bash");
    succeeds(
        "scripts/env.sh",
        &make.arg(scripts.join("env.sh")).output().unwrap(),
    );

    let mut shell = Command::new("bash");
    let own = "-u PWD -u OLDPWD -u SHLVL -u _";
    shell
        .args(["-c", &format!("set -a; . ./.env; exec env {own} -0")])
        .env_clear()
        .current_dir(folder);
    let output = shell.output().unwrap();
    succeeds(".env", &output);
    String::from_utf8(output.stdout)
        .unwrap()
        .split_terminator('\0')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// `  name: { environment: VARIABLE }`
fn secret(line: &str) -> Option<(&str, &str)> {
    let (name, variable) = line.trim().split_once(": { environment: ")?;
    Some((name, variable.strip_suffix(" }")?))
}

/// `  SERVICE__SECTION__KEY: value`
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim().split_once(": ")?;
    key.contains("__").then_some((key, value.trim_matches('"')))
}

fn succeeds(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
