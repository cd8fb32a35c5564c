//! Where the runner comes from and what it runs in: archives, symlinks, Apptainer.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use gha_slurm_contract::LaunchClaims;
use gha_slurm_domain::ResourceRequest;
use gha_slurm_service_kit::settings::load;
use gha_slurm_slurm_agent::Settings;
use gha_slurm_slurm_agent::submission::prepare;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, skip, skipped_without_root};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent_fixture::{Site, claims};
use crate::node::{self, asked, for_all_users, until_over};
use crate::podman::user_namespaces;
use crate::real_slurm::{By, by_both};
use crate::script_fixture::*;

/// See there: it is not Apptainer.
const STANDIN_APPTAINER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/standin-apptainer.sh");

/// An image for Apptainer itself, where `scripts/test-apptainer.sh` runs these tests.
fn real_image() -> Option<String> {
    let image = std::env::var_os("GHA_SLURM_TEST_IMAGE")?;
    Some(image.into_string().unwrap())
}

/// The image and the program, which stands in `folder` of the launch.
fn image_and_program(launch: &Launch, folder: &str) -> (String, String) {
    if let Some(image) = real_image() {
        return (image, "apptainer".to_owned());
    }
    let program = launch.path(folder).join("apptainer");
    std::fs::copy(STANDIN_APPTAINER, &program).unwrap();
    let executable = Command::new("chmod")
        .arg("755")
        .arg(&program)
        .status()
        .unwrap();
    assert!(executable.success());
    let image = launch.path("image.sif");
    std::fs::write(&image, "an image").unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    (text(image), text(program))
}

/// A launch whose runner runs in a container; the folder `seen` is bound by the site.
async fn contained(runner: &str) -> Launch {
    let launch = Launch::new(runner).await;
    let (image, program) = image_and_program(&launch, "");
    std::fs::write(launch.path("on-the-node"), "").unwrap();
    std::fs::create_dir(launch.path("runner/externals")).unwrap();
    std::fs::write(launch.path("runner/externals/node"), "node").unwrap();
    let seen = launch.path("seen").to_str().unwrap().to_owned();
    launch
        .with("GHA_SLURM_CONTAINER", &image)
        .with("GHA_SLURM_APPTAINER", &program)
        .with(
            "GHA_SLURM_APPTAINER_BINDS",
            &format!("{seen}\n/opt:/opt:ro"),
        )
        .with("SITE_VARIABLE", "two words")
}

fn skipped() -> bool {
    real_image().is_none() && skipped_without_root("the stand-in for Apptainer mounts")
}

#[tokio::test]
async fn a_runner_in_a_container_sees_its_work_and_what_the_site_binds() {
    if skipped() {
        return;
    }
    let node_file = "../../on-the-node";
    let launch = contained(&format!(
        r#"[ "$jit" = {JIT_CONFIG} ] || exit 98
        [ ! -e "$SEEN/{node_file}" ] && [ ! -e "$SEEN/../on-the-node" ] || exit 97
        touch "$HOME/file" "$TMPDIR/file" || exit 96
        cat externals/node > "$SEEN/node"; ! touch externals/new 2>/dev/null || exit 95
        ! touch /opt/gha-slurm-test 2>/dev/null || exit 94
        env > "$SEEN/environment"; ls -d /proc/[0-9]* > "$SEEN/processes"
        {ONE_WORKFLOW_JOB}"#
    ))
    .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");
    let progress = launch.progress().await;
    assert!(
        progress.iter().any(|p| p["runId"] == 4711),
        "the hook ran: {progress:?}"
    );
    assert_eq!(launch.seen("node"), "node");
    let environment = launch.seen("environment");
    for line in [
        "SLURM_JOB_ID=17".to_owned(),
        "SITE_VARIABLE=two words".into(),
        format!("GHA_SLURM_LAUNCH={}", launch.id),
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line}\n{environment}"
        );
    }
    for line in environment.lines().filter(|l| l.starts_with("GHA_SLURM_")) {
        assert!(line.starts_with("GHA_SLURM_LAUNCH="), "{line}");
    }
    for secret in [JIT_CONFIG, PROGRESS_TOKEN, LAUNCH_TOKEN] {
        assert!(!outcome.output.contains(secret), "{}", outcome.output);
    }
    if real_image().is_some() {
        let processes = launch.seen("processes");
        assert!(
            processes.lines().count() < 10,
            "it sees others: {processes}"
        );
        return;
    }
    let arguments = std::fs::read_to_string(launch.path("arguments")).unwrap();
    for wanted in [
        "exec\n--containall\n--no-home\n",
        "/opt:/opt:ro\n",
        "image.sif\nenv\nHOME=",
        "bin/Runner.Listener\nrun\n",
    ] {
        assert!(arguments.contains(wanted), "{wanted:?}: {arguments}");
    }
    for secret in [JIT_CONFIG, PROGRESS_TOKEN, LAUNCH_TOKEN] {
        assert!(!arguments.contains(secret), "{arguments}");
    }
}

by_both!(a_profiles_container_is_that_of_an_ordinary_user_on_a_node);

async fn a_profiles_container_is_that_of_an_ordinary_user_on_a_node(by: By) {
    if !user_namespaces() {
        skip("ordinary users may make no user namespaces here");
        return;
    }
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let runner = format!(
        r#"[ ! -e "$SEEN/../on-the-node" ] || exit 97
        touch "$HOME/file" "$TMPDIR/file" || exit 96
        ! touch /opt/gha-slurm-test 2>/dev/null || exit 94
        env > "$SEEN/environment"
        {ONE_WORKFLOW_JOB}"#
    );
    let launch = for_all_users(&runner).await;
    std::fs::write(launch.path("on-the-node"), "").unwrap();
    // The stand-in writes beside itself.
    let folder = launch.path("standin");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let (image, program) = image_and_program(&launch, "standin");
    let (site, output) = node::site(by, &slurm, &launch);
    let seen = launch.path("seen");
    let settings = format!(
        "policy.containers = [\"{image}\"]\n[runner.apptainer]\nprogram = \"{program}\"\n\
         binds = [\"{}\", \"/opt:/opt:ro\"]\n",
        seen.display()
    );
    std::fs::write(site.path("agent.toml"), settings).unwrap();
    let site = site.with_file("agent.toml").with("SLURM__INTERVAL_S", "1");
    let agent = site.agent().await;
    let mut asked = asked(SLURM_USERS[0], &launch);
    asked.resources.container = Some(image);
    let id = agent.start(&site.request(&asked)).await;
    until_over(&agent, &site, &asked).await;
    let printed = gha_slurm_test_support::output_of(&output, "r-games");
    assert_eq!(launch.last().await["reason"], "completed", "{printed}");
    let environment = launch.seen("environment");
    let number = format!("SLURM_JOB_ID={id}");
    assert!(environment.lines().any(|l| l == number), "{environment}");
    let owner = std::fs::metadata(seen.join("environment")).unwrap().uid();
    let user = nix::unistd::User::from_name(SLURM_USERS[0])
        .unwrap()
        .unwrap();
    assert_eq!(owner, user.uid.as_raw());
    assert!(is_empty(&launch.path("work")));
    agent.stop();
}

#[tokio::test]
async fn a_runner_in_a_container_is_told_to_end() {
    if skipped() {
        return;
    }
    let launch = contained("listening; echo up > \"$SEEN/up\"; linger").await;
    let child = launch.start();
    launch.until_seen("up").await;
    kill_process(
        Pid::from_raw(child.id().unwrap() as i32).unwrap(),
        Signal::TERM,
    )
    .unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(143), "{}", outcome.output);
    assert_eq!(launch.seen("signals"), "told\n");
}

#[tokio::test]
async fn a_node_without_apptainer_says_so() {
    let launch = contained(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_APPTAINER", "/nonexistent/apptainer");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let over = outcome.output.trim_end();
    assert!(
        over.ends_with("over: node_unfit: /nonexistent/apptainer is needed, and not installed"),
        "{over}"
    );
}

/// The settings reach the job script only for what asks for a container.
#[tokio::test]
async fn a_profiles_container_reaches_the_job_script() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/gha-slurm-munge.toml"
    );
    let sample = std::fs::read_to_string(sample).unwrap();
    let runner = "[runner]\ncontainer_hooks = \"/opt/hooks/index.js\"\napptainer.binds = [\"/software:/software:ro\", \"/data\"]\n\
                  podman.volumes = [\"/software:/software:ro\"]\n";
    std::fs::write(&file, sample.replace("[runner]\n", runner)).unwrap();
    let settings: Settings = load(Some(&file), []).unwrap();
    let prepared = async |resources: ResourceRequest| {
        let asked = LaunchClaims {
            resources,
            ..claims()
        };
        let token = String::from("token").into();
        let builds = &settings.policy.builds;
        let submission = prepare(&asked, &token, None, &settings.runner, builds).await;
        submission.unwrap().environment
    };
    let without = prepared(ResourceRequest::default()).await;
    assert!(!without.keys().any(|name| name.contains("APPTAINER")));
    assert_eq!(without["GHA_SLURM_CONTAINER_HOOKS"], "/opt/hooks/index.js");
    assert_eq!(
        without["GHA_SLURM_PODMAN"],
        r#"{"arguments":["--storage-driver=overlay"],"program":"podman","volumes":["/software:/software:ro"]}"#
    );
    assert!(without["GHA_SLURM_PODMAN_HOOK"].contains("prepare_job"));
    let with = prepared(ResourceRequest {
        container: Some("/images/ci.sif".into()),
        ..ResourceRequest::default()
    })
    .await;
    assert_eq!(with["GHA_SLURM_CONTAINER"], "/images/ci.sif");
    assert_eq!(with["GHA_SLURM_APPTAINER"], "apptainer");
    assert_eq!(
        with["GHA_SLURM_APPTAINER_BINDS"],
        "/software:/software:ro\n/data"
    );

    std::fs::write(
        &file,
        sample.replace("[runner]\n", "[runner]\ncontainer_hooks = \"hooks.py\"\n"),
    )
    .unwrap();
    let error = load::<Settings>(Some(&file), []).unwrap_err().to_string();
    assert!(
        error.contains("runner.container_hooks") && error.contains(".js or .sh"),
        "{error}"
    );
}

/// Without the site's word there are no containers.
#[tokio::test]
async fn a_container_is_refused_where_the_site_does_not_allow_it() {
    let site = Site::new("exit 0");
    let agent = site.agent().await;
    let asked = LaunchClaims {
        resources: ResourceRequest {
            container: Some("/images/ci.sif".into()),
            ..ResourceRequest::default()
        },
        ..claims()
    };
    let response = agent.ask(&site.request(&asked)).await.unwrap();
    assert_eq!(response.status(), 422);
    let text = response.text().await.unwrap();
    assert!(text.contains("policy.containers"), "{text}");
    assert_eq!(site.slurm_jobs(), 0);
    agent.stop();
}

pub(crate) fn archive(from: &Path, to: &Path) {
    let made = Command::new("tar")
        .arg("-czf")
        .arg(to)
        .arg("-C")
        .arg(from)
        .arg(".")
        .status()
        .unwrap();
    assert!(made.success());
}

#[tokio::test]
async fn a_release_may_be_an_archive() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    for name in [".runner", ".credentials"] {
        std::fs::write(launch.path("runner").join(name), "of another registration").unwrap();
    }
    let file = launch.path("actions-runner.tar.gz");
    archive(&launch.path("runner"), &file);
    let leftover = "ls -A > \"$SEEN/files\"";
    let program = launch.path("runner/bin/Runner.Listener");
    std::fs::write(&program, "exit 99: not this one").unwrap();
    let launch = launch.with("GHA_SLURM_RUNNER_DIR", file.to_str().unwrap());
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "completed");

    let launch = Launch::new(&format!("{leftover}\n{ONE_WORKFLOW_JOB}")).await;
    std::fs::write(
        launch.path("runner/.credentials"),
        "of another registration",
    )
    .unwrap();
    let file = launch.path("actions-runner.tar.gz");
    archive(&launch.path("runner"), &file);
    let launch = launch.with("GHA_SLURM_RUNNER_DIR", file.to_str().unwrap());
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.seen("files"), "bin\n");

    let broken = launch.path("broken.tar.gz");
    std::fs::write(&broken, "no archive").unwrap();
    let launch = launch.with("GHA_SLURM_RUNNER_DIR", broken.to_str().unwrap());
    assert_eq!(launch.run().await.code, Some(1));
    assert_eq!(launch.last().await["reason"], "set_up_failed");
}

/// `current` points elsewhere while a node has a release in use: it goes on with its own.
#[tokio::test]
async fn a_symlink_that_is_switched_does_not_mix_releases() {
    let wait = r#"echo up > "$SEEN/up"; until [ -e "$SEEN/switched" ]; do sleep 0.1; done; cat externals/version > "$SEEN/version""#;
    let launch = Launch::new(&format!("{wait}\n{ONE_WORKFLOW_JOB}")).await;
    let other = launch.path("other");
    for (release, version) in [(&launch.path("runner"), "old"), (&other, "new")] {
        std::fs::create_dir_all(release.join("externals")).unwrap();
        std::fs::write(release.join("externals/version"), version).unwrap();
    }
    let current = launch.path("current");
    symlink("runner", &current).unwrap();
    let launch = launch.with("GHA_SLURM_RUNNER_DIR", current.to_str().unwrap());
    let child = launch.start();
    launch.until_seen("up").await;
    symlink("other", launch.path("next")).unwrap();
    std::fs::rename(launch.path("next"), &current).unwrap();
    std::fs::write(launch.path("seen/switched"), "").unwrap();
    let outcome = launch.finish(child).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.seen("version"), "old");
}
