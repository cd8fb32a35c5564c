//! JSON as GitHub writes it: its own published examples (`payloads/`), with our ids, names, labels and addresses put in.

mod actions;
mod deliveries;
mod people;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::model::{Account, Installation, Repository};
use crate::world::{Addresses, World};
pub(crate) use deliveries::{delivery, delivery_item};

const APP: &str = include_str!("../../payloads/rest/app.json");
const INSTALLATION: &str = include_str!("../../payloads/rest/installation.json");
const REPOSITORY: &str = include_str!("../../payloads/rest/repository.json");
const RATE_LIMIT: &str = include_str!("../../payloads/rest/rate_limit.json");

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
            "homepage": null,
            "language": null,
            "license": null,
            "fork": false,
            "default_branch": "main",
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_parses() {
        for text in [
            APP,
            INSTALLATION,
            REPOSITORY,
            RATE_LIMIT,
            actions::JOB,
            actions::RUN,
        ] {
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
