//! Our job script on a node of a real Slurm: its end, what is left after it, and two users side by side.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::LaunchStatus;
use gha_slurm_domain::SlurmState;
use gha_slurm_test_support::{
    PrivateSlurm, SLURM_USERS, TestCa, output_of, skipped_without_root, wait_until,
};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site};
use crate::containers::archive;
use crate::real_slurm::{By, by_both, of, states};
use crate::script_fixture::*;

pub(crate) const EPILOG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-epilog.sh"
);
/// Slurm looks at time limits each half minute.
const TIME_LIMIT: Duration = Duration::from_secs(90);

/// A broker and a runner for Slurm jobs of any user.
pub(crate) async fn for_all_users(runner: &str) -> Launch {
    for_all_users_in(&std::env::temp_dir(), runner).await
}

async fn for_all_users_in(parent: &Path, runner: &str) -> Launch {
    let launch = Launch::new_in(parent, runner).await;
    let program = launch.path("runner/bin/Runner.Listener");
    let text = std::fs::read_to_string(&program).unwrap();
    let head = format!(
        "#!/bin/bash\nSEEN={seen}\n\
         export GITHUB_REPOSITORY_ID=1 GITHUB_EVENT_NAME=push GITHUB_ACTOR=alice GITHUB_EVENT_PATH={seen}/event.json\n",
        seen = launch.path("seen").display()
    );
    std::fs::write(&program, text.replacen("#!/bin/bash\n", &head, 1)).unwrap();
    std::fs::write(launch.path("seen/event.json"), "{}").unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(launch.folder.path(), 0o755);
    for name in ["work", "seen"] {
        mode(&launch.path(name), 0o1777);
    }
    launch
}

/// A site that submits our job script, with the broker, the runner and the work folder of `launch`; its output folder.
pub(crate) fn site(by: By, slurm: &PrivateSlurm, launch: &Launch) -> (Site, PathBuf) {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let site = by
        .site(slurm)
        .with("RUNNER__JOB_SCRIPT", SCRIPT)
        .with("RUNNER__FOLDER", &text(launch.path("runner")))
        .with("RUNNER__WORK_ROOT", &text(launch.path("work")))
        .with("TOKEN_BROKER__URLS", &launch.broker.uri());
    let output = site.path("output");
    (site, output)
}

by_both!(
    daemons_of_a_workflow_job_are_gone_at_the_end,
    before_the_time_limit_the_workflow_job_is_cancelled_in_an_orderly_way,
    the_policy_of_builds_is_checked_on_the_node,
    steps_have_slurms_environment_and_nothing_of_the_agents,
    after_a_kill_the_epilog_cleans_up_and_the_node_goes_on,
    two_users_on_one_node_read_nothing_of_each_other,
    an_outdated_release_from_an_archive_says_so,
    a_tmp_of_its_own_is_enough_for_a_slurm_job,
);

pub(crate) fn asked(user: &str, launch: &Launch) -> LaunchClaims {
    LaunchClaims {
        token_url: launch.broker.uri(),
        ..of(user, &format!("r-{user}"))
    }
}

/// Waits until Slurm has cleaned up behind everything; the states of the nodes.
pub(crate) async fn until_idle(slurm: &PrivateSlurm) {
    wait_until("the node is idle again", DEADLINE, || async {
        let seen = slurm
            .run("sinfo", &["-h", "-N", "-p", "main", "-o", "%t"])
            .await;
        match seen {
            Ok(state) if state.trim() == "idle" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Waits until the agent says that a Slurm job is over; how.
pub(crate) async fn until_over(agent: &Agent, site: &Site, asked: &LaunchClaims) -> LaunchStatus {
    wait_until("its end is told", DEADLINE, || async {
        let told = states(agent, site, &[asked.sub]).await.pop();
        told.filter(|status| status.state.is_over())
    })
    .await
}

/// Waits until a process has ended. Whoever adopted it may be slow to notice: it is a zombie (Z) until then.
pub(crate) async fn until_gone(pid: &str) {
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    wait_until("the daemon is gone", DEADLINE, || async {
        match std::fs::read_to_string(&stat) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        }
    })
    .await;
}

/// A workflow job that daemonises: a session of its own, and its parent gone.
const DAEMON: &str = r#"( setsid bash -c 'echo $$ > "$0"; exec sleep 1000' "$SEEN/daemon" & )"#;

async fn daemons_of_a_workflow_job_are_gone_at_the_end(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let runner =
        format!("{ONE_WORKFLOW_JOB}\n{DAEMON}\nuntil [ -s \"$SEEN/daemon\" ]; do sleep 0.1; done");
    let launch = for_all_users(&runner).await;
    let (site, _) = site(by, &slurm, &launch);
    let agent = site.agent().await;
    agent
        .start(&site.request(&asked(SLURM_USERS[0], &launch)))
        .await;
    launch.until_seen("daemon").await;
    until_idle(&slurm).await;
    assert_eq!(launch.last().await["reason"], "completed");
    until_gone(&launch.seen("daemon")).await;
    assert!(is_empty(&launch.path("work")));
    agent.stop();
}

/// Two minutes before its end the job script is told. By slurmrestd before v0.0.40 it cannot be told beforehand: Slurm's own
/// SIGTERM at the limit, and `KillWait` before SIGKILL, is all there is, and has to be enough.
async fn before_the_time_limit_the_workflow_job_is_cancelled_in_an_orderly_way(by: By) {
    // Slurm's default.
    let Some(slurm) = PrivateSlurm::for_test_with(1, "KillWait=30\n").await else {
        return;
    };
    let runner = format!(
        r#"{}
        {DAEMON}
        trap 'sleep 1; echo cancelled > "$SEEN/cancelled"; exit 0' TERM INT
        echo up > "$SEEN/up"
        while :; do sleep 0.1; done"#,
        ONE_WORKFLOW_JOB.replace("Job test completed", "the workflow job goes on:")
    );
    let launch = for_all_users(&runner).await;
    let (site, output) = site(by, &slurm, &launch);
    let site = site.with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let asked = asked(SLURM_USERS[0], &launch);
    let id = agent.start(&site.request(&asked)).await;
    let printed = || output_of(&output, "r-games");
    let until_seen = async |what: &str, name: &str, deadline| {
        wait_until(what, deadline, || async {
            let seen = !launch.seen(name).is_empty();
            seen.then_some(()).ok_or_else(printed)
        })
        .await;
    };
    until_seen("the workflow job runs", "up", DEADLINE).await;
    // A time limit is a minute at least; its end may be brought nearer.
    let (end, state) = match by {
        By::Programs => ("EndTime=now+100", SlurmState::Failed),
        By::Rest => ("EndTime=now", SlurmState::TimedOut),
    };
    let job = format!("JobId={id}");
    slurm.run("scontrol", &["update", &job, end]).await.unwrap();
    until_seen("the runner cancels", "cancelled", TIME_LIMIT).await;
    until_idle(&slurm).await;
    let printed = printed();
    assert!(printed.trim_end().ends_with("over: signal"), "{printed}");
    assert_eq!(launch.last().await["reason"], "signal", "{printed}");
    assert!(is_empty(&launch.path("work")), "its scratch is cleaned");
    until_gone(&launch.seen("daemon")).await;
    // By the programs it ended by itself, not by Slurm's TIMEOUT.
    let told = until_over(&agent, &site, &asked).await;
    assert_eq!(told.state, state, "{told:?}");
    agent.stop();
}

/// Where Slurm gives each Slurm job a `/tmp` of its own (`job_container/tmpfs`), the work directory is there by default, and goes
/// with it.
async fn a_tmp_of_its_own_is_enough_for_a_slurm_job(by: By) {
    // Whatever is in /tmp, Slurm jobs do not see.
    let elsewhere = Path::new("/var/tmp");
    let containers = "JobContainerType=job_container/tmpfs\nPrologFlags=Contain\n";
    let Some(slurm) = PrivateSlurm::for_test_in(1, containers, elsewhere).await else {
        return;
    };
    let runner = format!(
        r#"{ONE_WORKFLOW_JOB}
        touch "$HOME/file" "$TMPDIR/file" && pwd > "$SEEN/where"; ls -A /tmp > "$SEEN/tmp""#
    );
    let launch = for_all_users_in(elsewhere, &runner).await;
    let seen = launch.path("seen");
    let runner = launch.path("runner");
    let output = match by {
        By::Programs => "SBATCH__OUTPUT_FOLDER",
        By::Rest => "SLURMRESTD__OUTPUT_FOLDER",
    };
    let site = by
        .site(&slurm)
        .with("RUNNER__JOB_SCRIPT", SCRIPT)
        .with("RUNNER__FOLDER", runner.to_str().unwrap())
        .with("SLURM__INTERVAL_S", "1")
        .with("TOKEN_BROKER__URLS", &launch.broker.uri())
        .with(output, seen.to_str().unwrap());
    let agent = site.agent().await;
    let asked = asked(SLURM_USERS[0], &launch);
    agent.start(&site.request(&asked)).await;
    let told = until_over(&agent, &site, &asked).await;
    let printed = output_of(&seen, "r-games");
    assert_eq!(told.exit_code, Some(0), "{told:?}: {printed}");
    assert_eq!(launch.last().await["reason"], "completed", "{printed}");
    let work = launch.seen("where");
    let work = Path::new(work.trim());
    assert!(work.starts_with("/tmp"), "{}", work.display());
    let name = work.components().nth(2).unwrap().as_os_str();
    assert_eq!(launch.seen("tmp").trim(), name, "nothing of others");
    assert!(!Path::new("/tmp").join(name).exists());
    agent.stop();
}

/// GitHub turns old releases away: the listener's exit code says so, after one that means "again".
async fn an_outdated_release_from_an_archive_says_so(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let runner =
        r#"[ "$(wc -l < "$SEEN/arguments")" = 1 ] && exit 2; ls -A > "$SEEN/files"; exit 7"#;
    let launch = for_all_users(runner).await;
    let file = launch.path("actions-runner.tar.gz");
    archive(&launch.path("runner"), &file);
    let (site, _) = site(by, &slurm, &launch);
    let site = site
        .with("SLURM__INTERVAL_S", "1")
        .with("RUNNER__FOLDER", file.to_str().unwrap());
    let agent = site.agent().await;
    let asked = asked(SLURM_USERS[0], &launch);
    agent.start(&site.request(&asked)).await;
    let told = until_over(&agent, &site, &asked).await;
    assert_eq!((told.state, told.exit_code), (SlurmState::Failed, Some(1)));
    let last = launch.last().await;
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.starts_with("runner_outdated: "), "{reason}");
    assert_eq!(launch.seen("arguments"), "run\nrun\n");
    assert_eq!(launch.seen("files"), "bin\n");
    until_idle(&slurm).await;
    assert!(is_empty(&launch.path("work")));
    agent.stop();
}

/// The policy gets through Slurm to the hook as it is, and the hook has its way there.
async fn the_policy_of_builds_is_checked_on_the_node(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let runner = r#"
        listening
        echo "2026-11-23 10:00:01Z: Running job: test"
        export GITHUB_RUN_ID=4711 GITHUB_RUN_ATTEMPT=1 GITHUB_ACTOR=$(cat "$SEEN/actor-$(id -un)")
        bash -e "$ACTIONS_RUNNER_HOOK_JOB_STARTED" > "$SEEN/hook-$(id -un)" && echo ran > "$SEEN/step-$(id -un)"
        exit 0"#;
    let launch = for_all_users(runner).await;
    let (site, _) = site(by, &slurm, &launch);
    let settings = r#"
        [policy.builds]
        events = ["push", "'\"$(reboot)\n"]
        actors = ["Alice", "o'brien"]
        "#;
    std::fs::write(site.path("settings.toml"), settings).unwrap();
    let site = site.with_file("settings.toml");
    let agent = site.agent().await;
    for (user, actor) in [(SLURM_USERS[0], "alice"), (SLURM_USERS[1], "mallory")] {
        std::fs::write(launch.path("seen").join(format!("actor-{user}")), actor).unwrap();
        agent.start(&site.request(&asked(user, &launch))).await;
    }
    let mut reasons = wait_until("both are over", DEADLINE, || async {
        let told = launch.progress().await;
        let finished = told.iter().filter(|p| p["phase"] == "finished");
        let reasons: Vec<String> = finished
            .map(|p| p["reason"].as_str().unwrap().to_owned())
            .collect();
        (reasons.len() == 2).then_some(reasons).ok_or(told)
    })
    .await;
    reasons.sort();
    let refusal = "mallory is not one of those for whom workflow jobs may run on this cluster";
    assert_eq!(
        reasons,
        ["completed", &format!("refused_by_policy: {refusal}")]
    );
    let seen = |what: &str, user: &str| launch.seen(&format!("{what}-{user}"));
    assert_eq!(seen("step", SLURM_USERS[0]), "ran\n");
    assert_eq!(seen("step", SLURM_USERS[1]), "");
    let annotation = format!("::error title=Refused by the cluster::{refusal}\n");
    assert_eq!(seen("hook", SLURM_USERS[1]), annotation);
    agent.stop();
}

/// A step has what Slurm and the site's task prolog set (here the `module` command), the way out of the cluster, a scratch of
/// its own as its home, and nothing of the agent's. The user's own home is not there.
async fn steps_have_slurms_environment_and_nothing_of_the_agents(by: By) {
    let runner = format!(
        r#"{ONE_WORKFLOW_JOB}
        step='module load mpi > "$SEEN/module"; touch "$HOME/file"; pwd > "$SEEN/where"; env > "$SEEN/env"'
        bash --noprofile --norc -e -o pipefail -c "SEEN=$SEEN; $step""#
    );
    let launch = for_all_users(&runner).await;
    let prolog = launch.path("prolog");
    let modules = launch.path("modules.sh");
    let text = format!("#!/bin/bash\necho export BASH_ENV={}\n", modules.display());
    std::fs::write(&prolog, text).unwrap();
    std::fs::set_permissions(&prolog, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&modules, "module() { echo \"module $*\"; }\n").unwrap();
    let more = format!("TaskProlog={}\n", prolog.display());
    let Some(slurm) = PrivateSlurm::for_test_with(1, &more).await else {
        return;
    };
    let (site, _) = site(by, &slurm, &launch);
    TestCa::new(site.folder.path(), "ca");
    let ca = site.path("ca.pem");
    let proxy = "http://alice:hunter2@proxy.test:3128";
    let site = site
        .env("AGENT_ONLY", "secret")
        .with("RUNNER__NETWORK__HTTPS_PROXY", proxy)
        .with("RUNNER__NETWORK__NO_PROXY", "registry.test")
        .with("RUNNER__NETWORK__CA_FILE", ca.to_str().unwrap());
    let agent = site.agent().await;
    let user = SLURM_USERS[1];
    let home = nix::unistd::User::from_name(user).unwrap().unwrap().dir;
    assert!(!home.exists(), "{}", home.display());
    let mut asked = asked(user, &launch);
    asked.resources.cpus = Some(3);
    asked.resources.gres = Some("gpu:1".into());
    let id = agent.start(&site.request(&asked)).await;
    let shown = slurm.run("scontrol", &["show", "job", &id]).await.unwrap();
    assert!(!shown.contains("hunter2"), "{shown}");
    launch.until_seen("env").await;
    until_idle(&slurm).await;
    assert_eq!(launch.last().await["reason"], "completed");
    assert_eq!(launch.seen("module"), "module load mpi\n");
    let environment = launch.seen("env");
    let work = launch.path("work");
    let scratch = format!("HOME={}/gha-slurm-{id}.", work.display());
    for line in [
        &format!("SLURM_JOB_ID={id}"),
        "SLURM_CPUS_ON_NODE=3",
        "SLURMD_NODENAME=n1",
        "CUDA_VISIBLE_DEVICES=0",
        &scratch,
        &scratch.replace("HOME=", "TMPDIR="),
        &scratch.replace("HOME=", "SSL_CERT_FILE="),
        &format!("https_proxy={proxy}"),
        "no_proxy=registry.test",
        &format!("GHA_SLURM_LAUNCH={}", asked.sub),
    ] {
        let found = environment.lines().any(|l| l.starts_with(line));
        assert!(found, "{line}\n{environment}");
    }
    let ours = environment.lines().filter(|l| l.starts_with("GHA_SLURM_"));
    assert_eq!(ours.count(), 1, "{environment}");
    for word in ["AGENT_ONLY", "SLURM_JWT", "eyJ"] {
        assert!(!environment.contains(word), "{word}\n{environment}");
    }
    agent.stop();
}

async fn after_a_kill_the_epilog_cleans_up_and_the_node_goes_on(by: By) {
    let runner = format!(
        r#"{ONE_WORKFLOW_JOB}
        {DAEMON}
        mkdir -p _work/read-only/module; touch _work/read-only/module/file; chmod 500 _work/read-only/module _work/read-only
        until [ -s "$SEEN/daemon" ]; do sleep 0.1; done
        echo up > "$SEEN/up"
        sleep 1000"#
    );
    let launch = for_all_users(&runner).await;
    let work = launch.path("work");
    let epilog = launch.path("epilog");
    let text = format!(
        "#!/bin/bash\nbash {EPILOG} {}\necho $? >> {}\n",
        work.display(),
        launch.path("epilog-codes").display()
    );
    std::fs::write(&epilog, text).unwrap();
    std::fs::set_permissions(&epilog, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(slurm) =
        PrivateSlurm::for_test_with(1, &format!("Epilog={}\n", epilog.display())).await
    else {
        return;
    };
    let (site, _) = site(by, &slurm, &launch);
    let agent = site.agent().await;
    let id = agent
        .start(&site.request(&asked(SLURM_USERS[0], &launch)))
        .await;
    launch.until_seen("up").await;
    assert!(!is_empty(&work));
    // Names that match, and are not its work directory.
    let victim = launch.path("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "").unwrap();
    symlink(&victim, work.join(format!("gha-slurm-{id}.symlnk"))).unwrap();
    let of_root = work.join(format!("gha-slurm-{id}.ofroot"));
    std::fs::create_dir(&of_root).unwrap();
    let of_another = work.join(format!("gha-slurm-{id}0.abcdef"));
    std::fs::create_dir(&of_another).unwrap();
    // As the kernel does when memory is short, or Slurm when its patience is over: the job script has no last word.
    slurm
        .run("scancel", &["--signal=KILL", "--batch", &id])
        .await
        .unwrap();
    until_idle(&slurm).await;
    wait_until("the epilog has run", DEADLINE, || async {
        std::fs::read_to_string(launch.path("epilog-codes")).ok()
    })
    .await;
    until_gone(&launch.seen("daemon")).await;
    let mut left: Vec<_> = std::fs::read_dir(&work)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            of_root,
            work.join(format!("gha-slurm-{id}.symlnk")),
            of_another
        ]
    );
    assert!(victim.join("file").exists());
    assert_eq!(
        std::fs::read_to_string(launch.path("epilog-codes")).unwrap(),
        "0\n"
    );
    agent.stop();
}

/// Without a Slurm: what slurmd may hand to it, and what users may leave where it looks.
#[test]
fn the_epilog_removes_what_is_the_users_alone_and_never_fails() {
    if skipped_without_root("slurmd runs the epilog as root") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let games = 5;
    let make = |name: &str, owner: u32| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        for path in [path.join("file"), path.clone()] {
            chown(path, Some(owner), None).unwrap();
        }
        path
    };
    let run = |job: &str, uid: &str| {
        let mut command = Command::new("bash");
        command
            .arg(EPILOG)
            .arg(folder.path())
            .arg("/nonexistent")
            .env_clear();
        command
            .env("PATH", "/usr/bin:/bin")
            .env("SLURM_JOB_ID", job)
            .env("SLURM_JOB_UID", uid);
        assert!(command.status().unwrap().success(), "{job} {uid}");
    };
    let (own, foreign) = (
        make("gha-slurm-17.AbCdEf", games),
        make("gha-slurm-17.ghijkl", 9),
    );
    // A link inside that leads to somebody else's.
    symlink(&foreign, own.join("link")).unwrap();
    let longer = make("gha-slurm-17.AbCdEfg", games);
    for (job, uid) in [
        ("", "5"),
        ("*", "5"),
        ("17; rm -rf /", "5"),
        ("17", ""),
        ("17", "0"),
        ("17", "5 "),
        ("17", "-1"),
        ("17", "77777"),
    ] {
        run(job, uid);
        assert!(own.exists(), "{job:?} {uid:?}");
    }
    run("17", "5");
    assert!(!own.exists());
    assert!(foreign.join("file").exists() && longer.exists());
}

/// It is not on its way to another program: its state lasts.
#[tokio::test]
async fn the_epilog_does_not_wait_for_a_process_without_a_name() {
    if skipped_without_root("slurmd runs the epilog as root") {
        return;
    }
    let mut nameless = Command::new("setpriv")
        .args(["--reuid", "5", "--clear-groups", "bash", "-c"])
        .arg("exec -a '' sleep 1000")
        .spawn()
        .unwrap();
    let arguments = format!("/proc/{}/cmdline", nameless.id());
    wait_until("it sleeps", DEADLINE, || async {
        std::fs::read(&arguments).unwrap() == b"\x001000\0"
    })
    .await;
    let mut epilog = Command::new("bash");
    epilog
        .arg(EPILOG)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SLURM_JOB_ID", "999999999")
        .env("SLURM_JOB_UID", "5");
    let begun = Instant::now();
    assert!(epilog.status().unwrap().success());
    let took = begun.elapsed();
    nameless.kill().unwrap();
    nameless.wait().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Reads whatever can be read of the other user's.
const LOOK_AROUND: &str = r#"
me=$(id -un)
secret="secret-of-$me"
echo "in a file: $secret" > secret
echo "printed: $secret"
SECRET=$secret sleep 1000 & child=$!
until grep -q SECRET= "/proc/$child/environ"; do sleep 0.1; done
echo up > "$SEEN/up-$me"
until [ -s "$SEEN/up-games" ] && [ -s "$SEEN/up-news" ]; do sleep 0.1; done
{
    cat /proc/[0-9]*/environ | tr '\0' '\n'
    find "$WORK" -type f -exec cat {} +
    cat "$OUTPUT"/*
    cat "$SPOOL"/*/*
} > "$SEEN/all-$me" 2>/dev/null
echo done > "$SEEN/done-$me"
until [ -s "$SEEN/done-games" ] && [ -s "$SEEN/done-news" ]; do sleep 0.1; done
kill "$child"
"#;

async fn two_users_on_one_node_read_nothing_of_each_other(by: By) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let launch = for_all_users(&format!(
        "{ONE_WORKFLOW_JOB}\n. \"$(dirname \"$SEEN\")/look-around\""
    ))
    .await;
    let (site, output) = site(by, &slurm, &launch);
    let spool = slurm.conf().with_file_name("spool");
    let look = format!(
        "WORK={} OUTPUT={} SPOOL={}\n{LOOK_AROUND}",
        launch.path("work").display(),
        output.display(),
        spool.display()
    );
    std::fs::write(launch.path("look-around"), look).unwrap();
    let agent = site.agent().await;
    let mut tokens = Vec::new();
    for user in SLURM_USERS {
        let request = site.request(&asked(user, &launch));
        agent.start(&request).await;
        tokens.push(request.launcher_token);
    }
    for user in SLURM_USERS {
        launch.until_seen(&format!("done-{user}")).await;
    }
    until_idle(&slurm).await;
    for (user, other) in [("games", "news"), ("news", "games")] {
        let all = std::fs::read(launch.path("seen").join(format!("all-{user}"))).unwrap();
        let all = String::from_utf8_lossy(&all);
        for own in [
            format!("SECRET=secret-of-{user}"),
            format!("printed: secret-of-{user}"),
            format!("in a file: secret-of-{user}"),
        ] {
            assert!(
                all.contains(&own),
                "what is its own can be read: {own:?}\n{all}"
            );
        }
        assert!(
            !all.contains(&format!("secret-of-{other}")),
            "{user} read of {other}:\n{all}"
        );
        for token in &tokens {
            assert!(
                !all.contains(token.as_str()),
                "{user} read a launch token:\n{all}"
            );
        }
    }
    assert!(is_empty(&launch.path("work")));
    agent.stop();
}
