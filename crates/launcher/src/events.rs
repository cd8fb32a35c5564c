//! One event → what is known, then the planner, in one transaction.

use chrono::{DateTime, Utc};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::{
    EVENT_VERSION, EventPayload, InstallationEvent, InstallationRepositoriesEvent, RepositoryFacts,
    WorkflowJobEvent,
};
use gha_slurm_domain::admission::{Hearsay, Place, Standing};
use gha_slurm_domain::launch::Happening;
use gha_slurm_domain::timeline::Entry;
use gha_slurm_domain::workflow_job::Heard;
use gha_slurm_domain::{
    InstallationId, RepositoryId, WorkflowJob, WorkflowJobId, WorkflowJobState,
};
use gha_slurm_github::payloads::MAX_REPOSITORIES;
use gha_slurm_storage::{
    AsyncPgConnection, Database, ScopeLock, StorageError, launches, replan,
    repositories::{self, Repository},
    workflow_jobs,
};

use crate::planning::{self, News, Policy};

/// Repositories that one transaction records.
const BATCH: usize = 500;

/// Why an event has no effect.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The event is of a newer version.
    #[error("event version {0} is newer than this launcher; update it")]
    Newer(u16),
}

/// Applies an event. Applying it again, or in any order with others, changes nothing more.
pub async fn apply(
    database: &Database,
    policy: &Policy,
    event: &Event,
    now: DateTime<Utc>,
) -> Result<(), EventError> {
    if event.version > EVENT_VERSION {
        return Err(EventError::Newer(event.version));
    }
    match &event.payload {
        EventPayload::WorkflowJob(e) => {
            let repository = RepositoryId(e.repository.id);
            database
                .in_scope(
                    "apply a workflow_job event",
                    repository,
                    async |mut lock: ScopeLock<'_>| workflow_job(&mut lock, policy, e, now).await,
                )
                .await?;
        }
        EventPayload::Installation(e) => installation(database, e, now).await?,
        EventPayload::InstallationRepositories(e) => {
            installation_repositories(database, e, now).await?;
        }
        // Concerns people's tokens; the launcher holds none.
        EventPayload::GithubAppAuthorization(_) => {}
    }
    Ok(())
}

async fn workflow_job(
    lock: &mut ScopeLock<'_>,
    policy: &Policy,
    event: &WorkflowJobEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let standing = keep_repository(lock, &event.repository, event.installation_id, now).await?;
    let facts = &event.workflow_job;
    let heard = Heard {
        facts: facts.clone(),
        state: WorkflowJobState::from_webhook(&event.action, &facts.status),
        repository: lock.repository(),
        installation: event.installation_id.map(InstallationId),
        traceparent: gha_slurm_telemetry::current_traceparent(),
    };
    let mut news = News::default();
    learn(lock, heard, By::Webhook, &standing, policy, &mut news, now).await?;
    planning::plan_classes(lock, &news, policy, now).await
}

/// How GitHub said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// By a webhook, which anyone can forge who has the webhook secret.
    Webhook,
    /// By its REST API.
    Rest,
}

/// Records what an event says of its repository, if that is news, and returns how the repository stands. What depends on it is
/// decided again.
async fn keep_repository(
    lock: &mut ScopeLock<'_>,
    facts: &RepositoryFacts,
    installation: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Standing, StorageError> {
    let repository = lock.repository();
    let before = repositories::standing(lock.conn(), repository).await?;
    if let Some((_, standing)) = &before
        && standing.mapped_to.is_some()
        && (standing.suspended || !standing.installed)
        && let Some(installation) = installation
    {
        // GitHub reports nothing of a repository that the App does not reach, but it may have been long ago.
        let id = InstallationId(installation);
        repositories::doubt_installation(lock.conn(), id, None, now).await?;
    }
    if !hear_of(lock.conn(), before.as_ref(), facts, installation, now).await?
        && let Some((_, standing)) = before
    {
        return Ok(standing);
    }
    let after = repositories::standing(lock.conn(), repository).await?;
    let (_, after) = after.ok_or(StorageError::Unknown("repositories.id"))?;
    if before.is_some_and(|(_, before)| before != after) {
        replan::request(lock.conn(), repository, true, "the repository changed").await?;
    }
    Ok(after)
}

/// Records what an event says of a repository that was `before`, or that GitHub is to be asked. Returns whether anything was recorded.
async fn hear_of(
    conn: &mut AsyncPgConnection,
    before: Option<&(Repository, Standing)>,
    facts: &RepositoryFacts,
    installation: Option<i64>,
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    let id = RepositoryId(facts.id);
    let known = before.map(|(known, _)| known);
    let said = Place {
        owner: facts.owner.clone(),
        name: facts.name.clone(),
        installation: installation.map(InstallationId),
        is_reachable: true,
    };
    let is_mapped = before.is_some_and(|(_, standing)| standing.mapped_to.is_some());
    let place = Hearsay::place(known.map(Repository::place).as_ref(), is_mapped, &said);
    let visibility = Hearsay::visibility(known.map(|known| known.private), facts.private);
    match place {
        Hearsay::Kept => {}
        Hearsay::Believed => {
            let private = facts.private.filter(|_| visibility == Hearsay::Believed);
            let (owner, name) = (&said.owner, &said.name);
            repositories::upsert(conn, id, said.installation, owner, name, private, now).await?;
        }
        Hearsay::Doubted => repositories::doubt(conn, id, now).await?,
    }
    if visibility == Hearsay::Doubted {
        repositories::doubt_visibility(conn, id, now).await?;
    }
    Ok((place, visibility) != (Hearsay::Kept, Hearsay::Kept))
}

/// Records what GitHub says of a workflow job, by webhook or by REST, and decides about it. `news` gets what must be planned.
pub(crate) async fn learn(
    lock: &mut ScopeLock<'_>,
    heard: Heard,
    by: By,
    standing: &Standing,
    policy: &Policy,
    news: &mut News,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let id = WorkflowJobId(heard.facts.id);
    let before = workflow_jobs::find(lock.conn(), id).await?;
    let is_elsewhere = |job: &&WorkflowJob| job.repository != lock.repository();
    let known = match (before.as_ref().filter(is_elsewhere), by) {
        (None, _) => before.as_ref(),
        // A workflow job stays in its repository.
        (Some(_), By::Webhook) => {
            tracing::warn!(
                workflow_job.id = id.0,
                "a webhook puts a workflow job into another repository: ignored until GitHub is asked"
            );
            return Ok(());
        }
        // What was said of it there was forged.
        (Some(_), By::Rest) => None,
    };
    let learned = WorkflowJob::learn(known, heard, now);
    let (job, fresh, decided) = if learned.job.is_open() {
        planning::decide(lock, learned.job, standing, policy, now).await?
    } else {
        (learned.job, None, None)
    };
    if before.as_ref() != Some(&job) {
        let entries: Vec<Entry> = learned.entry.into_iter().chain(decided).collect();
        workflow_jobs::save(lock, before.as_ref(), &job, &entries, now).await?;
    }
    if learned.is_doubtful {
        // Which of the two is newer? GitHub knows; meanwhile it is demand.
        workflow_jobs::ask(lock.conn(), &[id], now).await?;
    }
    news.classes
        .extend(before.as_ref().and_then(|job| job.class));
    news.classes.extend(job.class);
    news.fresh.extend(fresh);
    if let Some(class) = job.class.filter(|_| job.is_demand())
        && !before.as_ref().is_some_and(WorkflowJob::is_demand)
    {
        news.cause = Some((class, id, job.traceparent.clone()));
    }
    if let Some(runner) = &learned.runner
        && let Some(launch) = launches::of_runner(lock, runner).await?
        && let Ok(applied) = launch.apply(Happening::Attributed(id), now)
    {
        let _ = launches::save(lock, &launch, &applied, now).await?;
        news.classes.insert(launch.class.id);
    }
    Ok(())
}

/// Whether it is suspended or deleted is asked of GitHub, whatever the event says. In several transactions, since an installation can
/// have thousands of repositories. If one fails, the event comes again.
async fn installation(
    database: &Database,
    event: &InstallationEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    const NAME: &str = "apply an installation event";
    let id = InstallationId(event.installation_id);
    let account = event.account.as_deref();
    database
        .transaction(NAME, async |conn: &mut AsyncPgConnection| {
            repositories::doubt_installation(conn, id, account, now).await
        })
        .await?;
    if event.action == "created" {
        let why = "the App was installed on it";
        installed_on(database, NAME, &event.repositories, id.0, why, now).await?;
    }
    Ok(())
}

/// In several transactions, as [`installation`].
async fn installation_repositories(
    database: &Database,
    event: &InstallationRepositoriesEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    const NAME: &str = "apply an installation_repositories event";
    let id = event.installation_id;
    let why = "the App was installed on it";
    installed_on(database, NAME, &event.added, id, why, now).await?;
    for batch in batches(&event.removed) {
        database
            .transaction(NAME, async |conn: &mut AsyncPgConnection| {
                removed(conn, batch, now).await
            })
            .await?;
    }
    Ok(())
}

/// The App reaches these repositories, as an event says.
async fn installed_on(
    database: &Database,
    name: &'static str,
    list: &[RepositoryFacts],
    installation: i64,
    why: &'static str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    for batch in batches(list) {
        database
            .transaction(name, async |conn: &mut AsyncPgConnection| {
                for facts in batch {
                    let id = RepositoryId(facts.id);
                    let before = repositories::standing(conn, id).await?;
                    hear_of(conn, before.as_ref(), facts, Some(installation), now).await?;
                    replan::request(conn, id, true, why).await?;
                }
                Ok::<_, StorageError>(())
            })
            .await?;
    }
    Ok(())
}

/// The App does not reach these repositories any more, as an event says. GitHub is asked about those that are mapped.
async fn removed(
    conn: &mut AsyncPgConnection,
    list: &[RepositoryFacts],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let ids: Vec<RepositoryId> = list.iter().map(|r| RepositoryId(r.id)).collect();
    let mapped = repositories::mapped_among(conn, &ids).await?;
    let (mapped, others): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| mapped.contains(id));
    for id in mapped {
        repositories::doubt(conn, id, now).await?;
    }
    repositories::set_reachable(conn, &others, false).await?;
    for id in others {
        replan::request(conn, id, true, "the App was removed from it").await?;
    }
    Ok(())
}

/// What is applied of a list in an event, in parts for one transaction each. webhook-ingest publishes no more, but a stolen
/// account of RabbitMQ can.
fn batches(list: &[RepositoryFacts]) -> impl Iterator<Item = &[RepositoryFacts]> {
    let some = list.get(..MAX_REPOSITORIES).unwrap_or(list);
    some.chunks(BATCH)
}
