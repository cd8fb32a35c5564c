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
        run_id: run.id,
        run_number: run.run_number,
        repository: repository.full_name(),
        repository_id: repository.id,
        event_name: run.event.clone(),
        head_sha: run.head_sha.clone(),
        head_branch: run.head_branch.clone(),
        actor: run.actor.login.clone(),
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
    if let Some(run) = run.filter(|run| run.event.starts_with("pull_request")) {
        let head = run
            .head_repository
            .as_ref()
            .map(|head| json!({ "id": head.id, "full_name": head.full_name, "fork": head.fork }));
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
