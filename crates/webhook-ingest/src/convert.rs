//! GitHub's payload → our event.

use chrono::{DateTime, Utc};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::{
    AuthorizationEvent, EVENT_VERSION, EventPayload, InstallationEvent,
    InstallationRepositoriesEvent, RepositoryFacts, WorkflowJobEvent,
};
use gha_slurm_github::payloads::{MAX_REPOSITORIES, Payload, RepositoryNames, WorkflowJobPayload};

/// The event of a delivery; none for a ping.
pub(crate) fn event(
    payload: Payload,
    delivery: String,
    received_at: DateTime<Utc>,
) -> Option<Event> {
    let payload = match payload {
        Payload::WorkflowJob(p) => EventPayload::WorkflowJob(workflow_job(*p)),
        Payload::Installation(p) => EventPayload::Installation(InstallationEvent {
            action: p.action,
            installation_id: p.installation.id,
            account: p.installation.account.and_then(|a| a.login),
            repositories: repositories(p.repositories),
        }),
        Payload::InstallationRepositories(p) => {
            EventPayload::InstallationRepositories(InstallationRepositoriesEvent {
                action: p.action,
                installation_id: p.installation.id,
                added: repositories(p.repositories_added),
                removed: repositories(p.repositories_removed),
            })
        }
        Payload::GithubAppAuthorization(p) => {
            EventPayload::GithubAppAuthorization(AuthorizationEvent {
                action: p.action,
                user_id: p.sender.id,
                user: p.sender.login,
            })
        }
        Payload::Ping => return None,
    };
    Some(Event {
        version: EVENT_VERSION,
        delivery,
        received_at,
        payload,
    })
}

fn workflow_job(payload: WorkflowJobPayload) -> WorkflowJobEvent {
    WorkflowJobEvent {
        action: payload.action,
        installation_id: payload.installation.map(|i| i.id),
        repository: RepositoryFacts {
            id: payload.repository.id,
            owner: payload.repository.owner.login,
            name: payload.repository.name,
            private: payload.repository.private,
        },
        sender: payload.sender.map(|s| s.login),
        workflow_job: payload.workflow_job,
    }
}

fn repositories(list: RepositoryNames) -> Vec<RepositoryFacts> {
    let RepositoryNames { first, left_out } = list;
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "an event names more than {MAX_REPOSITORIES} repositories: the others are looked up when they have workflow jobs"
        );
    }
    first
        .into_iter()
        .map(|r| RepositoryFacts {
            id: r.id,
            owner: r.owner,
            name: r.name,
            private: r.private,
        })
        .collect()
}
