//! `deploy/sudoers/gha-slurm-munge` with a real sudo and a real Slurm, in a mount namespace of its own: this machine's /etc is
//! not touched.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gha_slurm_contract::agent::CallPurpose;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, binary, skip};

use crate::agent_fixture::Site;
use crate::real_slurm::{self, of, queue, refusal};

/// The agent's own user, whom only the namespace knows.
const AGENT: &str = "gha-slurm-munge";
const AGENT_ID: u32 = 61_234;
const RULE: &str = include_str!("../../../../deploy/sudoers/gha-slurm-munge");
const WRAPPER: &str = include_str!("../../../../deploy/sudoers/gha-slurm-wrapper");
const UNIT: &str = include_str!("../../../../deploy/systemd/gha-slurm-munge.service");
/// What a site's own sudoers may say before.
const SITE: &str = "Defaults setenv, env_keep += \"SLURM_* SPANK_* LD_LIBRARY_PATH BASH_ENV\"\n";

/// The unit's bounding set, for setpriv(1). The rest of the unit needs systemd as the first process.
fn bounding_set() -> String {
    let line = UNIT
        .lines()
        .find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap().split(' ');
    let names = names.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    format!("-all{}", names.collect::<String>())
}

/// Puts the files over those of /etc and becomes the agent's user. A program of this workspace is copied first: that user may
/// not reach it where it is.
const ENTER: &str = r#"
set -e
etc=$1; shift
for file in passwd group sudoers pam.d/sudo; do mount --bind "$etc/$file" "/etc/$file"; done
[ -z "${HIDE:-}" ] || mount -t tmpfs tmpfs "$HIDE"
case $1 in
  */gha-slurm-munge) program=$etc/program.$$; cp "$1" "$program"; chmod 755 "$program"; shift; set -- "$program" "$@" ;;
esac
exec setpriv --reuid 61234 --regid 61234 --clear-groups --inh-caps=-all --bounding-set="$BOUNDING" -- "$@"
"#;

/// Files for /etc.
struct Etc(PathBuf);

impl Etc {
    /// `None`, and why, where it cannot be tried.
    fn new(slurm: &PrivateSlurm, folder: &Path) -> Option<Self> {
        if !Path::new("/usr/bin/sudo").is_file() {
            skip("sudo is missing: apt-get install sudo");
            return None;
        }
        let etc = folder.join("etc");
        std::fs::create_dir_all(etc.join("pam.d")).unwrap();
        let with = |name: &str, lines: &str| {
            let text = std::fs::read_to_string(format!("/etc/{name}")).unwrap();
            std::fs::write(etc.join(name), text + lines).unwrap();
        };
        with(
            "passwd",
            &format!("{AGENT}:*:{AGENT_ID}:{AGENT_ID}::/nonexistent:/usr/sbin/nologin\n"),
        );
        let member = SLURM_USERS[0];
        with(
            "group",
            &format!("{AGENT}:*:{AGENT_ID}:\ngha-slurm:*:61235:{member}\n"),
        );
        // As usual where /etc/environment and /etc/default/locale say something.
        let variables = etc.join("environment");
        std::fs::write(&variables, "TZ=Pacific/Kiritimati\nLANG=tlh_KL\n").unwrap();
        let reads = format!(
            "pam_env.so readenv=1 user_readenv=0 envfile={}",
            variables.display()
        );
        with(
            "pam.d/sudo",
            &format!("session required {reads}\nauth required {reads}\n"),
        );
        // This Slurm's slurm.conf is where no program looks for it.
        let bin = etc.join("bin");
        std::fs::create_dir(&bin).unwrap();
        let conf = slurm.conf();
        let wrapper = WRAPPER.replace("=/etc/slurm/slurm.conf", &format!("={}", conf.display()));
        let script = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        for name in ["sbatch", "scancel", "squeue", "sacct", "sinfo", "sacctmgr"] {
            script(&bin.join(name), &wrapper);
        }
        script(&bin.join("show"), "#!/bin/sh\nexec /usr/bin/env\n");
        let shown = bin.display();
        let rule = RULE
            .replace(
                "/usr/bin/sbatch,",
                &format!("{shown}/show, {shown}/sbatch,"),
            )
            .replace("/usr/bin/scancel\n", &format!("{shown}/scancel\n"));
        std::fs::write(etc.join("sudoers"), format!("{SITE}{rule}")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o440);
        std::fs::set_permissions(etc.join("sudoers"), mode).unwrap();
        Some(Self(etc))
    }

    fn enter(&self) -> Vec<String> {
        let etc = self.0.to_str().unwrap();
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
            etc,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Runs a command as the agent's user.
    fn run(&self, words: &[&str]) -> Output {
        let enter = self.enter();
        Command::new(&enter[0])
            .args(&enter[1..])
            .args(words)
            .env("BOUNDING", bounding_set())
            .output()
            .unwrap()
    }
}

fn site() -> Site {
    let (site, output) = real_slurm::bare_site();
    let site_bin = site.path("etc/bin");
    let state = site.path("state");
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(AGENT_ID), Some(AGENT_ID)).unwrap();
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.path("keys"), all.clone()).unwrap();
    for file in std::fs::read_dir(site.path("keys")).unwrap() {
        let path = file.unwrap().path();
        if path.to_str().unwrap().ends_with(".pub.pem") {
            std::fs::set_permissions(path, all.clone()).unwrap();
        }
    }
    site.with("SLURM__BACKEND", "sbatch")
        .with("SBATCH__RUN_AS", "sudo")
        .with("SBATCH__BIN", site_bin.to_str().unwrap())
        .with("SBATCH__OUTPUT_FOLDER", &output)
        .env("BOUNDING", &bounding_set())
}

#[tokio::test]
async fn the_rule_lets_the_agent_submit_and_cancel_for_members_and_nothing_else() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site();
    let Some(etc) = Etc::new(&slurm, site.folder.path()) else {
        return;
    };
    let [member, other] = SLURM_USERS;
    let program = |name: &str| site.path("etc/bin").join(name).to_str().unwrap().to_owned();
    for program in [program("sbatch"), program("scancel")] {
        let allowed = etc.run(&["sudo", "-n", "-u", member, "--", &program, "--version"]);
        assert!(allowed.status.success(), "{program}: {allowed:?}");
    }
    // Of what the caller has, the member's program gets what goes into the Slurm job.
    let show = program("show");
    let foreign = [
        "SLURM_CONF",
        "SLURM_X",
        "SBATCH_X",
        "SPANK_X",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "PYTHONPATH",
    ];
    let set: Vec<String> = foreign
        .iter()
        .map(|name| format!("{name}=/foreign"))
        .collect();
    let mut words = vec![
        "env",
        "PATH=/foreign:/usr/bin:/bin",
        "GHA_SLURM_X=1",
        "TRACEPARENT=00",
    ];
    words.extend(set.iter().map(String::as_str));
    words.extend(["sudo", "-n", "-u", member, "--", &show]);
    let shown = String::from_utf8(etc.run(&words).stdout).unwrap();
    assert!(!shown.contains("/foreign"), "{shown}");
    for of_pam in ["TZ=", "LANG="] {
        let leaked = shown.lines().any(|line| line.starts_with(of_pam));
        assert!(!leaked, "{of_pam}: {shown}");
    }
    for line in [
        "GHA_SLURM_X=1",
        "TRACEPARENT=00",
        "PATH=/usr/local/bin:/usr/bin:/bin",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line}: {shown}");
    }
    let assigned = etc.run(&[
        "sudo",
        "-n",
        "-u",
        member,
        "SLURM_CONF=/foreign",
        "--",
        &show,
    ]);
    assert!(!assigned.status.success(), "{assigned:?}");
    let sbatch = &*program("sbatch");
    for refused in [
        &["-u", other, "--", sbatch, "--version"][..],
        &["-u", "root", "--", sbatch, "--version"],
        &["--", sbatch, "--version"],
        &["-u", AGENT, "--", sbatch, "--version"],
        &["-u", member, "--", "/bin/sh", "-c", "id"],
        &["-u", member, "--", "/usr/bin/squeue"],
        &["-u", member, "-g", "root", "--", sbatch, "--version"],
        &["-u", member, "-i"],
        &[
            "-u",
            member,
            "--preserve-env=SBATCH_PARTITION",
            "--",
            sbatch,
            "--version",
        ],
        &["-u", member, "-e", "/etc/passwd"],
    ] {
        let mut words = vec!["env", "SBATCH_PARTITION=other", "sudo", "-n"];
        words.extend(refused);
        let output = etc.run(&words);
        let said = String::from_utf8_lossy(&output.stderr);
        let by_sudo = ["not allowed", "password is required"];
        assert!(
            !output.status.success() && by_sudo.iter().any(|words| said.contains(words)),
            "{refused:?}: {output:?}"
        );
    }

    // The agent: no group of its own policy, so that it is sudo who decides.
    let mut agent = site.spawn_through(&etc.enter());
    agent.ready().await;
    let asked = of(member, "r1");
    let id = agent.start(&site.request(&asked)).await;
    let seen = queue(&slurm).await;
    let line = seen.iter().find(|line| line.starts_with(&format!("{id} ")));
    let line = line.unwrap_or_else(|| panic!("{seen:?}"));
    assert!(line.contains(member), "{line}");
    let problem = refusal(&agent, &site, &of(other, "r2")).await;
    // Groups change, and directories of users may be away.
    assert_eq!(problem.code, "slurm_failed", "{problem:?}");
    assert!(problem.detail.unwrap().contains("sudo"), "in sudo's words");
    let assertion = site.assertion(CallPurpose::Cancel, &[asked.sub]);
    let (status, answer) = agent
        .call("/runner/cancel", &assertion, serde_json::json!({}))
        .await;
    assert_eq!(
        (status, &answer["cancelled"]),
        (200, &serde_json::json!([asked.sub]))
    );
    let seen = queue(&slurm).await;
    assert!(
        seen.len() == 1 && (seen[0].contains("CANCELLED") || seen[0].contains("COMPLETING")),
        "{seen:?}"
    );
    agent.stop();

    // The doctor sees the same.
    let doctor = |group: &str, node: &str, hide: &str| {
        let site = site.settings_for_a_command();
        let enter = etc.enter();
        let output = Command::new(&enter[0])
            .args(&enter[1..])
            .arg(binary("gha-slurm-munge"))
            .args(["--doctor", "--node", node, "--wait-s", "60"])
            .envs(site)
            .env("GHA_SLURM_MUNGE__POLICY__GROUP", group)
            .env("HIDE", hide)
            .env("BOUNDING", bounding_set())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = doctor("gha-slurm", member, "");
    assert!(
        said.contains(&format!("ok       acting as users: as {member}: by sudo")),
        "{said}"
    );
    assert!(
        said.contains(&format!("user {member}\n")),
        "it looked from a node: {said}"
    );
    let said = doctor(other, other, "");
    assert!(
        said.contains("problem  acting as users: sudo does not let this user run sbatch as"),
        "{said}"
    );
    // Where nodes share no output folder with the agent's host, the exit code tells which things are problems.
    let output = site.path("output");
    let said = doctor("gha-slurm", member, output.to_str().unwrap());
    let line = said
        .lines()
        .find(|l| l.starts_with("problem  node, runner: details in "));
    assert!(line.is_some_and(|l| l.ends_with(".log on n1")), "{said}");
    assert!(!said.contains("node, scratch space"), "{said}");
}
