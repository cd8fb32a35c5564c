//! Outbound mode: the agent calls the launcher, and nobody calls the agent. The relay leads nodes to token-broker.

use std::time::Duration;

use gha_slurm_test_support::wait_until;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::net::TcpStream;

use crate::crashes::{end_leases_of_the_dead, kill_and_restart};
use crate::stack::{DEADLINE, REPOSITORY, Service, SlurmBackend, Stack, by_both};
use crate::zone::Zone;

by_both!(a_cluster_that_accepts_no_connection_builds);

const JOB_SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-job.sh"
);

#[tokio::test]
async fn a_queued_workflow_job_becomes_one_slurm_job_with_one_registration() {
    crate::way::one_build(Stack::builder().outbound()).await;
}

#[tokio::test]
async fn a_build_by_mutual_tls() {
    crate::way::one_build(Stack::builder().outbound().mutual_tls()).await;
}

#[tokio::test]
async fn a_pending_slurm_job_that_is_not_wanted_any_more_is_cancelled() {
    crate::races::pending_and_not_wanted_any_more(Stack::builder().outbound()).await;
}

#[tokio::test]
async fn a_trace_leads_through_the_mailbox() {
    crate::way::one_trace(Stack::builder().outbound()).await;
}

/// The launcher does not ask within the test: what it knows of Slurm, the agent told.
#[tokio::test]
async fn where_slurm_jobs_stand_is_told_at_once() {
    let stack = Stack::builder()
        .outbound()
        .setting(Service::Launcher, "CLUSTER__STATES_INTERVAL_S", "3600")
        .setting(Service::Agent, "SLURM__INTERVAL_S", "1")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let (script, go) = stack.until_there("go");
    let id = stack.queue(&script);
    stack.until_launches("slurm_state = 'running'", 1).await;
    std::fs::write(go, "").unwrap();
    stack.until_succeeded(id).await;
    stack.until_launches("slurm_state = 'completed'", 1).await;
    stack.until_completed(id).await;
    stack.finish().await;
}

/// The job script is a pipe: the agent has a submission in hand until somebody writes into it.
struct Held {
    stack: Stack,
    id: i64,
    pipe: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Held {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("job-script");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let stack = Stack::builder()
            .outbound()
            .setting(Service::Agent, "RUNNER__JOB_SCRIPT", pipe.to_str().unwrap())
            .start()
            .await;
        stack.map(&[REPOSITORY]).await;
        let id = stack.queue("true");
        let held = Self {
            stack,
            id,
            pipe,
            _folder: folder,
        };
        held.until_in_hand().await;
        held
    }

    /// Waits until the agent has written its intent down.
    async fn until_in_hand(&self) {
        let ledger = self.stack.folder().join("agent/launches");
        wait_until("the agent has the submission in hand", DEADLINE, || async {
            std::fs::read_dir(&ledger).is_ok_and(|entries| entries.count() == 1)
        })
        .await;
    }

    /// Lets it go on.
    async fn let_go(&self) {
        let pipe = self.pipe.clone();
        let write = move || {
            // Opening waits for the agent to read.
            std::fs::write(pipe, std::fs::read(JOB_SCRIPT).unwrap()).unwrap();
        };
        tokio::task::spawn_blocking(write).await.unwrap();
    }

    async fn finish(self) {
        self.stack.until_succeeded(self.id).await;
        self.stack.until_completed(self.id).await;
        assert_eq!(self.stack.slurm_jobs().len(), 1, "one Slurm job");
        assert_eq!(self.stack.launches("true").await, 1, "one launch");
        self.stack.finish().await;
    }
}

#[tokio::test]
async fn an_agent_killed_between_poll_and_answer_is_given_the_call_again() {
    let mut held = Held::start().await;
    kill_and_restart(&mut held.stack, Service::Agent).await;
    held.let_go().await;
    // By the same call, not by a later attempt.
    held.stack.until_kind(held.id, "submitted").await;
    let delays = "SELECT count(*) FROM timeline WHERE kind = 'delayed'";
    assert_eq!(held.stack.sql::<i64>(delays, &[]).await, 0);
    held.finish().await;
}

#[tokio::test]
async fn a_launcher_killed_before_the_answer_asks_again_and_gets_the_same_slurm_job() {
    let mut held = Held::start().await;
    kill_and_restart(&mut held.stack, Service::Launcher).await;
    end_leases_of_the_dead(&held.stack, Service::Launcher).await;
    held.let_go().await;
    held.finish().await;
}

#[tokio::test]
async fn a_waiting_poll_outlives_the_death_of_either_side() {
    let mut stack = Stack::builder().outbound().start().await;
    stack.map(&[REPOSITORY]).await;
    for service in [Service::Launcher, Service::Agent] {
        kill_and_restart(&mut stack, service).await;
        let id = stack.queue("true");
        stack.until_succeeded(id).await;
        stack.until_completed(id).await;
    }
    assert_eq!(stack.slurm_jobs().len(), 2);
    stack.finish().await;
}

/// The agent, Slurm and its nodes reach the launcher, token-broker and GitHub, and nothing else; nobody reaches them.
async fn a_cluster_that_accepts_no_connection_builds(by: SlurmBackend) {
    let Some(zone) = Zone::make() else { return };
    let inside = format!("{}:5011", zone.inside);
    let Some(builder) = Stack::builder().zone(zone).on_slurm(by).await else {
        return;
    };
    // The simulator is beyond this machine's loopback, as the services see it, and has no TLS.
    let insecure =
        |builder: crate::stack::Builder, service| builder.setting(service, "INSECURE", "true");
    let builder = Service::ALL.into_iter().fold(builder, insecure);
    let stack = builder
        // As if it were called: to show that it cannot be.
        .setting(Service::Agent, "HTTP__LISTEN", &inside)
        .start()
        .await;
    let zone = stack.zone.as_ref().unwrap();
    let address = |service| stack.url(service).replace("http://", "");
    assert!(zone.reaches(&inside), "it listens");
    let from_outside =
        tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(&inside)).await;
    assert!(
        !matches!(from_outside, Ok(Ok(_))),
        "a launcher that calls the agent would get nowhere"
    );
    for (service, expected) in [
        (Service::Launcher, true),
        (Service::TokenBroker, true),
        (Service::WebhookIngest, false),
        (Service::RepoMapping, false),
    ] {
        assert_eq!(zone.reaches(&address(service)), expected, "{service:?}");
    }

    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("echo hello from the cluster");
    let job = stack.until_succeeded(id).await;
    assert!(
        job.output.contains("hello from the cluster"),
        "{}",
        job.output
    );
    stack.until_completed(id).await;
    assert_eq!(stack.queue_of_slurm().await.len(), 1);

    // Cancelled through the same way.
    stack.github.pause_assignment(true);
    let unwanted = stack.queue("true");
    stack.until_listening(1).await;
    stack.github.cancel(unwanted).unwrap();
    stack.until_launches("cancelled_at IS NOT NULL", 1).await;
    stack.finish().await;
}
