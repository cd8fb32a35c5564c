//! A launch-token key was stolen: an administrator stops everything.

use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER};
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::{LaunchId, ResourceRequest};
use gha_slurm_test_support::{CLUSTER, SLURM_USERS, binary, wait_until};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::stack::{DEADLINE, REPOSITORY, Service, SlurmBackend, Stack};

const CLAIMED_AGO: Duration = Duration::from_secs(30);

fn gha_slurm(stack: &Stack, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("gha-slurm"));
    command
        .args(arguments)
        .env("DATABASE_URL", stack.database_url());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A launch token that is signed with a stolen key, and says to be half a minute old.
fn forged(
    stack: &Stack,
    thief: &SigningKey,
    (launch, repository_id, cluster): (LaunchId, i64, &str),
    issued: DateTime<Utc>,
) -> String {
    let iat = issued.timestamp();
    let claims = LaunchClaims {
        iss: "e2e".into(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: launch,
        jti: uuid::Uuid::new_v4(),
        iat,
        nbf: iat - 120,
        exp: iat + 3600,
        runner_name: "gha-slurm-e2e-stolen".into(),
        cluster: cluster.into(),
        launcher: None,
        token_url: stack.url(Service::TokenBroker),
        owner: "acme".into(),
        repository_name: "widgets".into(),
        repository_url: format!("https://github.com/{REPOSITORY}"),
        repository_id,
        labels: "self-hosted,slurm".into(),
        workflow_id: 1,
        slurm_user: SLURM_USERS[0].parse().unwrap(),
        resources: ResourceRequest::default(),
        runner_mode: RunnerMode::Jit,
    };
    thief.sign(&claims).unwrap().expose_secret().to_owned()
}

async fn post(stack: &Stack, service: Service, path: &str, token: &str, body: Value) -> u16 {
    let url = format!("{}{path}", stack.url(service));
    let call = stack.http().post(url).bearer_auth(token).json(&body);
    call.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn everything_is_stopped_and_goes_on() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Sbatch).await else {
        return;
    };
    let stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    let stolen = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(stack.launch_keys()).unwrap().flatten() {
        std::fs::copy(entry.path(), stolen.path().join(entry.file_name())).unwrap();
    }
    let thief = SigningKey::read(&KeyFolder::new(stolen.path())).unwrap();

    // One runs, one is idle, one is pending.
    let (script, go) = stack.until_there("go");
    let running = stack.queue(&script);
    stack.until_in_progress(running).await;
    stack.github.pause_assignment(true);
    let idle = stack.queue("true");
    stack.until_kind(idle, "listening").await;
    let nodes = async |state: &str| {
        let slurm = stack.slurm();
        let state = format!("State={state}");
        let words = ["update", "NodeName=ALL", &state, "Reason=test"];
        slurm.run("scontrol", &words).await.unwrap();
    };
    nodes("DRAIN").await;
    let pending = stack.queue("true");
    stack
        .until_launches("state = 'submitted' AND slurm_state = 'pending'", 1)
        .await;
    let submitted = async |column: &str| -> String {
        let query = format!("SELECT {column}::text FROM launches WHERE state = 'submitted'");
        stack.sql(&query, &[]).await
    };
    let (launch, slurm_job) = (submitted("id").await, submitted("slurm_job_id").await);
    let issued = Utc::now() - CLAIMED_AGO;
    let repository: i64 = submitted("repository_id").await.parse().unwrap();
    let of_launch = (launch.parse().unwrap(), repository, CLUSTER);
    let token = forged(&stack, &thief, of_launch, issued);

    let said = gha_slurm(&stack, &["panic", "--reason", "a key was stolen"]);
    assert!(
        said.starts_with("All launches are stopped since "),
        "{said}"
    );
    assert!(
        said.contains("- 1 running workflow job is left to finish"),
        "{said}"
    );
    let body = json!({"slurmJobId": slurm_job, "node": "n1"});
    let status = post(&stack, Service::TokenBroker, "/gha/runner", &token, body).await;
    assert_eq!(status, 410);
    wait_until(
        "the pending and the idle one have ended",
        DEADLINE,
        || async {
            let queue = stack.queue_of_slurm().await;
            let alive = |state: &str| matches!(state, "PENDING" | "RUNNING" | "COMPLETING");
            let left = queue.iter().filter(|(_, state, _)| alive(state)).count();
            if left == 1 { Ok(()) } else { Err(queue) }
        },
    )
    .await;
    assert_eq!(stack.github.state().runners.len(), 1, "the busy one");

    // What comes now waits, and people see why.
    let late = stack.queue("true");
    wait_until("people see why", DEADLINE, || async {
        let reason = stack
            .build_detail(late)
            .await
            .and_then(|detail| detail.build.status.why);
        match reason {
            Some(reason) if reason.contains("a key was stolen") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(stack.launches("in_supply AND state <> 'busy'").await, 0);

    // The keys, too: now the agent refuses what the thief signs, whenever it says to be signed.
    gha_slurm(&stack, &["panic", "--keys", stack.launch_keys()]);
    // An agent that accepts the key refuses to start this: it is meant for another.
    let of_nothing = (LaunchId(uuid::Uuid::now_v7()), 1, "elsewhere");
    let forged = forged(&stack, &thief, of_nothing, Utc::now());
    for (service, path) in [
        (Service::TokenBroker, "/gha/runner"),
        (Service::Agent, "/runner/start"),
    ] {
        wait_until(
            &format!("{service:?} refuses the stolen key"),
            2 * DEADLINE,
            || async {
                let status = post(&stack, service, path, &forged, start(&forged)).await;
                if status == 401 { Ok(()) } else { Err(status) }
            },
        )
        .await;
    }

    std::fs::write(&go, "").unwrap();
    stack.until_succeeded(running).await;
    let said = gha_slurm(&stack, &["resume"]);
    assert!(said.starts_with("Launches go on."), "{said}");
    nodes("RESUME").await;
    stack.github.pause_assignment(false);
    for id in [idle, pending, late] {
        stack.until_succeeded(id).await;
    }
    stack.finish().await;
}

fn start(token: &str) -> Value {
    json!({
        "gitHubURL": format!("https://github.com/{REPOSITORY}"),
        "launcherToken": token,
        "runnerLabels": "self-hosted,slurm",
        "tokenURL": "http://127.0.0.1:1",
        "slurmJobId": "4711",
        "node": "n1",
    })
}
