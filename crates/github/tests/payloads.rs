//! GitHub's published payloads, and what a hostile or a future sender makes of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use gha_slurm_github::payloads::{MAX_REPOSITORIES, Payload, PayloadError, WorkflowJobPayload};
use serde_json::{Value, json};

/// Every example: product, event, payload.
fn examples() -> Vec<(String, String, Value)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/webhooks-examples");
    let mut found = Vec::new();
    for product in std::fs::read_dir(root).unwrap() {
        let product = product.unwrap().path();
        if !product.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&product).unwrap() {
            let file = file.unwrap().path();
            let list: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            // `api.github.com` has no stem of its own.
            let product = product.file_name().unwrap().to_str().unwrap();
            found.extend(
                list.into_iter()
                    .map(|e| (product.to_owned(), name(&file), e)),
            );
        }
    }
    found
}

fn parse(event: &str, payload: &Value) -> Result<Option<Payload>, PayloadError> {
    Payload::parse(event, payload.to_string().as_bytes())
}

fn workflow_job(payload: &Value) -> WorkflowJobPayload {
    match parse("workflow_job", payload).unwrap().unwrap() {
        Payload::WorkflowJob(payload) => *payload,
        other => panic!("{other:?}"),
    }
}

fn example(event: &str, index: usize) -> Value {
    examples()
        .into_iter()
        .filter(|(product, name, _)| product == "api.github.com" && name == event)
        .nth(index)
        .unwrap()
        .2
}

#[test]
fn every_published_example_parses() {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for (product, event, payload) in examples() {
        let parsed = parse(&event, &payload)
            .unwrap_or_else(|e| panic!("{product} {event}: {e}"))
            .unwrap();
        *counts.entry(event.clone()).or_default() += 1;
        let text = |pointer: &str| payload.pointer(pointer).and_then(Value::as_str);
        let number = |pointer: &str| payload.pointer(pointer).and_then(Value::as_i64);
        match parsed {
            Payload::WorkflowJob(p) => {
                assert_eq!(Some(p.action.as_str()), text("/action"));
                assert_eq!(Some(p.workflow_job.id), number("/workflow_job/id"));
                assert_eq!(Some(p.workflow_job.run_id), number("/workflow_job/run_id"));
                assert_eq!(p.installation.map(|i| i.id), number("/installation/id"));
                assert_eq!(
                    Some(p.repository.owner.login.as_str()),
                    text("/repository/owner/login")
                );
                let labels = serde_json::to_value(&p.workflow_job.labels).unwrap();
                assert_eq!(Some(&labels), payload.pointer("/workflow_job/labels"));
                assert_eq!(
                    p.workflow_job.started_at,
                    text("/workflow_job/started_at").map(|t| t.parse().unwrap())
                );
            }
            Payload::Installation(p) => {
                assert_eq!(Some(p.installation.id), number("/installation/id"));
                let names: Vec<String> = p
                    .repositories
                    .first
                    .iter()
                    .map(|r| format!("{}/{}", r.owner, r.name))
                    .collect();
                let list = payload["repositories"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                assert!(
                    list.iter()
                        .map(|r| r["full_name"].as_str().unwrap())
                        .eq(names)
                );
            }
            Payload::InstallationRepositories(p) => {
                assert_eq!(Some(p.action.as_str()), text("/action"));
                let length = |key: &str| payload[key].as_array().map_or(0, Vec::len);
                assert_eq!(
                    p.repositories_added.first.len(),
                    length("repositories_added")
                );
                assert_eq!(
                    p.repositories_removed.first.len(),
                    length("repositories_removed")
                );
            }
            Payload::GithubAppAuthorization(p) => {
                assert_eq!(Some(p.sender.login.as_str()), text("/sender/login"));
            }
            Payload::Ping => {}
        }
    }
    let counts: Vec<(&str, usize)> = counts.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(
        counts,
        [
            ("github_app_authorization", 7),
            ("installation", 16),
            ("installation_repositories", 12),
            ("ping", 11),
            ("workflow_job", 11),
        ]
    );
}

#[test]
fn the_events_that_are_acted_upon_are_listed() {
    let acted_upon = |event: &str| !matches!(Payload::parse(event, b""), Ok(None));
    for event in Payload::EVENTS {
        assert!(acted_upon(event), "{event}");
    }
    for (_, event, _) in examples() {
        assert_eq!(
            Payload::EVENTS.contains(&event.as_str()),
            acted_upon(&event),
            "{event}"
        );
    }
    assert!(!acted_upon("push"));
}

#[test]
fn the_shapes_that_differ_are_read() {
    let old = workflow_job(&example("workflow_job", 0));
    assert_eq!(old.workflow_job.run_attempt, None, "2021 had none");
    assert_eq!(old.workflow_job.workflow_name, None);
    let protected = workflow_job(&example("workflow_job", 6));
    assert_eq!(protected.action, "queued");
    assert_eq!(protected.workflow_job.status, "waiting");
}

#[test]
fn what_github_adds_later_is_no_error() {
    let mut payload = example("workflow_job", 5);
    payload["action"] = json!("teleported");
    payload["workflow_job"]["status"] = json!("teleported");
    payload["workflow_job"]["conclusion"] = json!("beamed_up");
    payload["workflow_job"]["shiny"] = json!({"new": [1, {"deep": null}]});
    payload["workflow_job"]["created_at"] = json!(1_700_000_000);
    payload["workflow_job"]["started_at"] = json!("yesterday");
    payload["workflow_job"]["completed_at"] = json!({"at": 1});
    let parsed = workflow_job(&payload);
    assert_eq!(parsed.action, "teleported");
    assert_eq!(
        parsed.workflow_job.created_at.unwrap().timestamp(),
        1_700_000_000
    );
    assert_eq!(parsed.workflow_job.started_at, None);
    assert_eq!(parsed.workflow_job.completed_at, None);

    let mut payload = example("installation", 1);
    payload["repositories"] = Value::Null;
    payload["installation"]["account"] = json!({"slug": "an-enterprise", "id": 1});
    assert!(matches!(
        parse("installation", &payload),
        Ok(Some(Payload::Installation(_)))
    ));

    assert_eq!(parse("push", &json!({})), Ok(None));
}

#[test]
fn an_error_names_the_field() {
    let error = |change: fn(&mut Value)| {
        let mut payload = example("workflow_job", 5);
        change(&mut payload);
        parse("workflow_job", &payload).unwrap_err()
    };
    assert_eq!(
        error(|p| p["workflow_job"]["id"] = json!("1")).path,
        "workflow_job.id"
    );
    assert_eq!(
        error(|p| p["workflow_job"]["labels"][0] = json!(1)).path,
        "workflow_job.labels[0]"
    );
    assert_eq!(
        error(|p| p["repository"]["owner"] = Value::Null).path,
        "repository.owner"
    );
    let missing = error(|p| drop(p.as_object_mut().unwrap().remove("workflow_job")));
    assert!(
        missing
            .to_string()
            .starts_with("payload: missing field `workflow_job`"),
        "{missing}"
    );

    let mut payload = example("installation_repositories", 0);
    payload["repositories_added"][0]["full_name"] = json!("nobody");
    assert_eq!(
        parse("installation_repositories", &payload)
            .unwrap_err()
            .path,
        "repositories_added[0]"
    );
    assert_eq!(Payload::parse("ping", b"[]").unwrap_err().path, "payload");
    assert!(
        Payload::parse("ping", b"{} {}")
            .unwrap_err()
            .reason
            .contains("trailing")
    );
}

/// Every prefix of a payload, and every payload with one byte gone wrong, gives an answer.
#[test]
fn truncated_and_broken_json_is_refused() {
    let text = example("workflow_job", 5).to_string();
    for end in 0..text.len() {
        assert!(
            Payload::parse("workflow_job", &text.as_bytes()[..end]).is_err(),
            "{end}"
        );
    }
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = 0xff;
        // A byte in a field that we do not read is not ours to judge, unless it breaks the JSON.
        let _ = Payload::parse("workflow_job", &bytes);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Payload::parse("ping", deep.as_bytes()).is_err());
    let inside = text.replacen('{', &format!("{{\"x\":{deep},"), 1);
    assert!(Payload::parse("workflow_job", inside.as_bytes()).is_ok());
}

/// A stranger has no webhook secret, but a stolen one must not fill the memory: 900,000 repositories fit into a delivery.
#[test]
fn a_list_of_repositories_is_read_up_to_a_bound() {
    let mut payload = example("installation", 0);
    let repository = |id: usize| json!({"id": id, "full_name": "a/b", "private": true});
    let list = |length: usize| (0..length).map(repository).collect::<Vec<_>>();
    for (length, first, left_out) in [
        (MAX_REPOSITORIES, MAX_REPOSITORIES, 0),
        (MAX_REPOSITORIES + 3, MAX_REPOSITORIES, 3),
    ] {
        payload["repositories"] = json!(list(length));
        let Payload::Installation(read) = parse("installation", &payload).unwrap().unwrap() else {
            panic!("{payload}")
        };
        let read = read.repositories;
        assert_eq!((read.first.len(), read.left_out), (first, left_out));
    }
    let ping = format!("{{\"zen\": [{}0]}}", "[],".repeat(100_000));
    assert_eq!(
        Payload::parse("ping", ping.as_bytes()),
        Ok(Some(Payload::Ping))
    );
}

#[test]
fn a_character_that_postgresql_has_not_is_replaced() {
    let mut payload = example("workflow_job", 0);
    payload["workflow_job"]["name"] = json!("a\0b \\u0000");
    let Payload::WorkflowJob(read) = parse("workflow_job", &payload).unwrap().unwrap() else {
        panic!("{payload}")
    };
    let facts = serde_json::to_value(&read.workflow_job).unwrap();
    assert_eq!(facts["name"], "a\u{fffd}b \\u0000");
}
