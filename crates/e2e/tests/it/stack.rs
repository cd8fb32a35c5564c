//! A whole deployment of one test's own: every service a process, RabbitMQ and Postgres real, GitHub simulated in this
//! process. [`Stack::finish`] ends each test: it waits until everything has come to rest, and looks for leaks.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gha_slurm_contract::build::{BuildDetail, WorkflowJobState};
use gha_slurm_simulator::model::{Conclusion, Delivery, Runner, State, Status, WorkflowJob};
use gha_slurm_simulator::request::{NewRepository, NewWorkflowJob};
use gha_slurm_simulator::{AppKey, Handle, Simulator};
use gha_slurm_test_support::{
    APP_ID, BackingServices, CLIENT_ID, Credentials, Deployment, DeploymentBuilder,
    PrivateRabbitMq, PrivateSlurm, SLURM_USERS, ServiceProcess, TestBroker, TestDatabase,
    end_processes_in, processes_marked, wait_until,
};
pub(crate) use gha_slurm_test_support::{Service, SlurmBackend};
use reqwest::Method;
use rustix::process::{Pid, Signal};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::zone::Zone;

/// Long enough for a loaded machine; a build takes 2 s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// GitHub gives up a runner that it does not hear of, as when Slurm ends one without leave to report: after ten minutes; here sooner than
/// [`DEADLINE`].
const LOST_RUNNER: Duration = Duration::from_secs(30);
/// Who may do everything once they have signed in.
pub(crate) const ADMINISTRATOR: &str = "grace";
pub(crate) const REPOSITORY: &str = "acme/widgets";
pub(crate) const SLURM_USER: &str = "alice";
/// Labels that the launcher's default settings know.
pub(crate) const LABELS: [&str; 2] = ["self-hosted", "slurm"];
pub(crate) const CREATE_JIT: &str = "POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig";
const EPILOG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-epilog.sh"
);
/// What the agent is called where only a proxy knows it.
const AGENT_HOST: &str = "agent.gha-slurm.test";

/// Stacks at once: more would only wait for each other's processors.
static AT_ONCE: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    Semaphore::new(2 * processors)
});
/// One App key for all tests: making one takes a second.
static APP_KEY: LazyLock<String> = LazyLock::new(|| AppKey::generate_private_pem().unwrap());

/// A stack to be, with settings that differ from the usual ones.
pub(crate) struct Builder {
    deployment: DeploymentBuilder,
    folder: TempDir,
    database_url: Option<String>,
    broker: Option<TestBroker>,
    slurm: Option<PrivateSlurm>,
    zone: Option<Zone>,
}

/// Each of these scenarios, by Slurm's programs and by slurmrestd.
macro_rules! by_both {
    ($($test:ident),* $(,)?) => {
        mod by_programs { $(#[tokio::test] async fn $test() { super::$test(crate::stack::SlurmBackend::Sbatch).await; })* }
        mod by_rest { $(#[tokio::test] async fn $test() { super::$test(crate::stack::SlurmBackend::Slurmrestd).await; })* }
    };
}
pub(crate) use by_both;

impl Builder {
    fn with(mut self, option: impl FnOnce(DeploymentBuilder) -> DeploymentBuilder) -> Self {
        self.deployment = option(self.deployment);
        self
    }

    /// One setting of one service, named without its prefix, such as `RUNNER__MODE`.
    pub(crate) fn setting(self, service: Service, key: &str, value: &str) -> Self {
        self.with(|deployment| deployment.setting(service, key, value))
    }

    /// One environment variable of every service.
    pub(crate) fn environment(self, key: &str, value: &str) -> Self {
        self.with(|deployment| deployment.environment(key, value))
    }

    /// The agent calls the launcher, and has no port but the relay's, through which nodes reach token-broker.
    pub(crate) fn outbound(self) -> Self {
        self.with(DeploymentBuilder::outbound)
    }

    /// Users on this login node manage their repositories, with credentials that this program decodes.
    pub(crate) fn self_service(self, unmunge: &Path, login_node: &str) -> Self {
        self.with(|deployment| deployment.self_service(unmunge, login_node))
    }

    /// Launcher and agent show each other certificates of a private CA.
    pub(crate) fn mutual_tls(self) -> Self {
        self.with(DeploymentBuilder::mutual_tls)
    }

    /// In outbound mode, with the agent and the nodes in a network of their own.
    pub(crate) fn zone(mut self, zone: Zone) -> Self {
        let (outside, starter) = (zone.outside, zone.starter());
        self.zone = Some(zone);
        self.outbound()
            .with(|deployment| deployment.host(outside).agent_within(starter))
    }

    /// In this empty database, of a Postgres that the test may kill.
    pub(crate) fn database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// With this RabbitMQ, which the test may kill.
    pub(crate) fn broker(mut self, server: &Arc<PrivateRabbitMq>) -> Self {
        self.broker = Some(TestBroker::on(server));
        self
    }

    /// A service is started by another program, such as `env LD_PRELOAD=…`.
    pub(crate) fn through(self, service: Service, starter: Vec<String>) -> Self {
        self.with(|deployment| deployment.through(service, starter))
    }

    /// On a real Slurm with two nodes, in the zone if there is one. `None`: that takes root. The epilog cleans up behind job
    /// scripts that Slurm does not let finish, as it does with a node that fails.
    pub(crate) async fn on_slurm(mut self, backend: SlurmBackend) -> Option<Self> {
        let starter = self.zone.as_ref().map(Zone::starter).unwrap_or_default();
        let epilog = self.folder.path().join("epilog");
        let work_root = self.folder.path().join("work");
        let run = format!("#!/bin/sh\nexec bash {EPILOG} {}\n", work_root.display());
        fs::write(&epilog, run).unwrap();
        fs::set_permissions(&epilog, fs::Permissions::from_mode(0o755)).unwrap();
        let more = format!("Epilog={}\n", epilog.display());
        let slurm = PrivateSlurm::for_test_within(2, &more, &starter).await?;
        self.deployment = self.deployment.slurm(&slurm, backend).poll_each_second();
        self.slurm = Some(slurm);
        Some(self)
    }

    /// Every call by HTTPS goes through the proxy at this address: the launcher's to the agent, whose name only the proxy knows.
    pub(crate) fn https_proxy(self, address: &str) -> Self {
        self.with(|deployment| deployment.agent_host(AGENT_HOST))
            .environment("https_proxy", address)
    }

    /// Starts everything at once, waits until all services are ready, and makes the private repository [`REPOSITORY`].
    pub(crate) async fn start(self) -> Stack {
        Stack::build(self).await
    }
}

/// Everything that runs for one test.
pub(crate) struct Stack {
    pub(crate) github: Handle,
    deployment: Deployment,
    /// A second launcher of the same deployment.
    second_launcher: Option<ServiceProcess>,
    credentials: Credentials,
    http: reqwest::Client,
    database_url: String,
    folder: TempDir,
    stop: CancellationToken,
    /// Log lines that are errors and yet right in this test.
    expected_errors: Vec<&'static str>,
    finished: bool,
    pub(crate) broker: TestBroker,
    // Dropped after the services.
    slurm: Option<PrivateSlurm>,
    pub(crate) zone: Option<Zone>,
    _database: Option<TestDatabase>,
    _permit: SemaphorePermit<'static>,
}

impl Stack {
    /// A stack with the usual settings.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// For a stack with other settings.
    pub(crate) fn builder() -> Builder {
        Builder {
            deployment: Deployment::builder("e2e"),
            folder: tempfile::Builder::new()
                .prefix("gha-slurm-e2e-")
                .tempdir()
                .unwrap(),
            database_url: None,
            broker: None,
            slurm: None,
            zone: None,
        }
    }

    async fn build(builder: Builder) -> Self {
        let permit = AT_ONCE.acquire().await.unwrap();
        let database = async {
            if let Some(url) = &builder.database_url {
                gha_slurm_test_support::migrate(url).await.unwrap();
                return (None, url.clone());
            }
            let database = TestDatabase::create().await;
            let url = database.url().to_owned();
            (Some(database), url)
        };
        let broker = async {
            match builder.broker {
                Some(broker) => broker,
                None => TestBroker::create().await,
            }
        };
        let ((database, database_url), broker) = tokio::join!(database, broker);
        let folder = builder.folder;
        let credentials = Credentials::open(folder.path(), || Ok(APP_KEY.clone())).unwrap();

        let mut settings = gha_slurm_simulator::Settings::new(
            APP_ID,
            AppKey::from_pem(APP_KEY.as_bytes()).unwrap(),
        );
        settings.timing.lost_runner = LOST_RUNNER;
        settings.app.client_id = CLIENT_ID.into();
        settings.app.client_secret = credentials.client_secret().unwrap().into();
        if let Some(zone) = &builder.zone {
            settings.listen = (zone.outside, 0).into();
        }
        let simulator = Simulator::build(settings).unwrap();
        let github = simulator.handle();
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));

        let backing = BackingServices {
            database_url: &database_url,
            amqp_url: broker.amqp_url(),
            github_url: &github.api_url(),
        };
        let administrator = github.create_person(ADMINISTRATOR).unwrap().id.to_string();
        let deployment = builder.deployment.setting(
            Service::RepoMapping,
            "ACCESS__ADMINISTRATORS",
            administrator,
        );
        let deployment = deployment.build(folder.path(), &credentials, &backing);
        let deployment = deployment.unwrap();
        let webhook_secret = credentials.webhook_secret().unwrap();
        github.set_webhook(&deployment.webhook_url(), webhook_secret.into(), false);
        github
            .set_callback_urls(vec![deployment.callback_url()])
            .unwrap();
        if let Some(zone) = &builder.zone {
            let github = Url::parse(&github.api_url()).unwrap().port().unwrap();
            let port = |service| deployment.port(service);
            zone.lock(&[port(Service::Launcher), port(Service::TokenBroker), github]);
        }
        let mut stack = Self {
            github,
            deployment,
            second_launcher: None,
            credentials,
            http: client(),
            database_url,
            folder,
            stop,
            expected_errors: Vec::new(),
            finished: false,
            broker,
            zone: builder.zone,
            slurm: builder.slurm,
            _database: database,
            _permit: permit,
        };
        let started = stack.deployment.start().await;
        started.unwrap_or_else(|error| panic!("{error:#}"));
        stack
            .github
            .create_repository(&NewRepository::named(REPOSITORY))
            .unwrap();
        stack
    }

    /// Signs somebody in at the page, who has an account at GitHub. Returns the `Cookie` header of their session.
    pub(crate) async fn sign_in(&self, login: &str) -> String {
        let decide = async |url: &str| Ok(self.github.authorize(login, url)?);
        gha_slurm_test_support::sign_in(&self.url(Service::RepoMapping), decide)
            .await
            .unwrap()
    }

    /// Whether this stack was built on a real Slurm.
    pub(crate) fn has_slurm(&self) -> bool {
        self.slurm.is_some()
    }

    /// The real Slurm that this stack was built on.
    pub(crate) fn slurm(&self) -> &PrivateSlurm {
        self.slurm.as_ref().unwrap()
    }

    // --- services -------------------------------------------------------------------------------------------------

    /// The process of a service.
    pub(crate) fn service(&mut self, service: Service) -> &mut ServiceProcess {
        self.deployment.service_mut(service)
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self, service: Service) {
        self.service(service).kill9();
    }

    /// `kill -9` of all of them, which are started again without waiting until they are ready.
    pub(crate) fn kill9_and_spawn(&mut self, services: &[Service]) {
        for service in services {
            self.kill9(*service);
        }
        for service in services {
            self.service(*service).spawn().unwrap();
        }
    }

    /// Starts a killed service again, and waits until it is ready.
    pub(crate) async fn restart(&mut self, service: Service) {
        let started = self.service(service).start().await;
        started.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts a second launcher of the same deployment by another program, such as `env LD_PRELOAD=…`, unless that is empty.
    pub(crate) async fn start_second_launcher(&mut self, starter: &[String]) {
        let second = self.deployment.second(Service::Launcher).unwrap();
        let mut second = second.through(starter);
        second
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"));
        self.second_launcher = Some(second);
    }

    /// A service no longer gets a processor: what it is asked stays in hand.
    pub(crate) fn freeze(&mut self, service: Service) {
        self.service(service).signal(Signal::STOP);
    }

    /// It goes on.
    pub(crate) fn thaw(&mut self, service: Service) {
        self.service(service).signal(Signal::CONT);
    }

    /// The most memory that a service has ever had resident, bytes.
    pub(crate) fn peak_memory(&mut self, service: Service) -> usize {
        let id = self.service(service).id().unwrap();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with("VmHWM:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Waits until somebody has sent something to the HTTP port of a frozen service.
    pub(crate) async fn until_asked(&self, service: Service) {
        // Local address and port, remote address and port, state (01: established), and unread bytes, in hexadecimal.
        let local = format!(":{:04X}", self.deployment.port(service));
        wait_until(&format!("{service:?} is asked"), DEADLINE, || async {
            let connections = fs::read_to_string("/proc/net/tcp").unwrap();
            connections.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words[1].ends_with(&local) && words[3] == "01" && !words[4].ends_with(":00000000")
            })
        })
        .await;
    }

    /// Lets [`Stack::finish`] accept errors in logs that contain this.
    pub(crate) fn expect_error(&mut self, text: &'static str) {
        self.expected_errors.push(text);
    }

    /// The database of the services.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The base address of a service's HTTP port.
    pub(crate) fn url(&self, service: Service) -> String {
        self.deployment.url(service)
    }

    /// Where GitHub's deliveries go.
    pub(crate) fn webhook_url(&self) -> String {
        self.deployment.webhook_url()
    }

    /// What GitHub's deliveries are signed with.
    pub(crate) fn webhook_secret(&self) -> SecretString {
        self.credentials.webhook_secret().unwrap().into()
    }

    /// The keys of launch tokens.
    pub(crate) fn launch_keys(&self) -> &str {
        self.credentials.launch_keys.to_str().unwrap()
    }

    /// The keys by which the agent identifies itself.
    pub(crate) fn agent_keys(&self) -> &str {
        self.credentials.agent_keys.to_str().unwrap()
    }

    /// What opens repo-mapping for administrators.
    pub(crate) fn administrator_token(&self) -> SecretString {
        self.credentials.bearer_token().unwrap().into()
    }

    /// One of token-broker's, for programs.
    pub(crate) fn service_token(&self) -> SecretString {
        self.credentials.service_token().unwrap().into()
    }

    /// The base address of a service's operations port.
    pub(crate) fn operations_url(&self, service: Service) -> String {
        self.deployment.service(service).operations_url()
    }

    /// A client without proxies.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A folder for whatever the test needs, removed with the stack.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    // --- people ---------------------------------------------------------------------------------------------------

    /// [`SLURM_USER`], or a user of the real Slurm, maps these repositories, and no others.
    pub(crate) async fn map(&self, repositories: &[&str]) {
        let user = match self.slurm {
            Some(_) => SLURM_USERS[0],
            None => SLURM_USER,
        };
        let request = self.call(Method::POST, &format!("/repositories/{user}"));
        let answer = request.json(repositories).send().await.unwrap();
        let status = answer.status();
        assert!(
            status.is_success(),
            "{status}: {}",
            answer.text().await.unwrap()
        );
    }

    /// A call of an administrator's to repo-mapping.
    pub(crate) fn call(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.url(Service::RepoMapping));
        let token = self.credentials.bearer_token().unwrap();
        self.http.request(method, url).bearer_auth(token)
    }

    /// A script that ends once the file `name` is in the folder, and the file.
    pub(crate) fn until_there(&self, name: &str) -> (String, PathBuf) {
        let file = self.folder().join(name);
        let script = format!("until [ -e '{}' ]; do sleep 0.05; done", file.display());
        (script, file)
    }

    /// GitHub queues a workflow job in [`REPOSITORY`] that runs this script.
    pub(crate) fn queue(&self, script: &str) -> i64 {
        let new = NewWorkflowJob::of(REPOSITORY, &LABELS).script(script);
        self.github.queue(new).unwrap().id
    }

    /// What the page shows of a build. `None`: not known yet.
    pub(crate) async fn build_detail(&self, id: i64) -> Option<BuildDetail> {
        let request = self.call(Method::GET, &format!("/api/builds/{id}"));
        let answer = request.send().await.unwrap();
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return None;
        }
        Some(answer.error_for_status().unwrap().json().await.unwrap())
    }

    /// Waits until the page shows a build as completed.
    pub(crate) async fn until_completed(&self, id: i64) -> BuildDetail {
        wait_until(&format!("build {id} is completed"), DEADLINE, || async {
            let detail = self.build_detail(id).await;
            match detail {
                Some(detail) if detail.build.state == WorkflowJobState::Completed => Ok(detail),
                other => Err(other.map(|d| (d.build.state, d.build.verdict, d.build.status))),
            }
        })
        .await
    }

    /// Waits until GitHub says that a workflow job has succeeded.
    pub(crate) async fn until_succeeded(&self, id: i64) -> WorkflowJob {
        let job = self
            .github
            .wait_for_status(id, Status::Completed, DEADLINE)
            .await
            .unwrap();
        assert_eq!(
            job.conclusion,
            Some(Conclusion::Success),
            "its output: {}",
            job.output
        );
        job
    }

    /// Waits until a workflow job runs.
    pub(crate) async fn until_in_progress(&self, id: i64) -> WorkflowJob {
        let status = Status::InProgress;
        let job = self.github.wait_for_status(id, status, DEADLINE).await;
        job.unwrap()
    }

    /// Waits until so many runners listen, and answers them by age.
    pub(crate) async fn until_listening(&self, count: usize) -> Vec<Runner> {
        let what = format!("{count} runners listen");
        let listening = self.github.wait_for(&what, DEADLINE, |state| {
            let runners: Vec<Runner> = state
                .runners
                .iter()
                .filter(|runner| runner.listening)
                .cloned()
                .collect();
            (runners.len() == count).then_some(runners)
        });
        listening.await.unwrap()
    }

    // --- what is known --------------------------------------------------------------------------------------------

    /// One value from the database.
    pub(crate) async fn sql<T: FromSqlOwned>(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> T {
        let (client, driver) = connect(&self.database_url).await;
        let row = client.query_one(query, parameters).await;
        drop(client);
        driver.await.unwrap();
        row.unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .get(0)
    }

    /// Changes rows; answers how many.
    pub(crate) async fn execute(&self, statement: &str) -> u64 {
        let (client, driver) = connect(&self.database_url).await;
        let changed = client.execute(statement, &[]).await;
        drop(client);
        driver.await.unwrap();
        changed.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
    }

    /// How many rows a condition on `launches` has.
    pub(crate) async fn launches(&self, condition: &str) -> i64 {
        let query = format!("SELECT count(*) FROM launches WHERE {condition}");
        self.sql(&query, &[]).await
    }

    /// Waits until a condition on `launches` has so many rows.
    pub(crate) async fn until_launches(&self, condition: &str, count: i64) {
        wait_until(
            &format!("{count} launches are {condition}"),
            DEADLINE,
            || async {
                let seen = self.launches(condition).await;
                if seen == count { Ok(()) } else { Err(seen) }
            },
        )
        .await;
    }

    /// Waits until the timeline of a workflow job, or of a launch it caused or whose runner took it, has this kind
    /// of entry.
    pub(crate) async fn until_kind(&self, workflow_job: i64, kind: &str) {
        let query = "SELECT EXISTS (SELECT 1 FROM timeline t \
            LEFT JOIN launches a ON a.id = t.launch_id LEFT JOIN runners r ON r.launch_id = a.id \
            WHERE t.kind = $1 AND $2 IN (t.workflow_job_id, a.workflow_job_id, r.workflow_job_id))";
        wait_until(
            &format!("workflow job {workflow_job} is `{kind}`"),
            DEADLINE,
            || async { self.sql::<bool>(query, &[&kind, &workflow_job]).await },
        )
        .await;
    }

    /// Verdict and reason of a workflow job, once it is known.
    pub(crate) async fn verdict(&self, id: i64) -> Option<(String, String)> {
        let detail = self.build_detail(id).await?;
        Some((
            detail.build.verdict.as_str().to_owned(),
            detail.build.status.why.unwrap_or_default(),
        ))
    }

    /// Waits until a workflow job has this verdict, and answers the reason.
    pub(crate) async fn until_verdict(&self, id: i64, verdict: &str) -> String {
        wait_until(&format!("build {id} is {verdict}"), DEADLINE, || async {
            match self.verdict(id).await {
                Some((seen, reason)) if seen == verdict => Ok(reason),
                other => Err(other),
            }
        })
        .await
    }

    /// The runner of the launch that a workflow job caused.
    pub(crate) async fn runner_caused_by(&self, workflow_job: i64) -> String {
        let query = "SELECT r.name FROM runners r JOIN launches a ON a.id = r.launch_id WHERE a.workflow_job_id = $1";
        self.sql(query, &[&workflow_job]).await
    }

    /// The power of a node fails: every process of its Slurm job is gone at once.
    pub(crate) fn cut_power(&self, slurm_job: &Path) {
        let stat = fs::read_to_string(slurm_job.join("started")).unwrap();
        let session: i32 = stat.split(' ').next().unwrap().parse().unwrap();
        for (id, _) in processes_marked(self.folder().to_str().unwrap()) {
            if session_of(id) == Some(session) {
                let pid = Pid::from_raw(id.cast_signed()).unwrap();
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Counts from now on how many registrations exist at the same time.
    pub(crate) fn watch_registrations(&self) -> Registrations {
        let most = Arc::new(AtomicUsize::new(0));
        let (github, seen) = (self.github.clone(), Arc::clone(&most));
        let task = tokio::spawn(async move {
            let look = |state: &State| -> Option<()> {
                seen.fetch_max(state.runners.len(), Ordering::Relaxed);
                None
            };
            let _ = github.wait_for("the end", Duration::MAX, look).await;
        });
        Registrations { most, task }
    }

    /// What the job scripts printed, by Slurm job.
    pub(crate) fn outputs(&self) -> Vec<String> {
        let output = |job: &PathBuf| fs::read_to_string(job.join("output")).unwrap_or_default();
        self.slurm_jobs().iter().map(output).collect()
    }

    /// Waits until the launcher has acted upon everything that webhook-ingest has published; neither may have been
    /// started again.
    pub(crate) async fn until_events_are_applied(&self) {
        wait_until("every event is applied", DEADLINE, || async {
            let published = self
                .counted(Service::WebhookIngest, "outcome=\"published\"")
                .await;
            let applied = self
                .counted(
                    Service::Launcher,
                    "gha_slurm_events_total{outcome=\"applied\"",
                )
                .await;
            if published > 0.0 && applied >= published {
                Ok(())
            } else {
                Err((applied, published))
            }
        })
        .await;
    }

    /// What a service shows at `/metrics`.
    pub(crate) async fn metrics(&self, service: Service) -> String {
        let operations = self.operations_url(service);
        let answer = self.http.get(format!("{operations}/metrics")).send().await;
        answer.unwrap().text().await.unwrap()
    }

    /// The sum of the metrics of a service whose name and labels contain this.
    pub(crate) async fn counted(&self, service: Service, text: &str) -> f64 {
        let metrics = self.metrics(service).await;
        let lines = metrics.lines().filter(|line| line.contains(text));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until so many deliveries of an action of a workflow job were answered 202, and answers the last.
    pub(crate) async fn until_answered(
        &self,
        workflow_job: i64,
        action: &str,
        count: usize,
    ) -> Delivery {
        let what = format!("{count} deliveries of `{action}` of {workflow_job} are answered");
        let answered = self.github.wait_for(&what, DEADLINE, |state| {
            let mut answered = state.deliveries.iter().filter(|delivery| {
                delivery.workflow_job_id == Some(workflow_job)
                    && delivery.action.as_deref() == Some(action)
                    && delivery.status_code == 202
            });
            answered.nth(count - 1).cloned()
        });
        answered.await.unwrap()
    }

    /// Folders of the Slurm jobs that the local backend has ever had.
    pub(crate) fn slurm_jobs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder().join("agent/local"));
        let mut jobs: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(is_number))
            .collect();
        jobs.sort();
        jobs
    }

    /// Number, state and name of each Slurm job that the real Slurm has, with those that are over, the oldest first.
    pub(crate) async fn queue_of_slurm(&self) -> Vec<(String, String, String)> {
        let words = [
            "--noheader",
            "--states=all",
            "--sort=i",
            "--format=%i %T %j",
        ];
        let listing = self.slurm().run("squeue", &words).await.unwrap();
        let column = |line: &str, n| line.split(' ').nth(n).unwrap_or_default().to_owned();
        let lines = listing.lines();
        lines
            .map(|line| (column(line, 0), column(line, 1), column(line, 2)))
            .collect()
    }

    /// What the job script of this name printed on the real Slurm.
    pub(crate) fn output_on_slurm(&self, name: &str) -> String {
        gha_slurm_test_support::output_of(&self.deployment.output_folder(), name)
    }

    // --- the end --------------------------------------------------------------------------------------------------

    /// Waits until everything has come to rest, stops the services, and says what was left behind.
    pub(crate) async fn finish(mut self) {
        self.until_launches("in_supply", 0).await;
        wait_until("no runner is left at GitHub", DEADLINE, || async {
            let left: Vec<String> = self
                .github
                .state()
                .runners
                .into_iter()
                .map(|r| r.name)
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        wait_until("no Slurm job is left", DEADLINE, || async {
            let running = |job: &PathBuf| !job.join("ended").exists();
            let left: Vec<PathBuf> = self.slurm_jobs().into_iter().filter(running).collect();
            let queued = match &self.slurm {
                Some(slurm) => slurm.run("squeue", &["--noheader"]).await.unwrap(),
                None => String::new(),
            };
            if left.is_empty() && queued.is_empty() {
                Ok(())
            } else {
                Err((left, queued))
            }
        })
        .await;
        for queue in [gha_slurm_amqp::LAUNCHER_QUEUE, gha_slurm_amqp::DEAD_QUEUE] {
            wait_until(&format!("{queue} is empty"), DEADLINE, || async {
                match self.depth(queue).await {
                    0 => Ok(()),
                    left => Err(left),
                }
            })
            .await;
        }
        let running = self.deployment.check();
        running.unwrap_or_else(|error| panic!("{error:#}"));
        if let Some(second) = &mut self.second_launcher {
            second.ask_to_stop();
            let status = second.stop();
            assert!(
                status.is_some_and(|status| status.success()),
                "the second launcher: {status:?}"
            );
        }
        let stopped = self.deployment.stop();
        stopped.unwrap_or_else(|error| panic!("{error:#}"));
        for service in self.deployment.services().chain(&self.second_launcher) {
            let log = service.log();
            let unexpected = |line: &&str| {
                line.contains(" ERROR ") && !self.expected_errors.iter().any(|e| line.contains(e))
            };
            let errors: Vec<&str> = log.lines().filter(unexpected).collect();
            assert!(
                errors.is_empty(),
                "errors in the log of {}: {errors:#?}",
                service.name()
            );
            assert!(
                !log.contains("panicked at"),
                "{} panicked:\n{log}",
                service.name()
            );
        }
        let marked = || processes_marked(self.folder().to_str().unwrap());
        if self.slurm.is_some() {
            // slurmctld calls a Slurm job over before slurmd has ended its processes.
            wait_until("slurmd has ended all processes", DEADLINE, || async {
                let left = marked();
                if left.is_empty() { Ok(()) } else { Err(left) }
            })
            .await;
        }
        let marked = marked();
        assert!(marked.is_empty(), "processes are left: {marked:?}");
        let root = self.deployment.work_root();
        // Slurm may end a job script before it has cleaned up; then the epilog does.
        wait_until("no work directory is left", DEADLINE, || async {
            let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        self.finished = true;
    }

    /// How many messages wait in a queue.
    async fn depth(&self, queue: &str) -> u32 {
        use lapin::options::QueueDeclareOptions;
        use lapin::types::FieldTable;
        let connection = lapin::Connection::connect(
            self.broker.amqp_url(),
            lapin::ConnectionProperties::default(),
        );
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let look = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let declared = channel.queue_declare(queue.into(), look, FieldTable::default());
        let depth = declared.await.unwrap().message_count();
        connection.close(200, "bye".into()).await.unwrap();
        depth
    }

    /// What the logs do not say.
    fn story(&self) -> String {
        let url = self.database_url.clone();
        let timeline = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(timeline(&url))
        });
        let mut text = match timeline.join() {
            Ok(Ok(lines)) => format!("--- timeline:\n{lines}"),
            _ => "--- the timeline cannot be read\n".to_owned(),
        };
        let outputs = self.slurm_jobs().into_iter().map(|job| job.join("output"));
        let on_slurm = fs::read_dir(self.deployment.output_folder())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for path in outputs.chain(on_slurm) {
            let output = fs::read_to_string(&path).unwrap_or_default();
            let _ = write!(text, "--- {}:\n{output}", path.display());
        }
        text
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            eprintln!("{}", self.story());
        }
        // First, so that the agent starts nothing while its Slurm jobs are ended. Shows the end of each log on a panic.
        self.deployment.kill();
        end_processes_in(self.folder.path());
        // A process may have been made while the list was read.
        end_processes_in(self.folder.path());
        self.stop.cancel();
        assert!(self.finished || panicking, "a test must end with finish()");
    }
}

/// How many registrations existed at the same time, at most.
pub(crate) struct Registrations {
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Registrations {
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Registrations {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(DEADLINE)
        .no_proxy()
        // A service may close an idle connection just when it is used again.
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}

async fn connect(url: &str) -> (tokio_postgres::Client, tokio::task::JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let driver = tokio::spawn(async move {
        // Whoever asks sees that the connection is gone.
        let _ = connection.await;
    });
    (client, driver)
}

async fn timeline(url: &str) -> anyhow::Result<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(connection);
    let query = "SELECT concat_ws('  ', to_char(recorded_at, 'HH24:MI:SS.MS'), kind, detail, workflow_job_id, left(launch_id::text, 18)) \
         FROM timeline ORDER BY recorded_at, id";
    let rows = client.query(query, &[]).await?;
    drop(driver);
    Ok(rows.iter().fold(String::new(), |text, row| {
        text + row.get::<_, &str>(0) + "\n"
    }))
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.parse::<u64>().is_ok())
}

/// The session of a process; nothing when it has just ended.
fn session_of(id: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc_pid_stat(5): the name may hold anything, so the fields are counted from its closing parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(3)?.parse().ok()
}
