//! What the runner calls on the node: the job-started hook and its policy, container hooks.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use gha_slurm_policy::BuildPolicy;
use serde_json::{Value, json};

use crate::script_fixture::*;

const CONTAINER_HOOK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-container-hook.js"
);

/// A runner that does what the real one does around the hook, with `$SEEN/event.json` as the event; one step.
const WITH_HOOK: &str = r#"
listening
echo "2026-11-23 10:00:01Z: Running job: test"
export GITHUB_RUN_ID=4711 GITHUB_RUN_ATTEMPT=1 GITHUB_REPOSITORY=acme/widgets GITHUB_EVENT_PATH=$SEEN/event.json
export GITHUB_REPOSITORY_ID=${REPOSITORY_ID-1} GITHUB_EVENT_NAME=${EVENT-push} GITHUB_ACTOR=${ACTOR-alice}
export GITHUB_TRIGGERING_ACTOR=${AGAIN-alice} GITHUB_REF=${REF-} GITHUB_SHA=${SHA-}
result=Succeeded
if bash --noprofile --norc -e -o pipefail "$ACTIONS_RUNNER_HOOK_JOB_STARTED" > "$SEEN/log" 2>&1; then
    touch "$SEEN/step"
else
    result=Failed
fi
echo "2026-11-23 10:00:02Z: Job test completed with result: $result"
"#;

fn pull_request(head: &Value) -> Value {
    json!({ "pull_request": { "head": { "repo": head }, "base": { "repo": { "id": 1 } } } })
}

/// A policy, an event, variables, and a part of what the hook says; `None`: it lets the workflow job run.
type Case<'a> = (
    &'a BuildPolicy,
    &'a Value,
    &'a [(&'a str, &'a str)],
    Option<&'a str>,
);

/// What the hook says of a workflow job, or nothing.
async fn verdict(
    policy: &BuildPolicy,
    event: &Value,
    variables: &[(&str, &str)],
) -> Option<String> {
    let mut launch = Launch::new(WITH_HOOK)
        .await
        .with("GHA_SLURM_BUILD_POLICY", &policy.for_hook(1));
    for (name, value) in variables {
        launch = launch.with(name, value);
    }
    std::fs::write(launch.path("seen/event.json"), event.to_string()).unwrap();
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let last = launch.last().await;
    let reason = last["reason"].as_str().unwrap().to_owned();
    let log = launch.seen("log");
    assert!(
        launch
            .phases()
            .await
            .contains(&"workflow_job_started".to_owned()),
        "GitHub counts it as started"
    );
    if launch.path("seen/step").exists() {
        assert_eq!((log.as_str(), reason.as_str()), ("", "completed"));
        return None;
    }
    let refusal = reason
        .strip_prefix("refused_by_policy: ")
        .unwrap_or_else(|| panic!("{reason}\n{log}"));
    let annotation = log.strip_prefix("::error title=Refused by the cluster::");
    let annotation = annotation.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(annotation.lines().count(), 1, "{log}");
    assert_eq!(
        annotation.trim_end().replace("%25", "%"),
        refusal.trim_end()
    );
    Some(refusal.to_owned())
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused_before_the_first_step() {
    let usual = BuildPolicy::default();
    let with_forks = BuildPolicy {
        forks: true,
        ..usual.clone()
    };
    let target = BuildPolicy {
        events: vec!["pull_request_target".into(), "workflow_run".into()],
        ..usual.clone()
    };
    let few = BuildPolicy {
        actors: Some(vec!["Alice".into()]),
        ..usual.clone()
    };
    let (own, fork) = (
        pull_request(&json!({ "id": 1, "full_name": "acme/widgets" })),
        pull_request(&json!({ "id": 2, "full_name": "mallory/widgets" })),
    );
    let after_fork = json!({ "workflow_run": { "head_repository": { "id": 2, "full_name": "mallory/widgets" } } });
    let hostile =
        pull_request(&json!({ "id": 2, "full_name": "x\n::set-env name=A::b%0A$(reboot)" }));
    let nothing = json!({});
    // GitHub's schema has the key, and null where no workflow run caused it.
    let deployed = json!({ "deployment": { "id": 5 }, "workflow_run": null });
    let of_own_run =
        json!({ "workflow_run": { "head_sha": "c0ffee", "head_repository": { "id": 1 } } });
    let deleted_run = json!({ "workflow_run": { "head_sha": "c0ffee", "head_repository": null } });
    let branch = ("REF", "refs/heads/main");
    let no_branch = Some("a commit that no branch or tag names");
    let deleted = pull_request(&Value::Null);
    let odd = json!("no object");
    let cases: [Case<'_>; 29] = [
        (&usual, &nothing, &[], None),
        (&usual, &own, &[("EVENT", "pull_request")], None),
        (&with_forks, &fork, &[("EVENT", "pull_request")], None),
        (&target, &own, &[("EVENT", "pull_request_target")], None),
        (&few, &nothing, &[], None),
        (&few, &nothing, &[("AGAIN", "")], None),
        (
            &usual,
            &nothing,
            &[("REPOSITORY_ID", "2")],
            Some("for the repository 1, not for acme/widgets (2)"),
        ),
        (
            &usual,
            &nothing,
            &[("REPOSITORY_ID", "")],
            Some("GITHUB_REPOSITORY_ID is not set"),
        ),
        (
            &usual,
            &nothing,
            &[("EVENT", "issue_comment")],
            Some("event issue_comment may not run"),
        ),
        (
            &usual,
            &own,
            &[("EVENT", "pull_request_target")],
            Some("the policy allows push, pull_request,"),
        ),
        (
            &usual,
            &fork,
            &[("EVENT", "pull_request")],
            Some("from a fork (mallory/widgets)"),
        ),
        (
            &usual,
            &hostile,
            &[("EVENT", "pull_request")],
            Some("from a fork (x ::set-env name=A::b%"),
        ),
        (
            &usual,
            &deleted,
            &[("EVENT", "pull_request")],
            Some("from a fork (which is deleted)"),
        ),
        (
            &usual,
            &nothing,
            &[("EVENT", "pull_request")],
            Some("from a fork"),
        ),
        (
            &target,
            &after_fork,
            &[("EVENT", "workflow_run")],
            Some("from a fork (mallory/widgets)"),
        ),
        (
            &few,
            &nothing,
            &[("ACTOR", "mallory")],
            Some("mallory is not one of those"),
        ),
        (
            &few,
            &nothing,
            &[("AGAIN", "mallory")],
            Some("mallory is not one of those"),
        ),
        (&usual, &odd, &[], Some("could not be checked")),
        (&usual, &deployed, &[("EVENT", "deployment"), branch], None),
        (
            &usual,
            &deployed,
            &[("EVENT", "deployment_status"), ("REF", "refs/tags/v1")],
            None,
        ),
        // A bot deploys a commit of a fork's pull request.
        (&usual, &deployed, &[("EVENT", "deployment")], no_branch),
        (
            &usual,
            &nothing,
            &[("EVENT", "deployment_status"), ("REF", "refs/pull/5/head")],
            no_branch,
        ),
        (&with_forks, &deployed, &[("EVENT", "deployment")], None),
        (
            &usual,
            &of_own_run,
            &[("EVENT", "deployment"), ("SHA", "c0ffee")],
            None,
        ),
        (
            &usual,
            &of_own_run,
            &[("EVENT", "deployment"), ("SHA", "decaf")],
            no_branch,
        ),
        (
            &usual,
            &after_fork,
            &[("EVENT", "deployment"), branch],
            Some("from a fork (mallory/widgets)"),
        ),
        (
            &usual,
            &deleted_run,
            &[("EVENT", "deployment"), ("SHA", "c0ffee")],
            Some("from a fork (which is deleted)"),
        ),
        (
            &target,
            &deployed,
            &[("EVENT", "workflow_run")],
            Some("from a fork (which is deleted)"),
        ),
        (
            &target,
            &nothing,
            &[("EVENT", "workflow_run")],
            Some("from a fork (which is deleted)"),
        ),
    ];
    for (policy, event, variables, expected) in cases {
        let said = verdict(policy, event, variables).await;
        let right = match (&said, expected) {
            (None, None) => true,
            (Some(said), Some(part)) => said.contains(part),
            _ => false,
        };
        assert!(
            right,
            "{event} {variables:?}: {said:?} instead of {expected:?}"
        );
    }
}

/// The real runner lets the release's `.env` win over its environment.
#[tokio::test]
async fn a_hook_in_the_releases_env_file_is_called_after_ours() {
    let runner = format!("cat .env > \"$SEEN/env\"\n{WITH_HOOK}");
    let launch = Launch::new(&runner).await;
    std::fs::write(launch.path("seen/event.json"), "{}").unwrap();
    let hook = launch.path("site.sh");
    std::fs::write(&hook, "echo the site says $GITHUB_RUN_ID").unwrap();
    let env = format!(
        "LANG=C.UTF-8\nACTIONS_RUNNER_HOOK_JOB_STARTED={}\n",
        hook.display()
    );
    std::fs::write(launch.path("runner/.env"), env).unwrap();
    let policy = BuildPolicy::default().for_hook(1);
    let launch = launch.with("GHA_SLURM_BUILD_POLICY", &policy);
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.seen("log"), "the site says 4711\n");
    assert_eq!(launch.seen("env"), "LANG=C.UTF-8\n");

    let launch = launch.with("EVENT", "issues");
    assert_eq!(launch.run().await.code, Some(0));
    assert!(
        launch.seen("log").starts_with("::error"),
        "{}",
        launch.seen("log")
    );
}

/// A runner with a workflow job that has a container.
const WITH_CONTAINER: &str = r#"
listening
echo "2026-11-23 10:00:01Z: Running job: test"
GITHUB_RUN_ID=4711 GITHUB_RUN_ATTEMPT=1 bash "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || exit 99
echo "$ACTIONS_RUNNER_CONTAINER_HOOKS" > "$SEEN/hooks"
for command in prepare_job cleanup_job; do
    echo "{\"command\": \"$command\", \"responseFile\": \"r\", \"args\": {}, \"state\": {}}" |
        bash --noprofile --norc -e -o pipefail "$ACTIONS_RUNNER_CONTAINER_HOOKS" >> "$SEEN/log" 2>&1
    echo "$command $?" >> "$SEEN/codes"
done
"#;

#[tokio::test]
async fn containers_are_refused_with_the_alternative_where_the_site_has_no_hooks() {
    let launch = Launch::new(WITH_CONTAINER).await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(launch.seen("codes"), "prepare_job 1\ncleanup_job 0\n");
    let log = launch.seen("log");
    assert!(
        log.starts_with("::error title=") && log.contains("whose profile has a container"),
        "{log}"
    );
    let last = launch.last().await;
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("refused_by_policy: containers (container:, services:"),
        "{reason}"
    );
}

#[tokio::test]
async fn the_sites_container_hooks_are_the_runners() {
    let launch = Launch::new(WITH_CONTAINER).await;
    let hooks = launch.path("hooks.sh");
    std::fs::write(&hooks, "cat").unwrap();
    let launch = launch.with("GHA_SLURM_CONTAINER_HOOKS", hooks.to_str().unwrap());
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.seen("codes"), "prepare_job 0\ncleanup_job 0\n");
    assert_eq!(launch.seen("hooks").trim_end(), hooks.to_str().unwrap());
    assert_eq!(launch.last().await["reason"], "completed");
}

/// What a workflow names as an image becomes neither an option of Podman nor a path.
#[test]
fn an_image_is_the_name_of_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(CONTAINER_HOOK, folder.path().join("hook.js")).unwrap();
    std::fs::write(folder.path().join("podman.json"), "{}").unwrap();
    let full_names = |names: &[&str]| -> Vec<Option<String>> {
        let script = "const { fullName } = require('./hook.js');
            const of = (name) => { try { return fullName(name); } catch { return null; } };
            console.log(JSON.stringify(JSON.parse(process.argv[1]).map(of)));";
        let output = std::process::Command::new("node")
            .args(["-e", script, &json!(names).to_string()])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let digest = format!("busybox:1.36@sha256:{}", "0a".repeat(32));
    for (name, full) in [
        ("redis", "docker.io/library/redis"),
        ("docker://redis:7", "docker.io/library/redis:7"),
        (
            "acme/Tools_x--y:1.0-rc_1",
            "docker.io/acme/Tools_x--y:1.0-rc_1",
        ),
        ("ghcr.io/acme/a/b:latest", "ghcr.io/acme/a/b:latest"),
        ("localhost/x", "localhost/x"),
        ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"),
        ("[::1]:5000/x", "[::1]:5000/x"),
        (&digest, &format!("docker.io/library/{digest}")),
    ] {
        assert_eq!(full_names(&[name]), [Some(full.to_owned())], "{name}");
    }
    let wrong = [
        "",
        "-",
        "--privileged",
        "--network=ns:/proc/1/ns/net",
        "docker://--rm",
        "dir:/etc",
        "docker-archive:/tmp/x.tar",
        "/etc",
        "../x",
        "a b",
        "a\nb",
        "redis:-x",
        "redis@x",
        "oci:/x:y",
        "redis --rm",
        "$(x)",
    ];
    for (name, full) in wrong.iter().zip(full_names(&wrong)) {
        assert_eq!(full, None, "{name}");
    }
}

/// Shows what it is called with.
const PODMAN: &str = r#"#!/bin/bash
printf 'argument: %s\n' "$@"
env | sed 's/^/environment: /'
while (($#)); do [ "$1" != --env-file ] || sed 's/^/file: /' "$2"; shift; done
"#;

/// Variables of a workflow reach its containers, and neither Podman's own environment nor its arguments.
#[test]
fn podman_heeds_no_variable_of_a_workflow() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(CONTAINER_HOOK, at("podman.js")).unwrap();
    std::fs::write(at("podman"), PODMAN).unwrap();
    std::fs::set_permissions(at("podman"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let settings = json!({
        "command": [at("podman")], "volumes": [],
        "environment": { "PATH": "/usr/local/bin:/usr/bin:/bin", "OF_THE_SITE": "yes" },
    });
    std::fs::write(at("podman.json"), settings.to_string()).unwrap();
    let names = [
        "CONTAINERS_CONF",
        "CONTAINER_HOST",
        "STORAGE_DRIVER",
        "DOCKER_HOST",
        "REGISTRY_AUTH_FILE",
        "BUILDAH_ISOLATION",
        "PODMAN_USERNS",
        "XDG_CONFIG_HOME",
        "LD_PRELOAD",
        "HOME",
        "APPTAINER_BIND",
        "GODEBUG",
        "PASSWORD",
    ];
    let call = |variables: Value, options: &str| {
        let step = json!({
            "command": "run_container_step", "state": {},
            "args": {
                "image": "busybox", "environmentVariables": variables, "createOptions": options,
                "entryPoint": "sh", "workingDirectory": "/w",
            },
        });
        let mut child = std::process::Command::new("node")
            .arg(at("podman.js"))
            // As a step may have set it for those that come after it.
            .env("STORAGE_OPTS", "from-a-step")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        write!(child.stdin.take().unwrap(), "{step}").unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let mut variables: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!("of-the-workflow")))
        .collect();
    variables.insert("KEY".into(), json!("BEGIN\nEND"));
    let (fine, said) = call(variables.into(), "--env DOCKER_CONFIG=of-the-workflow");
    assert!(fine, "{said}");
    for name in names.into_iter().chain(["DOCKER_CONFIG"]) {
        assert!(
            said.contains(&format!("file: {name}=of-the-workflow\n")),
            "{name}: {said}"
        );
    }
    for line in said.lines().filter(|line| !line.starts_with("file: ")) {
        assert!(
            !line.contains("of-the-workflow") && !line.contains("from-a-step"),
            "{line}"
        );
    }
    assert!(
        said.contains("environment: KEY=BEGIN\nenvironment: END\n"),
        "{said}"
    );
    assert!(said.contains("environment: OF_THE_SITE=yes\n"), "{said}");
    // A file of variables has one in each line.
    let (fine, said) = call(json!({ "DOCKER_CONFIG": "a\nb" }), "");
    assert!(
        !fine && said.contains("the variable DOCKER_CONFIG is too long, or has more than one line"),
        "{said}"
    );
    let left = std::fs::read_dir(folder.path()).unwrap().flatten();
    assert!(
        !left
            .map(|entry| entry.file_name())
            .any(|name| name.to_str().unwrap().starts_with("variables."))
    );
}
