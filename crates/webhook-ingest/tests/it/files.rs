//! The program itself, where it may open few files.

use std::process::{Child, Command, Output, Stdio};

use gha_slurm_test_support::free_port;
use tokio::net::TcpStream;

use crate::*;

/// A process with this limit of open files, soft and hard; dropped, it is killed.
struct Limited {
    child: Option<Child>,
    port: u16,
    operations_port: u16,
}

impl Limited {
    fn start(limit: &str) -> Self {
        let (port, operations_port) = (free_port(), free_port());
        let child = Command::new("sh")
            .args(["-c", "ulimit $0 && exec \"$1\"", limit])
            .arg(env!("CARGO_BIN_EXE_webhook-ingest"))
            .env("WEBHOOK_INGEST__HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env(
                "WEBHOOK_INGEST__OPERATIONS__LISTEN",
                format!("127.0.0.1:{operations_port}"),
            )
            .env("WEBHOOK_INGEST__AMQP__URL", "amqp://127.0.0.1:1/%2f")
            .env("WEBHOOK_INGEST__WEBHOOK__SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            port,
            operations_port,
        }
    }

    async fn until_live(&self) {
        wait_until("it is live", DEADLINE, || async {
            self.is_live().await.then_some(())
        })
        .await;
    }

    async fn is_live(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/health/live", self.operations_port);
        let request = client().get(url).timeout(Duration::from_secs(2));
        request.send().await.is_ok_and(|r| r.status() == 200)
    }

    /// Holds so many connections to its port on which nothing is sent.
    async fn flood(&self, count: usize) -> Vec<TcpStream> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
        }
        held
    }

    fn output(mut self) -> Output {
        let mut child = self.child.take().unwrap();
        let _ = child.kill();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_a_service_files_for_its_own_work() {
    let service = Limited::start("-n 256");
    service.until_live().await;
    let held = service.flood(400).await;
    let files = format!("/proc/{}/fd", service.child.as_ref().unwrap().id());
    for _ in 0..10 {
        assert!(service.is_live().await);
        let open = std::fs::read_dir(&files).unwrap().count();
        assert!(open < 200, "{open} files are open");
    }
    drop(held);
    let log = text(&service.output());
    assert!(log.contains("LimitNOFILE="), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_is_raised() {
    let service = Limited::start("-Sn 256");
    service.until_live().await;
    let held = service.flood(400).await;
    let url = format!("http://127.0.0.1:{}/nowhere", service.port);
    let answer = client().get(url).timeout(Duration::from_secs(5));
    assert_eq!(answer.send().await.unwrap().status(), 404);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_can_serve_nobody_says_why_and_does_not_start() {
    let service = Limited::start("-n 100");
    let id = service.child.as_ref().unwrap().id();
    wait_until("it ends", DEADLINE, || async {
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        state.contains(") Z ").then_some(())
    })
    .await;
    let output = service.output();
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("at most 100 files"), "{said}");
    assert!(said.contains("LimitNOFILE="), "{said}");
}
