//! Launcher, agent, token-broker and job scripts are upgraded one after the other: each reads what a version before or after its
//! own sends.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

use std::fmt::Debug;

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{
    CallClaims, CancelAnswer, DryRunRequest, LaunchStatus, ListAnswer, StatesAnswer, StatesRequest,
};
use gha_slurm_contract::launch_token::{StartAnswer, StartRequest};
use gha_slurm_contract::outbound::{AgentClaims, AnswersRequest, PollAnswer, PollRequest};
use gha_slurm_contract::runner::{
    OriginalRunnerAnswer, ProgressPhase, ProgressRequest, RunnerAnswer, RunnerRequest,
};
use gha_slurm_contract::self_service::{CredentialPayload, OwnLaunch};
use gha_slurm_domain::SlurmState;
use gha_slurm_domain::release::RunnerRelease;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const LAUNCH: &str = "0192f0c1-2345-7000-8123-456789abcdef";
const ID: &str = "0192f0c1-2345-7000-8123-000000000001";

fn read<T: DeserializeOwned>(json: &Value) -> T {
    serde_json::from_value(json.clone()).unwrap_or_else(|e| panic!("{e}: {json}"))
}

/// The same message as a newer version would send it: with a field more in each of its objects.
fn newer(json: &Value) -> Value {
    match json {
        Value::Object(fields) => {
            let mut fields: serde_json::Map<String, Value> = fields
                .iter()
                // Any name may be a key there.
                .map(|(key, value)| match key.as_str() {
                    "tres" => (key.clone(), value.clone()),
                    _ => (key.clone(), newer(value)),
                })
                .collect();
            fields.insert("sinceTheNextVersion".into(), json!({ "a": [1] }));
            fields.into()
        }
        Value::Array(items) => items.iter().map(newer).collect(),
        other => other.clone(),
    }
}

/// `json` has every field, so that each of them is looked at.
fn understands_newer<T: DeserializeOwned + Serialize + PartialEq + Debug>(json: Value) {
    let message: T = read(&json);
    assert_eq!(
        serde_json::to_value(&message).unwrap(),
        json,
        "all of it is read"
    );
    assert_eq!(read::<T>(&newer(&json)), message);
}

fn status() -> Value {
    json!({
        "launch": LAUNCH, "slurmJobId": "17", "state": "failed", "reason": "NonZeroExitCode",
        "startsAt": "2026-11-24T10:00:00Z", "endedAt": "2026-11-24T10:00:02Z", "nodes": "n1", "exitCode": 3,
        "usage": {
            "elapsedS": 2, "cpuAllocatedS": 4, "cpuUsedS": 2, "maxRssBytes": 5, "tres": { "cpu": 2 },
        },
        "usageToCome": true,
    })
}

fn claims() -> Value {
    json!({
        "iss": "launcher", "aud": ["gha-slurm-munge"], "jti": ID, "iat": 1, "nbf": 2, "exp": 3, "cluster": "main", "launcher": ID,
    })
}

fn with(mut json: Value, more: Value) -> Value {
    let fields = json.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    json
}

#[test]
fn what_a_newer_version_adds_is_ignored() {
    understands_newer::<LaunchClaims>(with(
        claims(),
        json!({
            "sub": LAUNCH, "runnerName": "r1", "tokenURL": "https://broker", "owner": "acme", "repositoryName": "widgets",
            "repositoryURL": "https://github.com/acme/widgets", "repositoryId": 1, "labels": "slurm", "workflowId": 2,
            "slurmUser": "alice", "resources": { "cpus": 2, "exclusive": true }, "runnerMode": "registration",
        }),
    ));
    understands_newer::<StartRequest>(json!({
        "gitHubURL": "https://github.com/acme/widgets", "launcherToken": "a.b.c", "runnerLabels": "slurm",
        "tokenURL": "https://broker", "runnerName": "r1",
    }));
    understands_newer::<StartAnswer>(json!({ "status": "OK!", "slurmJobId": "17" }));
    understands_newer::<CallClaims>(with(
        claims(),
        json!({ "sub": "cancel", "launches": [LAUNCH], "onlyPending": true }),
    ));
    understands_newer::<StatesRequest>(json!({ "launches": [LAUNCH], "lookNow": true }));
    understands_newer::<StatesAnswer>(
        json!({ "launches": [status()], "policy": "a1", "freed": 2 }),
    );
    understands_newer::<CancelAnswer>(json!({ "cancelled": [LAUNCH] }));
    understands_newer::<ListAnswer>(json!({ "launches": [status()] }));
    understands_newer::<DryRunRequest>(
        json!({ "slurmUser": "alice", "repositoryId": 1, "resources": { "cpus": 2 } }),
    );

    let mut agent = with(claims(), json!({ "sub": "poll" }));
    agent.as_object_mut().unwrap().remove("launcher");
    understands_newer::<AgentClaims>(agent);
    understands_newer::<PollRequest>(json!({ "inHand": [ID] }));
    understands_newer::<PollAnswer>(json!({ "calls": [{
        "id": ID, "path": "/runner/start", "assertion": "a.b.c", "traceparent": "00-1-2-01", "body": null,
    }] }));
    understands_newer::<AnswersRequest>(json!({ "answers": [{
        "id": ID, "status": 503, "retryAfterS": 5, "body": null,
    }] }));

    understands_newer::<RunnerRequest>(
        json!({ "slurmJobId": "17", "restartCount": 1, "node": "n1" }),
    );
    understands_newer::<RunnerAnswer>(json!({
        "mode": "jit", "encodedJitConfig": "aml0", "token": "A", "expiresAt": "2026-11-24T10:00:00Z",
        "url": "https://github.com/acme/widgets", "name": "r1", "labels": ["slurm"], "progressToken": "p",
    }));
    understands_newer::<OriginalRunnerAnswer>(json!({ "token": "A" }));
    understands_newer::<ProgressRequest>(json!({
        "phase": "finished", "at": "2026-11-24T10:00:00Z", "reason": "idle", "node": "n1", "runId": 1, "runAttempt": 2,
        "exitCode": 3, "logTail": "the end",
    }));

    understands_newer::<CredentialPayload>(
        json!({ "method": "GET", "path": "/config/repos", "bodySha256": "e3b0" }),
    );
    understands_newer::<OwnLaunch>(json!({
        "launch": LAUNCH, "slurmJobId": "17", "repositoryUrl": "https://github.com/acme/widgets",
        "submittedAt": "2026-11-24T10:00:00Z", "state": "running", "reason": "Priority", "startsAt": "2026-11-24T10:00:00Z",
        "nodes": "n1",
    }));
    understands_newer::<RunnerRelease>(json!({
        "version": "2.336.0", "sha256": "e3b0", "builtAt": "2026-11-24T10:00:00Z", "installedAt": "2026-11-24T10:00:00Z",
    }));
}

#[test]
fn a_state_or_a_phase_of_a_newer_version_spoils_no_message() {
    let newer = with(status(), json!({ "state": "teleported" }));
    let answer: StatesAnswer =
        read(&json!({ "launches": [newer, status()], "policy": "a1", "freed": 2 }));
    let states: Vec<SlurmState> = answer.launches.iter().map(|s| s.state).collect();
    assert_eq!(states, [SlurmState::Running, SlurmState::Failed]);
    let request: ProgressRequest = read(&json!({ "phase": "warming_up" }));
    assert_eq!(request.phase, ProgressPhase::Unknown);
}

/// Before 0.1.0 a launch was called an allocation.
#[test]
fn launches_are_read_by_their_former_name() {
    let mut status = status();
    let fields = status.as_object_mut().unwrap();
    let launch = fields.remove("launch").unwrap();
    fields.insert("allocation".into(), launch.clone());
    assert_eq!(json!(read::<LaunchStatus>(&status).launch), launch);
    let list = json!({ "allocations": [status] });
    assert_eq!(read::<ListAnswer>(&list).launches.len(), 1);
    let answer = with(list, json!({ "policy": "a1" }));
    assert_eq!(read::<StatesAnswer>(&answer).launches.len(), 1);
    let request = json!({ "allocations": [LAUNCH] });
    assert_eq!(read::<StatesRequest>(&request).launches.len(), 1);
    let assertion = with(
        claims(),
        json!({ "sub": "cancel", "allocations": [LAUNCH] }),
    );
    assert_eq!(read::<CallClaims>(&assertion).launches.len(), 1);
    let own = json!({
        "allocation": LAUNCH, "slurmJobId": "17", "repositoryUrl": "https://github.com/acme/widgets",
        "submittedAt": "2026-11-24T10:00:00Z",
    });
    assert_eq!(json!(read::<OwnLaunch>(&own).launch), launch);
}
