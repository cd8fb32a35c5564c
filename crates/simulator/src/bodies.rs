//! JSON as GitHub writes it: its own published examples (`payloads/`), with our ids, names, labels and addresses put in.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::model::{
    Account, Conclusion, Delivery, Installation, Repository, Runner, Status, WorkflowJob,
    WorkflowRun,
};
use crate::world::{Addresses, World};

const APP: &str = include_str!("../payloads/rest/app.json");
const INSTALLATION: &str = include_str!("../payloads/rest/installation.json");
const REPOSITORY: &str = include_str!("../payloads/rest/repository.json");
const JOB: &str = include_str!("../payloads/rest/job.json");
const RUN: &str = include_str!("../payloads/rest/run.json");
const RATE_LIMIT: &str = include_str!("../payloads/rest/rate_limit.json");

/// Seconds, as GitHub writes times.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn maybe_time(at: Option<DateTime<Utc>>) -> Value {
    at.map_or(Value::Null, |at| json!(time(at)))
}

/// An opaque global id, as GraphQL has them.
pub(crate) fn node_id(kind: &str, id: i64) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("0{}:{kind}{id}", kind.len()))
}

/// An example with its owner, repository and addresses replaced.
pub(crate) fn example(text: &str, addresses: &Addresses, owner: &str, full_name: &str) -> Value {
    // A test parses every example.
    let mut value = serde_json::from_str(text).unwrap_or(Value::Null);
    rewrite(&mut value, &|string| {
        let mut text = string.to_owned();
        for name in [
            "octo-org/octo-repo",
            "octocat/Hello-World",
            "Octocoders/Hello-World",
            "Codertocat/Hello-World",
            "lineville/elastic-machines-testing",
        ] {
            text = text.replace(name, full_name);
        }
        for login in [
            "octo-org",
            "octocat",
            "Octocoders",
            "Codertocat",
            "lineville",
        ] {
            text = text.replace(&format!("/users/{login}"), &format!("/users/{owner}"));
            text = text.replace(
                &format!("https://github.com/{login}"),
                &format!("https://github.com/{owner}"),
            );
        }
        text.replace("https://api.github.com", &addresses.api)
            .replace("https://github.com", &addresses.web)
    });
    value
}

fn rewrite(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rewrite(field, change)),
        _ => {}
    }
}

/// Puts fields over those of an object.
pub(crate) fn put(target: &mut Value, fields: Value) {
    if let (Some(target), Value::Object(fields)) = (target.as_object_mut(), fields) {
        target.extend(fields);
    }
}

pub(crate) fn account(account: &Account, addresses: &Addresses) -> Value {
    let Addresses { api, web } = addresses;
    let login = &account.login;
    let url = format!("{api}/users/{login}");
    json!({
        "login": login,
        "id": account.id,
        "node_id": node_id(if account.organization { "Organization" } else { "User" }, account.id),
        "avatar_url": format!("{web}/images/{login}.png"),
        "gravatar_id": "",
        "url": url,
        "html_url": format!("{web}/{login}"),
        "followers_url": format!("{url}/followers"),
        "following_url": format!("{url}/following{{/other_user}}"),
        "gists_url": format!("{url}/gists{{/gist_id}}"),
        "starred_url": format!("{url}/starred{{/owner}}{{/repo}}"),
        "subscriptions_url": format!("{url}/subscriptions"),
        "organizations_url": format!("{url}/orgs"),
        "repos_url": format!("{url}/repos"),
        "events_url": format!("{url}/events{{/privacy}}"),
        "received_events_url": format!("{url}/received_events"),
        "type": account_type(account),
        "site_admin": false,
    })
}

pub(crate) fn account_type(account: &Account) -> &'static str {
    if account.organization {
        "Organization"
    } else {
        "User"
    }
}

impl World {
    pub(crate) fn app_body(&self) -> Value {
        let mut body = example(APP, &self.addresses, "octocat", "octocat/Hello-World");
        let owner = Account {
            id: 1_000_001,
            login: "gha-slurm-simulator".to_owned(),
            organization: true,
        };
        put(
            &mut body,
            json!({
                "id": self.app.id,
                "node_id": node_id("App", self.app.id.cast_signed()),
                "slug": self.app.slug,
                "client_id": self.app.client_id,
                "name": self.app.slug,
                "owner": account(&owner, &self.addresses),
                "html_url": format!("{}/apps/{}", self.addresses.web, self.app.slug),
                "permissions": { "administration": "write", "actions": "read", "metadata": "read" },
                "events": ["workflow_job"],
                "installations_count": self.installations.len(),
            }),
        );
        body
    }

    pub(crate) fn installation_body(&self, installation: &Installation) -> Value {
        let login = &installation.account.login;
        let mut body = example(INSTALLATION, &self.addresses, login, login);
        put(&mut body, self.installation_fields(installation));
        put(
            &mut body,
            json!({
                "created_at": time(installation.created_at),
                "updated_at": time(installation.updated_at),
                "single_file_name": null,
                "has_multiple_single_files": false,
                "single_file_paths": [],
            }),
        );
        body
    }

    /// What REST answers and webhooks write alike about an installation.
    pub(crate) fn installation_fields(&self, installation: &Installation) -> Value {
        let Addresses { api, web } = &self.addresses;
        let id = installation.id;
        let account_of = &installation.account;
        let page = if account_of.organization {
            format!(
                "{web}/organizations/{}/settings/installations/{id}",
                account_of.login
            )
        } else {
            format!("{web}/settings/installations/{id}")
        };
        json!({
            "id": id,
            "account": account(account_of, &self.addresses),
            "access_tokens_url": format!("{api}/app/installations/{id}/access_tokens"),
            "repositories_url": format!("{api}/installation/repositories"),
            "html_url": page,
            "app_id": self.app.id,
            "app_slug": self.app.slug,
            "client_id": self.app.client_id,
            "target_id": account_of.id,
            "target_type": account_type(account_of),
            "permissions": installation.permissions,
            "events": ["workflow_job"],
            "repository_selection": selection(installation),
            "suspended_at": maybe_time(installation.suspended_at),
            "suspended_by": installation.suspended_at.map(|_| account(account_of, &self.addresses)),
        })
    }

    pub(crate) fn repository_body(&self, repository: &Repository) -> Value {
        let owner = &repository.owner.login;
        let mut body = example(REPOSITORY, &self.addresses, owner, &repository.full_name());
        put(&mut body, self.repository_fields(repository));
        put(
            &mut body,
            json!({
                "visibility": visibility(repository),
                "permissions": { "admin": false, "push": false, "pull": false },
                "created_at": time(repository.created_at),
                "updated_at": time(repository.created_at),
                "pushed_at": time(repository.created_at),
            }),
        );
        body
    }

    /// What REST answers and webhooks write alike about a repository.
    pub(crate) fn repository_fields(&self, repository: &Repository) -> Value {
        let web = &self.addresses.web;
        let full_name = repository.full_name();
        json!({
            "id": repository.id,
            "node_id": node_id("Repository", repository.id),
            "name": repository.name,
            "full_name": full_name,
            "private": repository.private,
            "owner": account(&repository.owner, &self.addresses),
            "html_url": format!("{web}/{full_name}"),
            "description": null,
            "fork": false,
            "default_branch": "main",
        })
    }

    pub(crate) fn runner_body(runner: &Runner) -> Value {
        json!({
            "id": runner.id,
            "runner_group_id": 1,
            "name": runner.name,
            "os": runner.os,
            "status": if runner.online { "online" } else { "offline" },
            "busy": runner.workflow_job_id.is_some(),
            "labels": runner.labels,
            "ephemeral": runner.ephemeral,
            "version": runner.version,
        })
    }

    pub(crate) fn workflow_job_body(&self, workflow_job: &WorkflowJob) -> Value {
        let full_name = self
            .repositories
            .get(&workflow_job.repository_id)
            .map(Repository::full_name)
            .unwrap_or_default();
        let owner = full_name.split('/').next().unwrap_or_default();
        let mut body = example(JOB, &self.addresses, owner, &full_name);
        put(
            &mut body,
            self.workflow_job_fields(workflow_job, &full_name),
        );
        body
    }

    /// What REST answers and webhooks write alike about a workflow job.
    pub(crate) fn workflow_job_fields(&self, job: &WorkflowJob, full_name: &str) -> Value {
        let Addresses { api, web } = &self.addresses;
        let (id, run_id) = (job.id, job.run_id);
        let run = self.runs.get(&run_id);
        let group = job.runner_id.map(|_| ("Default", 1));
        json!({
            "id": id,
            "node_id": node_id("CheckRun", id),
            "run_id": run_id,
            "run_url": format!("{api}/repos/{full_name}/actions/runs/{run_id}"),
            "run_attempt": 1,
            "head_sha": run.map(|run| run.head_sha.as_str()).unwrap_or_default(),
            "head_branch": run.map(|run| run.head_branch.as_str()),
            "workflow_name": "CI",
            "url": format!("{api}/repos/{full_name}/actions/jobs/{id}"),
            "html_url": format!("{web}/{full_name}/actions/runs/{run_id}/job/{id}"),
            "check_run_url": format!("{api}/repos/{full_name}/check-runs/{id}"),
            "name": job.name,
            "labels": job.labels,
            "status": job.status.as_str(),
            "conclusion": job.conclusion.map(Conclusion::as_str),
            "created_at": time(job.created_at),
            // GitHub fills it in for queued ones too, with the time of creation.
            "started_at": time(job.started_at.unwrap_or(job.created_at)),
            "completed_at": maybe_time(job.completed_at),
            "steps": steps(job),
            "runner_id": job.runner_id,
            "runner_name": job.runner_name,
            "runner_group_id": group.map(|(_, id)| id),
            "runner_group_name": group.map(|(name, _)| name),
        })
    }

    pub(crate) fn run_body(&self, run: &WorkflowRun) -> Value {
        let Some(repository) = self.repositories.get(&run.repository_id) else {
            return Value::Null;
        };
        let Addresses { api, web } = &self.addresses;
        let full_name = repository.full_name();
        let (status, conclusion) = self.run_status(run.id);
        let url = format!("{api}/repos/{full_name}/actions/runs/{}", run.id);
        let mut body = example(RUN, &self.addresses, &repository.owner.login, &full_name);
        let head = run.head_repository.as_ref().map(|head| {
            let mut body = self.repository_body(repository);
            if head.id != repository.id {
                put(
                    &mut body,
                    json!({
                        "id": head.id,
                        "full_name": head.full_name,
                        "name": head.full_name.split('/').next_back(),
                        "fork": head.fork,
                    }),
                );
            }
            body
        });
        put(
            &mut body,
            json!({
                "id": run.id,
                "name": "CI",
                "node_id": node_id("WorkflowRun", run.id),
                "run_number": run.run_number,
                "run_attempt": 1,
                "event": run.event,
                "display_title": "CI",
                "path": ".github/workflows/ci.yml",
                "status": status.as_str(),
                "conclusion": conclusion.map(Conclusion::as_str),
                "head_branch": run.head_branch,
                "head_sha": run.head_sha,
                "url": url,
                "html_url": format!("{web}/{full_name}/actions/runs/{}", run.id),
                "jobs_url": format!("{url}/jobs"),
                "logs_url": format!("{url}/logs"),
                "artifacts_url": format!("{url}/artifacts"),
                "cancel_url": format!("{url}/cancel"),
                "rerun_url": format!("{url}/rerun"),
                "previous_attempt_url": null,
                "created_at": time(run.created_at),
                "updated_at": time(run.created_at),
                "run_started_at": time(run.created_at),
                "actor": account(&run.actor, &self.addresses),
                "triggering_actor": account(&run.actor, &self.addresses),
                "repository": self.repository_body(repository),
                "head_repository": head,
            }),
        );
        if let Some(commit) = body.get_mut("head_commit") {
            put(
                commit,
                json!({ "id": run.head_sha, "timestamp": time(run.created_at) }),
            );
        }
        body
    }

    pub(crate) fn rate_limit_body(&self, used: u64, reset: i64) -> Value {
        let limit = self.timing.rate_limit;
        let core = json!({
            "limit": limit, "used": used, "remaining": limit.saturating_sub(used), "reset": reset,
        });
        let mut body: Value = serde_json::from_str(RATE_LIMIT).unwrap_or(Value::Null);
        put(&mut body, json!({ "rate": core }));
        if let Some(resources) = body.get_mut("resources") {
            put(resources, json!({ "core": core }));
        }
        body
    }
}

pub(crate) fn selection(installation: &Installation) -> &'static str {
    if installation.all_repositories {
        "all"
    } else {
        "selected"
    }
}

pub(crate) fn visibility(repository: &Repository) -> &'static str {
    if repository.private {
        "private"
    } else {
        "public"
    }
}

fn steps(job: &WorkflowJob) -> Vec<Value> {
    if job.status == Status::InProgress {
        return vec![json!({
            "name": "Set up job", "status": "in_progress", "conclusion": null, "number": 1,
            "started_at": maybe_time(job.started_at), "completed_at": null,
        })];
    }
    let numbered = job.steps.iter().zip(1..);
    numbered
        .map(|(step, number)| {
            json!({
                "name": step.name, "status": "completed", "conclusion": step.conclusion.as_str(), "number": number,
                "started_at": time(step.started_at), "completed_at": time(step.completed_at),
            })
        })
        .collect()
}

/// A delivery as the list has it.
pub(crate) fn delivery_item(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": maybe_time(delivery.delivered_at),
        "redelivery": delivery.redelivery,
        "duration": delivery.duration,
        "status": delivery.status,
        "status_code": delivery.status_code,
        "event": delivery.event,
        "action": delivery.action,
        "installation_id": delivery.installation_id,
        "repository_id": delivery.repository_id,
        "throttled_at": null,
    })
}

/// A delivery with what was sent and answered.
pub(crate) fn delivery(delivery: &Delivery) -> Value {
    let mut body = delivery_item(delivery);
    let payload: Value = serde_json::from_str(&delivery.payload).unwrap_or(Value::Null);
    let answered: Map<String, Value> = delivery
        .response_headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    put(
        &mut body,
        json!({
            "url": delivery.url,
            "request": { "headers": delivery.request_headers, "payload": payload },
            "response": { "headers": answered, "payload": delivery.response_payload },
        }),
    );
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_parses() {
        for text in [APP, INSTALLATION, REPOSITORY, JOB, RUN, RATE_LIMIT] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert!(value.is_object());
        }
    }

    #[test]
    fn names_and_addresses_are_replaced() {
        let addresses = Addresses {
            api: "http://127.0.0.1:1".into(),
            web: "http://web.example".into(),
        };
        let body = example(REPOSITORY, &addresses, "acme", "acme/widgets").to_string();
        assert!(
            body.contains("http://127.0.0.1:1/repos/acme/widgets/"),
            "{body}"
        );
        assert!(!body.contains("api.github.com"), "{body}");
        assert!(!body.contains("/Hello-World"), "{body}");
    }
}
