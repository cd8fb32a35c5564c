//! Schedules of faults beneath a stream of builds: nothing may be lost, doubled, leaked or stuck. `make test-faults` runs all of
//! them and prints what docs/reliability.md keeps; `make test` the short one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gha_slurm_simulator::model::{Conclusion, Status, WorkflowJob};
use gha_slurm_simulator::request::{RestEffect, RestFault, WebhookEffect, WebhookFault};
use gha_slurm_test_support::{
    Folder, Middleman, PrivatePostgres, PrivateRabbitMq, free_port, try_wait_until,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::stack::{Builder, REPOSITORY, Service, SlurmBackend, Stack};

/// Between two builds of a short schedule.
const PACE: Duration = Duration::from_millis(750);
/// The same where builds are queued for long.
const SLOW_PACE: Duration = Duration::from_secs(3);
/// A build that has not ended so long after the last fault is lost or stuck. What Slurm could not start because its node had failed waits
/// for two minutes.
const RECOVERY: Duration = Duration::from_secs(300);
/// How long what is frozen, silent, full or away stays so.
const FAULT: Duration = Duration::from_secs(10);
/// The same of a database that goes silent: longer than the services wait for it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a node takes to boot. Of what started less than 15 s before, slurmctld believes that it still starts.
const BOOT: Duration = Duration::from_secs(30);
/// Calls of one route that a fault of GitHub's hits, at most.
const ALL: u32 = 100_000;
/// Megabytes that a Postgres has whose disk runs full.
const DISK_MB: u32 = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9`; started again at once.
    Kill(Service),
    /// All at once.
    KillAll,
    /// No processor for [`FAULT`].
    Freeze(Service),
    /// For [`FAULT`], one webhook in five fails, and one comes twice.
    Webhooks,
    /// For [`FAULT`], every call is answered 502.
    GithubRefuses,
    /// For [`FAULT`], every call takes 20 s: longer than anybody waits.
    GithubHangs,
    /// RabbitMQ closes every connection.
    RabbitMqCloses,
    /// `kill -9`, and started again after [`FAULT`].
    RabbitMqDies,
    /// `kill -9`, and started again after [`FAULT`].
    PostgresDies,
    /// For [`SILENCE`], nothing passes, and connections stay open.
    PostgresIsSilent,
    /// Its disk is full for [`FAULT`].
    PostgresIsFull,
    /// slurmctld is away for [`FAULT`].
    SlurmIsAway,
    /// slurmrestd is away for [`FAULT`].
    SlurmrestdIsAway,
    /// A power cut of this compute node (1 is the first), which has booted again after [`BOOT`].
    NodeFails(u16),
}

impl Fault {
    /// How long it lasts. What is killed is started again at once.
    fn length(self) -> Duration {
        match self {
            Self::Kill(_) | Self::KillAll | Self::RabbitMqCloses => Duration::ZERO,
            Self::PostgresIsSilent => SILENCE,
            Self::NodeFails(_) => BOOT,
            _ => FAULT,
        }
    }

    /// Whether GitHub, Postgres or RabbitMQ would be in two states at once.
    fn excludes(self, other: Self) -> bool {
        let server = |fault| match fault {
            Self::Webhooks | Self::GithubRefuses | Self::GithubHangs => 1,
            Self::RabbitMqCloses | Self::RabbitMqDies => 2,
            Self::PostgresDies | Self::PostgresIsSilent | Self::PostgresIsFull => 3,
            Self::SlurmIsAway | Self::SlurmrestdIsAway => 4,
            Self::Kill(_) | Self::KillAll | Self::Freeze(_) => 5,
            Self::NodeFails(_) => 6,
        };
        server(self) == server(other)
    }
}

const KILLS: [Fault; 6] = [
    Fault::Kill(Service::WebhookIngest),
    Fault::Kill(Service::Launcher),
    Fault::Kill(Service::TokenBroker),
    Fault::Kill(Service::RepoMapping),
    Fault::Kill(Service::Agent),
    Fault::KillAll,
];
const FREEZES: [Fault; 4] = [
    Fault::Freeze(Service::WebhookIngest),
    Fault::Freeze(Service::Launcher),
    Fault::Freeze(Service::TokenBroker),
    Fault::Freeze(Service::Agent),
];
const ON_SLURM: [Fault; 3] = [
    Fault::Kill(Service::Agent),
    Fault::SlurmIsAway,
    Fault::Kill(Service::Launcher),
];
const BY_REST: [Fault; 4] = [
    Fault::SlurmrestdIsAway,
    Fault::Kill(Service::Agent),
    Fault::SlurmIsAway,
    Fault::Kill(Service::Launcher),
];
const OUTBOUND: [Fault; 5] = [
    Fault::Kill(Service::Agent),
    Fault::Kill(Service::Launcher),
    Fault::Freeze(Service::Launcher),
    Fault::Freeze(Service::Agent),
    Fault::Kill(Service::TokenBroker),
];

/// What may happen at random, on Slurm.
const ANY: [Fault; 19] = [
    Fault::Kill(Service::WebhookIngest),
    Fault::Kill(Service::Launcher),
    Fault::Kill(Service::TokenBroker),
    Fault::Kill(Service::RepoMapping),
    Fault::Kill(Service::Agent),
    Fault::KillAll,
    Fault::Freeze(Service::WebhookIngest),
    Fault::Freeze(Service::Launcher),
    Fault::Freeze(Service::TokenBroker),
    Fault::Freeze(Service::Agent),
    Fault::Webhooks,
    Fault::GithubRefuses,
    Fault::GithubHangs,
    Fault::RabbitMqCloses,
    Fault::RabbitMqDies,
    Fault::PostgresDies,
    Fault::PostgresIsSilent,
    Fault::SlurmIsAway,
    Fault::NodeFails(1),
];

// Several threads, since what ends a stack blocks one, and the way to Postgres is in this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_schedule() {
    let faults = [Fault::Webhooks, Fault::KillAll, Fault::RabbitMqCloses];
    let builder = Stack::builder().setting(Service::Launcher, "RECONCILER__DELIVERIES_S", "2");
    run("short", builder, &one_by_one(&faults)).await;
}

/// What the others cost is more than this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn no_faults() {
    let mut stream = Stream::start(Stack::builder(), false, PACE * 2).await;
    stream.flow(PACE * 200).await;
    stream.end("no faults", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn every_service_is_killed() {
    run(
        "every service killed, then all at once",
        Stack::builder(),
        &one_by_one(&KILLS),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn every_service_is_frozen() {
    run(
        "services frozen for 10 s",
        Stack::builder(),
        &one_by_one(&FREEZES),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn webhooks_are_lost_and_doubled() {
    let faults = [Fault::Webhooks, Fault::RabbitMqCloses];
    run(
        "20 % of webhooks lost, 20 % doubled; RabbitMQ closes connections",
        Stack::builder(),
        &one_by_one(&faults),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn github_refuses_and_hangs() {
    let faults = [Fault::GithubRefuses, Fault::GithubHangs];
    run(
        "GitHub refuses for 10 s, and hangs for 10 s",
        Stack::builder(),
        &one_by_one(&faults),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn postgres_dies_and_goes_silent() {
    let faults = [Fault::PostgresDies, Fault::PostgresIsSilent];
    run(
        "Postgres killed for 10 s, and silent for 30 s",
        Stack::builder(),
        &one_by_one(&faults),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn the_disk_of_postgres_runs_full() {
    run(
        "Postgres' disk full for 10 s",
        Stack::builder(),
        &one_by_one(&[Fault::PostgresIsFull]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn slurm_goes_away_by_programs() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Sbatch).await else {
        return;
    };
    run(
        "sbatch: agent killed, slurmctld away for 10 s, launcher killed",
        builder,
        &one_by_one(&ON_SLURM),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn slurm_goes_away_by_rest() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Slurmrestd).await else {
        return;
    };
    run(
        "slurmrestd: slurmrestd away, agent killed, slurmctld away, launcher killed",
        builder,
        &one_by_one(&BY_REST),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn a_node_fails() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Sbatch).await else {
        return;
    };
    let mut stream = Stream::start(builder, false, PACE * 2).await;
    // Longer than usual, so that some are always at work.
    stream.script = "sleep 5".to_owned();
    let schedule: [&[Fault]; 2] = [
        &[Fault::NodeFails(1)],
        &[
            Fault::NodeFails(2),
            Fault::Kill(Service::Agent),
            Fault::Kill(Service::Launcher),
        ],
    ];
    for (node, together) in (1..).zip(schedule) {
        stream.until_node_works(node).await;
        stream.happen(together).await;
    }
    let name = "a node fails for 30 s; the other one, with agent and launcher killed";
    stream.end(name, schedule.concat().len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn outbound_mode() {
    run(
        "outbound: agent, launcher and token-broker killed, agent and launcher frozen",
        Stack::builder().outbound(),
        &one_by_one(&OUTBOUND),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn outbound_mode_on_slurm() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Sbatch).await else {
        return;
    };
    let faults = [OUTBOUND.as_slice(), &[Fault::SlurmIsAway]].concat();
    run(
        "outbound on Slurm: the same, and slurmctld away",
        builder.outbound(),
        &one_by_one(&faults),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn rabbitmq_dies() {
    run(
        "RabbitMQ killed for 10 s; killed with webhook-ingest and launcher",
        Stack::builder(),
        &[
            &[Fault::RabbitMqDies],
            &[
                Fault::RabbitMqDies,
                Fault::Kill(Service::WebhookIngest),
                Fault::Kill(Service::Launcher),
            ],
        ],
    )
    .await;
}

/// GitHub refuses what an App signs more than a minute ahead, so that no clock may be further ahead of GitHub's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn two_launchers_and_clocks_that_differ() {
    let (behind, ahead) = ("-45s", "+45s");
    let builder = Stack::builder()
        .through(Service::Launcher, clock(behind))
        .through(Service::TokenBroker, clock(ahead));
    let faults: Vec<&[Fault]> = vec![
        &[Fault::Kill(Service::Launcher)],
        &[Fault::Freeze(Service::Launcher)],
        &[Fault::Webhooks],
    ];
    let mut stream = Stream::start(builder, false, PACE).await;
    stream.stack.start_second_launcher(&clock(ahead)).await;
    let name =
        "two launchers, their clocks 90 s apart: one killed, frozen; webhooks lost and doubled";
    stream.run(name, &faults).await;
}

/// For `FAULTS_MINUTES` (default: 2), 20 builds a minute, and one to three faults at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-faults"]
async fn random_faults() {
    let Some(builder) = Stack::builder().on_slurm(SlurmBackend::Sbatch).await else {
        return;
    };
    let number = |key, default| match std::env::var_os(key) {
        Some(text) => text.to_str().unwrap().parse().unwrap(),
        None => default,
    };
    let minutes = number("FAULTS_MINUTES", 2);
    let seed = number("FAULTS_SEED", fastrand::u64(..));
    println!("FAULTS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = Stream::start(builder, false, SLOW_PACE).await;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut count = 0;
    while Instant::now() < end {
        stream.flow(Duration::from_secs(random.u64(1..=20))).await;
        let mut faults: Vec<Fault> = Vec::new();
        let many = random.usize(1..=3);
        for fault in random.choose_multiple(ANY, many) {
            if !faults.iter().any(|other| other.excludes(fault)) {
                faults.push(fault);
            }
        }
        count += faults.len();
        println!("{} builds, now {faults:?}", stream.builds.len());
        stream.happen(&faults).await;
    }
    stream
        .end(
            &format!("{minutes} min of random faults, up to three at a time, on Slurm"),
            count,
        )
        .await;
}

/// What starts a service whose clock is ahead or behind by so much.
fn clock(offset: &str) -> Vec<String> {
    // A folder per architecture.
    let libraries = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = libraries
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.is_file())
        .unwrap_or_else(|| {
            panic!("libfaketime is missing: run scripts/packages.sh, or apt-get install faketime")
        });
    let library = library.display();
    [
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME={offset}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
    .into()
}

/// What a schedule needs beside the stack.
struct Surroundings {
    rabbitmq: Arc<PrivateRabbitMq>,
    postgres: PrivatePostgres,
    middleman: Middleman,
    /// Where Postgres has its data, and what fills it.
    disk: Option<Disk>,
}

/// A small file system of memory; takes root.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_MB}m");
        let target = folder.path().to_str().unwrap();
        let words = ["-t", "tmpfs", "-o", &size, "tmpfs", target];
        let mounted = Command::new("mount").args(words).status().unwrap();
        assert!(mounted.success(), "mount: {mounted}");
        Self { folder }
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        let zeros = vec![0; 1 << 16];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

impl Surroundings {
    async fn start(needs_disk: bool) -> Self {
        let disk = needs_disk.then(Disk::mount);
        let postgres = match &disk {
            None => PrivatePostgres::start().await,
            Some(disk) => {
                let folder = Folder::kept(&disk.folder.path().join("postgres")).unwrap();
                PrivatePostgres::open(folder, free_port(), false)
                    .await
                    .unwrap()
            }
        };
        let url = postgres.database("e2e").await.unwrap();
        let middleman = Middleman::before(&url).await.unwrap();
        Self {
            rabbitmq: Arc::new(PrivateRabbitMq::start().await),
            postgres,
            middleman,
            disk,
        }
    }

    /// The URL of the services' database.
    fn database_url(&self) -> String {
        self.middleman.through(&self.postgres.url("e2e")).unwrap()
    }

    async fn postgres_is_there(&self) -> bool {
        let url: url::Url = self.postgres.url("e2e").parse().unwrap();
        TcpStream::connect(("127.0.0.1", url.port().unwrap()))
            .await
            .is_ok()
    }
}

/// A stream of builds, a fault after the other beneath it, and what came of it.
struct Stream {
    stack: Stack,
    around: Surroundings,
    builds: Vec<i64>,
    /// Numbers of the Slurm jobs that were ever seen: Slurm forgets those that have been over for five minutes (slurm.conf(5), `MinJobAge`).
    slurm_jobs: BTreeSet<String>,
    /// Numbers of those that ran on a node when it failed.
    failed_slurm_jobs: BTreeSet<String>,
    /// What a build runs.
    script: String,
    /// Between two builds.
    pace: Duration,
    next: Instant,
    /// One webhook in five is lost, one doubled.
    are_webhooks_faulty: bool,
}

fn one_by_one(faults: &[Fault]) -> Vec<&[Fault]> {
    faults.chunks(1).collect()
}

/// Runs a schedule of what happens together, and prints a row of the table in docs/reliability.md.
async fn run(name: &str, builder: Builder, faults: &[&[Fault]]) {
    let needs_disk = faults
        .iter()
        .any(|together| together.contains(&Fault::PostgresIsFull));
    if needs_disk && !rustix::process::geteuid().is_root() {
        gha_slurm_test_support::skip("only root can mount a file system");
        return;
    }
    let stream = Stream::start(builder, needs_disk, PACE).await;
    Box::pin(stream.run(name, faults)).await;
}

impl Stream {
    async fn start(builder: Builder, needs_disk: bool, pace: Duration) -> Self {
        let around = Surroundings::start(needs_disk).await;
        let builder = builder
            .database(&around.database_url())
            .broker(&around.rabbitmq);
        let stack = builder.start().await;
        stack.map(&[REPOSITORY]).await;
        Self {
            stack,
            around,
            builds: Vec::new(),
            slurm_jobs: BTreeSet::new(),
            failed_slurm_jobs: BTreeSet::new(),
            script: "sleep 0.3".to_owned(),
            pace,
            next: Instant::now(),
            are_webhooks_faulty: false,
        }
    }

    async fn run(mut self, name: &str, faults: &[&[Fault]]) {
        for together in faults {
            self.flow(self.pace * 2).await;
            self.happen(together).await;
        }
        self.end(name, faults.iter().map(|together| together.len()).sum())
            .await;
    }

    /// After the last fault.
    async fn end(mut self, name: &str, faults: usize) {
        self.flow(self.pace * 2).await;
        let recovery = self.recover().await;
        let row = self.row(name, faults, recovery).await;
        self.finish(&row).await;
    }

    /// Builds are queued for so long.
    async fn flow(&mut self, length: Duration) {
        let end = Instant::now() + length;
        while self.next < end {
            tokio::time::sleep_until(self.next).await;
            self.queue();
            self.next = Instant::now() + self.pace;
        }
        tokio::time::sleep_until(end).await;
    }

    /// Builds are queued until a runner on this node is at work.
    async fn until_node_works(&mut self, node: u16) {
        let deadline = Instant::now() + RECOVERY;
        let node = format!("--nodelist=n{node}");
        let words = ["--noheader", "--states=running", &node, "--format=%j"];
        loop {
            let running = self.stack.slurm().run("squeue", &words).await.unwrap();
            let runners = self.not(|job| job.status != Status::InProgress);
            let mut runners = runners.iter().filter_map(|job| job.runner_name.as_deref());
            if runners.any(|name| running.lines().any(|job| job == name)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "no build runs on {node}: {running}"
            );
            self.flow(self.pace).await;
        }
    }

    fn queue(&mut self) {
        let effect = match self.builds.len() % 5 {
            1 => Some(WebhookEffect::Fail),
            3 => Some(WebhookEffect::Double),
            _ => None,
        };
        if let Some(effect) = effect.filter(|_| self.are_webhooks_faulty) {
            for action in ["queued", "in_progress", "completed"] {
                let fault = WebhookFault::on(action, effect.clone());
                self.stack.github.add_webhook_fault(fault);
            }
        }
        self.builds.push(self.stack.queue(&self.script));
    }

    /// Faults begin together, and end, each after its time.
    async fn happen(&mut self, together: &[Fault]) {
        self.look_at_slurm().await;
        for fault in together {
            self.begin(*fault).await;
        }
        let mut ends = together.to_vec();
        ends.sort_by_key(|fault| fault.length());
        let start = Instant::now();
        for fault in &ends {
            self.flow(fault.length().saturating_sub(start.elapsed()))
                .await;
            self.end_of(*fault).await;
        }
        self.until_services_are_ready().await;
    }

    async fn begin(&mut self, fault: Fault) {
        let stack = &mut self.stack;
        match fault {
            Fault::Kill(service) => stack.kill9_and_spawn(&[service]),
            Fault::KillAll => stack.kill9_and_spawn(&Service::ALL),
            Fault::Freeze(service) => stack.freeze(service),
            Fault::Webhooks => self.are_webhooks_faulty = true,
            Fault::GithubRefuses => self.github_is(RestEffect::Answer {
                status: 502,
                headers: BTreeMap::new(),
                message: None,
            }),
            Fault::GithubHangs => self.github_is(RestEffect::DelayMs(20_000)),
            Fault::RabbitMqCloses => stack.broker.close_connections().await,
            Fault::RabbitMqDies => self.around.rabbitmq.kill9().await,
            Fault::PostgresDies => self.around.postgres.kill9().await,
            Fault::PostgresIsSilent => self.around.middleman.silence(),
            Fault::PostgresIsFull => self.around.disk.as_ref().unwrap().fill(),
            Fault::SlurmIsAway => stack.slurm().stop_controller(),
            Fault::SlurmrestdIsAway => stack.slurm().stop_rest(),
            Fault::NodeFails(node) => {
                let with_it = stack.slurm().cut_power(node);
                self.failed_slurm_jobs.extend(with_it);
            }
        }
    }

    async fn end_of(&mut self, fault: Fault) {
        let stack = &mut self.stack;
        match fault {
            Fault::Kill(_) | Fault::KillAll | Fault::RabbitMqCloses => {}
            Fault::Freeze(service) => stack.thaw(service),
            Fault::Webhooks => {
                self.are_webhooks_faulty = false;
                stack.github.clear_webhook_faults();
            }
            Fault::GithubRefuses | Fault::GithubHangs => stack.github.clear_rest_faults(),
            Fault::RabbitMqDies => self.around.rabbitmq.restart().await,
            Fault::PostgresDies => self.around.postgres.restart().await,
            Fault::PostgresIsSilent => self.around.middleman.speak(),
            Fault::PostgresIsFull => {
                self.around.disk.as_ref().unwrap().free();
                // It ends itself where its log of changes does not fit; an administrator starts it again.
                if !self.around.postgres_is_there().await {
                    self.around.postgres.restart().await;
                }
            }
            Fault::SlurmIsAway => stack.slurm().start_controller().await.unwrap(),
            Fault::SlurmrestdIsAway => stack.slurm().start_rest().unwrap(),
            Fault::NodeFails(node) => stack.slurm().boot_node(node).unwrap(),
        }
    }

    /// What ended because a server was away is started again, as systemd does.
    async fn until_services_are_ready(&mut self) {
        for service in Service::ALL {
            let process = self.stack.service(service);
            if !process.is_running() {
                process.spawn().unwrap();
            }
            process
                .ready()
                .await
                .unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    fn github_is(&self, effect: RestEffect) {
        let fault = RestFault {
            route: None,
            times: ALL,
            effect,
        };
        self.stack.github.add_rest_fault(fault);
    }

    /// The builds of which this is not true at GitHub.
    fn not(&self, wanted: impl Fn(&WorkflowJob) -> bool) -> Vec<WorkflowJob> {
        let mut jobs = self.stack.github.state().workflow_jobs;
        jobs.retain(|job| self.builds.contains(&job.id) && !wanted(job));
        jobs
    }

    /// How many of these builds failed because the node of their runner did: GitHub queues no workflow job again that had started.
    async fn failed_with_node(&self, builds: &[WorkflowJob]) -> usize {
        let failed = |job: &&WorkflowJob| job.conclusion == Some(Conclusion::Failure);
        let runners = builds
            .iter()
            .filter(failed)
            .filter_map(|job| job.runner_name.as_deref());
        let runners: Vec<&str> = runners.collect();
        let slurm_jobs: Vec<&str> = self.failed_slurm_jobs.iter().map(String::as_str).collect();
        let query = "SELECT count(*) FROM runners JOIN launches ON launches.id = launch_id \
            WHERE name = ANY($1) AND launches.slurm_job_id = ANY($2)";
        let count: i64 = self.stack.sql(query, &[&runners, &slurm_jobs]).await;
        usize::try_from(count).unwrap()
    }

    /// Launches that are supply, and registrations at GitHub.
    async fn left_behind(&self) -> usize {
        let supply = self.stack.launches("in_supply").await;
        usize::try_from(supply).unwrap() + self.stack.github.state().runners.len()
    }

    /// Waits until every build is over, and the services know; answers how long that took after the last fault.
    async fn recover(&self) -> Duration {
        let start = Instant::now();
        let all = try_wait_until("every build is over", RECOVERY, || async {
            match self.not(|job| job.status == Status::Completed).len() {
                0 => Ok(()),
                open => Err(open),
            }
        });
        if all.await.is_ok() {
            for id in &self.builds {
                self.stack.until_completed(*id).await;
            }
        }
        start.elapsed()
    }

    async fn look_at_slurm(&mut self) {
        if self.stack.has_slurm() {
            let queue = self.stack.queue_of_slurm().await;
            self.slurm_jobs
                .extend(queue.into_iter().map(|(number, ..)| number));
        }
    }

    /// Waits for rest, and answers what came of it all.
    async fn row(&mut self, name: &str, faults: usize, recovery: Duration) -> Row {
        let rest = try_wait_until("nothing is left", RECOVERY, || async {
            match self.left_behind().await {
                0 => Ok(()),
                left => Err(left),
            }
        });
        let leaked = if rest.await.is_ok() {
            0
        } else {
            self.left_behind().await
        };
        self.look_at_slurm().await;
        let slurm_jobs = if self.stack.has_slurm() {
            self.slurm_jobs.len()
        } else {
            self.stack.slurm_jobs().len()
        };
        let known = self.stack.launches("slurm_job_id IS NOT NULL").await;
        let unsuccessful = self.not(|job| job.conclusion == Some(Conclusion::Success));
        let failed = self.failed_with_node(&unsuccessful).await;
        Row {
            name: name.to_owned(),
            builds: self.builds.len(),
            faults,
            failed,
            lost: unsuccessful.len() - failed,
            doubled: i64::try_from(slurm_jobs).unwrap() - known,
            leaked,
            launches: self.stack.launches("true").await,
            recovery,
            calls: self.stack.github.state().calls,
        }
    }

    /// Prints the row, judges it, and looks for what else was left behind.
    #[expect(clippy::print_stdout, reason = "a table for people")]
    async fn finish(mut self, row: &Row) {
        println!("{row}");
        for (route, calls) in &row.calls {
            println!("{calls:6} {route}");
        }
        let github = &self.stack.github;
        let installations = github.state().installations;
        let used: u64 = installations.iter().map(|at| github.used(at.id)).sum();
        println!(
            "{used:6} of the installation's rate limit: 304 is free, and so is what the App calls as itself"
        );
        assert_eq!((row.lost, row.doubled, row.leaked), (0, 0, 0), "{row}");
        // Whatever a service says of a fault.
        self.stack.expect_error("");
        self.stack.finish().await;
    }
}

/// A row of the table in docs/reliability.md.
struct Row {
    name: String,
    builds: usize,
    faults: usize,
    failed: usize,
    lost: usize,
    doubled: i64,
    leaked: usize,
    launches: i64,
    recovery: Duration,
    /// By route.
    calls: BTreeMap<String, u64>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            builds,
            faults,
            failed,
            lost,
            doubled,
            leaked,
            launches,
            recovery,
            calls,
        } = self;
        let recovery = recovery.as_secs_f64();
        let calls = calls.values().sum::<u64>() as f64 / *builds as f64;
        write!(
            f,
            "| {name} | {builds} | {faults} | {failed} | {lost} | {doubled} | {leaked} | {launches} | {recovery:.1} s | {calls:.2} |"
        )
    }
}
