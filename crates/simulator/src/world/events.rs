//! Webhook payloads: GitHub's published examples, completed.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Now, World};
use crate::bodies::{account, example, node_id, put, selection, time, visibility};
use crate::model::{Account, Delivery, Installation, Repository, WorkflowJob};
use crate::request::ControlError;

/// The number of the App's webhook.
pub(crate) const HOOK_ID: i64 = 109_948_940;

macro_rules! examples {
    ($($name:literal),+ $(,)?) => {
        /// The published example of `event.action`.
        fn published(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some(include_str!(concat!("../../payloads/webhooks/", $name, ".json"))),)+
                _ => None,
            }
        }
        #[cfg(test)]
        const PUBLISHED: &[&str] = &[$($name),+];
    };
}

examples!(
    "workflow_job.queued",
    "workflow_job.waiting",
    "workflow_job.in_progress",
    "workflow_job.completed",
    "installation.created",
    "installation.deleted",
    "installation.suspend",
    "installation.unsuspend",
    "installation_repositories.added",
    "installation_repositories.removed",
    "github_app_authorization.revoked",
    "ping",
);

/// What an event is about.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    installation: Option<i64>,
    repository: Option<i64>,
    workflow_job: Option<i64>,
}

impl World {
    pub(crate) fn emit_workflow_job(&mut self, action: &str, job: &WorkflowJob, now: Now) {
        let Some(repository) = self.repositories.get(&job.repository_id) else {
            return;
        };
        // Who does not see the repository, or is suspended, hears nothing of it.
        let Some(installation) = self
            .installation_for(repository.id)
            .filter(|installation| installation.suspended_at.is_none())
        else {
            return;
        };
        let full_name = repository.full_name();
        let owner = &repository.owner.login;
        let text = published(&format!("workflow_job.{action}")).unwrap_or("{}");
        let mut body = example(text, &self.addresses, owner, &full_name);
        put(&mut body, json!({ "action": action }));
        if let Some(object) = body.get_mut("workflow_job") {
            put(object, self.workflow_job_fields(job, &full_name));
        }
        self.complete_repository(&mut body, repository);
        put(
            &mut body,
            json!({
                "installation": { "id": installation.id, "node_id": node_id("IntegrationInstallation", installation.id) },
                "sender": self.sender(job, repository),
            }),
        );
        if repository.owner.organization {
            put(
                &mut body,
                json!({ "organization": self.organization(repository) }),
            );
        }
        let about = About {
            installation: Some(installation.id),
            repository: Some(repository.id),
            workflow_job: Some(job.id),
        };
        self.emit("workflow_job", Some(action), &body, about, now);
    }

    fn sender(&self, job: &WorkflowJob, repository: &Repository) -> Value {
        let actor = self.runs.get(&job.run_id).map(|run| &run.actor);
        account(actor.unwrap_or(&repository.owner), &self.addresses)
    }

    fn organization(&self, repository: &Repository) -> Value {
        let owner = &repository.owner;
        let url = format!("{}/orgs/{}", self.addresses.api, owner.login);
        json!({
            "login": owner.login,
            "id": owner.id,
            "node_id": node_id("Organization", owner.id),
            "url": url,
            "repos_url": format!("{url}/repos"),
            "events_url": format!("{url}/events"),
            "hooks_url": format!("{url}/hooks"),
            "issues_url": format!("{url}/issues"),
            "members_url": format!("{url}/members{{/member}}"),
            "public_members_url": format!("{url}/public_members{{/member}}"),
            "avatar_url": format!("{}/images/{}.png", self.addresses.web, owner.login),
            "description": "",
        })
    }

    fn complete_repository(&self, body: &mut Value, repository: &Repository) {
        if let Some(object) = body.get_mut("repository") {
            put(object, self.repository_fields(repository));
            put(object, json!({ "visibility": visibility(repository) }));
        }
    }

    pub(crate) fn emit_installation(
        &mut self,
        action: &str,
        installation: &Installation,
        now: Now,
    ) {
        let mut body = self.installation_event("installation", action, installation);
        let repositories: Vec<Value> = self
            .repositories_among(&installation.repository_ids)
            .iter()
            .map(short_repository)
            .collect();
        if body.get("repositories").is_some() {
            put(&mut body, json!({ "repositories": repositories }));
        }
        let about = About {
            installation: Some(installation.id),
            ..About::default()
        };
        self.emit("installation", Some(action), &body, about, now);
    }

    pub(crate) fn emit_installation_repositories(
        &mut self,
        action: &str,
        installation: &Installation,
        repository: &Repository,
        now: Now,
    ) {
        let mut body = self.installation_event("installation_repositories", action, installation);
        let changed = json!([short_repository(repository)]);
        let (added, removed) = if action == "added" {
            (changed, json!([]))
        } else {
            (json!([]), changed)
        };
        put(
            &mut body,
            json!({
                "repository_selection": selection(installation),
                "repositories_added": added,
                "repositories_removed": removed,
            }),
        );
        let about = About {
            installation: Some(installation.id),
            ..About::default()
        };
        self.emit("installation_repositories", Some(action), &body, about, now);
    }

    fn installation_event(&self, event: &str, action: &str, installation: &Installation) -> Value {
        let login = &installation.account.login;
        let text = published(&format!("{event}.{action}")).unwrap_or("{}");
        let mut body = example(text, &self.addresses, login, login);
        put(
            &mut body,
            json!({ "action": action, "sender": account(&installation.account, &self.addresses) }),
        );
        if let Some(object) = body.get_mut("installation") {
            // Webhooks mostly write these two as seconds, sometimes as text: as the example has it.
            let seconds = object.get("created_at").is_some_and(Value::is_number);
            let written = |at: Now| {
                if seconds {
                    json!(at.timestamp())
                } else {
                    json!(time(at))
                }
            };
            put(object, self.installation_fields(installation));
            put(
                object,
                json!({
                    "created_at": written(installation.created_at),
                    "updated_at": written(installation.updated_at),
                }),
            );
        }
        body
    }

    /// What GitHub sends when a person revokes the authorization of the App
    /// (<https://docs.github.com/webhooks/webhook-events-and-payloads#github_app_authorization>).
    pub(crate) fn emit_authorization_revoked(&mut self, person: &Account, now: Now) {
        let event = "github_app_authorization";
        let text = published("github_app_authorization.revoked").unwrap_or("{}");
        let mut body = example(text, &self.addresses, &person.login, &person.login);
        put(
            &mut body,
            json!({ "sender": account(person, &self.addresses) }),
        );
        self.emit(event, Some("revoked"), &body, About::default(), now);
    }

    /// What GitHub sends when a webhook is set up.
    pub(crate) fn ping(&mut self, now: Now) -> Result<(), ControlError> {
        if self.deliveries.hook.is_none() {
            return Err(ControlError::Conflict("no webhook is set up".to_owned()));
        }
        let text = published("ping").unwrap_or("{}");
        let mut body = example(text, &self.addresses, "octocat", "octocat/Hello-World");
        if let Some(object) = body.as_object_mut() {
            // The example is a repository's webhook; an App's has neither.
            object.remove("repository");
            object.remove("sender");
        }
        put(&mut body, json!({ "hook_id": HOOK_ID }));
        let app_id = self.app.id;
        let api = self.addresses.api.clone();
        if let Some(hook) = body.get_mut("hook") {
            put(
                hook,
                json!({
                    "type": "App",
                    "id": HOOK_ID,
                    "app_id": app_id,
                    "events": ["workflow_job"],
                    "deliveries_url": format!("{api}/app/hook/deliveries"),
                }),
            );
        }
        self.emit("ping", None, &body, About::default(), now);
        Ok(())
    }

    fn emit(&mut self, event: &str, action: Option<&str>, body: &Value, about: About, now: Now) {
        let delivery = Delivery {
            id: 0,
            guid: Uuid::new_v4().to_string(),
            event: event.to_owned(),
            action: action.map(str::to_owned),
            installation_id: about.installation,
            repository_id: about.repository,
            workflow_job_id: about.workflow_job,
            redelivery: false,
            payload: body.to_string(),
            delivered_at: None,
            duration: 0.0,
            status: String::new(),
            status_code: 0,
            request_headers: std::collections::BTreeMap::new(),
            url: String::new(),
            response_headers: std::collections::BTreeMap::new(),
            response_payload: String::new(),
        };
        self.deliver(delivery, now);
    }
}

fn short_repository(repository: &Repository) -> Value {
    json!({
        "id": repository.id,
        "node_id": node_id("Repository", repository.id),
        "name": repository.name,
        "full_name": repository.full_name(),
        "private": repository.private,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_example_parses() {
        for name in PUBLISHED {
            let value: Value = serde_json::from_str(published(name).unwrap()).unwrap();
            assert!(value.is_object(), "{name}");
        }
    }
}
