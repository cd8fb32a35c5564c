//! The original contract before a real Slurm: a shared secret, the site's own file, its job template.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, wait_until};
use serde_json::{Value, json};
use wiremock::matchers::{body_string, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site};
use crate::real_slurm::{of, queue};
use crate::stop::switch;

const SECRET: &str = "the shared secret, 7f3a9c5e1d8b2064";
/// As the original app signs one.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJvd25lciI6ImFjbWUifQ.c2lnbmF0dXJl";

/// Traces, as the original's does, and tells what it got.
const TEMPLATE: &str = r#"
jobTemplate: |
  #!/bin/bash -x
  set -x
  GHTOKEN=$(curl -s -X POST -H "Authorization: %LAUNCH_TOKEN%" $GHA_SLURM_TOKEN_URL/gha/runner | jq -r '.token')
  echo "in the environment: $(grep -c eyJ /proc/$$/environ) $(env | grep -c eyJ)"
  echo "line: %RUNNER_CONFIG_LINE%"
  echo "user=$USER uid=$(id -un) home=$HOME" > "%LOG_FILE%"
"#;

struct Theirs {
    site: Site,
    file: PathBuf,
}

impl Theirs {
    fn new(app: &MockServer, site: Site, template: &str) -> Self {
        let file = site.path("original.yml");
        let theirs = Self {
            site: site.with("ORIGINAL__FILE", file.to_str().unwrap()).with(
                "TOKEN_BROKER__URLS",
                // Also where launch tokens of tests go.
                &format!("{} http://127.0.0.1:1", app.uri()),
            ),
            file,
        };
        theirs.write(SLURM_USERS[0], template);
        theirs
    }

    fn write(&self, user: &str, template: &str) {
        let text = format!(
            "ghaSharedSecret: {SECRET}\nport: 5011\nrepositories:\n- gitHubURL: https://github.com/Acme/Widgets\n  slurmUser: {user}\n{template}"
        );
        std::fs::write(&self.file, text).unwrap();
    }

    /// What Slurm jobs left in the output folder with this ending: name and text.
    fn outputs(&self, ending: &str) -> Vec<(PathBuf, String)> {
        let entries = std::fs::read_dir(self.site.path("output")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let wanted = paths.filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // `<name>.<random>.log`, `<name>.runner.<random>.log`
            let is_runner = name.contains(".runner.");
            path.extension().is_some_and(|of| of == "log") && is_runner == (ending == ".runner.log")
        });
        wanted
            .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
            .collect()
    }

    async fn until_output(&self, ending: &str, text: &str) -> (PathBuf, String) {
        wait_until(&format!("{ending} says {text}"), DEADLINE, || async {
            let outputs = self.outputs(ending);
            let found = outputs.iter().find(|(_, said)| said.contains(text));
            found.cloned().ok_or(outputs)
        })
        .await
    }
}

fn body(app: &MockServer, more: &Value) -> Value {
    let mut body = json!({
        "gitHubURL": "https://github.com/acme/widgets.git",
        "launcherToken": TOKEN,
        "runnerLabels": "self-hosted,linux",
        "tokenURL": app.uri(),
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

async fn post(agent: &Agent, path: &str, secret: Option<&str>, body: &Value) -> (u16, Value) {
    let http = reqwest::Client::builder()
        .timeout(DEADLINE)
        .build()
        .unwrap();
    let mut call = http.post(format!("{}{path}", agent.url())).json(body);
    if let Some(secret) = secret {
        call = call.header("auth-token", secret);
    }
    let response = call.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

/// The original app: gives a registration token for the bare launch token and an empty body.
async fn app() -> MockServer {
    let app = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/gha/runner"))
        .and(header("authorization", TOKEN))
        .and(body_string(""))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "token": "REGISTER" })))
        .mount(&app)
        .await;
    app
}

/// A request of the original app becomes a Slurm job of the mapped user that runs the site's template.
pub(crate) async fn a_template_runs(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let app = app().await;
    let theirs = Theirs::new(&app, site(&slurm).with("POLICY__MAX__CPUS", "4"), TEMPLATE);
    let agent = theirs.site.agent().await;
    let asked = body(
        &app,
        &json!({ "runnerName": "n1", "cpus": "2", "duration": "0:30:00", "partition": "other" }),
    );
    let (status, answer) = post(&agent, "/runner/start", Some(SECRET), &asked).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("OK!")),
        "{answer}"
    );
    let id = answer["slurmJobId"].as_str().unwrap().to_owned();

    let (log, said) = theirs.until_output(".runner.log", "user=").await;
    let user = SLURM_USERS[0];
    assert!(
        said.starts_with(&format!("user={user} uid={user} home=/")),
        "{said}"
    );
    let metadata = std::fs::metadata(log).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    let (_, said) = theirs.until_output(".log", "line: ").await;
    let expected = "in the environment: 0 0\nline: --unattended --replace --url https://github.com/Acme/Widgets --token REGISTER \
                    --ephemeral --work gha_work --name 'n1' --labels 'self-hosted,linux'\n";
    assert_eq!(said, expected, "and no trace of it");

    // Nothing that is kept holds the token.
    let shown = slurm.run("scontrol", &["show", "job", &id]).await.unwrap();
    for wanted in ["NumCPUs=2", "Partition=other", "TimeLimit=00:30:00"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let script = theirs.site.path("kept");
    slurm
        .run(
            "scontrol",
            &["write", "batch_script", &id, script.to_str().unwrap()],
        )
        .await
        .unwrap();
    let script = std::fs::read_to_string(script).unwrap();
    assert!(script.contains("${GHA_SLURM_LAUNCH_TOKEN}"), "{script}");
    let ledger = std::fs::read_dir(theirs.site.path("state/launches")).unwrap();
    let entries: Vec<String> = ledger
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for text in [&script, &shown, &agent.log(), &entries.concat()] {
        assert!(!text.contains(TOKEN) && !text.contains(SECRET), "{text}");
    }
    assert!(
        agent.log().contains("weaker than a launch token"),
        "{}",
        agent.log()
    );

    // The same again is the same; the policy holds; and so does our own contract.
    let (_, again) = post(&agent, "/runner/start", Some(SECRET), &asked).await;
    assert_eq!(again, answer);
    let large = body(&app, &json!({ "launcherToken": "a.b.c", "cpus": "5" }));
    let (status, problem) = post(&agent, "/runner/start", Some(SECRET), &large).await;
    assert_eq!((status, &problem["code"]), (422, &json!("policy_refused")));
    agent
        .start(&theirs.site.request(&of(SLURM_USERS[1], "ours")))
        .await;
    let queue = queue(&slurm).await;
    assert_eq!(queue.len(), 2, "{queue:?}");
    agent.stop();
}

/// Without a template ours registers a runner and runs it; the runner token is in no argument.
pub(crate) async fn our_template_runs(site: impl Fn(&PrivateSlurm) -> Site) {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let app = app().await;
    let site = site(&slurm);
    let folder = site.path("runner");
    let theirs = Theirs::new(
        &app,
        site.with("RUNNER__FOLDER", folder.to_str().unwrap()),
        "",
    );
    let listener = folder.join("bin/Runner.Listener");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    let runner = "#!/bin/bash\n[ \"$1\" = --version ] && exec echo 2.336.0\n\
                  echo \"arguments: $*; token: ${ACTIONS_RUNNER_INPUT_TOKEN:-none}\"\n\
                  [ \"$1\" != run ] || { echo \"in $PWD\"; echo 'Listening for Jobs'; echo 'Running job: x'; }\n";
    std::fs::write(&listener, runner).unwrap();
    std::fs::set_permissions(&listener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = theirs.site.agent().await;
    let (status, answer) = post(
        &agent,
        "/runner/start",
        Some(SECRET),
        &body(&app, &json!({})),
    )
    .await;
    assert_eq!(status, 200, "{answer}");
    let (_, said) = theirs.until_output(".log", "Running job").await;
    for line in [
        "arguments: configure --unattended --replace --ephemeral --work gha_work --url https://github.com/Acme/Widgets \
         --labels self-hosted,linux; token: REGISTER",
        "arguments: run; token: none",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}\n{said}");
    }
    // Where the epilog looks.
    let id = answer["slurmJobId"].as_str().unwrap();
    assert!(said.contains(&format!("/gha-slurm-{id}.")), "{said}");
    agent.stop();
}

/// Who is let in, and what is refused.
#[tokio::test]
async fn the_secret_and_the_body_are_held_against_the_file() {
    let app = app().await;
    let theirs = Theirs::new(&app, Site::new("sleep 600"), TEMPLATE);
    let agent = theirs.site.agent().await;
    let start = async |secret: Option<&str>, more: Value| {
        post(&agent, "/runner/start", secret, &body(&app, &more)).await
    };
    let theirs_401 = json!({ "message": "auth-token missing" });
    for wrong in [
        "",
        "the shared secret",
        "the shared secreT, 7f3a9c5e1d8b2064",
        "the shared secret, 7f3a9c5e1d8b2064 and more",
    ] {
        assert_eq!(
            start(Some(wrong), json!({})).await,
            (401, theirs_401.clone())
        );
        let reload = post(&agent, "/api/reload", Some(wrong), &json!({})).await;
        assert_eq!(reload, (401, theirs_401.clone()));
    }
    let (status, answer) = start(None, json!({})).await;
    assert_eq!((status, &answer["message"]), (401, &theirs_401["message"]));
    assert_eq!(
        answer["code"], "launch_token_invalid",
        "it may be one of ours"
    );
    for (more, status, code) in [
        (
            json!({ "gitHubURL": "https://github.com/evil/widgets" }),
            422,
            "repository_unknown",
        ),
        (
            json!({ "gitHubURL": "../../etc/passwd" }),
            422,
            "repository_unknown",
        ),
        (
            json!({ "runnerLabels": "a,$(reboot)" }),
            400,
            "body_invalid",
        ),
        (json!({ "runnerName": "'; reboot; '" }), 400, "body_invalid"),
        (json!({ "launcherToken": "x\nreboot" }), 400, "body_invalid"),
        (json!({ "tokenURL": "javascript:x" }), 400, "body_invalid"),
        (
            json!({ "tokenURL": "https://evil.example" }),
            422,
            "policy_refused",
        ),
        (json!({ "partition": "--uid=root" }), 400, "body_invalid"),
        (json!({ "cpus": 4 }), 400, "body_invalid"),
    ] {
        let (got, problem) = start(Some(SECRET), more.clone()).await;
        assert_eq!(
            (got, problem["code"].as_str().unwrap()),
            (status, code),
            "{more}"
        );
    }
    // The kill switch stops the original app, too.
    let (fine, said) = switch(&theirs.site, &["stop", "--reason", "a secret was stolen"]);
    assert!(fine, "{said}");
    let (status, problem) = start(Some(SECRET), json!({})).await;
    assert_eq!((status, &problem["code"]), (503, &json!("stopped")));
    assert_eq!(theirs.site.slurm_jobs(), 0);
    agent.stop();
}

/// The file is read again when that is asked for; one that is wrong changes nothing.
#[tokio::test]
async fn a_broken_file_is_not_taken_over() {
    let app = app().await;
    let theirs = Theirs::new(&app, Site::new(""), TEMPLATE);
    let agent = theirs.site.agent().await;
    let reload = async || post(&agent, "/api/reload", Some(SECRET), &json!({})).await;
    let user_of = async |token: &str| {
        let asked = body(&app, &json!({ "launcherToken": token }));
        let (_, answer) = post(&agent, "/runner/start", Some(SECRET), &asked).await;
        let folder = theirs
            .site
            .slurm_job(answer["slurmJobId"].as_str().unwrap());
        let text = std::fs::read_to_string(folder.join("slurm-job.json")).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        description["slurm_user"].as_str().unwrap().to_owned()
    };
    assert_eq!(user_of("a.b.c").await, "games");
    theirs.write("news", TEMPLATE);
    assert_eq!(user_of("a.b.d").await, "games", "not read yet");
    assert_eq!(reload().await, (200, json!({ "status": "OK!" })));
    assert_eq!(user_of("a.b.e").await, "news");
    for broken in [
        format!("ghaSharedSecret: {SECRET}\nrepositories: 1\n"),
        format!(
            "ghaSharedSecret: {SECRET}\nrepositories: []\njobTemplate: \"echo '%LAUNCH_TOKEN%'\"\n"
        ),
        "{[".to_owned(),
    ] {
        std::fs::write(&theirs.file, broken).unwrap();
        let (status, problem) = reload().await;
        assert_eq!(
            (status, &problem["code"]),
            (422, &json!("original_file_invalid"))
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("original.yml") && !detail.contains(SECRET),
            "{detail}"
        );
        assert_eq!(user_of("a.b.f").await, "news");
    }
    agent.stop();
    // At start there is no old one.
    let broken = theirs.site.spawn();
    wait_until("it ends", DEADLINE, || async {
        broken
            .log()
            .contains("original.file (GHA_SLURM_MUNGE__ORIGINAL__FILE): ")
    })
    .await;
}

/// Where the site has not opted in, there is no such contract.
#[tokio::test]
async fn it_is_off_unless_the_site_opts_in() {
    let app = app().await;
    let site = Site::new("");
    let agent = site.agent().await;
    let (status, problem) = post(
        &agent,
        "/runner/start",
        Some(SECRET),
        &body(&app, &json!({})),
    )
    .await;
    assert_eq!((status, &problem["message"]), (401, &Value::Null));
    assert_eq!(
        post(&agent, "/api/reload", Some(SECRET), &json!({}))
            .await
            .0,
        404
    );
    agent.stop();
}
