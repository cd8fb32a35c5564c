//! The ways a job script can fail, and what it tells then.

use std::os::unix::fs::PermissionsExt;

use gha_slurm_contract::runner::MAX_LOG_TAIL_BYTES;
use gha_slurm_test_support::output_file;
use serde_json::json;
use wiremock::ResponseTemplate;

use crate::script_fixture::*;

#[tokio::test]
async fn a_launch_token_that_is_not_accepted_is_a_failure() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    launch
        .says(
            "/gha/runner",
            1,
            problem(401, "the launch token has expired"),
            None,
        )
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "callback_refused");
    assert!(
        last["logTail"]
            .as_str()
            .unwrap()
            .contains("the launch token has expired")
    );
    assert_eq!(launch.calls("/gha/runner").await.len(), 1);
}

/// A node where a program is missing or too old says so at once, with the launch token: no build fails without a reason.
#[tokio::test]
async fn a_node_that_cannot_run_a_runner_says_why() {
    for (program, script, expected) in [
        (
            "jq",
            "echo jq-1.5-1-a5b5cbe",
            "jq 1.6 or newer is needed, and this is jq-1.5-1-a5b5cbe",
        ),
        (
            "curl",
            "[ \"$1\" = --version ] || exec /usr/bin/curl \"$@\"; echo 'curl 7.29.0 (x86_64-redhat-linux-gnu)'",
            "curl 7.55 or newer is needed, and this is curl 7.29.0",
        ),
        // As where the work directory is mounted noexec: the kernel says the same.
        ("chmod", "exit 0", "can be run; it may be mounted noexec"),
        (
            "mktemp",
            "echo 'no \"space\"' >&2; exit 1",
            "no folder can be made in ",
        ),
    ] {
        let launch = Launch::new(ONE_WORKFLOW_JOB).await;
        let bin = launch.path("bin");
        std::fs::create_dir(&bin).unwrap();
        let stand_in = bin.join(program);
        std::fs::write(&stand_in, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let launch = launch.with("PATH", &path);
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(1), "{program}: {}", outcome.output);
        let calls = launch.calls("/gha/runner/progress").await;
        let [call] = &calls[..] else {
            panic!("{program}: {}", outcome.output);
        };
        assert_eq!(bearer(call), LAUNCH_TOKEN);
        let last = launch.last().await;
        let reason = last["reason"].as_str().unwrap();
        assert!(reason.starts_with("node_unfit: "), "{reason}");
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(last["node"], "n1");
        assert!(outcome.output.contains(reason), "{}", outcome.output);
        assert!(launch.calls("/gha/runner").await.is_empty());
    }
    // Without jq at all.
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let bin = launch.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in [
        "bash", "uname", "date", "tee", "curl", "sed", "tail", "sleep", "rm", "grep", "cat",
    ] {
        let real = std::path::Path::new("/usr/bin").join(program);
        std::os::unix::fs::symlink(real, bin.join(program)).unwrap();
    }
    let launch = launch.with("PATH", bin.to_str().unwrap());
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(
        last["reason"],
        "node_unfit: jq is needed, and not installed"
    );
}

/// Of bash, only the version that is there can be tried.
#[test]
fn versions_are_compared_by_both_scripts() {
    let folder = std::path::Path::new(SCRIPT).parent().unwrap();
    for script in ["gha-slurm-job.sh", "gha-slurm-node-check.sh"] {
        let text = std::fs::read_to_string(folder.join(script)).unwrap();
        let (_, function) = text.split_once("\nat_least() {").unwrap();
        let (function, _) = function.split_once("\n}").unwrap();
        for (version, expected) in [
            ("4.2.46(2)-release", "no"),
            ("4.4.20(1)-release", "yes"),
            ("5.0.17(1)-release", "yes"),
            ("3.9.9", "no"),
            ("10.0", "yes"),
            ("no bash", "no"),
        ] {
            let tried = format!(
                "at_least() {{{function}\n}}; at_least 4 4 '{version}' && echo yes || echo no"
            );
            let output = std::process::Command::new("bash")
                .args(["-c", &tried])
                .output();
            let said = String::from_utf8(output.unwrap().stdout).unwrap();
            assert_eq!(said.trim(), expected, "{script}: {version}");
        }
    }
}

#[tokio::test]
async fn a_broker_that_stays_away_is_given_up() {
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_CALLBACK_DEADLINE_S", "2");
    launch
        .says("/gha/runner", 1, problem(500, "broken"), None)
        .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(launch.last().await["reason"], "callback_unavailable");
    assert!(launch.calls("/gha/runner").await.len() >= 2);

    // Nobody there at all.
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_CALLBACK_DEADLINE_S", "1")
        .with("GHA_SLURM_TOKEN_URL", "http://127.0.0.1:1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(
        outcome
            .output
            .trim_end()
            .ends_with("over: callback_unavailable")
    );
}

#[tokio::test]
async fn a_runner_that_fails_before_a_workflow_job_leaves_a_redacted_tail() {
    let secrets = [
        "ghs_1234_eyJhbGciOiJSUzI1NiJ9.abc.def0123456789012345678901234567890",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTkyIn0.c2lnbmF0dXJl",
        "hunter2secret",
        "word3secret",
    ];
    let [ghs, jwt, password, word] = secrets;
    let launch = Launch::new(&format!(
        r#"for i in $(seq 3000); do echo "line $i of a long log that nobody needs ÄÖÜ"; done
        printf '\001\002\377\033[31mred\033[0m\n'
        echo "jit $jit"; echo "got {ghs} and {jwt}"; echo "https://user:{password}@proxy.example/"
        echo "https://user:pass@{word}@proxy.example/ user:pass@{word}@proxy.example:3128 actions/checkout@v4"
        echo "the registration has been deleted"; exit 1"#
    ))
    .await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"runner_failed".into(), &1.into())
    );
    let tail = last["logTail"].as_str().unwrap();
    assert!(
        tail.len() <= MAX_LOG_TAIL_BYTES && tail.len() > MAX_LOG_TAIL_BYTES / 2,
        "{}",
        tail.len()
    );
    assert!(tail.contains("the registration has been deleted"));
    assert!(tail.contains("***@proxy.example:3128 actions/checkout@v4"));
    assert!(tail.contains("line 3000 of a long log that nobody needs ÄÖÜ"));
    for secret in secrets
        .into_iter()
        .chain([JIT_CONFIG, PROGRESS_TOKEN, LAUNCH_TOKEN])
    {
        assert!(!tail.contains(secret), "{secret} is in the tail");
    }
    assert_eq!(
        launch.calls("/gha/runner/release").await.len(),
        1,
        "its registration is given back"
    );
}

#[tokio::test]
async fn a_runner_that_fails_in_its_workflow_job_keeps_its_log() {
    let launch = Launch::new(&format!("{ONE_WORKFLOW_JOB} exit 1")).await;
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"runner_failed".into(), &1.into())
    );
    assert!(
        last.get("logTail").is_none(),
        "it may hold what the workflow printed"
    );
}

#[tokio::test]
async fn a_runner_that_never_listens_is_ended() {
    let launch = Launch::new("echo starting; linger")
        .await
        .with("GHA_SLURM_SET_UP_DEADLINE_S", "1");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "set_up_deadline");
    assert!(last["logTail"].as_str().unwrap().contains("starting"));
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
}

#[tokio::test]
async fn exit_codes_of_the_runner_are_understood() {
    // 2: again; 3: it updates itself; then it is outdated all the same.
    let launch = Launch::new(
        r#"case $(wc -l < "$SEEN/arguments") in
            1) exit 3 ;;
            2) touch update.finished; exit 3 ;;
            *) exit 7 ;;
        esac"#,
    )
    .await;
    std::fs::write(launch.path("runner/update.finished"), "").unwrap();
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("runner_outdated: ") && reason.contains("gha-slurm runner-update"),
        "{reason}"
    );
    assert!(
        !reason.contains('\n') && reason.len() < 500,
        "the time line shows it whole"
    );
    assert_eq!(launch.seen("arguments"), "run\nrun\nrun\n");

    let launch = Launch::new("exit 0").await;
    assert_eq!(launch.run().await.code, Some(0));
    assert_eq!(launch.last().await["reason"], "no_workflow_job");
}

#[tokio::test]
async fn a_runner_folder_without_a_runner_is_a_failure() {
    let launch = Launch::new("")
        .await
        .with("GHA_SLURM_RUNNER_DIR", "/nonexistent");
    let outcome = launch.run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let last = launch.last().await;
    assert_eq!(last["reason"], "set_up_failed");
    assert!(
        last["logTail"]
            .as_str()
            .unwrap()
            .contains("no bin/Runner.Listener")
    );
    assert_eq!(launch.calls("/gha/runner/release").await.len(), 1);
}

const HOST: &str = "https://broker.actions.githubusercontent.com";

/// The runner writes each file of a JIT configuration, wherever its name leads, and believes what is in it.
#[tokio::test]
async fn a_jit_configuration_of_somebody_else_is_refused() {
    let runner = |server: &str| format!(r#"{{"agentId": 17, "serverUrl": "{server}"}}"#);
    let good = runner(HOST);
    let credentials = r#"{"scheme": "OAuth", "data": {"authorizationUrl": null}}"#;
    let of = |runner: &str, credentials: &str| {
        jit_config(&[
            (".runner", runner),
            (".credentials", credentials),
            (".credentials_rsaparams", "{}"),
        ])
    };
    let with = |more: (&str, &str)| {
        let three = [
            (".runner", good.as_str()),
            (".credentials", credentials),
            (".credentials_rsaparams", "{}"),
        ];
        jit_config(&[three.as_slice(), &[more]].concat())
    };
    let files = "it does not consist of";
    let host = "runner.github_hosts of the agent allows";
    let mut wrong = vec![
        ("aml0LWNvbmZpZ3VyYXRpb24tMTc=".to_owned(), files),
        ("%".to_owned(), files),
        (jit_config(&[(".runner", &good)]), files),
        (with(("bin/Runner.Worker", "x")), files),
        (with(("../../.bashrc", "x")), files),
        (with((".env", "LD_PRELOAD=/tmp/x.so")), files),
        (with((".runner", &runner("https://evil.test"))), files),
        (with((".runner\n.credentials", "x")), files),
        (of("{}", credentials), "it names no serverUrl"),
        (of("not JSON", credentials), ".runner: it is no JSON"),
        (
            of(&good, "{'Data': {'AuthorizationUrl': 'https://evil.test'}}"),
            ".credentials: it is no JSON",
        ),
        // As a reader that stops at a NUL would not see it.
        (
            of(
                &format!("{good}\0{}", runner("https://evil.test")),
                credentials,
            ),
            ".runner: it is no JSON",
        ),
        (
            of(
                &good,
                r#"{"Data": {"AuthorizationUrl": "https://evil.test"}}"#,
            ),
            ".credentials: AuthorizationUrl is https://evil.test",
        ),
        // The last of two wins in one reader, the first in another.
        (
            of(
                &format!(r#"{{"serverUrl": "https://evil.test", "serverUrl": "{HOST}"}}"#),
                credentials,
            ),
            host,
        ),
        (
            of(
                &format!(r#"{{"serverUrl": "{HOST}", "SERVERURL": "https://evil.test"}}"#),
                credentials,
            ),
            host,
        ),
        (
            of(
                &format!(
                    r#"{{"serverUrl": "{HOST}", "gitHubUrl": "https://evil.test/acme/widgets"}}"#
                ),
                credentials,
            ),
            host,
        ),
        (
            of(
                &format!(r#"{{"serverUrl": "{HOST}", "ServerUrlV2": "evil.test"}}"#),
                credentials,
            ),
            host,
        ),
        (
            of(
                &format!(r#"{{"serverUrl": "{HOST}", "somethingNew": "https://evil.test"}}"#),
                credentials,
            ),
            host,
        ),
    ];
    for server in [
        "http://github.com/",
        "https://github.com.evil.test/",
        "https://evilgithub.com/",
        "https://github.com@evil.test/",
        "https://evil.test/https://github.com/",
        "https://evil.test#.actions.githubusercontent.com/",
        "https://evil.test?.actions.githubusercontent.com/",
        r"https://github.com\\@evil.test/",
        "https://github.com:443@evil.test/",
        " https://github.com/",
        r"https://github.com/\nhttps://evil.test",
        "https://.github.com/",
    ] {
        wrong.push((of(&runner(server), credentials), host));
    }
    for (config, why) in wrong {
        let launch = Launch::new(ONE_WORKFLOW_JOB).await;
        launch
            .says("/gha/runner", 1, jit_answer_of(&config), None)
            .await;
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(1), "{config}: {}", outcome.output);
        assert_eq!(
            launch.seen("arguments"),
            "",
            "no runner was started: {config}"
        );
        let last = launch.last().await;
        let reason = last["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("jit_config_refused: ") && reason.contains(why),
            "{reason}"
        );
        assert!(outcome.output.contains(why), "{}", outcome.output);
        assert_eq!(
            launch.calls("/gha/runner/release").await.len(),
            1,
            "its registration is given back"
        );
    }
}

/// GitHub Enterprise Server, with plain HTTP; and with what is GitHub.com's.
#[tokio::test]
async fn the_site_says_which_github_it_is() {
    let server = "http://ghes.example.org:8080/_services/pipelines/x/";
    let runner = format!(
        r#"{{"ServerUrl": "{server}", "GitHubUrl": "http://ghes.example.org:8080/acme/widgets"}}"#
    );
    let config = jit_config(&[
        (".runner", &runner),
        (".credentials", "{}"),
        (".credentials_rsaparams", "{}"),
    ]);
    for (hosts, code) in [
        ("http://ghes.example.org", 0),
        ("ghes.example.org", 1),
        ("http://*.example.org", 0),
    ] {
        let launch = Launch::new(ONE_WORKFLOW_JOB)
            .await
            .with("GHA_SLURM_GITHUB_HOSTS", hosts);
        launch
            .says("/gha/runner", 1, jit_answer_of(&config), None)
            .await;
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(code), "{hosts}: {}", outcome.output);
    }
}

/// `config.sh` would send the registration token there; and no JIT configuration was asked for.
#[tokio::test]
async fn a_runner_registers_only_at_the_sites_github() {
    for (mode, url, reason) in [
        (
            "registration",
            "https://evil.test/acme/widgets",
            "url_refused: ",
        ),
        (
            "jit",
            "https://github.com/acme/widgets",
            "token-broker answered without a runner token",
        ),
    ] {
        let answer = ResponseTemplate::new(200).set_body_json(json!({
            "mode": "registration", "token": REGISTRATION_TOKEN, "url": url, "name": "gha-slurm-test-1",
            "labels": ["self-hosted", "slurm"], "progressToken": PROGRESS_TOKEN,
        }));
        let launch = Launch::new(ONE_WORKFLOW_JOB)
            .await
            .with("GHA_SLURM_RUNNER_MODE", mode);
        launch.says("/gha/runner", 1, answer, None).await;
        let outcome = launch.run().await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert_eq!(launch.seen("arguments"), "");
        assert!(
            launch.last().await["reason"]
                .as_str()
                .unwrap()
                .starts_with(reason),
            "{}",
            outcome.output
        );
    }
}

/// What it prints goes to a file that it made itself; where it cannot make one, the build runs all the same.
#[tokio::test]
async fn output_goes_to_a_file_of_its_own() {
    let launch = Launch::new(ONE_WORKFLOW_JOB).await;
    let beginning = launch.path("seen/r1");
    let launch = launch.with("GHA_SLURM_OUTPUT", beginning.to_str().unwrap());
    let outcome = launch.run().await;
    assert_eq!((outcome.code, outcome.output.as_str()), (Some(0), ""));
    let file = output_file(&launch.path("seen"), "r1").unwrap();
    let printed = std::fs::read_to_string(&file).unwrap();
    assert!(printed.trim_end().ends_with("over: completed"), "{printed}");
    assert_eq!(
        std::fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let launch = Launch::new(ONE_WORKFLOW_JOB)
        .await
        .with("GHA_SLURM_OUTPUT", "/nonexistent/r1");
    assert_eq!(launch.run().await.code, Some(0));
}
