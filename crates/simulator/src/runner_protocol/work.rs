//! A workflow job, as the runner that took it is told.

use serde_json::{Value, json};

use super::messages::Work;
use crate::bodies::put;
use crate::model::WorkflowJob;
use crate::world::World;

/// Everything the runner needs; nothing when the repository is gone meanwhile.
pub(super) fn of(world: &World, workflow_job: &WorkflowJob) -> Option<Work> {
    let run = world.runs.get(&workflow_job.run_id)?;
    let repository = world.repositories.get(&workflow_job.repository_id)?;
    Some(Work {
        workflow_job_id: workflow_job.id,
        name: workflow_job.name.clone(),
        script: workflow_job.script.clone(),
        set_up_ms: workflow_job.set_up_ms,
        container: workflow_job.container.clone(),
        services: workflow_job.services.clone(),
        run_id: run.id,
        run_number: run.run_number,
        repository: repository.full_name(),
        repository_id: repository.id,
        event_name: run.event.clone(),
        head_sha: run.head_sha.clone(),
        head_branch: run.head_branch.clone(),
        actor: run.actor.login.clone(),
        actor_id: run.actor.id,
        event: event_of(world, workflow_job),
        server_url: world.addresses.web.clone(),
        api_url: world.addresses.api.clone(),
    })
}

/// The event that triggered the run, as far as a hook looks at it.
fn event_of(world: &World, workflow_job: &WorkflowJob) -> Value {
    let run = world.runs.get(&workflow_job.run_id);
    let repository = world
        .repositories
        .get(&workflow_job.repository_id)
        .map(|repository| world.repository_body(repository));
    let mut event = json!({ "repository": repository });
    let Some(run) = run else {
        return event;
    };
    let sender = crate::bodies::account(&run.actor, &world.addresses);
    put(&mut event, json!({ "sender": sender }));
    let head = run
        .head_repository
        .as_ref()
        .map(|head| json!({ "id": head.id, "full_name": head.full_name, "fork": head.fork }));
    if run.event == "workflow_run" {
        // The run that this one follows; its commit is the fork's where it was a pull request's.
        put(
            &mut event,
            json!({ "action": "completed", "workflow_run": {
                "event": "pull_request", "head_branch": run.head_branch, "head_repository": head,
            } }),
        );
    }
    if run.event.starts_with("pull_request") {
        put(
            &mut event,
            json!({ "pull_request": {
                "head": { "ref": run.head_branch, "sha": run.head_sha, "repo": head },
                "base": { "ref": "main", "repo": repository },
            } }),
        );
    }
    event
}
