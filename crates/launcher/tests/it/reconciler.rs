//! What no webhook told is found again at GitHub, which is the simulator here.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gha_slurm_contract::event::{InstallationEvent, InstallationRepositoriesEvent};
use gha_slurm_domain::launch::{Happening, Outcome, Phase, Run, SlurmReport};
use gha_slurm_domain::naming::runner_name;
use gha_slurm_domain::{
    Clock, InstallationId, LaunchId, RepositoryFullName, SlurmState, WorkflowJobId,
};
use gha_slurm_github::{Github, Scope};
use gha_slurm_launcher::inquiry::Inquiry;
use gha_slurm_launcher::reconciler::Reconciler;
use gha_slurm_launcher::settings::{DeploymentSettings, ReconcilerSettings};
use gha_slurm_simulator::request::{
    NewInstallation, NewRepository, NewWorkflowJob, RepositoryChange, RestEffect, RestFault,
};
use gha_slurm_simulator::{AppKey, Handle, Settings, Simulator};
use gha_slurm_storage::{mappings, workflow_jobs};
use gha_slurm_telemetry::prometheus::IntCounterVec;
use gha_slurm_test_support::seed::Seed;
use gha_slurm_test_support::{TestDatabase, wait_until};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::*;

const DEADLINE: Duration = Duration::from_secs(20);
const LABELS: [&str; 2] = ["self-hosted", "slurm"];
const RUNNER: &str = "gha-slurm-test-1";

pub(crate) fn app_key() -> String {
    AppKey::generate_private_pem().unwrap()
}

/// A client of a GitHub that does not look at signatures.
pub(crate) fn github(url: &str) -> Github {
    Github::new(url, 7, &app_key().into(), None, Clock::system()).unwrap()
}

/// A database, and a GitHub with one repository that alice mapped.
struct Site {
    database: TestDatabase,
    pool: Database,
    simulator: Handle,
    github: Github,
    repository: RepositoryId,
    installation: InstallationId,
    _stop: DropGuard,
}

impl Site {
    async fn new() -> Self {
        Self::with_rate_limit(5000).await
    }

    /// Whose installations may make so many calls an hour.
    async fn with_rate_limit(calls: u64) -> Self {
        let pem = app_key();
        let mut app = Settings::new(7, AppKey::from_pem(pem.as_bytes()).unwrap());
        app.timing.rate_limit = calls;
        let simulator = Simulator::build(app).unwrap();
        let handle = simulator.handle();
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));
        let repository = handle
            .create_repository(&NewRepository::named("acme/widgets"))
            .unwrap();
        let installation = handle.state().installations.first().unwrap().id;
        let database = TestDatabase::create().await;
        let site = Self {
            pool: database.pool(),
            database,
            github: Github::new(&handle.api_url(), 7, &pem.into(), None, Clock::system()).unwrap(),
            simulator: handle,
            repository: RepositoryId(repository.id),
            installation: InstallationId(installation),
            _stop: stop.drop_guard(),
        };
        site.map().await;
        site
    }

    async fn map(&self) {
        let mut conn = self.pool.connection().await.unwrap();
        let (id, at) = (self.repository, Some(self.installation));
        repositories::upsert(&mut conn, id, at, "acme", "widgets", Some(true), now())
            .await
            .unwrap();
        let alice = "alice".parse().unwrap();
        mappings::replace(&mut conn, &alice, &[id.into()], None, now())
            .await
            .unwrap();
    }

    /// The webhook about a workflow job of this repository.
    async fn hear(&self, action: &str, facts: WorkflowJobFacts) {
        let mut event = workflow_job(action, facts);
        if let EventPayload::WorkflowJob(said) = &mut event.payload {
            said.installation_id = Some(self.installation.0);
            said.repository.id = self.repository.0;
        }
        apply(&self.pool, event).await;
    }

    /// The launcher acts on replan requests; here a test does.
    async fn replan(&self) {
        gha_slurm_launcher::planning::take_replan_request(
            &self.pool,
            &policy(),
            self.repository,
            now(),
        )
        .await
        .unwrap();
    }

    async fn state_of(&self, id: i64) -> Option<String> {
        let mut conn = self.pool.connection().await.unwrap();
        let job = workflow_jobs::find(&mut conn, WorkflowJobId(id)).await;
        job.unwrap().map(|job| job.state.as_str().to_owned())
    }

    async fn until_state(&self, id: i64, state: &str) {
        wait_until(&format!("{id} is {state}"), DEADLINE, || async {
            let seen = self.state_of(id).await;
            if seen.as_deref() == Some(state) {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await;
    }

    async fn until_supply(&self, expected: usize) {
        wait_until(&format!("supply is {expected}"), DEADLINE, || async {
            let seen = states(self.database.url()).await;
            if supply(&seen) == expected {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await;
    }

    /// The one launch.
    async fn launch(&self) -> LaunchId {
        let client = connect(self.database.url()).await;
        let row = client.query_one("SELECT id::text FROM launches", &[]).await;
        row.unwrap().get::<_, String>(0).parse().unwrap()
    }

    /// GitHub's id of a runner that is registered with this name.
    async fn registered(&self, name: &str) -> i64 {
        let scope = Scope {
            installation: self.installation,
            repository: self.repository,
            name: RepositoryFullName::new("acme", "widgets").unwrap(),
        };
        let labels = LABELS.into_iter().collect();
        let made = self.github.create_jit_runner(&scope, name, &labels).await;
        made.unwrap().id
    }

    /// A runner of the one launch, made long ago.
    async fn redeemed(&self) -> LaunchId {
        let launch = self.launch().await;
        let id = self.registered(RUNNER).await;
        let registration = (Some(id), b"hash".as_slice());
        self.seed()
            .registered(launch, "17", RUNNER, registration, now())
            .await;
        launch
    }

    async fn until_deregistered(&self) {
        wait_until("GitHub forgets the runner", DEADLINE, || async {
            self.simulator.state().runner(RUNNER).is_none()
        })
        .await;
    }

    fn seed(&self) -> Seed<'_> {
        Seed {
            database: &self.pool,
            repository: self.repository,
            user: "alice".parse().unwrap(),
        }
    }

    /// What the node of a launch reports.
    async fn progressed(&self, launch: LaunchId, phase: Phase) {
        let happening = Happening::Progressed { phase, at: None };
        self.seed().happen(launch, happening, now()).await;
    }

    /// A workflow job that GitHub has queued and a webhook told of.
    async fn queued(&self) -> i64 {
        let job = NewWorkflowJob::of("acme/widgets", &LABELS);
        let id = self.simulator.queue(job).unwrap().id;
        self.hear("queued", facts(id, &LABELS)).await;
        id
    }

    /// The runner ends without a workflow job, and its scope is planned again.
    async fn was_idle(&self, launch: LaunchId) {
        self.seed()
            .happen(launch, Happening::GaveUpIdle, now())
            .await;
        self.replan().await;
    }

    /// Starts the submission loop before an agent that takes everything.
    async fn submit(&self) -> (MockServer, submission::Loop) {
        let answer = serde_json::json!({"status": "OK!", "slurmJobId": "18"});
        let answer = ResponseTemplate::new(200).set_body_json(answer);
        let agent = submission::agent_answering(answer).await;
        let running = submission::start_with(&self.pool, &agent.uri(), &self.github);
        (agent, running)
    }

    fn reconcile(&self) -> Reconciling {
        reconcile(&self.pool, &self.github)
    }

    /// GitHub is asked about what is in doubt, and the scope is planned again.
    async fn doubts_settled(&self) {
        let reconciling = self.reconcile();
        reconciling.until_found("doubts").await;
        drop(reconciling);
        self.replan().await;
    }

    /// An event about the installation.
    async fn hear_of_installation(&self, action: &str) {
        let event = Event {
            payload: EventPayload::Installation(InstallationEvent {
                action: action.into(),
                installation_id: self.installation.0,
                account: Some("acme".into()),
                repositories: vec![],
            }),
            ..queued(1)
        };
        apply(&self.pool, event).await;
    }

    /// An event `installation_repositories` about the repository.
    async fn hear_of_access(&self, action: &str) {
        let facts = RepositoryFacts {
            id: self.repository.0,
            owner: "acme".into(),
            name: "widgets".into(),
            private: Some(true),
        };
        let (added, removed) = match action {
            "added" => (vec![facts], vec![]),
            _ => (vec![], vec![facts]),
        };
        let event = Event {
            payload: EventPayload::InstallationRepositories(InstallationRepositoriesEvent {
                action: action.into(),
                installation_id: self.installation.0,
                added,
                removed,
            }),
            ..queued(1)
        };
        apply(&self.pool, event).await;
    }

    /// The repository as it is known.
    async fn known(&self) -> repositories::Repository {
        let mut conn = self.pool.connection().await.unwrap();
        let found = repositories::find(&mut conn, self.repository).await;
        found.unwrap().unwrap()
    }
}

struct Reconciling {
    found: IntCounterVec,
    resumed: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl Reconciling {
    async fn until_found(&self, what: &str) {
        wait_until(&format!("{what} are found"), DEADLINE, || async {
            self.found.with_label_values(&[what]).get() > 0
        })
        .await;
    }
}

fn reconcile(database: &Database, github: &Github) -> Reconciling {
    let second = NonZeroU32::MIN;
    let settings = ReconcilerSettings {
        interval_s: second,
        deliveries_s: second,
        repositories_s: second,
        active_repositories_s: second,
        unattributed_s: second,
        ..ReconcilerSettings::default()
    };
    reconcile_as(settings, database, github)
}

/// Compares once; again only where there is a reason to.
fn reconcile_once(site: &Site) -> Reconciling {
    let hour = NonZeroU32::new(3600).unwrap();
    let settings = ReconcilerSettings {
        interval_s: NonZeroU32::MIN,
        deliveries_s: hour,
        repositories_s: hour,
        active_repositories_s: hour,
        ..ReconcilerSettings::default()
    };
    reconcile_as(settings, &site.pool, &site.github)
}

fn reconcile_as(settings: ReconcilerSettings, database: &Database, github: &Github) -> Reconciling {
    let resumed: Arc<AtomicBool> = Arc::default();
    let found = Metrics::default()
        .counter("found", "found", &["what"])
        .unwrap();
    let reconciler = Reconciler {
        inquiry: Inquiry {
            database: database.clone(),
            github: github.clone(),
            policy: Arc::new(policy()),
            clock: Clock::system(),
        },
        settings,
        deployment: DeploymentSettings {
            name: "test".into(),
            prefix: "gha-slurm".into(),
        },
        found: found.clone(),
        wake: Arc::new(Notify::new()),
        resumed: Arc::clone(&resumed),
    };
    let stop = CancellationToken::new();
    tokio::spawn(reconciler.run(periodic(), stop.clone()));
    Reconciling {
        found,
        resumed,
        _stop: stop.drop_guard(),
    }
}

/// A forged event says that a public repository is private; later it is.
#[tokio::test]
async fn that_a_public_repository_is_private_now_is_asked_of_github() {
    let site = Site::new().await;
    let change = |private| RepositoryChange {
        private: Some(private),
        ..RepositoryChange::default()
    };
    let widgets = site.repository.0;
    site.simulator
        .change_repository(widgets, &change(false))
        .unwrap();
    let visibility = async || site.known().await.private;
    let says = async |private| {
        let job = NewWorkflowJob::of("acme/widgets", &LABELS);
        let id = site.simulator.queue(job).unwrap().id;
        let mut event = workflow_job("queued", facts(id, &LABELS));
        if let EventPayload::WorkflowJob(said) = &mut event.payload {
            said.installation_id = Some(site.installation.0);
            said.repository.id = widgets;
            said.repository.private = Some(private);
        }
        apply(&site.pool, event).await;
    };
    says(false).await;
    assert_eq!(visibility().await, None, "it counts as public");
    site.doubts_settled().await;
    assert_eq!(visibility().await, Some(false));
    says(true).await;
    assert_eq!(visibility().await, None);
    says(true).await;
    assert_eq!(visibility().await, None, "nor by saying it twice");
    site.until_supply(0).await;

    site.doubts_settled().await;
    assert_eq!(visibility().await, Some(false));
    site.simulator
        .change_repository(widgets, &change(true))
        .unwrap();
    says(true).await;
    site.doubts_settled().await;
    assert_eq!(visibility().await, Some(true));
    site.until_supply(4).await;
    // One from before that time comes late.
    says(false).await;
    site.doubts_settled().await;
    assert_eq!(visibility().await, Some(true));
    site.until_supply(5).await;
}

/// The reconciler itself had an old `suspend` redelivered after the `unsuspend`: the installation was refused forever.
#[tokio::test]
async fn a_late_suspend_refuses_nothing() {
    let site = Site::new().await;
    let id = site.queued().await;
    site.until_supply(1).await;
    let suspend = |suspended| {
        let installation = site.installation.0;
        let changed = site.simulator.suspend_installation(installation, suspended);
        changed.unwrap();
    };
    suspend(true);
    site.hear_of_installation("suspend").await;
    site.doubts_settled().await;
    site.until_supply(0).await;
    let (_, reason) = verdict(site.database.url(), id).await;
    assert!(reason.unwrap().contains("suspended"));
    suspend(false);
    site.hear_of_installation("unsuspend").await;
    site.doubts_settled().await;
    site.until_supply(1).await;
    let launches = states(site.database.url()).await;

    site.hear_of_installation("suspend").await;
    site.hear_of_installation("deleted").await;
    site.replan().await;
    site.doubts_settled().await;
    assert_eq!(states(site.database.url()).await, launches);
}

/// No event about it arrives in three days, when GitHub forgets it.
#[tokio::test]
async fn a_suspension_that_no_event_reports_is_noticed_and_its_end_too() {
    let site = Site::new().await;
    site.queued().await;
    for suspended in [true, false] {
        let installation = site.installation.0;
        let changed = site.simulator.suspend_installation(installation, suspended);
        changed.unwrap();
        let _reconciling = site.reconcile();
        let client = connect(site.database.url()).await;
        wait_until(
            "GitHub is asked about the installation",
            DEADLINE,
            || async {
                let row = client.query_one("SELECT suspended FROM installations", &[]);
                row.await.unwrap().get::<_, bool>(0) == suspended
            },
        )
        .await;
    }
    site.replan().await;
    site.until_supply(1).await;
}

#[tokio::test]
async fn a_late_or_forged_name_of_a_mapped_repository_is_not_believed() {
    let site = Site::new().await;
    let says = async |owner: &str, name: &str, installation: i64| {
        let job = NewWorkflowJob::of("acme/widgets", &LABELS);
        let id = site.simulator.queue(job).unwrap().id;
        let mut event = workflow_job("queued", facts(id, &LABELS));
        if let EventPayload::WorkflowJob(said) = &mut event.payload {
            said.installation_id = Some(installation);
            said.repository.id = site.repository.0;
            said.repository.owner = owner.into();
            said.repository.name = name.into();
        }
        apply(&site.pool, event).await;
    };
    let before = site.known().await;
    says("mallory", "trap", 99).await;
    assert_eq!(site.known().await, before, "until GitHub is asked");
    site.doubts_settled().await;
    assert_eq!(site.known().await, before, "nor then");
    site.until_supply(1).await;

    says("acme", "widgets", site.installation.0).await;
    let rename = RepositoryChange {
        name: Some("gadgets".into()),
        ..RepositoryChange::default()
    };
    let id = site.repository.0;
    site.simulator.change_repository(id, &rename).unwrap();
    site.hear_of_access("removed").await;
    assert_eq!(site.known().await, before);
    site.doubts_settled().await;
    assert_eq!(site.known().await.name, "gadgets");
    // The old name comes late.
    site.hear_of_access("added").await;
    site.doubts_settled().await;
    assert_eq!(site.known().await.name, "gadgets");
    site.until_supply(2).await;
}

/// With another App id, GitHub knows neither installation nor repository: that they are gone is not what it says.
#[tokio::test]
async fn the_apps_own_refusal_removes_nothing() {
    let site = Site::new().await;
    site.queued().await;
    site.until_supply(1).await;
    let pem = app_key();
    let url = site.simulator.api_url();
    let stranger = Github::new(&url, 7, &pem.into(), None, Clock::system()).unwrap();
    site.hear_of_installation("suspend").await;
    site.hear_of_access("removed").await;
    let _reconciling = reconcile(&site.pool, &stranger);
    wait_until("GitHub refuses the App", DEADLINE, || async {
        stranger.app_trouble().is_some()
    })
    .await;
    assert!(site.known().await.reachable);
    site.until_supply(1).await;
}

#[tokio::test]
async fn a_transferred_repository_is_found_at_its_new_installation() {
    let site = Site::new().await;
    let umbrella = NewInstallation::on("umbrella");
    let umbrella = site.simulator.create_installation(umbrella).unwrap();
    let transfer = RepositoryChange {
        owner: Some("umbrella".into()),
        ..RepositoryChange::default()
    };
    let id = site.repository.0;
    site.simulator.change_repository(id, &transfer).unwrap();
    site.hear_of_access("removed").await;
    site.doubts_settled().await;
    let known = site.known().await;
    assert_eq!(
        (known.owner.as_str(), known.installation_id, known.reachable),
        ("umbrella", Some(umbrella.id), true)
    );
}

#[tokio::test]
async fn whether_the_app_reaches_a_mapped_repository_is_asked_of_github() {
    let site = Site::new().await;
    site.queued().await;
    site.until_supply(1).await;
    site.hear_of_access("removed").await;
    site.doubts_settled().await;
    site.until_supply(1).await;
    let id = site.repository.0;
    site.simulator.set_installed(id, false).unwrap();
    site.hear_of_access("removed").await;
    site.doubts_settled().await;
    assert!(!site.known().await.reachable);
    site.until_supply(0).await;
    // A workflow job's event from before comes late.
    site.queued().await;
    assert!(!site.known().await.reachable);
    site.simulator.set_installed(id, true).unwrap();
    // No event: it is asked about in every round.
    site.doubts_settled().await;
    wait_until("it is reached again", DEADLINE, || async {
        let _reconciling = site.reconcile();
        site.known().await.reachable
    })
    .await;
    site.replan().await;
    site.until_supply(2).await;
}

#[tokio::test]
async fn a_late_waiting_is_settled_by_asking_github() {
    for (waiting, state, expected) in [(true, "waiting", 0), (false, "queued", 1)] {
        let site = Site::new().await;
        let job = NewWorkflowJob {
            waiting,
            ..NewWorkflowJob::of("acme/widgets", &LABELS)
        };
        let id = site.simulator.queue(job).unwrap().id;
        site.hear("queued", facts(id, &LABELS)).await;
        site.hear("waiting", facts(id, &LABELS)).await;
        assert_eq!(
            site.state_of(id).await.as_deref(),
            Some("queued"),
            "until GitHub is asked it is demand"
        );
        let reconciling = site.reconcile();
        reconciling.until_found("questions").await;
        site.until_state(id, state).await;
        site.until_supply(expected).await;
    }
}

#[tokio::test]
async fn a_workflow_job_that_no_webhook_told_of_is_found() {
    let site = Site::new().await;
    // Without a webhook address nothing is delivered.
    let job = NewWorkflowJob::of("acme/widgets", &LABELS);
    let id = site.simulator.queue(job).unwrap().id;
    let reconciling = site.reconcile();
    reconciling.until_found("repositories").await;
    site.until_state(id, "queued").await;
    site.until_supply(1).await;
}

/// GitHub lists its run neither as queued nor as in progress.
#[tokio::test]
async fn a_workflow_job_that_waits_for_an_approval_is_found() {
    let site = Site::new().await;
    let job = NewWorkflowJob {
        waiting: true,
        ..NewWorkflowJob::of("acme/widgets", &LABELS)
    };
    let id = site.simulator.queue(job).unwrap().id;
    let _reconciling = site.reconcile();
    site.until_state(id, "waiting").await;
    site.until_supply(0).await;
    site.simulator.approve(id).unwrap();
    site.until_state(id, "queued").await;
    site.until_supply(1).await;
}

const LIST_RUNS: &str = "GET /repos/{owner}/{repo}/actions/runs";
const LIST_JOBS: &str = "GET /repos/{owner}/{repo}/actions/runs/{run_id}/jobs";
const LIST_DELIVERIES: &str = "GET /app/hook/deliveries";

impl Site {
    /// The first comparison is over: nothing is found in it.
    async fn compared(&self) {
        wait_until("the repository is compared", DEADLINE, || async {
            self.simulator
                .calls("GET /repos/{owner}/{repo}/actions/runners")
                > 0
        })
        .await;
    }

    /// A workflow job of which no webhook tells.
    fn queued_silently(&self) -> i64 {
        let job = NewWorkflowJob::of("acme/widgets", &LABELS);
        self.simulator.queue(job).unwrap().id
    }
}

fn failing(route: &str, times: u32, status: u16) -> RestFault {
    let effect = RestEffect::Answer {
        status,
        headers: BTreeMap::new(),
        message: None,
    };
    RestFault::on(route, times, effect)
}

#[tokio::test]
async fn everything_is_compared_when_rabbitmq_is_back() {
    let site = Site::new().await;
    let reconciling = reconcile_once(&site);
    site.compared().await;
    let id = site.queued_silently();
    reconciling.resumed.store(true, Ordering::Relaxed);
    site.until_state(id, "queued").await;
}

#[tokio::test]
async fn everything_is_compared_when_github_is_back() {
    let site = Site::new().await;
    site.simulator
        .add_rest_fault(failing(LIST_DELIVERIES, 1000, 502));
    let _reconciling = reconcile_once(&site);
    site.compared().await;
    let id = site.queued_silently();
    site.simulator.clear_rest_faults();
    site.until_state(id, "queued").await;
}

/// It waited for the next round.
#[tokio::test]
async fn a_comparison_that_fails_is_made_again_in_the_same_round() {
    let site = Site::new().await;
    let id = site.queued_silently();
    // By name and by number.
    site.simulator.add_rest_fault(failing(LIST_RUNS, 2, 403));
    let _reconciling = reconcile_once(&site);
    site.until_state(id, "queued").await;
    // GitHub itself is away.
    let site = Site::new().await;
    let id = site.queued_silently();
    site.simulator.add_rest_fault(failing(LIST_RUNS, 3, 502));
    let _reconciling = reconcile_once(&site);
    site.until_state(id, "queued").await;
}

/// A comparison took a call for each live run, until no runner could be registered any more.
#[tokio::test]
async fn comparing_leaves_half_of_a_rate_limit_to_launches() {
    let site = Site::with_rate_limit(200).await;
    for _ in 0..150 {
        site.queued_silently();
    }
    let _reconciling = site.reconcile();
    let at = Some(site.installation);
    wait_until("half is used", DEADLINE, || async {
        site.github.percent_left(at).await <= 50
    })
    .await;
    let looks = site.simulator.calls(LIST_DELIVERIES) + 2;
    wait_until("further looks pass", DEADLINE, || async {
        site.simulator.calls(LIST_DELIVERIES) >= looks
    })
    .await;
    // Calls that were under way at the time, at most.
    let used = site.simulator.used(site.installation.0);
    assert!((100..110).contains(&used), "{used}");
    for number in 0..40 {
        site.registered(&format!("gha-slurm-test-{number}")).await;
    }
}

/// What was listed before is not asked for again, however often a rate limit interrupts a comparison.
#[tokio::test]
async fn a_comparison_that_waits_for_a_rate_limit_goes_on_where_it_was() {
    let site = Site::new().await;
    let ids: Vec<i64> = (0..5).map(|_| site.queued_silently()).collect();
    let limited = RestEffect::PrimaryRateLimit {
        reset_after_seconds: 1,
    };
    for _ in 0..3 {
        let fault = RestFault::on(LIST_JOBS, 1, limited.clone());
        site.simulator.add_rest_fault(fault);
    }
    let _reconciling = reconcile_once(&site);
    for id in ids {
        site.until_state(id, "queued").await;
    }
    assert_eq!(site.simulator.calls(LIST_RUNS), 3, "once for each status");
    assert_eq!(site.simulator.calls(LIST_JOBS), 5 + 3);
}

/// 304 answers are free: with nothing wrong, comparing costs nothing of GitHub's hourly limit.
#[tokio::test]
async fn comparing_what_did_not_change_costs_nothing_of_the_limit() {
    let site = Site::new().await;
    let _reconciling = site.reconcile();
    let rounds = async |more: u64| {
        let until = site.simulator.calls(LIST_RUNS) + more;
        wait_until("rounds pass", DEADLINE, || async {
            site.simulator.calls(LIST_RUNS) >= until
        })
        .await;
    };
    // The first comparison is over once a second one begins.
    rounds(4).await;
    let used = || site.simulator.used(site.installation.0);
    let before = used();
    rounds(9).await;
    assert_eq!(used(), before);
}

#[tokio::test]
async fn a_lost_end_is_noticed_and_what_was_planned_is_withdrawn() {
    let site = Site::new().await;
    let id = site.queued().await;
    site.until_supply(1).await;
    site.simulator.cancel(id).unwrap();
    let _reconciling = site.reconcile();
    site.until_state(id, "completed").await;
    site.until_supply(0).await;
}

#[tokio::test]
async fn a_forgotten_workflow_job_is_looked_up_before_a_second_attempt() {
    let site = Site::new().await;
    // GitHub has never heard of it, or has forgotten it.
    site.hear("queued", facts(1, &LABELS)).await;
    let launch = site.redeemed().await;
    site.was_idle(launch).await;
    site.until_supply(1).await;
    let (agent, running) = site.submit().await;
    site.until_state(1, "completed").await;
    site.until_supply(0).await;
    running.stop().await;
    assert_eq!(agent.received_requests().await.unwrap().len(), 0);
    let (_, reason) = verdict(site.database.url(), 1).await;
    assert!(reason.unwrap().contains("does not know"));
}

#[tokio::test]
async fn a_second_attempt_is_made_for_one_that_still_waits() {
    let site = Site::new().await;
    let job = NewWorkflowJob::of("acme/widgets", &LABELS);
    let id = site.simulator.queue(job).unwrap().id;
    // The older one is forgotten; what was planned for it serves the other.
    site.hear("queued", facts(1, &LABELS)).await;
    let launch = site.redeemed().await;
    site.hear("queued", facts(id, &LABELS)).await;
    site.was_idle(launch).await;
    let (_agent, running) = site.submit().await;
    site.until_state(1, "completed").await;
    wait_until("one is submitted", DEADLINE, || async {
        let seen = states(site.database.url()).await;
        let submitted = seen.iter().filter(|(state, _)| state == "submitted");
        if submitted.count() == 1 {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    site.until_supply(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_failed_delivery_is_asked_for_again() {
    let site = Site::new().await;
    let receiver = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .mount(&receiver)
        .await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(202))
        .mount(&receiver)
        .await;
    site.simulator
        .set_webhook(&receiver.uri(), "secret".into(), false);
    let job = NewWorkflowJob::of("acme/widgets", &LABELS);
    site.simulator.queue(job).unwrap();
    let reconciling = site.reconcile();
    reconciling.until_found("deliveries").await;
    let received = wait_until("it is delivered again", DEADLINE, || async {
        let received = receiver.received_requests().await.unwrap();
        (received.len() == 2).then_some(received)
    })
    .await;
    let guids: Vec<_> = received
        .iter()
        .map(|request| request.headers.get("x-github-delivery").unwrap())
        .collect();
    assert_eq!(guids.first(), guids.last(), "a redelivery keeps the GUID");
}

/// Every launcher that took over listed three days of deliveries.
#[tokio::test]
async fn what_has_been_delivered_is_not_listed_by_the_next_launcher() {
    let site = Site::new().await;
    let _reconciling = site.reconcile();
    let client = connect(site.database.url()).await;
    wait_until(
        "the starting point for the next launcher is stored",
        DEADLINE,
        || async {
            let row = client
                .query_one(
                    "SELECT count(*) FROM leases WHERE reached > now() - interval '6 minutes'",
                    &[],
                )
                .await;
            row.unwrap().get::<_, i64>(0) == 1
        },
    )
    .await;
}

#[tokio::test]
async fn a_runner_whose_node_is_silent_is_deleted_and_replaced() {
    let site = Site::new().await;
    site.queued().await;
    site.redeemed().await;
    assert!(site.simulator.state().runner(RUNNER).is_some());
    let reconciling = site.reconcile();
    reconciling.until_found("runners").await;
    assert!(site.simulator.state().runner(RUNNER).is_none());
    site.replan().await;
    let seen = states(site.database.url()).await;
    let expected = [("silent".to_owned(), false), ("planned".to_owned(), true)];
    assert_eq!(seen, expected);
}

/// Two attempts to register a runner failed in a row; and a database was restored that does not know the launch.
#[tokio::test]
async fn leaked_registrations_are_deleted_and_nobody_elses() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.launch().await;
    let live = |attempt| runner_name("gha-slurm", "test", launch, attempt);
    let leaked = [
        "gha-slurm-test-8123456789abcdef",
        "gha-slurm-test-8123456789abcdef-2",
        "gha-slurm-test-9123456789abcdef-8",
    ];
    let others = [
        "gha-slurm-test-8123456789abcdef-old",
        "gha-slurm-test-7123456789ABCDEF",
        "gha-slurm-test-prod-8123456789abcdef",
        "gha-slurm-test2-8123456789abcdef",
        "my-gha-slurm-test-8123456789abcdef",
        "build-server",
    ];
    let names = leaked.iter().chain(&others).map(|n| (*n).to_owned());
    let mut of_live = 0;
    for name in names.chain([live(1), live(2)]) {
        of_live = site.registered(&name).await;
    }
    site.seed()
        .registered(launch, "17", &live(2), (Some(of_live), b"hash"), Utc::now())
        .await;
    let reconciling = site.reconcile();
    reconciling.until_found("registrations").await;
    let kept = site.simulator.state();
    for name in leaked {
        assert!(kept.runner(name).is_none(), "{name}");
    }
    for name in others
        .iter()
        .map(|n| (*n).to_owned())
        .chain([live(1), live(2)])
    {
        assert!(kept.runner(&name).is_some(), "{name}");
    }
}

/// The deletion of an earlier registration failed, too.
#[tokio::test]
async fn the_registrations_of_all_attempts_are_deleted_at_the_end() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.launch().await;
    let name = |attempt| runner_name("gha-slurm", "test", launch, attempt);
    site.registered(&name(1)).await;
    let id = site.registered(&name(2)).await;
    let registration = (Some(id), b"hash".as_slice());
    let at = Utc::now() - chrono::TimeDelta::minutes(2);
    for name in [name(1), name(2)] {
        site.seed()
            .registered(launch, "17", &name, registration, at)
            .await;
    }
    let finished = Phase::Finished {
        outcome: Outcome::NodeReported {
            reason: "set-up failed".into(),
            exit_code: Some(1),
        },
        log_tail: None,
    };
    let happening = Happening::Progressed {
        phase: finished,
        at: None,
    };
    site.seed().happen(launch, happening, at).await;
    let (_agent, running) = site.submit().await;
    wait_until("both are deleted", DEADLINE, || async {
        let state = site.simulator.state();
        (state.runner(&name(1)).is_none() && state.runner(&name(2)).is_none()).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_runner_that_slurm_ended_before_it_had_work_is_deregistered() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.redeemed().await;
    assert!(site.simulator.state().runner(RUNNER).is_some());
    // That the agent's answer was not stored changes nothing.
    site.progressed(launch, Phase::Listening).await;
    let reported = Happening::SlurmReported {
        report: SlurmReport::new(SlurmState::NodeFailed),
        slurm_job: Some("17".parse().unwrap()),
        exit_code: None,
        ended_at: None,
    };
    site.seed().happen(launch, reported, Utc::now()).await;
    site.replan().await;
    site.until_supply(1).await;
    let (_agent, running) = site.submit().await;
    site.until_deregistered().await;
    running.stop().await;
}

/// The simulator makes a runner busy only through a runner's own protocol, so GitHub is a few fixed answers here.
#[tokio::test]
async fn a_busy_runner_is_attributed_by_asking_for_its_run() {
    let site = Site::new().await;
    site.hear("queued", facts(1, &LABELS)).await;
    let launch = site.redeemed().await;
    let run = Some(Run { id: 9, attempt: 1 });
    site.progressed(launch, Phase::WorkflowJobStarted { run })
        .await;
    let answers = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path_regex("/access_tokens$"))
        .respond_with(ResponseTemplate::new(201).set_body_json(
            serde_json::json!({"token": "ghs_x", "expires_at": "2099-01-01T00:00:00Z"}),
        ))
        .mount(&answers)
        .await;
    let told = serde_json::json!({
        "id": 1, "run_id": 9, "name": "test", "status": "in_progress", "labels": LABELS,
        "runner_name": RUNNER, "runner_id": 3,
    });
    Mock::given(method("GET"))
        .and(path("/repos/acme/widgets/actions/runs/9/jobs"))
        .respond_with(ResponseTemplate::new(200).set_body_json(serde_json::json!({"jobs": [told]})))
        .mount(&answers)
        .await;
    let reconciling = reconcile(&site.pool, &github(&answers.uri()));
    reconciling.until_found("runners").await;
    site.until_state(1, "in_progress").await;
    site.until_supply(0).await;
    assert_eq!(
        states(site.database.url()).await.len(),
        1,
        "nothing is launched in its place"
    );
}

#[tokio::test]
async fn a_busy_runner_that_github_gave_nothing_stops_counting_in_the_end() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.redeemed().await;
    // Longer ago than the limit.
    site.progressed(launch, Phase::WorkflowJobStarted { run: None })
        .await;
    let reconciling = site.reconcile();
    reconciling.until_found("runners").await;
    site.replan().await;
    site.until_supply(1).await;
    assert_eq!(states(site.database.url()).await.len(), 2, "a replacement");
    let (_agent, running) = site.submit().await;
    site.until_deregistered().await;
    running.stop().await;
}

/// Any process of the same user can report a workflow job with the progress token. Their runner stayed, and ran a workflow job
/// after its repository was unmapped.
#[tokio::test]
async fn a_workflow_job_that_only_its_node_reported_spares_no_runner() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.redeemed().await;
    let started = Happening::Progressed {
        phase: Phase::WorkflowJobStarted { run: None },
        at: None,
    };
    // Long before the deadline after which it is not looked at any more.
    let at = Utc::now() - chrono::TimeDelta::seconds(5);
    site.seed().happen(launch, started, at).await;
    let reconciling = site.reconcile();
    reconciling.until_found("runners").await;
    site.until_deregistered().await;
    site.replan().await;
    site.until_supply(1).await;
}

/// The same, but its node reports the end before anybody looks.
#[tokio::test]
async fn a_workflow_job_that_only_its_node_reported_the_end_of_spares_no_runner() {
    let site = Site::new().await;
    site.queued().await;
    let launch = site.redeemed().await;
    // Long enough ago for its node to have given its registration back.
    let at = Utc::now() - chrono::TimeDelta::minutes(2);
    let reports = async |phase| {
        let happening = Happening::Progressed { phase, at: None };
        site.seed().happen(launch, happening, at).await;
    };
    reports(Phase::WorkflowJobStarted { run: None }).await;
    let outcome = Outcome::NodeReported {
        reason: "completed".into(),
        exit_code: Some(0),
    };
    let finished = Phase::Finished {
        outcome,
        log_tail: None,
    };
    reports(finished).await;
    let (_agent, running) = site.submit().await;
    site.until_deregistered().await;
    running.stop().await;
}
