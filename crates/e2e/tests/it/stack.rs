//! A whole deployment of one test's own: every service a process, RabbitMQ and Postgres real, GitHub simulated in this
//! process. [`Stack::finish`] ends each test: it waits until everything has come to rest, and looks for leaks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gha_slurm_auth::KeyFolder;
use gha_slurm_contract::build::{BuildDetail, WorkflowJobState};
use gha_slurm_simulator::model::{Conclusion, Delivery, Runner, State, Status, WorkflowJob};
use gha_slurm_simulator::request::{NewRepository, NewWorkflowJob};
use gha_slurm_simulator::{AppKey, Handle, Simulator};
use gha_slurm_test_support::{
    PrivateSlurm, SLURM_USERS, ServiceProcess, TestBroker, TestCa, TestDatabase, binary,
    end_processes_in, free_port, processes_marked, wait_until,
};
use reqwest::Method;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::zone::Zone;

/// Long enough for a loaded machine; a build takes 2 s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const REPOSITORY: &str = "acme/widgets";
pub(crate) const SLURM_USER: &str = "alice";
/// Labels that the launcher's default settings know.
pub(crate) const LABELS: [&str; 2] = ["self-hosted", "slurm"];
pub(crate) const WEBHOOK_SECRET: &str = "It's a Secret to Everybody";
pub(crate) const CREATE_JIT: &str = "POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig";
const BEARER_TOKEN: &str = "an-administrator";
const APP_ID: u64 = 4242;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What the agent is called where only a proxy knows it.
const AGENT_HOST: &str = "agent.gha-slurm.test";
/// Nobody is there (RFC 5737): only the relay leads nodes to token-broker.
const NOWHERE: &str = "http://192.0.2.1:1";

/// Stacks at once: more would only wait for each other's processors.
static AT_ONCE: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    Semaphore::new(2 * processors)
});
/// One App key for all tests: making one takes a second.
static APP_KEY: LazyLock<String> = LazyLock::new(|| AppKey::generate_private_pem().unwrap());

/// The services, each with the name of its binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    WebhookIngest,
    Launcher,
    TokenBroker,
    RepoMapping,
    Agent,
}

impl Service {
    pub(crate) const ALL: [Self; 5] = [
        Self::WebhookIngest,
        Self::Launcher,
        Self::TokenBroker,
        Self::RepoMapping,
        Self::Agent,
    ];

    fn program(self) -> &'static str {
        match self {
            Self::WebhookIngest => "webhook-ingest",
            Self::Launcher => "launcher",
            Self::TokenBroker => "token-broker",
            Self::RepoMapping => "repo-mapping",
            Self::Agent => "gha-slurm-munge",
        }
    }
}

/// A stack to be, with settings that differ from the usual ones.
#[derive(Default)]
pub(crate) struct Builder {
    settings: Vec<(Service, &'static str, String)>,
    environment: Vec<(&'static str, String)>,
    database_url: Option<String>,
    slurm: Option<(PrivateSlurm, By)>,
    outbound: bool,
    mutual_tls: bool,
    agent_host: Option<&'static str>,
    zone: Option<Zone>,
}

/// How the agent speaks to a real Slurm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `sbatch`, `squeue`, `scancel`.
    Programs,
    /// slurmrestd.
    Rest,
}

/// Each of these scenarios, by Slurm's programs and by slurmrestd.
macro_rules! by_both {
    ($($test:ident),* $(,)?) => {
        mod by_programs { $(#[tokio::test] async fn $test() { super::$test(crate::stack::By::Programs).await; })* }
        mod by_rest { $(#[tokio::test] async fn $test() { super::$test(crate::stack::By::Rest).await; })* }
    };
}
pub(crate) use by_both;

impl Builder {
    /// One setting of one service, named without its prefix, such as `RUNNER__MODE`.
    pub(crate) fn setting(mut self, service: Service, key: &'static str, value: &str) -> Self {
        self.settings.push((service, key, value.to_owned()));
        self
    }

    /// One environment variable of every service.
    pub(crate) fn environment(mut self, key: &'static str, value: &str) -> Self {
        self.environment.push((key, value.to_owned()));
        self
    }

    /// The agent calls the launcher, and has no port but the relay's, through which nodes reach token-broker.
    pub(crate) fn outbound(mut self) -> Self {
        self.outbound = true;
        self
    }

    /// Launcher and agent show each other certificates of a private CA.
    pub(crate) fn mutual_tls(mut self) -> Self {
        self.mutual_tls = true;
        self
    }

    /// In outbound mode, with the agent and the nodes in a network of their own.
    pub(crate) fn zone(mut self, zone: Zone) -> Self {
        self.zone = Some(zone);
        self.outbound()
    }

    /// In this empty database, of a Postgres that the test may kill.
    pub(crate) fn database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// On a real Slurm with two nodes, in the zone if there is one. `None`: that takes root.
    pub(crate) async fn on_slurm(mut self, by: By) -> Option<Self> {
        let starter = self.zone.as_ref().map(Zone::starter).unwrap_or_default();
        self.slurm = Some((PrivateSlurm::for_test_within(2, &starter).await?, by));
        Some(self)
    }

    /// Every call by HTTPS goes through the proxy at this address: the launcher's to the agent, whose name only the proxy knows.
    pub(crate) fn https_proxy(mut self, address: &str) -> Self {
        self.agent_host = Some(AGENT_HOST);
        self.environment("https_proxy", address)
    }

    /// Starts everything at once, waits until all services are ready, and makes the private repository [`REPOSITORY`].
    pub(crate) async fn start(self) -> Stack {
        Stack::build(self).await
    }
}

/// Everything that runs for one test.
pub(crate) struct Stack {
    pub(crate) github: Handle,
    services: BTreeMap<Service, ServiceProcess>,
    http: reqwest::Client,
    ports: Ports,
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
        Builder::default().start().await
    }

    /// For a stack with other settings.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    async fn build(builder: Builder) -> Self {
        let permit = AT_ONCE.acquire().await.unwrap();
        let database = async {
            if let Some(url) = &builder.database_url {
                gha_slurm_storage::run_migrations(url).await.unwrap();
                return (None, url.clone());
            }
            let database = TestDatabase::create().await;
            let url = database.url().to_owned();
            (Some(database), url)
        };
        let ((database, database_url), broker) = tokio::join!(database, TestBroker::create());
        let folder = tempfile::Builder::new()
            .prefix("gha-slurm-e2e-")
            .tempdir()
            .unwrap();
        let files = Files::write(folder.path(), builder.slurm.is_some());

        let ports = Ports::free(builder.zone.as_ref().map_or(LOCALHOST, |zone| zone.outside));
        let mut settings = gha_slurm_simulator::Settings::new(
            APP_ID,
            AppKey::from_pem(APP_KEY.as_bytes()).unwrap(),
        );
        settings.listen = (ports.host, 0).into();
        let simulator = Simulator::build(settings).unwrap();
        let github = simulator.handle();
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));

        github.set_webhook(
            &ports.webhook_url(),
            WEBHOOK_SECRET.to_owned().into(),
            false,
        );
        let urls = Urls {
            github: github.api_url(),
            database: database_url.clone(),
            amqp: broker.amqp_url().to_owned(),
        };
        let mut services: BTreeMap<Service, ServiceProcess> = Service::ALL
            .into_iter()
            .map(|service| (service, process(service, &builder, &files, &ports, &urls)))
            .collect();
        if let Some(zone) = &builder.zone {
            let github = Url::parse(&github.api_url()).unwrap().port().unwrap();
            let port = |service| ports.ports[&service];
            zone.lock(&[port(Service::Launcher), port(Service::TokenBroker), github]);
        }
        for service in services.values_mut() {
            service.spawn().unwrap();
        }
        let mut stack = Self {
            github,
            services,
            http: client(),
            ports,
            database_url,
            folder,
            stop,
            expected_errors: Vec::new(),
            finished: false,
            broker,
            zone: builder.zone,
            slurm: builder.slurm.map(|(slurm, _)| slurm),
            _database: database,
            _permit: permit,
        };
        for service in Service::ALL {
            stack.ready(service).await;
        }
        stack
            .github
            .create_repository(&NewRepository::named(REPOSITORY))
            .unwrap();
        stack
    }

    /// The real Slurm that this stack was built on.
    pub(crate) fn slurm(&self) -> &PrivateSlurm {
        self.slurm.as_ref().unwrap()
    }

    // --- services -------------------------------------------------------------------------------------------------

    /// The process of a service.
    pub(crate) fn service(&mut self, service: Service) -> &mut ServiceProcess {
        self.services.get_mut(&service).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self, service: Service) {
        self.service(service).kill9();
    }

    /// Starts a killed service again, and waits until it is ready.
    pub(crate) async fn restart(&mut self, service: Service) {
        self.service(service).spawn().unwrap();
        self.ready(service).await;
    }

    async fn ready(&mut self, service: Service) {
        let ready = self.service(service).ready().await;
        ready.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// A service no longer gets a processor: what it is asked stays in hand.
    pub(crate) fn freeze(&mut self, service: Service) {
        self.service(service).signal(Signal::STOP);
    }

    /// It goes on.
    pub(crate) fn thaw(&mut self, service: Service) {
        self.service(service).signal(Signal::CONT);
    }

    /// Waits until somebody has sent something to the HTTP port of a frozen service.
    pub(crate) async fn until_asked(&self, service: Service) {
        // Local address and port, remote address and port, state (01: established), and unread bytes, in hexadecimal.
        let local = format!(":{:04X}", self.ports.ports[&service]);
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

    /// The base address of a service's HTTP port.
    pub(crate) fn url(&self, service: Service) -> String {
        self.ports.url(service)
    }

    /// Where GitHub's deliveries go.
    pub(crate) fn webhook_url(&self) -> String {
        self.ports.webhook_url()
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
        self.http.request(method, url).bearer_auth(BEARER_TOKEN)
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
                other => Err(other.map(|d| (d.build.state, d.build.verdict, d.build.reason))),
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
            detail.build.reason.unwrap_or_default(),
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

    /// The sum of the metrics of a service whose name and labels contain this.
    pub(crate) async fn counted(&self, service: Service, text: &str) -> f64 {
        let url = format!("{}/metrics", self.services[&service].operations_url());
        let metrics = self
            .http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
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
        let path = self.folder().join(format!("output/{name}.log"));
        fs::read_to_string(path).unwrap_or_default()
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
        for service in self.services.values_mut() {
            assert!(
                service.is_running(),
                "{} has ended by itself",
                service.name()
            );
            service.ask_to_stop();
        }
        for service in self.services.values_mut() {
            let status = service.stop();
            let name = service.name();
            assert!(
                status.is_some_and(|s| s.success()),
                "{name} stops with {status:?}"
            );
        }
        for service in self.services.values() {
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
        let work = fs::read_dir(self.folder().join("work")).unwrap();
        let left: Vec<_> = work.flatten().collect();
        assert!(left.is_empty(), "work directories are left: {left:?}");
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
        let on_slurm = fs::read_dir(self.folder().join("output"))
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
        // The agent first: nobody shall start anything while its Slurm jobs are ended. Their logs are shown on the way.
        self.services.clear();
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

/// What services are started with.
struct Files {
    folder: PathBuf,
    app_private_key: PathBuf,
    launch_keys: PathBuf,
    agent_keys: PathBuf,
    webhook_secret: PathBuf,
    bearer_token: PathBuf,
}

impl Files {
    fn write(folder: &Path, for_slurm_users: bool) -> Self {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let keys = |name: &str| {
            let keys = folder.join(name);
            let now = chrono::Utc::now().timestamp();
            KeyFolder::new(&keys).generate(now).unwrap();
            keys
        };
        let (launch_keys, agent_keys) = (keys("launch-keys"), keys("agent-keys"));
        let ca = TestCa::new(folder, "ca");
        ca.issue("server", &[AGENT_HOST]);
        ca.issue("caller", &[]);
        fs::create_dir_all(folder.join("runner/bin")).unwrap();
        fs::create_dir_all(folder.join("work")).unwrap();
        fs::create_dir_all(folder.join("logs")).unwrap();
        let runner = folder.join("runner/bin/Runner.Listener");
        if for_slurm_users {
            // They get neither to where it was built nor, without this, to the folder of the test.
            fs::copy(binary("gha-slurm-standin-runner"), runner).unwrap();
            fs::create_dir(folder.join("output")).unwrap();
            for (name, mode) in [("", 0o755), ("work", 0o1777), ("output", 0o1777)] {
                let open = fs::Permissions::from_mode(mode);
                fs::set_permissions(folder.join(name), open).unwrap();
            }
        } else {
            std::os::unix::fs::symlink(binary("gha-slurm-standin-runner"), runner).unwrap();
        }
        Self {
            app_private_key: file("app.private-key.pem", &APP_KEY),
            webhook_secret: file("webhook-secret", WEBHOOK_SECRET),
            bearer_token: file("bearer-token", BEARER_TOKEN),
            launch_keys,
            agent_keys,
            folder: folder.to_owned(),
        }
    }
}

struct Ports {
    host: Ipv4Addr,
    ports: BTreeMap<Service, u16>,
}

impl Ports {
    fn free(host: Ipv4Addr) -> Self {
        let ports = Service::ALL.into_iter().map(|s| (s, free_port())).collect();
        Self { host, ports }
    }

    fn address(&self, service: Service) -> String {
        format!("{}:{}", self.host, self.ports[&service])
    }

    /// Of the agent's relay, beside its nodes.
    fn relay(&self) -> String {
        format!("127.0.0.1:{}", self.ports[&Service::Agent])
    }

    fn url(&self, service: Service) -> String {
        format!("http://{}", self.address(service))
    }

    fn webhook_url(&self) -> String {
        format!("{}/api/github/webhooks", self.url(Service::WebhookIngest))
    }
}

struct Urls {
    github: String,
    database: String,
    amqp: String,
}

fn process(
    service: Service,
    builder: &Builder,
    files: &Files,
    ports: &Ports,
    urls: &Urls,
) -> ServiceProcess {
    let mut process = ServiceProcess::new(service.program(), &files.folder.join("logs"))
        .env("NO_PROXY", format!("127.0.0.1,{}", ports.host))
        .env("NO_COLOR", "1");
    let nobody_calls = match service {
        Service::Launcher => !builder.outbound,
        Service::Agent => builder.outbound,
        _ => false,
    };
    if !nobody_calls {
        process = process.setting("HTTP__LISTEN", ports.address(service));
    }
    let with_github = |process: ServiceProcess| {
        process
            .setting("GITHUB__API_URL", &urls.github)
            .setting("GITHUB__WEB_URL", &urls.github)
            .setting("GITHUB__APP_ID", APP_ID.to_string())
            .setting("GITHUB__PRIVATE_KEY_FILE", &files.app_private_key)
    };
    process = match service {
        Service::WebhookIngest => process
            .setting("AMQP__URL", &urls.amqp)
            .setting("WEBHOOK__SECRET_FILE", &files.webhook_secret),
        Service::Launcher => {
            let process = with_github(process)
                .setting("DATABASE__URL", &urls.database)
                .setting("AMQP__URL", &urls.amqp)
                .setting("DEPLOYMENT__NAME", "e2e")
                .setting("KEYS__FOLDER", &files.launch_keys)
                .setting("CLUSTER__NAME", "local");
            if builder.outbound {
                process
                    .setting("CLUSTER__AGENT_PUBLIC_KEYS", &files.agent_keys)
                    .setting("CLUSTER__TOKEN_URL", NOWHERE)
            } else {
                process
                    .setting("CLUSTER__AGENT_URL", ports.url(Service::Agent))
                    .setting("CLUSTER__TOKEN_URL", ports.url(Service::TokenBroker))
            }
        }
        Service::TokenBroker => with_github(process)
            .setting("DATABASE__URL", &urls.database)
            .setting("DEPLOYMENT__NAME", "e2e")
            .setting("KEYS__FOLDER", &files.launch_keys),
        Service::RepoMapping => with_github(process)
            .setting("DATABASE__URL", &urls.database)
            .setting("ACCESS__TOKENS_FILE", &files.bearer_token),
        Service::Agent => process
            .setting("DEPLOYMENT__NAME", "e2e")
            .setting("CLUSTER__NAME", "local")
            .setting("KEYS__PUBLIC_KEYS", &files.launch_keys)
            .setting("STATE__FOLDER", files.folder.join("agent"))
            .setting("RUNNER__FOLDER", files.folder.join("runner"))
            .setting("RUNNER__WORK_ROOT", files.folder.join("work")),
    };
    match (service, &builder.slurm) {
        (Service::Agent, None) => process = process.setting("SLURM__BACKEND", "local"),
        (Service::Agent, Some((slurm, by))) => process = on_slurm(process, slurm, *by, files),
        (Service::Launcher, Some(_)) => {
            process = process.setting("CLUSTER__STATES_INTERVAL_S", "1");
        }
        _ => {}
    }
    if service == Service::Agent && builder.outbound {
        process = process
            .setting("IDENTITY__KEYS", &files.agent_keys)
            .setting("OUTBOUND__LAUNCHERS", ports.url(Service::Launcher))
            .setting("RELAY__LISTEN", ports.relay())
            .setting("RELAY__PUBLIC_URL", format!("http://{}", ports.relay()))
            .setting("RELAY__UPSTREAM", ports.url(Service::TokenBroker));
    }
    if builder.mutual_tls {
        let (server, caller, way) = if builder.outbound {
            (Service::Launcher, Service::Agent, "OUTBOUND")
        } else {
            (Service::Agent, Service::Launcher, "CLUSTER")
        };
        let pem = |name: &str| files.folder.join(name);
        let mut url = ports.url(server).replace("http:", "https:");
        if let Some(host) = builder.agent_host {
            url = url.replace(&ports.host.to_string(), host);
        }
        if service == server {
            process = process
                .setting("HTTP__TLS__CERTIFICATE", pem("server.pem"))
                .setting("HTTP__TLS__KEY", pem("server.key.pem"))
                .setting("HTTP__TLS__CLIENT_CA", pem("ca.pem"));
        } else if service == caller {
            let address = if builder.outbound {
                "LAUNCHERS"
            } else {
                "AGENT_URL"
            };
            let certificate = format!("{way}__TLS__CLIENT_CERTIFICATE");
            process = process
                .setting(&format!("{way}__{address}"), url)
                .setting(&format!("{way}__TLS__CA_FILE"), pem("ca.pem"))
                .setting(&certificate, pem("caller.pem"))
                .setting(&format!("{way}__TLS__CLIENT_KEY"), pem("caller.key.pem"));
        }
    }
    for (key, value) in &builder.environment {
        process = process.env(key, value);
    }
    for (_, key, value) in builder.settings.iter().filter(|(s, ..)| *s == service) {
        process = process.setting(key, value);
    }
    match &builder.zone {
        Some(zone) if service == Service::Agent => process.within(&zone.starter()),
        _ => process,
    }
}

/// The agent's settings for a real Slurm.
fn on_slurm(agent: ServiceProcess, slurm: &PrivateSlurm, by: By, files: &Files) -> ServiceProcess {
    let output = files.folder.join("output");
    let agent = agent
        .setting("POLICY__MIN_UID", "1")
        .setting("SLURM__INTERVAL_S", "1");
    match by {
        By::Programs => agent
            .setting("SLURM__BACKEND", "sbatch")
            .setting("SBATCH__RUN_AS", "root")
            .setting("SBATCH__CONF", slurm.conf())
            .setting("SBATCH__OUTPUT_FOLDER", output),
        By::Rest => agent
            .setting("SLURM__BACKEND", "slurmrestd")
            .setting("SLURMRESTD__URL", slurm.rest_url())
            .setting("SLURMRESTD__TOKENS", "scontrol")
            .setting("SLURMRESTD__CONF", slurm.conf())
            .setting("SLURMRESTD__SERVICE_USER", "bin")
            .setting("SLURMRESTD__OUTPUT_FOLDER", output),
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
