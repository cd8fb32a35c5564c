//! Signals that reach the job script early, and the environment that reaches the runner.

use std::os::unix::fs::PermissionsExt;

use crate::script_fixture::*;

/// A launch in which the program `name` runs `script` (bash) first when the job script calls it.
async fn with_program(runner: &str, name: &str, script: &str) -> Launch {
    let launch = Launch::new(runner).await;
    let path = launch.path("programs");
    std::fs::create_dir(&path).unwrap();
    let program = path.join(name);
    let real = format!("exec /usr/bin/{name} \"$@\"");
    std::fs::write(&program, format!("#!/bin/bash\n{script}\n{real}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path_of_all = std::env::var_os("PATH").unwrap();
    let programs = format!("{}:{}", path.display(), path_of_all.display());
    launch.with("PATH", &programs)
}

/// The signal ended it before it asked for a runner, and it said so with its launch token.
async fn assert_ended_unredeemed(launch: &Launch) {
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(143), "{}", outcome.output);
    assert!(
        outcome.output.trim_end().ends_with("over: signal"),
        "{}",
        outcome.output
    );
    let phases = launch.phases().await;
    assert_eq!(phases, ["finished"], "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "signal");
    assert_eq!(launch.calls("/gha/runner").await.len(), 0);
    let told = launch.calls("/gha/runner/progress").await;
    assert!(told.iter().all(|call| bearer(call) == LAUNCH_TOKEN));
}

/// slurmctld may send its signal when the Slurm job has hardly begun, and sends it once.
#[tokio::test]
async fn a_signal_before_it_starts_itself_again_is_not_lost() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let early = launch.path("early");
    let trap = "trap 'case $BASH_COMMAND in umask*) [[ -z ${GHA_SLURM_LAUNCH_TOKEN:-} ]] || kill -TERM $$ ;; esac' DEBUG\n";
    std::fs::write(&early, trap).unwrap();
    let launch = launch.with("BASH_ENV", early.to_str().unwrap());
    assert_ended_unredeemed(&launch).await;
}

#[tokio::test]
async fn a_signal_before_the_redemption_is_told() {
    let launch = with_program(ONE_WORKFLOW_JOB, "mktemp", "kill -TERM $PPID").await;
    assert_ended_unredeemed(&launch).await;
}

/// The redemption gets it before it has a trap of its own.
#[tokio::test]
async fn a_signal_that_ends_the_redemption_too_early_is_told_all_the_same() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let early = launch.path("early");
    let trap = "set -T\ntrap 'if [[ $BASH_COMMAND == *signal=TERM* && $BASHPID != $$ && -z $signal ]]; then \
                kill -TERM $$; kill -TERM $BASHPID; fi' DEBUG\n";
    std::fs::write(&early, trap).unwrap();
    let launch = launch.with("BASH_ENV", early.to_str().unwrap());
    assert_ended_unredeemed(&launch).await;
}

/// The copy of a release may take minutes: it is broken off, and no runner is started.
#[tokio::test]
async fn a_signal_while_the_release_is_copied_ends_it_at_once() {
    let slow = "echo up > \"$SEEN/up\"; kill -TERM \"$(cat \"$SEEN/script\")\"; sleep 1000";
    let launch = with_program("echo started > \"$SEEN/started\"", "cp", slow).await;
    let child = launch.start();
    let pid = child.id().unwrap().to_string();
    std::fs::write(launch.path("seen/script"), pid).unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(143), "{}", outcome.output);
    assert_eq!(launch.seen("up"), "up\n", "it was copying");
    assert_eq!(launch.last().await["reason"], "signal");
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
    assert_eq!(launch.seen("started"), "");
}

/// Whatever the job script calls its own variables: what the site exported reaches the steps as it was.
#[tokio::test]
async fn a_sites_variables_reach_the_steps_whatever_they_are_called() {
    let names = [
        "NODE",
        "MODE",
        "CONTAINER",
        "APPTAINER",
        "TOKEN_URL",
        "GRACE_S",
        "work",
        "log",
        "child",
        "signal",
        "signals",
        "name",
        "code",
        "status",
        "reason",
        "url",
        "labels",
        "release",
        "secrets",
        "given",
        "inputs",
        "pairs",
        "pair",
        "program",
        "environment",
        "output",
        "tools",
        "attempt",
        "left",
        "since",
        "variable",
        "site",
        "progress_token",
        "launch_token",
        "text",
        "secret",
        "registration_token",
        "jit_config",
        "container_hooks",
        "functions",
        "root",
        "found",
        "trusted",
        "started",
        "released",
        "REPLY",
        "SECONDS",
    ];
    // And what the job script has in its own does not get out by theirs.
    let runner = format!(
        "env -0 > \"$SEEN/environment\"\n{ONE_WORKFLOW_JOB}\n\
         for look in 1 2 3 4; do cat /proc/[0-9]*/environ >> \"$SEEN/all\" 2>/dev/null; sleep 0.3; done"
    );
    let mut launch = Launch::new(&runner)
        .await
        .with("BASH_FUNC_module%%", "() { echo modules; }")
        .with("BASH_FUNC_say%%", "() { echo the site says; }")
        .with("lines", "one\ntwo")
        .with("SLURM_UMASK", "0077")
        .with("GHA_SLURM_HTTP_PROXY", "http://proxy:3128")
        .with("GHA_SLURM_NO_PROXY", "127.0.0.1")
        .with("http_proxy", "http://another:3128");
    for name in names {
        launch = launch.with(name, &format!("the site's {name}"));
    }
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");
    assert_eq!(launch.last().await["node"], "n1");
    let all = std::fs::read(launch.path("seen/all")).unwrap();
    let all = String::from_utf8_lossy(&all);
    assert!(all.contains("the site's NODE"));
    for secret in [LAUNCH_TOKEN, PROGRESS_TOKEN] {
        assert!(!all.contains(secret), "{secret}");
    }
    let environment = launch.seen("environment");
    let environment: Vec<&str> = environment.split('\0').collect();
    let mut wanted: Vec<String> = names.map(|name| format!("{name}=the site's {name}")).into();
    wanted.extend([
        "BASH_FUNC_module%%=() {  echo modules\n}".into(),
        "BASH_FUNC_say%%=() {  echo the site says\n}".into(),
        "lines=one\ntwo".into(),
        "SLURM_UMASK=0022".into(),
        "http_proxy=http://proxy:3128".into(),
        format!("GHA_SLURM_LAUNCH={}", launch.id),
    ]);
    for pair in &wanted {
        assert!(
            environment.contains(&pair.as_str()),
            "{pair:?} is not among {environment:?}"
        );
    }
    for pair in environment {
        assert!(
            !pair.starts_with("GHA_SLURM_") || pair.starts_with("GHA_SLURM_LAUNCH="),
            "{pair}"
        );
    }
}
