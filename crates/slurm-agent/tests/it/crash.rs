//! `kill -9` of the agent at each step: one Slurm job, started once, and the first answer.

use std::time::Duration;

use gha_slurm_test_support::wait_until;
use rustix::process::{Pid, Signal, kill_process};

use crate::DEADLINE;
use crate::agent_fixture::*;

/// Says that it started, then runs until it is told to end.
const RUN: &str = r#"
trap 'echo told >> "$GHA_SLURM_RUNNER_DIR/told"; exit 0' TERM
echo $$ >> "$GHA_SLURM_RUNNER_DIR/starts/$GHA_SLURM_LAUNCH"
while :; do sleep 0.1; done
"#;

fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|s| !s.contains(") Z "))
}

async fn until_gone(pid: Pid) {
    wait_until("the Slurm job is over", DEADLINE, || async {
        (!is_alive(pid)).then_some(())
    })
    .await;
}

/// The job script is a pipe: the agent waits for it between writing its intent and submitting.
#[tokio::test]
async fn killed_between_intent_and_submission_and_between_submission_and_recording() {
    let site = Site::new("");
    let script = site.path("script");
    std::fs::remove_file(&script).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &script,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let claims = claims();
    let request = site.request(&claims);

    let agent = site.agent().await;
    let call = tokio::spawn(agent.ask(&request));
    let intent = until_written(&site.entry(claims.sub)).await;
    agent.kill();
    assert!(call.await.unwrap().is_err(), "there was no answer");
    assert_eq!(site.slurm_jobs(), 0);

    // The next agent finds the intent, and no Slurm job of it.
    let agent = site.agent().await;
    let call = tokio::spawn(agent.ask(&request));
    let text = RUN.to_owned();
    let pipe = script.clone();
    tokio::task::spawn_blocking(move || std::fs::write(pipe, text))
        .await
        .unwrap()
        .unwrap();
    assert!(call.await.unwrap().unwrap().status().is_success());
    let pid = pid_of(&until_written(&site.path("starts").join(claims.sub.to_string())).await);
    agent.kill();

    // The disk as it is after the submission and before its recording: the intent alone.
    std::fs::write(site.entry(claims.sub), intent).unwrap();
    assert!(is_alive(pid), "a Slurm job outlives the agent");
    let agent = site.agent().await;
    assert_eq!(
        agent.start(&request).await,
        "1",
        "found, not submitted again"
    );
    assert_eq!((site.slurm_jobs(), site.starts(claims.sub)), (1, 1));

    // And after the recording.
    agent.kill();
    let agent = site.agent().await;
    assert_eq!(agent.start(&request).await, "1");
    assert_eq!((site.slurm_jobs(), site.starts(claims.sub)), (1, 1));
    agent.stop();
    assert!(is_alive(pid), "a Slurm job outlives a graceful stop, too");
    kill_process(pid, Signal::TERM).unwrap();
    until_gone(pid).await;
}

/// Killed at any moment around a submission.
#[tokio::test]
async fn killed_at_any_moment() {
    let site = Site::new("echo $$ >> \"$GHA_SLURM_RUNNER_DIR/starts/$GHA_SLURM_LAUNCH\"");
    let mut requests = Vec::new();
    for round in 0..25 {
        let agent = site.agent().await;
        let claims = claims();
        let request = site.request(&claims);
        let call = tokio::spawn(agent.ask(&request));
        // The moment is the point of the test: from before the request arrives to after the script started.
        tokio::time::sleep(Duration::from_millis(round)).await;
        agent.kill();
        let first = call.await.unwrap().ok();
        requests.push((claims.sub, request, first.is_some()));
    }
    let agent = site.agent().await;
    for (launch, request, _) in &requests {
        let id = agent.start(request).await;
        assert_eq!(agent.start(request).await, id);
        until_written(&site.path("starts").join(launch.to_string())).await;
        let ended = site.slurm_job(&id).join("ended");
        until_written(&ended).await;
    }
    for (launch, _, _) in &requests {
        assert_eq!(site.starts(*launch), 1);
    }
    assert_eq!(site.slurm_jobs(), requests.len());
    agent.stop();
}

#[tokio::test]
async fn pending_slurm_jobs_start_when_there_is_room_even_after_a_crash() {
    let site = Site::new(RUN).with("LOCAL__MAX_RUNNING", "1");
    let agent = site.agent().await;
    let (first, second) = (claims(), claims());
    agent.start(&site.request(&first)).await;
    let running = pid_of(&until_written(&site.path("starts").join(first.sub.to_string())).await);
    assert_eq!(agent.start(&site.request(&second)).await, "2");
    agent.kill();
    let agent = site.agent().await;
    assert_eq!(site.starts(second.sub), 0, "pending");
    kill_process(running, Signal::TERM).unwrap();
    let running = pid_of(&until_written(&site.path("starts").join(second.sub.to_string())).await);
    assert!(
        !site.slurm_job("2").join("environment.json").exists(),
        "the launch token is on disk only while it is pending"
    );
    agent.stop();
    kill_process(running, Signal::TERM).unwrap();
    until_gone(running).await;
}

#[tokio::test]
async fn children_are_ended_with_the_agent_when_asked_for() {
    let site = Site::new(RUN).with("LOCAL__END_CHILDREN_ON_STOP", "true");
    let agent = site.agent().await;
    let claims = claims();
    agent.start(&site.request(&claims)).await;
    let pid = pid_of(&until_written(&site.path("starts").join(claims.sub.to_string())).await);
    // Also those that an earlier agent started.
    agent.kill();
    let agent = site.agent().await;
    agent.stop();
    assert!(!is_alive(pid));
    assert_eq!(
        std::fs::read_to_string(site.path("told")).unwrap(),
        "told\n",
        "gracefully"
    );
}
