//! Controls a simulator from the same process.

mod people;

use std::time::Duration;

use secrecy::SecretString;

use crate::model::{Conclusion, Installation, Repository, State, Status, WorkflowJob};
use crate::request::{
    ControlError, NewInstallation, NewRepository, NewWorkflowJob, ReleaseOrder, RepositoryChange,
    RestFault, TokenKind, WebhookFault,
};
use crate::shared::Shared;
use crate::world::World;
use crate::world::deliveries::Hook;

/// Controls a simulator. Cheap to clone; works before, while and after it runs.
#[derive(Clone)]
pub struct Handle {
    shared: Shared,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The base address of the REST API, without a slash at the end.
    pub fn api_url(&self) -> String {
        self.shared.read(|world, _| world.addresses.api.clone())
    }

    /// The address below which repositories are, without a slash at the end.
    pub fn web_url(&self) -> String {
        self.shared.read(|world, _| world.addresses.web.clone())
    }

    /// Where webhooks go from now on, as JSON or as a form (`payload=`). What happens without one is not delivered.
    pub fn set_webhook(&self, url: &str, secret: SecretString, form: bool) {
        self.shared.change(|world, _| {
            world.deliveries.hook = Some(Hook {
                url: url.to_owned(),
                secret,
                form,
            });
        });
    }

    /// Sends a `ping`.
    pub fn ping(&self) -> Result<(), ControlError> {
        self.shared.change(World::ping)
    }

    /// Installs the App on an account.
    pub fn create_installation(&self, new: NewInstallation) -> Result<Installation, ControlError> {
        self.shared.change(|world, now| world.install(new, now))
    }

    /// Uninstalls the App; its tokens end.
    pub fn delete_installation(&self, id: i64) -> Result<(), ControlError> {
        self.shared.change(|world, now| world.uninstall(id, now))
    }

    /// Suspends an installation or ends its suspension.
    pub fn suspend_installation(
        &self,
        id: i64,
        suspended: bool,
    ) -> Result<Installation, ControlError> {
        self.shared
            .change(|world, now| world.suspend(id, suspended, now))
    }

    /// Makes a repository.
    pub fn create_repository(&self, new: &NewRepository) -> Result<Repository, ControlError> {
        self.shared
            .change(|world, now| world.create_repository(new, now))
    }

    /// Renames a repository, transfers it, makes it public or private.
    pub fn change_repository(
        &self,
        id: i64,
        change: &RepositoryChange,
    ) -> Result<Repository, ControlError> {
        self.shared
            .change(|world, now| world.change_repository(id, change, now))
    }

    /// Deletes a repository with all that is in it.
    pub fn delete_repository(&self, id: i64) -> Result<(), ControlError> {
        self.shared
            .change(|world, now| world.delete_repository(id, now))
    }

    /// Lets the App see a repository, or no longer.
    pub fn set_installed(&self, repository_id: i64, installed: bool) -> Result<(), ControlError> {
        self.shared.change(|world, now| {
            if installed {
                world.add_to_installation(repository_id, now)
            } else {
                world.remove_from_installation(repository_id, now)
            }
        })
    }

    /// Makes a workflow job.
    pub fn queue(&self, new: NewWorkflowJob) -> Result<WorkflowJob, ControlError> {
        self.shared.change(|world, now| world.queue(new, now))
    }

    /// Lets a workflow job that waits for an approval go on.
    pub fn approve(&self, workflow_job_id: i64) -> Result<WorkflowJob, ControlError> {
        self.shared
            .change(|world, now| world.approve(workflow_job_id, now))
    }

    /// Cancels a workflow job: at once while no runner has it, through the runner otherwise.
    pub fn cancel(&self, workflow_job_id: i64) -> Result<WorkflowJob, ControlError> {
        self.shared
            .change(|world, now| world.cancel(workflow_job_id, now))
    }

    /// Ends a workflow job that no runner has as skipped.
    pub fn skip(&self, workflow_job_id: i64) -> Result<WorkflowJob, ControlError> {
        self.shared.change(|world, now| {
            let job = world.workflow_job(workflow_job_id)?;
            if !matches!(job.status, Status::Queued | Status::Waiting) {
                return Err(ControlError::Conflict(format!(
                    "workflow job {workflow_job_id} has started"
                )));
            }
            world.withdraw_offer(workflow_job_id);
            world.conclude(workflow_job_id, Conclusion::Skipped, now)
        })
    }

    /// From now on workflow jobs are given to runners only by [`assign`](Self::assign), or on their own again.
    pub fn pause_assignment(&self, paused: bool) {
        self.shared
            .change(|world, _| world.pause_assignment(paused));
    }

    /// Only this runner may get this queued workflow job, and it gets no other; also while assignment is paused, and
    /// before the runner exists. Its labels must serve the workflow job all the same.
    pub fn assign(&self, workflow_job_id: i64, runner_name: &str) -> Result<(), ControlError> {
        self.shared
            .change(|world, _| world.pin(workflow_job_id, runner_name))
    }

    /// The runner that takes this workflow job next is told that it is gone. Its registration is deleted, it listens on
    /// for nothing (actions/runner#4617), and the workflow job waits for another.
    pub fn lose_next_offer(&self, workflow_job_id: i64) -> Result<(), ControlError> {
        self.shared
            .change(|world, _| world.lose_next_offer(workflow_job_id))
    }

    /// Something goes wrong with the next deliveries.
    pub fn add_webhook_fault(&self, fault: WebhookFault) {
        self.shared
            .change(|world, _| world.faults.add_webhook(fault));
    }

    /// No further webhook faults. What is held stays held.
    pub fn clear_webhook_faults(&self) {
        self.shared.change(|world, _| world.faults.clear_webhooks());
    }

    /// How many deliveries are held.
    pub fn held_webhooks(&self) -> usize {
        self.shared.read(|world, _| world.deliveries.held())
    }

    /// Sends what is held. Gives how many.
    pub fn release_webhooks(&self, order: &ReleaseOrder) -> usize {
        self.shared
            .change(|world, now| world.release_deliveries(order, now))
    }

    /// Sends a delivery once more, with the same GUID.
    pub fn redeliver(&self, delivery_id: i64) -> Result<(), ControlError> {
        self.shared
            .change(|world, now| world.redeliver(delivery_id, now))
    }

    /// The next answers of a route are not what they should be.
    pub fn add_rest_fault(&self, fault: RestFault) {
        self.shared.change(|world, _| world.faults.add_rest(fault));
    }

    /// No further REST faults.
    pub fn clear_rest_faults(&self) {
        self.shared.change(|world, _| world.faults.clear_rest());
    }

    /// Tokens of this kind end now.
    pub fn expire_tokens(&self, kind: TokenKind) {
        self.shared.change(|world, _| world.expire_tokens(kind));
    }

    /// Whether runners that connect are told that their version is too old.
    pub fn deprecate_runners(&self, deprecated: bool) {
        self.shared
            .change(|world, _| world.runners_deprecated = deprecated);
    }

    /// Everything at this moment.
    pub fn state(&self) -> State {
        self.shared.read(World::state)
    }

    /// How often a REST route was called, for example `POST /app/installations/{installation_id}/access_tokens`.
    pub fn calls(&self, route: &str) -> u64 {
        self.shared
            .read(|world, _| world.calls.get(route).copied().unwrap_or_default())
    }

    /// How many calls of an installation counted towards its rate limit.
    pub fn used(&self, installation_id: i64) -> u64 {
        let spender = format!("installation {installation_id}");
        self.shared
            .read(|world, _| world.used.get(&spender).copied().unwrap_or_default())
    }

    /// Counts calls from zero again.
    pub fn reset_calls(&self) {
        self.shared.change(|world, _| world.calls.clear());
    }

    /// Waits until `look` finds what it looks for; it looks again after every change.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, ControlError> {
        self.shared
            .wait(deadline, |world, now| look(&world.state(now)))
            .await
            .ok_or_else(|| ControlError::TimedOut(what.to_owned()))
    }

    /// Waits until a workflow job has this status.
    pub async fn wait_for_status(
        &self,
        workflow_job_id: i64,
        status: Status,
        deadline: Duration,
    ) -> Result<WorkflowJob, ControlError> {
        self.shared
            .wait(deadline, |world, _| {
                world
                    .workflow_jobs
                    .get(&workflow_job_id)
                    .filter(|job| job.status == status)
                    .cloned()
            })
            .await
            .ok_or_else(|| {
                ControlError::TimedOut(format!(
                    "workflow job {workflow_job_id} {}",
                    status.as_str()
                ))
            })
    }
}
