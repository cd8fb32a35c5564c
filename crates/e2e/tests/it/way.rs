//! The way of one build, from a signed webhook to a finished workflow job.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use gha_slurm_simulator::model::Runner;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::collector::{Collector, Span};
use crate::stack::{Builder, CREATE_JIT, LABELS, REPOSITORY, Service, Stack};

const REGISTRATION_TOKEN: &str = "POST /repos/{owner}/{repo}/actions/runners/registration-token";

#[tokio::test]
async fn a_queued_workflow_job_becomes_one_slurm_job_with_one_registration() {
    one_build(Stack::builder()).await;
}

#[tokio::test]
async fn launcher_and_agent_speak_mutual_tls() {
    one_build(Stack::builder().mutual_tls()).await;
}

/// The cluster's network is only reached through a proxy, which alone knows the agent's name. TLS goes through to the agent.
#[tokio::test]
async fn launcher_and_agent_speak_through_a_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://alice:hunter2@{}", proxy.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let heads = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = proxy.accept().await {
            tokio::spawn(tunnel(client, Arc::clone(&heads)));
        }
    });
    let builder = Stack::builder().mutual_tls().https_proxy(&address);
    one_build(builder).await;
    let asked = asked.lock().unwrap();
    let [to] = &asked.iter().collect::<Vec<_>>()[..] else {
        panic!("{asked:?}");
    };
    assert!(to.starts_with("CONNECT agent.gha-slurm.test:"), "{to}");
}

/// Answers `CONNECT name:port` with a connection to that port of this machine, if the password is right.
async fn tunnel(mut client: TcpStream, asked: Arc<Mutex<BTreeSet<String>>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut client).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    let mut may = false;
    while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
        // alice:hunter2
        may |= line.eq_ignore_ascii_case("proxy-authorization: basic YWxpY2U6aHVudGVyMg==");
    }
    let port = first.split([':', ' ']).nth(2).and_then(|p| p.parse().ok());
    asked.lock().unwrap().insert(first);
    let (Some(port), true) = (port, may) else {
        let no = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(no).await;
    };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

pub(crate) async fn one_build(builder: Builder) {
    let stack = builder.start().await;
    stack.map(&[REPOSITORY]).await;
    stack.github.pause_assignment(true);
    let (script, go) = stack.until_there("go");
    let id = stack.queue(&format!("echo hello from a step; {script}"));
    let runners = stack.until_listening(1).await;
    assert_eq!(labels(&runners[0]), LABELS.into());
    assert!(runners[0].ephemeral && runners[0].just_in_time);
    // The node says so a little later than GitHub.
    stack.until_kind(id, "listening").await;
    stack.github.pause_assignment(false);
    // Or GitHub's `completed` may overtake its `in_progress`.
    stack.until_kind(id, "in_progress").await;
    std::fs::write(go, "").unwrap();
    let job = stack.until_succeeded(id).await;
    assert!(job.output.contains("hello from a step"), "{}", job.output);
    stack.until_kind(id, "finished").await;

    let detail = stack.until_completed(id).await;
    assert_eq!(detail.build.conclusion.as_deref(), Some("success"));
    assert_eq!(detail.build.runner_name, job.runner_name);
    let milestones = [
        "queued",
        "planned",
        "submitted",
        "allocated",
        "registered",
        "listening",
        "in_progress",
        "completed",
    ];
    let kinds: Vec<&str> = detail
        .timeline
        .iter()
        .map(|entry| entry.kind.as_str())
        .filter(|kind| milestones.contains(kind))
        .collect();
    assert_eq!(kinds, milestones);
    let slurm_job_ids: BTreeSet<Option<String>> = detail
        .timeline
        .into_iter()
        .filter(|entry| entry.launch_id.is_some())
        .map(|entry| entry.slurm_job_id)
        .collect();
    assert_eq!(slurm_job_ids, [Some("1".to_owned())].into());
    assert_eq!(stack.launches("true").await, 1);
    assert_eq!(stack.slurm_jobs().len(), 1);
    assert_eq!(stack.github.calls(CREATE_JIT), 1);
    stack.finish().await;
}

#[tokio::test]
async fn one_trace_leads_from_the_webhook_to_the_callback() {
    one_trace(Stack::builder()).await;
}

pub(crate) async fn one_trace(builder: Builder) {
    let collector = Collector::start();
    let stack = builder
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .environment("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    let id = stack.queue("true");
    stack.until_completed(id).await;
    let root = "webhook-ingest request /api/github/webhooks";
    for call in ["/gha/runner", "/gha/runner/progress"] {
        let callback = format!("token-broker request {call}");
        let lineage = collector.until_lineage(&callback, root).await;
        let mut services: Vec<&str> = lineage.iter().map(|span| span.service.as_str()).collect();
        services.dedup();
        assert_eq!(
            services,
            [
                "token-broker",
                "gha-slurm-munge",
                "launcher",
                "webhook-ingest"
            ],
            "{:?}",
            lineage.iter().map(Span::label).collect::<Vec<_>>()
        );
        let traces: BTreeSet<&str> = lineage.iter().map(|span| span.trace.as_str()).collect();
        assert_eq!(traces.len(), 1);
        let delivery = lineage.iter().find(|span| span.name == "delivery").unwrap();
        assert_eq!(delivery.attributes["delivery.event"], "workflow_job");
    }
    stack.finish().await;
}

#[tokio::test]
async fn registration_tokens_serve_several_builds_with_the_same_labels() {
    let stack = Stack::builder()
        .setting(Service::Launcher, "RUNNERS__MODE", "registration")
        .setting(Service::TokenBroker, "RUNNERS__REGISTRATION_TOKENS", "true")
        .start()
        .await;
    stack.map(&[REPOSITORY]).await;
    for _ in 0..2 {
        stack.github.pause_assignment(true);
        let id = stack.queue("true");
        let runners = stack.until_listening(1).await;
        assert_eq!(labels(&runners[0]), LABELS.into());
        assert!(runners[0].ephemeral && !runners[0].just_in_time);
        stack.github.pause_assignment(false);
        stack.until_succeeded(id).await;
        stack.until_completed(id).await;
    }
    assert_eq!(stack.github.calls(REGISTRATION_TOKEN), 1);
    assert_eq!(stack.github.calls(CREATE_JIT), 0);
    assert_eq!(stack.launches("true").await, 2);
    stack.finish().await;
}

fn labels(runner: &Runner) -> BTreeSet<&str> {
    runner
        .labels
        .iter()
        .map(|label| label.name.as_str())
        .collect()
}
