//! `gha-slurm-munge --doctor` and `--dry-run` before a real Slurm. Each scenario gets the site's settings.

use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, wait_until};
use std::os::unix::fs::PermissionsExt;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::Site;

const NODE_CHECK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-node-check.sh"
);

/// What a doctor says, and whether it found no problem.
fn doctor(site: &Site, words: &[&str]) -> (bool, String) {
    let mut arguments = vec!["--doctor"];
    arguments.extend(words);
    let output = site.task(&arguments, "");
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), format!("{said}{errors}"))
}

fn has(said: &str, line: &str) {
    let found = said.lines().any(|l| l.starts_with(line));
    assert!(found, "no line `{line}…`:\n{said}");
}

/// What is there is found, on this machine and from a compute node; what is missing is named.
pub(crate) async fn a_site(site: impl Fn(&PrivateSlurm) -> Site, how: &str) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let user = SLURM_USERS[0];
    let broker = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_raw("{\"keys\": []}", "application/json");
    Mock::given(path("/.well-known/jwks.json"))
        .respond_with(answer)
        .mount(&broker)
        .await;
    let site = site(&slurm)
        .with("POLICY__MAX__TIME_MINUTES", "60")
        .with("POLICY__GROUP", user);
    let listener = site.path("bin/Runner.Listener");
    std::fs::create_dir(site.path("bin")).unwrap();
    std::fs::write(&listener, "#!/bin/sh\necho 2.336.0\n").unwrap();
    std::fs::set_permissions(&listener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let node = ["--node", user, "--token-url", &broker.uri()];
    let (fine, said) = doctor(&site, &node);
    assert!(fine, "{said}");
    for line in [
        "ok       authentication: ",
        "ok       partitions: main, other",
        "ok       accounts: none: ",
        "ok       qos: none: ",
        &format!("ok       acting as users: as {user}: {how}"),
        "ok       keys: ",
        "ok       state.folder: ",
        "ok       output_folder: ",
        "ok       runner.folder: ",
        &format!("ok       node, node: {}, user {user}", hostname()),
        "ok       node, programs: bash ",
        "ok       node, scratch space: ",
        "ok       node, proxy: ",
        &format!("ok       node, token-broker: {}", broker.uri()),
        "ok       node, clock: ",
        "no problem found",
    ] {
        has(&said, line);
    }
    has(&said, "wait     node: Slurm job ");
    assert!(said.contains(" node, ptrace: "), "{said}");
    assert!(said.matches("version 2.336.0").count() == 2, "{said}");

    std::fs::remove_file(&listener).unwrap();
    std::fs::set_permissions(site.path("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(site.path("script"), "echo no interpreter\n").unwrap();
    let dead = format!("http://127.0.0.1:{}", gha_slurm_test_support::free_port());
    let (fine, said) = doctor(&site, &["--node", user, "--token-url", &dead]);
    assert!(!fine, "{said}");
    for line in [
        "problem  runner.job_script: ",
        "warning  runner.folder: ",
        "problem  node, runner: ",
        &format!("problem  node, token-broker: {dead} cannot be reached"),
        "problems found: 3",
    ] {
        has(&said, line);
    }

    let elsewhere = site.with("POLICY__DEFAULTS__PARTITION", "nowhere");
    let (fine, said) = doctor(&elsewhere, &node);
    assert!(!fine, "{said}");
    has(
        &said,
        "problem  policy.partitions: Slurm has no nowhere; it has main, other",
    );
    has(&said, "problem  node: ");
    let (_, said) = doctor(&elsewhere, &["--node", "root"]);
    has(&said, "problem  node: root has the uid 0");

    // The agent says the same at its start, and starts.
    let agent = elsewhere.agent().await;
    wait_until("the self-check is logged", DEADLINE, || async {
        let log = agent.log();
        let logged = log.contains("Slurm has no nowhere") && log.contains("self-check: ok ");
        if logged { Ok(()) } else { Err(log) }
    })
    .await;
    agent.stop();

    slurm.stop_controller();
    let (fine, said) = doctor(&elsewhere, &[]);
    assert!(!fine, "{said}");
    has(&said, "problem  slurm: ");
}

/// A node with jq 1.5, as RHEL 7 has it, and with scratch space from which nothing may be run.
pub(crate) async fn an_old_node(site: impl Fn(&PrivateSlurm) -> Site) {
    let folder = tempfile::tempdir().unwrap();
    let [scratch, jq] = ["scratch", "jq"].map(|name| folder.path().join(name));
    std::fs::create_dir(&scratch).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open.clone()).unwrap();
    std::fs::write(&jq, "#!/bin/sh\necho jq-1.5\n").unwrap();
    std::fs::set_permissions(&jq, open).unwrap();
    let mounts = format!(
        "mount -t tmpfs -o noexec,mode=1777 tmpfs '{}'; mount --bind '{}' /usr/bin/jq",
        scratch.display(),
        jq.display()
    );
    let Some(slurm) = PrivateSlurm::for_test_with_mounts(1, "", &mounts).await else {
        return;
    };
    let site = site(&slurm).with("RUNNER__WORK_ROOT", scratch.to_str().unwrap());
    let (fine, said) = doctor(&site, &["--node", SLURM_USERS[0]]);
    assert!(!fine, "{said}");
    has(
        &said,
        "problem  node, programs: the job script needs jq 1.6 or newer, and this node has bash 5.",
    );
    assert!(
        said.contains("jq-1.5: install them on every node"),
        "{said}"
    );
    let scratch = scratch.display();
    let line = format!("problem  node, scratch space: no program in {scratch} can be run");
    has(&said, &line);
}

/// What it prints has no password of a proxy, and is its user's alone.
#[test]
fn the_node_check_keeps_passwords_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("bash")
        .arg("-c")
        .arg(format!("umask 022; exec bash '{NODE_CHECK}'"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("GHA_SLURM_OUTPUT", folder.path().join("check"))
        .env("GHA_SLURM_WORK_ROOT", folder.path())
        .env("https_proxy", "alice:secret1@proxy.example.org:3128")
        .env(
            "http_proxy",
            "http://alice:sec@ret2@proxy.example.org:3128/",
        )
        .env("no_proxy", "localhost,example.org")
        .status()
        .unwrap();
    assert!(status.code().is_some(), "{status}");
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let [file] = &files.collect::<Vec<_>>()[..] else {
        panic!("one file");
    };
    let said = std::fs::read_to_string(file.path()).unwrap();
    let shown = "ok       proxy:  http_proxy=http://***@proxy.example.org:3128/ https_proxy=***@proxy.example.org:3128 no_proxy=localhost,example.org";
    has(&said, shown);
    assert!(!said.contains("secret") && !said.contains("ret2"), "{said}");
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

/// The policy is applied, and what Slurm would be told is shown; nothing is submitted. Returns what was shown.
pub(crate) async fn a_dry_run(site: impl Fn(&PrivateSlurm) -> Site) -> Option<String> {
    let slurm = PrivateSlurm::for_test(1).await?;
    let site = site(&slurm)
        .with("POLICY__MAX__CPUS", "4")
        .with("POLICY__GROUP", SLURM_USERS[0]);
    let ask = |user: &str, cpus: u32| {
        let request = serde_json::json!({ "slurmUser": user, "resources": { "cpus": cpus } });
        let output = site.task(&["--dry-run"], &request.to_string());
        let said = String::from_utf8(output.stdout).unwrap();
        (
            output.status.success(),
            said + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (fine, said) = ask(SLURM_USERS[0], 3);
    assert!(fine, "{said}");
    assert!(said.contains("\"***\"") || said.contains("=***"), "{said}");
    for (user, cpus, reason) in [
        (SLURM_USERS[0], 5, "5 CPUs"),
        (SLURM_USERS[1], 1, "opted in"),
        ("root", 1, "uid 0"),
        ("$(reboot)", 1, "Unix user name"),
    ] {
        let (fine, said) = ask(user, cpus);
        assert!(!fine && said.contains(reason), "{said}");
    }
    let queue = crate::real_slurm::queue(&slurm).await;
    assert!(queue.is_empty(), "{queue:?}");
    Some(said)
}

/// Accounts and QOS, as sacctmgr of a Slurm with accounting lists them: one line for each association, the same name again.
#[test]
fn accounts_and_qos_of_the_policy_are_looked_up_where_accounting_exists() {
    let site = Site::new("#!/bin/bash\n");
    let bin = site.path("programs");
    std::fs::create_dir(&bin).unwrap();
    for (name, says) in [
        ("sbatch", "echo slurm 24.05.3"),
        ("scancel", ""),
        ("squeue", ""),
        ("sinfo", "echo main"),
        (
            "sacctmgr",
            "case $4 in account) printf 'root\\nphysics\\nphysics\\n' ;; qos) echo normal ;; esac",
        ),
    ] {
        let program = bin.join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{says}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let site = site
        .with("SLURM__BACKEND", "sbatch")
        .with("SBATCH__RUN_AS", "root")
        .with("SBATCH__BIN", bin.to_str().unwrap())
        .with("POLICY__DEFAULTS__ACCOUNT", "Physics")
        .with("POLICY__DEFAULTS__QOS", "long");
    let (fine, said) = doctor(&site, &[]);
    assert!(!fine, "{said}");
    for line in [
        "ok       slurm: slurm 24.05.3",
        "ok       accounts: physics, root",
        "ok       qos: normal",
        "problem  policy.qos: Slurm has no long; it has normal",
        // Nobody says who may be run as.
        "problem  policy.group: neither policy.group nor policy.consents is set: whoever holds",
        "problems found: 2",
    ] {
        has(&said, line);
    }
    let site = site.with("POLICY__GROUP", "no-such-group");
    let (_, said) = doctor(&site, &[]);
    has(
        &said,
        "problem  policy.group: there is no group no-such-group",
    );
}
