//! The port for an agent that calls, as such an agent sees it.

use std::path::Path;
use std::time::Duration;

use chrono::Utc;
use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_contract::Problem;
use gha_slurm_contract::agent::{LaunchStatus, StatesAnswer};
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, StartRequest};
use gha_slurm_contract::outbound::{
    AUDIENCE_LAUNCHER, AgentClaims, AgentPurpose, AnswersRequest, Call, CallAnswer,
    MAX_CALLS_AT_ONCE, PollAnswer, PollRequest,
};
use gha_slurm_domain::SlurmState;
use gha_slurm_launcher::{Application, Settings};
use gha_slurm_service_kit::settings::load;
use gha_slurm_test_support::{TestBroker, TestDatabase, wait_until};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::*;

const DEADLINE: Duration = Duration::from_secs(30);

fn settings(
    database: &TestDatabase,
    broker: &TestBroker,
    folder: &Path,
    more: &[(&str, &str)],
) -> Settings {
    let text = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let environment = [
        ("OPERATIONS__LISTEN", "127.0.0.1:0"),
        ("DATABASE__URL", database.url()),
        ("AMQP__URL", broker.amqp_url()),
        ("GITHUB__API_URL", "http://127.0.0.1:1"),
        ("GITHUB__APP_ID", "7"),
        ("GITHUB__PRIVATE_KEY", &reconciler::app_key()),
        ("DEPLOYMENT__NAME", "test"),
        ("KEYS__FOLDER", &text("launch-keys")),
        ("CLUSTER__NAME", "main"),
        ("CLUSTER__TOKEN_URL", "http://127.0.0.1:1"),
        ("CLUSTER__STATES_INTERVAL_S", "3600"),
    ];
    let environment = environment
        .iter()
        .chain(more)
        .map(|(key, value)| (format!("LAUNCHER__{key}"), (*value).to_owned()));
    load::<Settings>(None, environment).unwrap()
}

struct Agent {
    http: reqwest::Client,
    url: String,
    keys: KeyFolder,
}

fn claims_for(sub: AgentPurpose) -> AgentClaims {
    let now = Utc::now().timestamp();
    AgentClaims {
        iss: AUDIENCE_AGENT.into(),
        aud: vec![AUDIENCE_LAUNCHER.into()],
        sub,
        jti: uuid::Uuid::new_v4(),
        iat: now,
        nbf: now - 60,
        exp: now + 60,
        cluster: "main".into(),
    }
}

impl Agent {
    async fn post(
        &self,
        path: &str,
        claims: &AgentClaims,
        body: &impl Serialize,
    ) -> reqwest::Response {
        let token = SigningKey::read(&self.keys).unwrap().sign(claims).unwrap();
        let url = format!("{}{path}", self.url);
        let call = self.http.post(url).bearer_auth(token.expose_secret());
        call.json(body).send().await.unwrap()
    }

    /// The submissions among the calls.
    async fn poll(&self) -> Vec<Call> {
        let claims = claims_for(AgentPurpose::Poll);
        let request = PollRequest::default();
        let answer = self.post("/agent/poll", &claims, &request).await;
        let mut calls = answer.json::<PollAnswer>().await.unwrap().calls;
        calls.retain(|call| call.path == "/runner/start");
        calls
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asks_answers_and_tells() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create().await);
    let folder = tempfile::tempdir().unwrap();
    for name in ["launch-keys", "agent-keys", "strange-keys"] {
        KeyFolder::new(folder.path().join(name))
            .generate(1)
            .unwrap();
    }
    let keys = folder.path().join("agent-keys");
    let more = [
        ("HTTP__LISTEN", "127.0.0.1:0"),
        ("CLUSTER__AGENT_PUBLIC_KEYS", keys.to_str().unwrap()),
    ];
    let settings = settings(&database, &broker, folder.path(), &more);
    let application = Application::build(settings).await.unwrap();
    let agent = |keys: &str| Agent {
        http: reqwest::Client::builder()
            .timeout(DEADLINE)
            .no_proxy()
            .build()
            .unwrap(),
        url: format!("http://127.0.0.1:{}", application.port().unwrap()),
        keys: KeyFolder::new(folder.path().join(keys)),
    };
    let (ours, stranger) = (agent("agent-keys"), agent("strange-keys"));
    let stop = CancellationToken::new();
    let task = tokio::spawn(application.run_until_stopped(stop.clone()));

    // Whoever is not the agent, or has an assertion for something else, gets nothing; the body is not looked at.
    let claims = |change: fn(&mut AgentClaims)| {
        let mut claims = claims_for(AgentPurpose::Poll);
        change(&mut claims);
        claims
    };
    for (agent, claims) in [
        (&stranger, claims(|_| {})),
        (&ours, claims(|c| c.sub = AgentPurpose::States)),
        (&ours, claims(|c| c.cluster = "other".into())),
        (&ours, claims(|c| c.aud = vec![AUDIENCE_AGENT.into()])),
        (&ours, claims(|c| c.exp = c.iat - 60)),
        (&ours, claims(|c| c.exp = c.iat + 3600)),
    ] {
        let answer = agent.post("/agent/poll", &claims, &json!("nonsense")).await;
        assert_eq!(answer.status().as_u16(), 401, "{claims:?}");
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.code, "assertion_invalid");
    }
    let answer = ours
        .post("/agent/poll", &claims(|_| {}), &json!("nonsense"))
        .await;
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (400, "body_invalid")
    );

    map(&database.pool()).await;
    apply(&database.pool(), queued(1)).await;
    let call = wait_until("the agent is given the submission", DEADLINE, || async {
        ours.poll().await.pop()
    })
    .await;
    let request: StartRequest = serde_json::from_value(call.body.clone()).unwrap();
    assert_eq!(request.github_url, "https://github.com/acme/widgets");
    // The answer is lost on the way; the agent does not have it, and is given it again.
    assert_eq!(ours.poll().await, std::slice::from_ref(&call));
    let answers = AnswersRequest {
        answers: vec![CallAnswer {
            id: call.id,
            status: 200,
            retry_after_s: None,
            body: json!({"status": "OK!", "slurmJobId": "17"}),
        }],
    };
    let answered = ours
        .post(
            "/agent/answers",
            &claims_for(AgentPurpose::Answers),
            &answers,
        )
        .await;
    assert_eq!(answered.status().as_u16(), 204);
    // More than an agent sends.
    let many = AnswersRequest {
        answers: vec![answers.answers[0].clone(); MAX_CALLS_AT_ONCE + 1],
    };
    let more = PollRequest {
        in_hand: vec![call.id; 2000],
    };
    for (path, purpose, body, status) in [
        ("/agent/answers", AgentPurpose::Answers, json!(many), 422),
        ("/agent/poll", AgentPurpose::Poll, json!(more), 413),
    ] {
        let refused = ours.post(path, &claims_for(purpose), &body).await;
        assert_eq!(refused.status().as_u16(), status, "{path}");
    }
    wait_until("it is submitted", DEADLINE, || async {
        states(database.url()).await == [("submitted".to_owned(), true)]
    })
    .await;

    let token: serde_json::Value = {
        use base64::Engine;
        let payload = request.launcher_token.split('.').nth(1).unwrap();
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
        serde_json::from_slice(&payload.unwrap()).unwrap()
    };
    let told = StatesAnswer {
        launches: vec![LaunchStatus {
            nodes: Some("n3".into()),
            ..LaunchStatus::new(
                token["sub"].as_str().unwrap().parse().unwrap(),
                "17".into(),
                SlurmState::NodeFailed,
            )
        }],
        policy: "a".into(),
        freed: 0,
    };
    for _ in 0..2 {
        let heard = ours
            .post("/agent/states", &claims_for(AgentPurpose::States), &told)
            .await;
        assert_eq!(heard.status().as_u16(), 204);
    }
    let seen = states(database.url()).await;
    assert_eq!(seen.first(), Some(&("ended_by_slurm".to_owned(), false)));

    // A waiting poll ends with the launcher.
    let waiting = tokio::spawn(async move {
        loop {
            let claims = claims_for(AgentPurpose::Poll);
            let answer = ours
                .post("/agent/poll", &claims, &PollRequest::default())
                .await;
            let answer: PollAnswer = answer.json().await.unwrap();
            if answer.calls.is_empty() {
                return;
            }
        }
    });
    stop.cancel();
    tokio::time::timeout(DEADLINE, task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_whom_must_be_said() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create().await);
    let folder = tempfile::tempdir().unwrap();
    KeyFolder::new(folder.path().join("launch-keys"))
        .generate(1)
        .unwrap();
    let listen = ("HTTP__LISTEN", "127.0.0.1:0");
    let url = ("CLUSTER__AGENT_URL", "http://127.0.0.1:1");
    for (more, expected) in [
        (vec![], "cluster: give either agent_url"),
        (vec![listen, url], "http: nobody calls the launcher"),
        (
            vec![("CLUSTER__AGENT_PUBLIC_KEYS", "/nowhere")],
            "http.listen: must be given",
        ),
        (
            vec![listen, ("CLUSTER__AGENT_PUBLIC_KEYS", "/nowhere.pub.pem")],
            "cluster.agent_public_keys: /nowhere.pub.pem: No such file",
        ),
        (
            vec![url, ("AMQP__CA_FILE", "/nowhere.pem")],
            "amqp.ca_file: /nowhere.pem: No such file",
        ),
        (
            vec![
                url,
                ("DATABASE__URL", "postgres://u:hunter2@db/x?sslmode=maybe"),
            ],
            "database.url: sslmode `maybe`",
        ),
        (
            vec![url, ("GITHUB__CA_FILE", "/nowhere.pem")],
            "github.ca_file: /nowhere.pem: No such file",
        ),
        (
            vec![url, ("CLUSTER__TLS__CA_FILE", "/nowhere.pem")],
            "cluster.tls.ca_file: /nowhere.pem: No such file",
        ),
    ] {
        let settings = settings(&database, &broker, folder.path(), &more);
        let error = format!("{:#}", Application::build(settings).await.err().unwrap());
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
