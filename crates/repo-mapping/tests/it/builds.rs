use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{Happening, Outcome, Phase, SlurmReport};
use gha_slurm_domain::workflow_job::{Decision, Heard};
use gha_slurm_domain::{RepositoryId, SlurmState, WorkflowJob, WorkflowJobFacts, WorkflowJobState};
use gha_slurm_storage::{ScopeLock, classes, repositories, workflow_jobs};
use gha_slurm_test_support::seed::{Seed, facts};
use serde_json::{Value, json};

use crate::support::Service;

async fn build(service: &Service, id: i64) {
    let now = Utc::now();
    let mut conn = service.database.connection().await.unwrap();
    let scope = RepositoryId(1);
    repositories::upsert(&mut conn, scope, None, "acme", "widgets", Some(true), now)
        .await
        .unwrap();
    drop(conn);
    let facts = facts(id, &["self-hosted", "slurm"], Some(now));
    service
        .database
        .in_scope("seed", scope, async |mut lock: ScopeLock<'_>| {
            let heard = Heard {
                facts: facts.clone(),
                state: WorkflowJobState::Queued,
                repository: scope,
                installation: None,
                traceparent: None,
            };
            let learned = WorkflowJob::learn(None, heard, now);
            let waiting = "no Slurm user has mapped this repository yet".to_owned();
            let decided = learned
                .job
                .decided(Decision::WaitingForMapping(waiting), now);
            let (job, _) = decided.unwrap();
            workflow_jobs::save(&mut lock, None, &job, learned.entry.as_slice(), now).await
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_and_their_timelines_are_shown() {
    let service = Service::start().await;
    build(&service, 5).await;
    build(&service, 6).await;
    let list = service.get("/api/builds?limit=1").await;
    assert_eq!(list.body.as_array().unwrap().len(), 1, "{}", list.text);
    let list = service.get("/api/builds").await;
    assert_eq!(list.body[0]["workflowJobId"], 6);
    assert_eq!(
        list.body[0]["repositoryUrl"],
        "https://github.com/acme/widgets"
    );
    let one = service.get("/api/builds/5").await;
    let status = &one.body["build"]["status"];
    assert_eq!(status["stage"], "waiting_for_mapping");
    let why = "No Slurm user has mapped this repository yet.";
    assert_eq!(status["why"], why);
    assert_eq!(one.body["timeline"][0]["kind"], "queued");
    // Nobody's, until somebody maps the repository.
    assert_eq!(service.get("/api/builds?user=alice").await.body, json!([]));
    service.at_github("widgets", 1, true).await;
    service.post("alice", &["acme/widgets"], None).await;
    let mine = service.get("/api/builds?user=alice").await;
    assert_eq!(mine.body.as_array().unwrap().len(), 2);
    assert_eq!(mine.body[0]["slurmUser"], "alice");
}

async fn status(service: &Service, id: i64) -> Value {
    let answer = service.get(&format!("/api/builds/{id}")).await;
    let status = answer.body.pointer("/build/status");
    status.cloned().unwrap_or_default()
}

/// With a repository that alice has mapped.
async fn mapped() -> Service {
    let service = Service::start().await;
    service.at_github("widgets", 1, true).await;
    service.post("alice", &["acme/widgets"], None).await;
    service
}

fn seed(service: &Service) -> Seed<'_> {
    Seed {
        database: &service.database,
        repository: RepositoryId(1),
        user: "alice".parse().unwrap(),
    }
}

/// At every step of its life, a build has one status and a reason for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_says_why_it_waits_and_until_when() {
    let service = mapped().await;
    let seed = seed(&service);
    let now = Utc::now();
    let queued = async |id| {
        let facts = facts(id, &["self-hosted", "slurm"], Some(now));
        seed.queued(&facts, now).await
    };
    let job = queued(5).await;
    assert_eq!(status(&service, 5).await["stage"], "planned");
    let launch = seed.planned(&job, now).await;
    let later = now + TimeDelta::minutes(9);
    let delayed = Happening::Delayed {
        reason: "the Slurm agent cannot be reached".into(),
        is_limit: false,
        next: later,
    };
    seed.happen(launch, delayed, now).await;
    let seen = status(&service, 5).await;
    assert_eq!(
        (&seen["stage"], &seen["why"]),
        (
            &json!("delayed"),
            &json!("The Slurm agent cannot be reached.")
        )
    );
    assert!(seen["expectedAt"].is_string(), "{seen}");
    seed.submitted(launch, Some("41"), now).await;
    let pending = |reason: &str, starts_at| Happening::SlurmReported {
        report: SlurmReport {
            reason: Some(reason.into()),
            starts_at: Some(starts_at),
            ..SlurmReport::new(SlurmState::Pending)
        },
        slurm_job: None,
        exit_code: None,
        ended_at: None,
    };
    seed.happen(launch, pending("Priority", later), now).await;
    let seen = status(&service, 5).await;
    assert_eq!(
        (&seen["stage"], &seen["slurmReason"]),
        (&json!("pending"), &json!("Priority"))
    );
    // The newest guess counts.
    let tomorrow = now + TimeDelta::days(1);
    seed.happen(launch, pending("Priority", tomorrow), now)
        .await;
    let seen: DateTime<Utc> =
        serde_json::from_value(status(&service, 5).await["expectedAt"].clone()).unwrap();
    assert!(
        (seen - tomorrow).abs() < TimeDelta::milliseconds(1),
        "{seen}"
    );
    // A second build of the class, whose own launch is not planned yet, is told of the one on its way.
    queued(6).await;
    seed.happen(launch, pending("PartitionConfig", tomorrow), now)
        .await;
    for id in [5, 6] {
        let seen = status(&service, id).await;
        assert_eq!(seen["stage"], "never_starts", "{id}: {seen}");
        assert!(seen["remedy"].is_string(), "{id}: {seen}");
    }
    seed.registered(launch, "41", "r1", (Some(7), b"hash"), now)
        .await;
    assert_eq!(status(&service, 5).await["stage"], "starting");
    let list = service.get("/api/builds").await;
    assert_eq!(list.body[0]["status"], status(&service, 6).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_node_refused_and_what_is_given_up_are_told_apart() {
    let service = mapped().await;
    let seed = seed(&service);
    let now = Utc::now();
    let facts = facts(5, &["self-hosted", "slurm"], Some(now));
    let job = seed.queued(&facts, now).await;
    let launch = seed.planned(&job, now).await;
    seed.submitted(launch, Some("41"), now).await;
    seed.registered(launch, "41", "r1", (Some(7), b"hash"), now)
        .await;
    seed.attributed(launch, 5, now).await;
    seed.completed(5, now).await;
    let reported = Happening::Progressed {
        phase: Phase::Finished {
            outcome: Outcome::NodeReported {
                reason: "refused_by_policy: forks may not run here".into(),
                exit_code: None,
            },
            log_tail: None,
        },
        at: None,
    };
    seed.happen(launch, reported, now).await;
    let seen = status(&service, 5).await;
    assert_eq!(
        (&seen["stage"], &seen["why"]),
        (&json!("refused_on_node"), &json!("Forks may not run here."))
    );
    // It spent alice's account, whoever has the repository now.
    service.post("alice", &[], None).await;
    service.post("bob", &["acme/widgets"], None).await;
    let list = async |user| service.get(&format!("/api/builds?user={user}")).await.body;
    assert_eq!(list("bob").await, json!([]));
    assert_eq!(list("alice").await[0]["slurmUser"], "alice");

    let facts = WorkflowJobFacts { id: 6, ..facts };
    let job = seed.queued(&facts, now).await;
    let launch = seed.planned(&job, now).await;
    let refused = Happening::Refused {
        words: "Invalid account".into(),
    };
    seed.happen(launch, refused, now).await;
    let stopped = async |why: &str| {
        let set = async |mut lock: ScopeLock<'_>| {
            classes::set_stopped(&mut lock, job.class.unwrap(), Some(why)).await
        };
        let set = service.database.in_scope("seed", seed.repository, set);
        set.await.unwrap();
    };
    stopped("Refused: Invalid account").await;
    let seen = status(&service, 6).await;
    assert_eq!(
        (&seen["stage"], &seen["why"]),
        (&json!("refused"), &json!("Refused: Invalid account."))
    );
    service
        .database
        .in_scope("seed", seed.repository, async |mut lock: ScopeLock<'_>| {
            classes::forgive(&mut lock).await
        })
        .await
        .unwrap();
    stopped("Stopped after 5 failed attempts").await;
    assert_eq!(status(&service, 6).await["stage"], "given_up");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_named() {
    let service = Service::start().await;
    for (path, status, code) in [
        ("/api/builds/99", 404, "build_unknown"),
        ("/api/builds/x", 404, "build_unknown"),
        ("/api/builds?limit=0", 400, "query_invalid"),
        ("/api/builds?user=-rf", 400, "query_invalid"),
        ("/api/builds?colour=red", 400, "query_invalid"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
}
