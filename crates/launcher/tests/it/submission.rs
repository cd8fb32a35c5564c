use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use gha_slurm_auth::{KeyFolder, Signer, verify};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{CallClaims, CallPurpose, StatesRequest};
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, StartRequest};
use gha_slurm_contract::outbound::CallAnswer;
use gha_slurm_domain::Clock;
use gha_slurm_domain::launch::RunnerMode;
use gha_slurm_github::Github;
use gha_slurm_launcher::agent::Agent;
use gha_slurm_launcher::inquiry::Inquiry;
use gha_slurm_launcher::mailbox::Mailbox;
use gha_slurm_launcher::settings::{ClusterSettings, DeploymentSettings};
use gha_slurm_launcher::slurm_jobs::NodeWaits;
use gha_slurm_launcher::submission;
use gha_slurm_launcher::submitter::Submitter;
use gha_slurm_service_kit::tls::ClientTlsSettings;
use gha_slurm_storage::launches::Weights;
use gha_slurm_test_support::{TestDatabase, wait_until};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::*;

const DEADLINE: Duration = Duration::from_secs(20);
const LAUNCHER: uuid::Uuid = uuid::Uuid::from_u128(7);

pub(crate) struct Loop {
    _keys: tempfile::TempDir,
    folder: KeyFolder,
    submitter: Arc<Submitter>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _bridged: DropGuard,
}

impl Loop {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// How calls get to the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Direct,
    /// The agent asks for them.
    Outbound,
}

/// Each test, both ways.
macro_rules! both_ways {
    ($($test:ident),* $(,)?) => {
        mod direct { $(#[tokio::test] async fn $test() { super::$test(super::Way::Direct).await; })* }
        mod outbound { $(#[tokio::test] async fn $test() { super::$test(super::Way::Outbound).await; })* }
    };
}

both_ways!(
    a_planned_launch_is_signed_and_submitted_once,
    a_cluster_that_is_down_delays_and_the_reason_is_kept,
    a_refusal_is_final_until_the_mapping_changes,
    a_withdrawn_slurm_job_is_cancelled_by_a_signed_call,
    what_slurm_lost_before_a_workflow_job_started_is_replaced,
    a_refusal_is_forgiven_when_the_clusters_policy_changes,
    an_original_agent_that_tells_nothing_is_carried_on_with,
    what_was_lost_at_once_is_one_failure,
    a_status_about_another_slurm_job_says_nothing,
    one_of_a_class_waits_for_all_behind_a_limit,
    rowless_slurm_jobs_are_cancelled_while_they_are_pending,
);

fn start(way: Way, database: &Database, agent_url: &str) -> Loop {
    // Nobody is there: nothing in these tests asks GitHub.
    let github = reconciler::github("http://127.0.0.1:1");
    start_by(way, database, agent_url, &github)
}

pub(crate) fn start_with(database: &Database, agent_url: &str, github: &Github) -> Loop {
    start_by(Way::Direct, database, agent_url, github)
}

/// An agent that asks for calls, before one that is called.
async fn bridge(mailbox: Arc<Mailbox>, agent_url: String, stop: CancellationToken) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    loop {
        let calls = tokio::select! {
            () = stop.cancelled() => return,
            calls = mailbox.poll(&[], DEADLINE, &stop) => calls,
        };
        for call in calls {
            let mut request = http
                .post(format!("{agent_url}{}", call.path))
                .json(&call.body);
            if let Some(assertion) = call.assertion {
                request = request.bearer_auth(assertion);
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after");
            let retry_after_s = retry_after.map(|v| v.to_str().unwrap().parse().unwrap());
            let body = response.json().await.unwrap_or_default();
            mailbox.answer(vec![CallAnswer {
                id: call.id,
                status,
                retry_after_s,
                body,
            }]);
        }
    }
}

fn start_by(way: Way, database: &Database, agent_url: &str, github: &Github) -> Loop {
    let bridged = CancellationToken::new();
    let agent = match way {
        Way::Direct => Agent::new(agent_url, &ClientTlsSettings::default()).unwrap(),
        Way::Outbound => {
            let mailbox = Arc::new(Mailbox::new(CancellationToken::new()));
            let asking = bridge(Arc::clone(&mailbox), agent_url.to_owned(), bridged.clone());
            tokio::spawn(asking);
            Agent::asking(mailbox)
        }
    };
    let keys = tempfile::tempdir().unwrap();
    let folder = KeyFolder::new(keys.path());
    folder.generate(1).unwrap();
    let submitter = Submitter {
        database: database.clone(),
        inquiry: Inquiry {
            database: database.clone(),
            github: github.clone(),
            policy: Arc::new(policy()),
            clock: Clock::new(Utc::now),
        },
        web_url: "https://github.com".into(),
        agent,
        signer: Signer::load(&folder).unwrap(),
        deployment: DeploymentSettings {
            name: "test".into(),
            prefix: "gha-slurm".into(),
        },
        cluster: ClusterSettings {
            name: "main".into(),
            agent_url: Some(agent_url.parse().unwrap()),
            tls: ClientTlsSettings::default(),
            agent_public_keys: None,
            original_secret: None,
            token_url: "https://broker.example".parse().unwrap(),
            states_interval_s: std::num::NonZeroU32::MIN,
        },
        lifetime_s: 90_000,
        runner_mode: RunnerMode::Jit,
        launcher: LAUNCHER,
        weights: Weights::default(),
        freed: AtomicU64::default(),
    };
    let submitter = Arc::new(submitter);
    let stop = CancellationToken::new();
    let task = tokio::spawn(submission::run(
        Arc::clone(&submitter),
        Arc::new(Notify::new()),
        periodic().pulse("submission", DEADLINE),
        stop.clone(),
    ));
    Loop {
        _keys: keys,
        folder,
        submitter,
        stop,
        task,
        _bridged: bridged.drop_guard(),
    }
}

pub(crate) async fn agent_answering(response: ResponseTemplate) -> MockServer {
    let agent = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/runner/start"))
        .respond_with(response)
        .mount(&agent)
        .await;
    agent
}

async fn until(database: &TestDatabase, state: &str) {
    wait_until(&format!("the launch is {state}"), DEADLINE, || async {
        states(database.url())
            .await
            .iter()
            .any(|(s, _)| s == state)
            .then_some(())
    })
    .await;
}

async fn a_planned_launch_is_signed_and_submitted_once(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    apply(&pool, queued(7)).await;
    let answer = serde_json::json!({"status": "OK!", "slurmJobId": "17"});
    let agent = agent_answering(ResponseTemplate::new(200).set_body_json(answer)).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    running.stop.cancel();
    running.task.await.unwrap();

    let calls = agent.received_requests().await.unwrap();
    assert_eq!(calls.len(), 1);
    let request: StartRequest = serde_json::from_slice(&calls.first().unwrap().body).unwrap();
    assert_eq!(request.github_url, "https://github.com/acme/widgets");
    let claims: LaunchClaims = verify(
        &request.launcher_token,
        &running.folder.key_set().unwrap(),
        AUDIENCE_AGENT,
        "test",
    )
    .unwrap();
    assert_eq!(
        (claims.workflow_id, claims.slurm_user.as_str()),
        (7, "alice")
    );
    assert_eq!(claims.launcher, Some(LAUNCHER));
    assert_eq!(claims.labels, "self-hosted,slurm");
    assert_eq!(
        (claims.iat - claims.nbf, claims.exp - claims.iat),
        (120, 90_000)
    );
}

/// The agent is not asked again for an answer that Postgres would not take.
#[tokio::test]
async fn an_answer_that_cannot_be_stored_yet_is_kept() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    apply(&pool, queued(7)).await;
    let client = connect(database.url()).await;
    let refuse = "CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('tries'); RAISE 'not now' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON timeline FOR EACH ROW EXECUTE FUNCTION refuse()";
    client.batch_execute(refuse).await.unwrap();
    let answer = serde_json::json!({"status": "OK!", "slurmJobId": "17"});
    let agent = agent_answering(ResponseTemplate::new(200).set_body_json(answer)).await;
    let running = start(Way::Direct, &pool, &agent.uri());
    wait_until("it was tried twice", DEADLINE, || async {
        count(&database, "SELECT last_value FROM tries").await >= 2
    })
    .await;
    let allow = "DROP TRIGGER refuse ON timeline";
    client.batch_execute(allow).await.unwrap();
    until(&database, "submitted").await;
    running.stop().await;
    assert_eq!(agent.received_requests().await.unwrap().len(), 1);
}

async fn a_cluster_that_is_down_delays_and_the_reason_is_kept(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    apply(&pool, queued(1)).await;
    let agent = MockServer::start().await;
    let problem = gha_slurm_contract::Problem::new(503, "slurm_unavailable", "Slurm is away")
        .detail("slurmctld is down");
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(503).set_body_json(problem))
        .up_to_n_times(1)
        .mount(&agent)
        .await;
    Mock::given(method("POST"))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(serde_json::json!({"status": "OK!"})),
        )
        .mount(&agent)
        .await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    running.stop.cancel();
    running.task.await.unwrap();
    assert_eq!(agent.received_requests().await.unwrap().len(), 2);
    let timeline = {
        let mut conn = pool.connection().await.unwrap();
        gha_slurm_storage::builds::timeline(&mut conn, gha_slurm_domain::WorkflowJobId(1))
            .await
            .unwrap()
    };
    let kinds: Vec<&str> = timeline.iter().map(|e| e.kind.as_str()).collect();
    for kind in ["queued", "planned", "delayed", "submitted"] {
        assert!(kinds.contains(&kind), "{kind} is missing in {kinds:?}");
    }
    assert!(timeline.iter().any(|e| e.detail == "slurmctld is down"));
}

async fn a_refusal_is_final_until_the_mapping_changes(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    // The mapping's own request, so that the next one is the refusal's.
    replan_now(&pool).await;
    apply(&pool, queued(1)).await;
    let problem = gha_slurm_contract::Problem::new(422, "partition_unknown", "Refused")
        .detail("no such partition");
    let agent = agent_answering(ResponseTemplate::new(422).set_body_json(problem)).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "refused").await;
    replan_now(&pool).await;
    assert_eq!(supply(&states(database.url()).await), 0);
    let build = {
        let mut conn = pool.connection().await.unwrap();
        let id = gha_slurm_domain::WorkflowJobId(1);
        gha_slurm_storage::builds::find(&mut conn, id).await
    };
    assert_eq!(
        build
            .unwrap()
            .unwrap()
            .surroundings()
            .class
            .and_then(|class| class.stopped.as_deref()),
        Some("Refused: no such partition")
    );
    map(&pool).await;
    replan_now(&pool).await;
    assert_eq!(
        states(database.url()).await.len(),
        2,
        "a change of mapping forgives"
    );
    running.stop.cancel();
    running.task.await.unwrap();
}

/// Answers where every asked Slurm job stands.
struct States(gha_slurm_domain::SlurmState);

impl wiremock::Respond for States {
    fn respond(&self, request: &wiremock::Request) -> ResponseTemplate {
        let asked: StatesRequest = serde_json::from_slice(&request.body).unwrap();
        let told = asked.launches.into_iter().map(|launch| {
            serde_json::json!({"launch": launch, "slurmJobId": "17", "state": self.0,
                "nodes": "n3", "reason": null})
        });
        ResponseTemplate::new(200)
            .set_body_json(serde_json::json!({"launches": told.collect::<Vec<_>>(), "policy": "a"}))
    }
}

async fn submitted_to_an_agent(database: &TestDatabase) -> MockServer {
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    apply(&pool, queued(1)).await;
    let answer = serde_json::json!({"status": "OK!", "slurmJobId": "17"});
    agent_answering(ResponseTemplate::new(200).set_body_json(answer)).await
}

async fn a_withdrawn_slurm_job_is_cancelled_by_a_signed_call(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    Mock::given(method("POST"))
        .and(path("/runner/cancel"))
        .respond_with(|request: &wiremock::Request| {
            // Bound to what it names: the claims, not the body.
            let token = request
                .headers
                .get("authorization")
                .unwrap()
                .to_str()
                .unwrap();
            let payload = token.split('.').nth(1).unwrap();
            let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(payload)
                .unwrap();
            let claims: CallClaims = serde_json::from_slice(&payload).unwrap();
            ResponseTemplate::new(200)
                .set_body_json(serde_json::json!({"cancelled": claims.launches}))
        })
        .mount(&agent)
        .await;
    apply(&pool, cancelled(1)).await;
    wait_until("the timeline says it", DEADLINE, || async {
        let kinds = kinds(&pool).await;
        if kinds.contains(&"cancelled".to_owned()) {
            Ok(())
        } else {
            Err(kinds)
        }
    })
    .await;
    let calls = agent.received_requests().await.unwrap();
    let call = calls
        .iter()
        .find(|call| call.url.path() == "/runner/cancel")
        .unwrap();
    let token = call.headers.get("authorization").unwrap().to_str().unwrap();
    let claims: CallClaims = verify(
        token.strip_prefix("Bearer ").unwrap(),
        &running.folder.key_set().unwrap(),
        AUDIENCE_AGENT,
        "test",
    )
    .unwrap();
    assert_eq!(
        (claims.sub, claims.launches.len()),
        (CallPurpose::Cancel, 1)
    );
    running.stop().await;
}

async fn what_slurm_lost_before_a_workflow_job_started_is_replaced(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    running.stop.cancel();
    Mock::given(method("POST"))
        .and(path("/runner/states"))
        .respond_with(States(gha_slurm_domain::SlurmState::NodeFailed))
        .mount(&agent)
        .await;
    watching(&running, until(&database, "ended_by_slurm")).await;
    replan_now(&pool).await;
    let seen = states(database.url()).await;
    let expected = [
        ("ended_by_slurm".to_owned(), false),
        ("planned".to_owned(), true),
    ];
    assert_eq!(seen, expected, "replaced");
    let timeline = timeline(&pool).await;
    assert!(
        timeline
            .iter()
            .any(|(kind, detail)| kind == "slurm" && detail == "node failed on n3"),
        "{timeline:?}"
    );
}

#[tokio::test]
async fn what_a_slurm_job_used_is_asked_for_until_it_is_told() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(Way::Direct, &pool, &agent.uri());
    until(&database, "submitted").await;
    running.stop.cancel();
    // Twice it is still to come, then it is told.
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    Mock::given(method("POST"))
        .and(path("/runner/states"))
        .respond_with(move |request: &wiremock::Request| {
            let body: StatesRequest = serde_json::from_slice(&request.body).unwrap();
            let told: Vec<serde_json::Value> = body
                .launches
                .into_iter()
                .map(|launch| {
                    let mut status = serde_json::json!({"launch": launch, "slurmJobId": "17",
                        "state": "completed", "endedAt": "2026-11-24T12:00:00Z"});
                    let more = if count.fetch_add(1, Ordering::Relaxed) < 2 {
                        ("usageToCome", serde_json::json!(true))
                    } else {
                        (
                            "usage",
                            serde_json::json!({"elapsedS": 5, "cpuAllocatedS": 10, "cpuUsedS": 7,
                            "tres": {"cpu": 2, "gres/gpu": 3}}),
                        )
                    };
                    status[more.0] = more.1;
                    status
                })
                .collect();
            ResponseTemplate::new(200)
                .set_body_json(serde_json::json!({"launches": told, "policy": "a"}))
        })
        .mount(&agent)
        .await;
    let span = ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"].map(|at| at.parse().unwrap());
    let told = async {
        let sums = wait_until("its usage is stored", DEADLINE, || async {
            let mut conn = pool.connection().await.unwrap();
            let sums = gha_slurm_storage::usage::sums(&mut conn, span.into(), None, None)
                .await
                .unwrap();
            (!sums.is_empty()).then_some(sums)
        })
        .await;
        // Then nobody asks for it any more.
        wait_until("it is asked about no more", DEADLINE, || async {
            let calls = agent.received_requests().await.unwrap();
            let last = calls.last().unwrap();
            let body: StatesRequest = serde_json::from_slice(&last.body).unwrap();
            body.launches.is_empty().then_some(())
        })
        .await;
        sums
    };
    let sums = watching(&running, told).await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let sum = &sums[0];
    assert_eq!(
        (sum.name.as_str(), sum.slurm_user.as_str()),
        ("widgets", "alice")
    );
    assert_eq!((sum.launches, sum.builds), (1, 0));
    let seconds = [
        sum.elapsed_s,
        sum.cpu_allocated_s,
        sum.cpu_used_s,
        sum.gpu_allocated_s,
    ];
    assert_eq!((seconds, sum.max_rss_bytes), ([5, 10, 7, 15], None));
}

async fn a_refusal_is_forgiven_when_the_clusters_policy_changes(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    apply(&pool, queued(1)).await;
    let problem = gha_slurm_contract::Problem::new(422, "policy_refused", "Refused")
        .detail("alice has not opted in");
    let agent = agent_answering(ResponseTemplate::new(422).set_body_json(problem)).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "refused").await;
    replan_now(&pool).await;
    running.stop.cancel();
    for policy in ["a", "b"] {
        let answer = serde_json::json!({"launches": [], "policy": policy});
        Mock::given(method("POST"))
            .and(path("/runner/states"))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .up_to_n_times(2)
            .mount(&agent)
            .await;
    }
    let again = wait_until("it is planned again", DEADLINE, || async {
        replan_now(&pool).await;
        let seen = states(database.url()).await;
        if supply(&seen) == 1 {
            Ok(())
        } else {
            Err(seen)
        }
    });
    Box::pin(watching(&running, again)).await;
}

async fn an_original_agent_that_tells_nothing_is_carried_on_with(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    // It has no POST /runner/cancel: 404. The Slurm job ends by itself when its launch token answers 410.
    apply(&pool, cancelled(1)).await;
    wait_until("it was asked once", DEADLINE, || async {
        let calls = agent.received_requests().await.unwrap();
        calls.iter().any(|call| call.url.path() == "/runner/cancel")
    })
    .await;
    running.stop().await;
    assert!(!kinds(&pool).await.contains(&"cancelled".to_owned()));
}

/// Watches until what `until` waits for has come.
async fn watching<T>(running: &Loop, until: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let watching = tokio::spawn(gha_slurm_launcher::slurm_jobs::watch(
        Arc::clone(&running.submitter),
        periodic().every("slurm jobs", Duration::from_millis(50)),
        Arc::new(NodeWaits::default()),
        Arc::new(Notify::new()),
        stop.clone(),
    ));
    let seen = until.await;
    stop.cancel();
    watching.await.unwrap();
    seen
}

async fn count(database: &TestDatabase, query: &str) -> i64 {
    let client = connect(database.url()).await;
    client.query_one(query, &[]).await.unwrap().get(0)
}

async fn until_count(database: &TestDatabase, query: &str, expected: i64) {
    wait_until(&format!("{query} is {expected}"), DEADLINE, || async {
        let seen = count(database, query).await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
}

const SUBMITTED: &str = "SELECT count(*) FROM launches WHERE state = 'submitted'";
const FAILURES: &str = "SELECT sum(failures) FROM runner_classes";

async fn what_was_lost_at_once_is_one_failure(way: Way) {
    const LOST: i64 = 20;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    for id in 2..=LOST {
        apply(&pool, queued(id)).await;
    }
    let running = start(way, &pool, &agent.uri());
    until_count(&database, SUBMITTED, LOST).await;
    running.stop.cancel();
    Mock::given(method("POST"))
        .and(path("/runner/states"))
        .respond_with(States(gha_slurm_domain::SlurmState::NodeFailed))
        .mount(&agent)
        .await;
    let ended = "SELECT count(*) FROM launches WHERE state = 'over'";
    watching(&running, until_count(&database, ended, LOST)).await;
    assert_eq!(count(&database, FAILURES).await, 1);
    // All of them are replaced; the planner's clock in these tests is that of the events, long before the backoff.
    gha_slurm_launcher::planning::take_replan_request(
        &pool,
        &policy(),
        REPOSITORY,
        chrono::Utc::now(),
    )
    .await
    .unwrap();
    let planned = "SELECT count(*) FROM launches WHERE state = 'planned'";
    assert_eq!(count(&database, planned).await, LOST);
    running.task.await.unwrap();
    // Lost once more, they are another failure: those that come after it were planned after it was counted.
    let again = start(way, &pool, &agent.uri());
    let due = "UPDATE launches SET not_before = planned_at WHERE state = 'planned'";
    let client = connect(database.url()).await;
    client
        .execute("UPDATE launches SET verify_demand = FALSE", &[])
        .await
        .unwrap();
    client.execute(due, &[]).await.unwrap();
    until_count(&database, SUBMITTED, LOST).await;
    watching(&again, until_count(&database, ended, 2 * LOST)).await;
    assert_eq!(count(&database, FAILURES).await, 2);
    again.stop().await;
}

async fn a_status_about_another_slurm_job_says_nothing(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    running.stop.cancel();
    // Ours is 17; somebody wrote our comment into theirs. Then the agent says that there is none of ours.
    let asked = Arc::new(AtomicU32::new(0));
    let times = Arc::clone(&asked);
    Mock::given(method("POST"))
        .and(path("/runner/states"))
        .respond_with(move |request: &wiremock::Request| {
            let body: StatesRequest = serde_json::from_slice(&request.body).unwrap();
            let told = |launch| match times.fetch_add(1, Ordering::Relaxed) {
                0..3 => {
                    serde_json::json!({"launch": launch, "slurmJobId": "18", "state": "failed"})
                }
                _ => serde_json::json!({"launch": launch, "slurmJobId": "", "state": "gone"}),
            };
            let told: Vec<_> = body.launches.into_iter().map(told).collect();
            ResponseTemplate::new(200)
                .set_body_json(serde_json::json!({"launches": told, "policy": "a"}))
        })
        .mount(&agent)
        .await;
    watching(&running, until(&database, "ended_by_slurm")).await;
    assert!(asked.load(Ordering::Relaxed) > 3);
    let timeline = timeline(&pool).await;
    assert!(
        timeline
            .iter()
            .all(|(_, detail)| !detail.contains("failed")),
        "{timeline:?}"
    );
    running.task.await.unwrap();
}

async fn one_of_a_class_waits_for_all_behind_a_limit(way: Way) {
    const BUILDS: i64 = 40;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    map(&pool).await;
    replan_now(&pool).await;
    for id in 1..=BUILDS {
        apply(&pool, queued(id)).await;
    }
    let agent = MockServer::start().await;
    // Places that are free, and calls that were refused one.
    let places = Arc::new(AtomicU32::new(3));
    let refused = Arc::new(AtomicU32::new(0));
    let (left, no) = (Arc::clone(&places), Arc::clone(&refused));
    Mock::given(method("POST"))
        .and(path("/runner/start"))
        .respond_with(move |_: &wiremock::Request| {
            let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if taken.is_ok() {
                let answer = serde_json::json!({"status": "OK!"});
                return ResponseTemplate::new(200).set_body_json(answer);
            }
            no.fetch_add(1, Ordering::SeqCst);
            let problem = gha_slurm_contract::Problem::new(429, "limit_reached", "Wait");
            ResponseTemplate::new(429)
                .set_body_json(problem)
                .insert_header("Retry-After", "3600")
        })
        .mount(&agent)
        .await;
    let freed = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&freed);
    Mock::given(method("POST"))
        .and(path("/runner/states"))
        .respond_with(move |_: &wiremock::Request| {
            let freed = told.load(Ordering::SeqCst);
            ResponseTemplate::new(200)
                .set_body_json(serde_json::json!({"launches": [], "policy": "a", "freed": freed}))
        })
        .mount(&agent)
        .await;
    let running = start(way, &pool, &agent.uri());
    until_count(&database, SUBMITTED, 3).await;
    // Those that were under way together were refused together; the others have not asked.
    let waiting = "SELECT count(*) FROM launches WHERE limited AND lease_until IS NULL";
    wait_until("a limit was met", DEADLINE, || async {
        count(&database, waiting).await > 0
    })
    .await;
    watching(&running, async {
        for (round, more) in [(1, 1), (2, 5), (3, 31)] {
            let before = count(&database, SUBMITTED).await;
            places.fetch_add(more, Ordering::SeqCst);
            freed.store(round, Ordering::SeqCst);
            until_count(&database, SUBMITTED, before + i64::from(more)).await;
        }
    })
    .await;
    assert_eq!(count(&database, SUBMITTED).await, BUILDS);
    let refused = refused.load(Ordering::SeqCst);
    assert!(refused <= 3 * 16, "{refused} calls were refused");
    running.stop().await;
}

/// What the mocked agent lists: one with a row, and two of a database that was restored since.
async fn rowless_slurm_jobs_are_cancelled_while_they_are_pending(way: Way) {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let agent = submitted_to_an_agent(&database).await;
    let running = start(way, &pool, &agent.uri());
    until(&database, "submitted").await;
    let with_row = {
        let client = connect(database.url()).await;
        let row = client.query_one("SELECT id::text FROM launches", &[]).await;
        row.unwrap().get::<_, String>(0)
    };
    let (pending, runs) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let looks = Arc::new(AtomicU32::new(0));
    let looked = Arc::clone(&looks);
    Mock::given(method("POST"))
        .and(path("/runner/list"))
        .respond_with(move |_: &wiremock::Request| {
            looked.fetch_add(1, Ordering::SeqCst);
            let status = |id: &str, state| serde_json::json!({"launch": id, "slurmJobId": "17", "state": state});
            let listed = [
                status(&with_row, "pending"),
                status(&pending.to_string(), "pending"),
                status(&runs.to_string(), "running"),
            ];
            ResponseTemplate::new(200).set_body_json(serde_json::json!({"launches": listed}))
        })
        .mount(&agent)
        .await;
    let at = Arc::new(AtomicU32::new(0));
    let (first, seen) = (Arc::clone(&at), Arc::clone(&looks));
    Mock::given(method("POST"))
        .and(path("/runner/cancel"))
        .respond_with(move |_: &wiremock::Request| {
            let looks = seen.load(Ordering::SeqCst);
            let _ = first.compare_exchange(0, looks, Ordering::SeqCst, Ordering::SeqCst);
            ResponseTemplate::new(200).set_body_json(serde_json::json!({"cancelled": []}))
        })
        .mount(&agent)
        .await;
    let stop = CancellationToken::new();
    let watch = tokio::spawn(gha_slurm_launcher::rowless::watch(
        Arc::clone(&running.submitter),
        periodic(),
        Duration::from_millis(400),
        stop.clone(),
    ));
    wait_until("it was looked several times", DEADLINE, || async {
        looks.load(Ordering::SeqCst) >= 6
    })
    .await;
    stop.cancel();
    watch.await.unwrap();
    let calls = agent.received_requests().await.unwrap();
    let claims = |path: &str| -> Vec<CallClaims> {
        let calls = calls.iter().filter(|call| call.url.path() == path);
        calls
            .map(|call| {
                let token = call.headers.get("authorization").unwrap().to_str().unwrap();
                let token = token.strip_prefix("Bearer ").unwrap();
                let keys = running.folder.key_set().unwrap();
                verify(token, &keys, AUDIENCE_AGENT, "test").unwrap()
            })
            .collect()
    };
    let listing = claims("/runner/list");
    assert!(
        listing
            .iter()
            .all(|c| (c.sub, c.launcher) == (CallPurpose::List, Some(LAUNCHER)))
    );
    let cancelling = claims("/runner/cancel");
    assert!(!cancelling.is_empty());
    for claims in cancelling {
        assert!(claims.only_pending);
        assert_eq!(claims.launcher, Some(LAUNCHER));
        assert_eq!(claims.launches, [gha_slurm_domain::LaunchId(pending)]);
    }
    // 400 ms after the first look, which are two looks later.
    assert!(at.load(Ordering::SeqCst) >= 3);
    running.stop().await;
}

async fn timeline(pool: &Database) -> Vec<(String, String)> {
    let mut conn = pool.connection().await.unwrap();
    gha_slurm_storage::builds::timeline(&mut conn, gha_slurm_domain::WorkflowJobId(1))
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.kind.as_str().to_owned(), entry.detail))
        .collect()
}

async fn kinds(pool: &Database) -> Vec<String> {
    timeline(pool)
        .await
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}
