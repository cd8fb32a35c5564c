//! Two launchers, each with an App and a database of its own, against one agent with a limit.

use std::time::{Duration, SystemTime};

use gha_slurm_simulator::model::Status;
use gha_slurm_test_support::{free_port, wait_until};

use crate::stack::{REPOSITORY, Service, Stack};

const MOST: usize = 3;
/// Of each launcher.
const BUILDS: usize = 9;
/// Three at a time, some seconds each; if those that were refused waited half a minute each time, it would be much longer.
const IN_TIME: Duration = Duration::from_secs(90);

#[tokio::test]
async fn two_launchers_share_what_one_agent_allows() {
    // Known beforehand: the agent must know both token-brokers.
    let ports = [free_port(), free_port()];
    let [ours, theirs] = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let with_broker = |url: &str| {
        let listen = url.trim_start_matches("http://");
        Stack::builder()
            .setting(Service::TokenBroker, "HTTP__LISTEN", listen)
            .setting(Service::Launcher, "CLUSTER__TOKEN_URL", url)
            .setting(Service::RepoMapping, "TOKEN_BROKER__URL", url)
    };
    let first = with_broker(&ours)
        .setting(
            Service::Agent,
            "TOKEN_BROKER__URLS",
            &format!("{ours} {theirs}"),
        )
        .setting(Service::Agent, "POLICY__LIVE__TOTAL", &MOST.to_string())
        .setting(Service::Agent, "SLURM__INTERVAL_S", "1")
        .setting(Service::Launcher, "CLUSTER__STATES_INTERVAL_S", "1")
        .setting(Service::Launcher, "RECONCILER__ROWLESS_S", "2")
        .start()
        .await;
    // The agent believes in one key folder; its own agent has nothing to do.
    let keys = first.launch_keys();
    let agent = first.url(Service::Agent);
    let second = with_broker(&theirs)
        .setting(Service::Launcher, "CLUSTER__AGENT_URL", &agent)
        .setting(Service::Launcher, "KEYS__FOLDER", keys)
        .setting(Service::TokenBroker, "KEYS__FOLDER", keys)
        .setting(Service::Launcher, "CLUSTER__STATES_INTERVAL_S", "1")
        .setting(Service::Launcher, "RECONCILER__ROWLESS_S", "2")
        .start()
        .await;
    for stack in [&first, &second] {
        stack.map(&[REPOSITORY]).await;
        for _ in 0..BUILDS {
            stack.queue("sleep 1");
        }
    }
    for stack in [&first, &second] {
        wait_until("every build has run", IN_TIME, || async {
            let state = stack.github.state();
            let open = state.workflow_jobs.iter();
            match open.filter(|job| job.status != Status::Completed).count() {
                0 => Ok(()),
                open => Err(open),
            }
        })
        .await;
        stack.until_launches("in_supply", 0).await;
        assert_eq!(stack.launches("true").await, BUILDS as i64);
    }

    let jobs = first.slurm_jobs();
    assert_eq!(jobs.len(), 2 * BUILDS);
    let at = |job: &std::path::Path, name: &str| -> SystemTime {
        let written = std::fs::metadata(job.join(name)).unwrap();
        written.modified().unwrap()
    };
    wait_until("the last one has ended", IN_TIME, || async {
        jobs.iter().all(|job| job.join("ended").exists())
    })
    .await;
    let spans: Vec<_> = jobs
        .iter()
        .map(|job| (at(job, "slurm-job.json"), at(job, "ended")))
        .collect();
    let live_at = |moment| {
        let live = spans.iter().filter(|(b, e)| (*b..*e).contains(&moment));
        live.count()
    };
    let most = spans.iter().map(|(begin, _)| live_at(*begin)).max();
    assert_eq!(most, Some(MOST), "pending or running at once: {spans:#?}");

    // Some were refused, but not again and again: one asks for all that wait.
    let refused = first.counted(Service::Agent, "outcome=\"limited\"").await;
    assert!((1.0..=50.0).contains(&refused), "{refused} calls");
    // Nobody waited until the other one was through.
    let last = "SELECT max(submitted_at)::text FROM launches";
    let first_of = "SELECT min(submitted_at)::text FROM launches";
    for (one, other) in [(&first, &second), (&second, &first)] {
        let begun: String = one.sql(first_of, &[]).await;
        assert!(begun < other.sql::<String>(last, &[]).await);
    }
    // Each has looked for Slurm jobs without a row several times, and has left the other one's alone.
    for stack in [&first, &second] {
        assert_eq!(stack.launches("slurm_state = 'cancelled'").await, 0);
    }
    second.finish().await;
    first.finish().await;
}
