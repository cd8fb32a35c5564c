use std::time::Duration;

use gha_slurm_amqp::{Broker, DEAD_QUEUE, Publisher};
use gha_slurm_auth::KeyFolder;
use gha_slurm_domain::workflow_job::Verdict;
use gha_slurm_launcher::{Application, Settings};
use gha_slurm_service_kit::settings::load;
use gha_slurm_test_support::{Middleman, Sample, TestBroker, TestDatabase, wait_until};
use tokio_util::sync::CancellationToken;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::*;

const DEADLINE: Duration = Duration::from_secs(30);
/// A silent server is given up after 20 s.
const SILENCE: Duration = Duration::from_secs(90);

#[test]
fn the_sample_file_is_right() {
    let sample = Sample::filled("launcher.toml");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert_eq!(settings.labels.profiles.len(), 2);
}

#[test]
fn what_the_sample_file_has_in_comments_is_right_too() {
    let settings = |from, to| -> Settings {
        let sample = Sample::filled("launcher.toml").uncommented(from, to);
        load(Some(sample.path()), []).unwrap()
    };
    let http = settings("# [http]", "[operations]").http.unwrap();
    assert!(http.tls.unwrap().client_ca.is_some());
    let cluster = settings("# agent_public_keys", "[labels]").cluster;
    assert!(cluster.agent_public_keys.is_some() && cluster.tls.client_key.is_some());
    assert!(settings("# ca_file", "[amqp]").database.ca_file.is_some());
}

#[test]
fn wrong_names_are_named() {
    let sample = Sample::filled("launcher.toml");
    let wrong = [(
        "LAUNCHER__DEPLOYMENT__NAME".to_owned(),
        "My Site!".to_owned(),
    )];
    let error = load::<Settings>(Some(sample.path()), wrong).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("deployment.name (LAUNCHER__DEPLOYMENT__NAME): write 1 to 24"),
        "{error}"
    );
}

#[test]
fn an_original_agent_needs_its_secret_and_registration_tokens() {
    let sample = Sample::filled("launcher.toml");
    let of = |secret: &str, mode: &str| {
        let more = [
            ("LAUNCHER__CLUSTER__ORIGINAL_SECRET", secret),
            ("LAUNCHER__RUNNERS__MODE", mode),
        ];
        let more = more.map(|(key, value)| (key.to_owned(), value.to_owned()));
        gha_slurm_service_kit::settings::load_checked::<Settings>(Some(sample.path()), more)
    };
    let secret = "7f3a9c5e1d8b2064-e1d8b20647f3a9c5";
    let settings = of(secret, "registration").unwrap().settings;
    assert!(settings.cluster.original_secret.is_some());
    assert!(!format!("{settings:?}").contains(secret));
    for (secret, mode, wrong) in [
        (secret, "jit", "runners.mode"),
        ("short", "registration", "cluster.original_secret"),
        (&format!("{secret}ü"), "registration", "printable ASCII"),
    ] {
        let error = of(secret, mode).err().unwrap().to_string();
        assert!(error.contains(wrong), "{error}");
    }
}

/// A launcher whose agent accepts everything.
struct Running {
    url: String,
    agent: MockServer,
    _keys: tempfile::TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(database_url: &str, broker: &TestBroker) -> Self {
        let keys = tempfile::tempdir().unwrap();
        KeyFolder::new(keys.path()).generate(1).unwrap();
        let agent = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(
                ResponseTemplate::new(200)
                    .set_body_json(serde_json::json!({"status": "OK!", "slurmJobId": "1"})),
            )
            .mount(&agent)
            .await;
        let environment = [
            ("OPERATIONS__LISTEN", "127.0.0.1:0"),
            ("DATABASE__URL", database_url),
            ("AMQP__URL", broker.amqp_url()),
            ("GITHUB__API_URL", "http://127.0.0.1:1"),
            ("GITHUB__APP_ID", "7"),
            ("GITHUB__PRIVATE_KEY", &reconciler::app_key()),
            ("DEPLOYMENT__NAME", "test"),
            ("KEYS__FOLDER", keys.path().to_str().unwrap()),
            ("CLUSTER__NAME", "main"),
            ("CLUSTER__AGENT_URL", &agent.uri()),
            ("CLUSTER__TOKEN_URL", "http://127.0.0.1:1"),
        ]
        .map(|(key, value)| (format!("LAUNCHER__{key}"), value.to_owned()));
        let application = Application::build(load::<Settings>(None, environment).unwrap())
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let launcher = Self {
            url: format!("http://127.0.0.1:{}", application.ops_port()),
            agent,
            _keys: keys,
            task: tokio::spawn(application.run_until_stopped(stop.clone())),
            stop,
        };
        launcher.until_ready().await;
        launcher
    }

    /// Waits until the answer about its readiness contains `text`.
    async fn until_it_says(&self, text: &str) {
        let ready = format!("{}/health/ready", self.url);
        wait_until(&format!("it says {text}"), SILENCE, || async {
            let answer = reqwest::get(&ready).await.map_err(|e| e.to_string())?;
            let said = answer.text().await.map_err(|e| e.to_string())?;
            if said.contains(text) {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
    }

    async fn until_ready(&self) {
        self.until_it_says("\"status\":\"ready\"").await;
    }

    async fn metrics(&self) -> String {
        let metrics = reqwest::get(format!("{}/metrics", self.url)).await;
        metrics.unwrap().text().await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

async fn until_submitted(database: &TestDatabase, count: usize) {
    wait_until("all are submitted", SILENCE, || async {
        let states = states(database.url()).await;
        let submitted = |state: &&(String, bool)| state.0 == "submitted";
        if states.iter().filter(submitted).count() == count {
            return Ok(());
        }
        Err(format!("{states:?}"))
    })
    .await;
}

/// The way from the queue to the agent, and a mapping that arrives by NOTIFY.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_the_queue_becomes_a_submission() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create().await);
    let launcher = Running::start(database.url(), &broker).await;
    let at = Broker::new(broker.amqp_url().into(), None).unwrap();
    let publisher = Publisher::start(at, "test", DEADLINE, launcher.stop.clone(), |_| {});
    publisher.publish(&queued(1)).await.unwrap();
    wait_until("the workflow job waits for a mapping", DEADLINE, || async {
        let pool = database.pool();
        let mut conn = pool.connection().await.ok()?;
        let job =
            gha_slurm_storage::workflow_jobs::find(&mut conn, gha_slurm_domain::WorkflowJobId(1))
                .await
                .ok()??;
        (job.verdict == Verdict::WaitingForMapping).then_some(())
    })
    .await;
    // Text in Postgres holds no NUL: SQLSTATE 22021, forever.
    let never = WorkflowJobFacts {
        name: "a\0b".into(),
        ..facts(2, &["self-hosted", "slurm"])
    };
    publisher
        .publish(&workflow_job("queued", never))
        .await
        .unwrap();
    wait_until("it is a dead letter", DEADLINE, || async {
        (broker.depth(DEAD_QUEUE).await == Some(1)).then_some(())
    })
    .await;
    let metrics = launcher.metrics().await;
    assert!(metrics.contains("gha_slurm_events_total{outcome=\"dead\"} 1"));
    assert!(
        !metrics.contains("outcome=\"retried\""),
        "it was tried again"
    );
    map(&database.pool()).await;
    until_submitted(&database, 1).await;
    launcher.stop().await;
}

/// A pooler that freezes, or a failover without a word: every connection stays open and nothing answers. Then a primary that is a standby
/// for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_or_read_only_stops_nothing_for_ever() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create().await);
    map(&database.pool()).await;
    let way = Middleman::before(database.url()).await.unwrap();
    let url = way.through(database.url()).unwrap();
    let launcher = Running::start(&url, &broker).await;
    let at = Broker::new(broker.amqp_url().into(), None).unwrap();
    let publisher = Publisher::start(at, "test", DEADLINE, launcher.stop.clone(), |_| {});
    publisher.publish(&queued(1)).await.unwrap();
    until_submitted(&database, 1).await;

    way.silence();
    publisher.publish(&queued(2)).await.unwrap();
    launcher.until_it_says("\"postgres\":").await;
    way.speak();
    until_submitted(&database, 2).await;
    launcher.until_ready().await;

    let name = database.url().rsplit('/').next().unwrap();
    let read_only = |on: &str| {
        // Those that are open already, too, as after a failover.
        format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = {on}; \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )
    };
    database.execute(&read_only("on")).await.unwrap();
    publisher.publish(&queued(3)).await.unwrap();
    wait_until("the event was tried", DEADLINE, || async {
        let metrics = launcher.metrics().await;
        let failed = "outcome=\"unavailable\",transaction=\"apply";
        if metrics.contains(failed) {
            Ok(())
        } else {
            Err(metrics)
        }
    })
    .await;
    let writable = format!("BEGIN READ WRITE; {}; COMMIT", read_only("off"));
    database.execute(&writable).await.unwrap();
    until_submitted(&database, 3).await;
    assert_eq!(broker.depth(DEAD_QUEUE).await, Some(0));
    assert_eq!(
        launcher
            .agent
            .received_requests()
            .await
            .unwrap()
            .iter()
            .filter(|r| r.url.path() == "/runner/start")
            .count(),
        3
    );
    launcher.stop().await;
}
