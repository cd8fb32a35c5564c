//! Webhooks: what is sent, how it is signed, how it is recorded, and how it goes wrong.

use std::time::Duration;

use gha_slurm_auth::webhook;
use gha_slurm_simulator::request::{
    NewRepository, NewWorkflowJob, ReleaseOrder, WebhookEffect, WebhookFault,
};
use gha_slurm_test_support::wait_until;
use secrecy::SecretString;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::{APP_ID, DEADLINE, Sim, app_jwt, settings};

const SECRET: &str = "s3cret";

/// Takes deliveries and answers with this status.
pub(super) async fn receiver(sim: &Sim, status: u16) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(status).set_body_string("taken"))
        .mount(&server)
        .await;
    sim.handle.set_webhook(
        &format!("{}/hook", server.uri()),
        SecretString::from(SECRET),
        false,
    );
    server
}

pub(super) async fn received(server: &MockServer, count: usize) -> Vec<Request> {
    wait_until("the deliveries arrived", DEADLINE, || async {
        let requests = server.received_requests().await.unwrap();
        (requests.len() >= count).then_some(requests)
    })
    .await
}

fn header<'r>(request: &'r Request, name: &str) -> &'r str {
    request.headers.get(name).unwrap().to_str().unwrap()
}

fn queued() -> NewWorkflowJob {
    NewWorkflowJob::of("acme/widgets", &["self-hosted", "slurm"])
}

/// The actions and workflow jobs of what was received, in order.
fn actions(requests: &[Request]) -> Vec<(String, i64)> {
    requests
        .iter()
        .map(|request| {
            let body: Value = request.body_json().unwrap();
            let id = body["workflow_job"]["id"].as_i64().unwrap_or_default();
            (body["action"].as_str().unwrap_or("ping").to_owned(), id)
        })
        .collect()
}

#[tokio::test]
async fn a_workflow_job_is_told_as_github_tells_it() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    let job = sim.handle.queue(queued()).unwrap();
    sim.handle.cancel(job.id).unwrap();
    let requests = received(&server, 2).await;
    assert_eq!(
        actions(&requests),
        [("queued".into(), job.id), ("completed".into(), job.id)]
    );
    let first = &requests[0];
    assert_eq!(header(first, "x-github-event"), "workflow_job");
    assert_eq!(
        header(first, "x-github-hook-installation-target-type"),
        "integration"
    );
    assert_eq!(
        header(first, "x-github-hook-installation-target-id"),
        APP_ID.to_string()
    );
    assert_eq!(header(first, "content-type"), "application/json");
    assert!(header(first, "user-agent").starts_with("GitHub-Hookshot/"));
    uuid::Uuid::parse_str(header(first, "x-github-delivery")).unwrap();
    let secrets = [SecretString::from(SECRET)];
    webhook::verify(&secrets, &first.body, header(first, "x-hub-signature-256")).unwrap();

    let body: Value = first.body_json().unwrap();
    let told = &body["workflow_job"];
    assert_eq!(
        (&told["status"], &told["labels"]),
        (&json!("queued"), &json!(["self-hosted", "slurm"]))
    );
    assert_eq!(
        (&told["runner_id"], &told["runner_name"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(body["repository"]["id"], sim.widgets.id);
    assert_eq!(body["repository"]["full_name"], "acme/widgets");
    assert_eq!(body["repository"]["private"], true);
    assert_eq!(body["installation"]["id"], sim.installation.id);
    assert_eq!(body["organization"]["login"], "acme");
    // Nothing of the published example's own names is left.
    let text = body.to_string();
    for foreign in ["Codertocat", "octo-org", "api.github.com", "ubuntu-latest"] {
        assert!(!text.contains(foreign), "{foreign} in {text}");
    }
    let last: Value = requests[1].body_json().unwrap();
    assert_eq!(
        (
            &last["workflow_job"]["conclusion"],
            &last["workflow_job"]["steps"]
        ),
        (&json!("cancelled"), &json!([]))
    );
}

#[tokio::test]
async fn installations_and_pings_are_told() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    sim.handle.ping().unwrap();
    let added = sim
        .handle
        .create_repository(&NewRepository::named("acme/more"))
        .unwrap();
    sim.handle.set_installed(added.id, false).unwrap();
    sim.handle
        .suspend_installation(sim.installation.id, true)
        .unwrap();
    // A suspended installation hears of no workflow job.
    sim.handle.queue(queued()).unwrap();
    sim.handle
        .suspend_installation(sim.installation.id, false)
        .unwrap();
    sim.handle.delete_installation(sim.installation.id).unwrap();
    let requests = received(&server, 6).await;
    let events: Vec<(&str, Value)> = requests
        .iter()
        .map(|request| {
            (
                header(request, "x-github-event"),
                request.body_json().unwrap(),
            )
        })
        .collect();
    let names: Vec<String> = events
        .iter()
        .map(|(event, body)| format!("{event}.{}", body["action"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(
        names,
        [
            "ping.-",
            "installation_repositories.added",
            "installation_repositories.removed",
            "installation.suspend",
            "installation.unsuspend",
            "installation.deleted",
        ]
    );
    assert_eq!(events[0].1["hook"]["type"], "App");
    assert_eq!(events[1].1["repositories_added"][0]["id"], added.id);
    assert_eq!(
        events[2].1["repositories_removed"][0]["full_name"],
        "acme/more"
    );
    // Written as seconds here and as text there, as in the published examples.
    assert!(events[1].1["installation"]["created_at"].is_i64());
    assert!(events[3].1["installation"]["created_at"].is_string());
    assert!(
        events
            .iter()
            .skip(1)
            .all(|(_, body)| body["installation"]["account"]["login"] == "acme")
    );
}

#[tokio::test]
async fn a_form_carries_the_payload_and_is_signed_as_a_whole() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    let hook = format!("{}/hook", server.uri());
    sim.handle
        .set_webhook(&hook, SecretString::from(SECRET), true);
    sim.handle.queue(queued()).unwrap();
    let requests = received(&server, 1).await;
    assert_eq!(
        header(&requests[0], "content-type"),
        "application/x-www-form-urlencoded"
    );
    let secrets = [SecretString::from(SECRET)];
    webhook::verify(
        &secrets,
        &requests[0].body,
        header(&requests[0], "x-hub-signature-256"),
    )
    .unwrap();
    let (name, payload) = url::form_urlencoded::parse(&requests[0].body)
        .next()
        .unwrap();
    assert_eq!(name, "payload");
    assert_eq!(
        serde_json::from_str::<Value>(&payload).unwrap()["action"],
        "queued"
    );
}

#[tokio::test]
async fn failed_deliveries_are_listed_and_redelivered_with_their_guid() {
    let sim = Sim::start();
    let failing = receiver(&sim, 503).await;
    for _ in 0..3 {
        sim.handle.queue(queued()).unwrap();
    }
    received(&failing, 3).await;
    let jwt = app_jwt();
    let listed = wait_until("all are recorded", DEADLINE, || async {
        let listed = sim
            .get("/app/hook/deliveries?per_page=2&status=failure", &jwt)
            .await;
        let all = sim.get("/app/hook/deliveries", &jwt).await;
        (all.body.as_array().unwrap().len() == 3).then_some(listed)
    })
    .await;
    let first = listed.body[0].clone();
    assert_eq!(
        (&first["status_code"], &first["event"], &first["redelivery"]),
        (&json!(503), &json!("workflow_job"), &json!(false))
    );
    assert_eq!(
        (&first["action"], &first["installation_id"]),
        (&json!("queued"), &json!(sim.installation.id))
    );
    // The newest first; the next page by cursor.
    assert!(first["id"].as_i64() > listed.body[1]["id"].as_i64());
    let link = listed.header("link");
    let next = link
        .split(['<', '>'])
        .nth(1)
        .unwrap()
        .strip_prefix(&sim.base)
        .unwrap()
        .to_owned();
    let rest = sim.get(&next, &jwt).await;
    assert_eq!(rest.body.as_array().unwrap().len(), 1);
    assert!(rest.headers.get("link").is_none());
    assert_eq!(
        sim.get("/app/hook/deliveries?cursor=x", &jwt).await.status,
        400
    );
    assert_eq!(sim.get("/app/hook/deliveries", "").await.status, 401);

    let working = receiver(&sim, 202).await;
    let id = first["id"].as_i64().unwrap();
    let path = format!("/app/hook/deliveries/{id}/attempts");
    let accepted = sim.post(&path, &jwt, json!({})).await;
    assert_eq!((accepted.status.as_u16(), accepted.body), (202, json!({})));
    let requests = received(&working, 1).await;
    assert_eq!(
        header(&requests[0], "x-github-delivery"),
        first["guid"].as_str().unwrap()
    );
    let again = wait_until("it is recorded", DEADLINE, || async {
        let listed = sim.get("/app/hook/deliveries?status=success", &jwt).await;
        listed.body.as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(
        (&again["guid"], &again["redelivery"], &again["status"]),
        (&first["guid"], &json!(true), &json!("OK"))
    );
    let whole = sim
        .get(&format!("/app/hook/deliveries/{}", again["id"]), &jwt)
        .await;
    assert_eq!(
        whole.body["request"]["headers"]["X-GitHub-Event"],
        "workflow_job"
    );
    assert_eq!(whole.body["request"]["payload"]["action"], "queued");
    assert_eq!(whole.body["response"]["payload"], "taken");
    assert_eq!(
        sim.post("/app/hook/deliveries/1/attempts", &jwt, json!({}))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn who_does_not_answer_in_time_has_failed() {
    let mut settings = settings();
    settings.timing.webhook = Duration::from_millis(200);
    let sim = Sim::start_with(settings);
    let slow = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_delay(Duration::from_secs(5)))
        .mount(&slow)
        .await;
    sim.handle
        .set_webhook(&slow.uri(), SecretString::from(SECRET), false);
    sim.handle.queue(queued()).unwrap();
    let recorded = async |count: usize| {
        sim.handle
            .wait_for("it is recorded", DEADLINE, |state| {
                (state.deliveries.len() == count).then(|| state.deliveries[count - 1].clone())
            })
            .await
            .unwrap()
    };
    let delivery = recorded(1).await;
    assert_eq!(
        (delivery.status_code, delivery.status.as_str()),
        (504, "timed out")
    );
    let nobody = format!("http://127.0.0.1:{}/", gha_slurm_test_support::free_port());
    sim.handle
        .set_webhook(&nobody, SecretString::from(SECRET), false);
    sim.handle.queue(queued()).unwrap();
    assert_eq!(recorded(2).await.status_code, 502);
}

#[tokio::test]
async fn deliveries_are_dropped_failed_doubled_and_delayed_as_asked() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    for effect in [
        WebhookEffect::Drop,
        WebhookEffect::Fail,
        WebhookEffect::Double,
        WebhookEffect::DelayMs(300),
    ] {
        sim.handle
            .add_webhook_fault(WebhookFault::on("queued", effect));
    }
    let ids: Vec<i64> = (0..5)
        .map(|_| sim.handle.queue(queued()).unwrap().id)
        .collect();
    let requests = received(&server, 4).await;
    let order: Vec<i64> = actions(&requests).into_iter().map(|(_, id)| id).collect();
    // The first was dropped, the second failed, the fourth came late.
    assert_eq!(order, [ids[2], ids[2], ids[4], ids[3]]);
    assert_eq!(
        header(&requests[0], "x-github-delivery"),
        header(&requests[1], "x-github-delivery")
    );
    let deliveries = sim
        .handle
        .wait_for("all are recorded", DEADLINE, |state| {
            (state.deliveries.len() == 5).then(|| state.deliveries.clone())
        })
        .await
        .unwrap();
    let failed: Vec<i64> = deliveries
        .iter()
        .filter(|delivery| delivery.status_code != 202)
        .map(|delivery| delivery.workflow_job_id.unwrap())
        .collect();
    // The dropped one left no trace; the failed one can be redelivered.
    assert_eq!(failed, [ids[1]]);
}

#[tokio::test]
async fn held_deliveries_are_released_in_the_order_asked_for() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    let hold = WebhookFault {
        event: None,
        action: None,
        workflow_job_id: None,
        times: 5,
        effect: WebhookEffect::Hold,
    };
    sim.handle.add_webhook_fault(hold);
    let ids: Vec<i64> = (0..3)
        .map(|_| sim.handle.queue(queued()).unwrap().id)
        .collect();
    assert_eq!(sim.handle.held_webhooks(), 3);
    assert_eq!(sim.handle.release_webhooks(&ReleaseOrder::Reversed), 3);
    let requests = received(&server, 3).await;
    let order: Vec<i64> = actions(&requests).into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, [ids[2], ids[1], ids[0]]);
    assert_eq!(sim.handle.held_webhooks(), 0);

    sim.handle.cancel(ids[0]).unwrap();
    sim.handle.cancel(ids[1]).unwrap();
    assert_eq!(sim.handle.held_webhooks(), 2);
    sim.handle.cancel(ids[2]).unwrap();
    // The fault is used up: the third overtakes the two that are held.
    let requests = received(&server, 4).await;
    assert_eq!(actions(&requests[3..]), [("completed".into(), ids[2])]);
    assert_eq!(sim.handle.release_webhooks(&ReleaseOrder::AsHeld), 2);
    let requests = received(&server, 6).await;
    assert_eq!(
        actions(&requests[4..]),
        [("completed".into(), ids[0]), ("completed".into(), ids[1])]
    );
}

#[tokio::test]
async fn a_workflow_job_may_wait_for_an_approval() {
    let sim = Sim::start();
    let server = receiver(&sim, 202).await;
    let waiting = NewWorkflowJob {
        waiting: true,
        ..queued()
    };
    let job = sim.handle.queue(waiting).unwrap();
    sim.handle.approve(job.id).unwrap();
    assert!(sim.handle.approve(job.id).is_err());
    let requests = received(&server, 2).await;
    assert_eq!(
        actions(&requests),
        [("waiting".into(), job.id), ("queued".into(), job.id)]
    );
    let body: Value = requests[0].body_json().unwrap();
    assert_eq!(body["workflow_job"]["status"], "waiting");
}
