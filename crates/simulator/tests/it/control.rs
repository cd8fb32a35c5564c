//! The control API: the handle over HTTP.

use reqwest::Method;
use serde_json::json;

use crate::Sim;

#[tokio::test]
async fn a_build_is_driven_over_http() {
    let sim = Sim::start();
    let repository = sim
        .post(
            "/simulator/repositories",
            "",
            json!({ "full_name": "globex/rockets", "private": false }),
        )
        .await;
    assert_eq!(
        (repository.status.as_u16(), &repository.body["private"]),
        (201, &json!(false))
    );
    let job = sim
        .post(
            "/simulator/workflow-jobs",
            "",
            json!({ "repository": "globex/rockets", "labels": ["slurm"], "script": "true" }),
        )
        .await;
    assert_eq!(job.status, 201);
    let path = format!("/simulator/workflow-jobs/{}", job.body["id"]);
    assert_eq!(sim.get(&path, "").await.body["status"], "queued");
    assert_eq!(
        sim.get(&format!("{path}?wait_for=completed&timeout_seconds=0"), "")
            .await
            .status,
        408
    );
    assert_eq!(
        sim.post(&format!("{path}/assign"), "", json!({ "runner": "r" }))
            .await
            .status,
        204
    );
    assert_eq!(
        sim.post(&format!("{path}/cancel"), "", json!({}))
            .await
            .body["conclusion"],
        "cancelled"
    );
    assert_eq!(
        sim.post(&format!("{path}/cancel"), "", json!({}))
            .await
            .status,
        409
    );
    let done = sim.get(&format!("{path}?wait_for=completed"), "").await;
    assert_eq!(done.status, 200);

    let id = repository.body["id"].as_i64().unwrap();
    let path = format!("/simulator/repositories/{id}");
    let renamed = sim
        .call(
            Method::PATCH,
            &path,
            "",
            Some(json!({ "name": "moons", "private": true })),
        )
        .await;
    assert_eq!(
        (&renamed.body["name"], &renamed.body["private"]),
        (&json!("moons"), &json!(true))
    );
    let installed = format!("{path}/installation");
    assert_eq!(
        sim.call(Method::DELETE, &installed, "", None).await.status,
        204
    );
    assert_eq!(
        sim.call(Method::PUT, &installed, "", None).await.status,
        204
    );
    assert_eq!(sim.call(Method::DELETE, &path, "", None).await.status, 204);
    assert_eq!(sim.call(Method::DELETE, &path, "", None).await.status, 404);

    let state = sim.get("/simulator/state", "").await;
    assert_eq!(state.body["repositories"].as_array().unwrap().len(), 1);
    assert!(
        state.body["calls"].as_object().unwrap().is_empty(),
        "control calls are not counted"
    );
}

#[tokio::test]
async fn people_sign_in_over_http() {
    let sim = Sim::start();
    let ada = sim
        .post("/simulator/people", "", json!({ "login": "ada" }))
        .await;
    assert_eq!(
        (ada.status.as_u16(), &ada.body["login"]),
        (201, &json!("ada"))
    );
    assert_eq!(ada.body["authorized"], false);
    let again = sim
        .post("/simulator/people", "", json!({ "login": "Ada" }))
        .await;
    assert_eq!(again.body["id"], ada.body["id"]);
    for (login, status) in [("acme", 409), ("", 409), ("a/b", 409)] {
        let answer = sim
            .post("/simulator/people", "", json!({ "login": login }))
            .await;
        assert_eq!(answer.status, status, "{login}");
    }

    let role = format!("/simulator/repositories/{}/people/ada", sim.widgets.id);
    let set = async |path: &str, role: &str| {
        let body = json!({ "role": role });
        sim.call(Method::PUT, path, "", Some(body)).await.status
    };
    assert_eq!(set(&role, "maintain").await, 204);
    assert_eq!(set(&role, "owner").await, 422);
    assert_eq!(set(&role.replace("ada", "nobody"), "push").await, 404);
    assert_eq!(
        set("/simulator/repositories/1/people/ada", "push").await,
        404
    );
    let state = sim.get("/simulator/state", "").await;
    let id = sim.widgets.id.to_string();
    assert_eq!(state.body["people"][0]["roles"], json!({ id: "maintain" }));
    for _ in 0..2 {
        assert_eq!(sim.call(Method::DELETE, &role, "", None).await.status, 204);
    }
    assert!(sim.handle.state().people[0].roles.is_empty());

    let urls = json!({ "urls": ["http://127.0.0.1:8001/callback"] });
    let path = "/simulator/callback-urls";
    assert_eq!(
        sim.call(Method::PUT, path, "", Some(urls)).await.status,
        204
    );
    let wrong = json!({ "urls": ["callback"] });
    assert_eq!(
        sim.call(Method::PUT, path, "", Some(wrong)).await.status,
        409
    );
    let url = format!(
        "{}/login/oauth/authorize?client_id={}",
        sim.base,
        sim.handle.client_id()
    );
    let back = async |body| sim.post("/simulator/sign-ins", "", body).await;
    let signed_in = back(json!({ "url": url, "login": "ada" })).await;
    let location = signed_in.body["location"].as_str().unwrap();
    assert!(
        location.starts_with("http://127.0.0.1:8001/callback?code="),
        "{location}"
    );
    let cancelled = back(json!({ "url": url })).await;
    let location = cancelled.body["location"].as_str().unwrap();
    assert!(location.contains("error=access_denied"), "{location}");
    assert_eq!(back(json!({ "url": url, "login": "x" })).await.status, 404);
    assert_eq!(
        back(json!({ "url": "x", "login": "ada" })).await.status,
        409
    );

    let path = "/simulator/people/ada/authorization";
    for status in [204, 409] {
        let answer = sim.call(Method::DELETE, path, "", None).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn what_can_go_wrong_is_asked_for_over_http() {
    let sim = Sim::start();
    let fault = json!({ "route": "GET /app", "effect": { "answer": { "status": 500 } } });
    assert_eq!(
        sim.post("/simulator/rest-faults", "", fault).await.status,
        204
    );
    assert_eq!(sim.get("/app", &crate::app_jwt()).await.status, 500);
    assert_eq!(sim.get("/app", &crate::app_jwt()).await.status, 200);
    assert_eq!(
        sim.post(
            "/simulator/rest-faults",
            "",
            json!({ "effect": "lose_answer" })
        )
        .await
        .status,
        204
    );
    assert_eq!(
        sim.call(Method::DELETE, "/simulator/rest-faults", "", None)
            .await
            .status,
        204
    );
    assert_eq!(sim.get("/app", &crate::app_jwt()).await.status, 200);
    for (path, body, status) in [
        (
            "/simulator/webhook/faults",
            json!({ "effect": "double", "event": "workflow_job" }),
            204,
        ),
        (
            "/simulator/webhook/faults",
            json!({ "effect": { "delay_ms": 5 } }),
            204,
        ),
        (
            "/simulator/webhook/faults",
            json!({ "effect": "explode" }),
            422,
        ),
        (
            "/simulator/webhook/release",
            json!({ "order": "reversed" }),
            200,
        ),
        ("/simulator/webhook/release", json!({}), 200),
        ("/simulator/webhook/ping", json!({}), 409),
        (
            "/simulator/tokens/expire",
            json!({ "kind": "installation" }),
            204,
        ),
        (
            "/simulator/workflow-jobs",
            json!({ "repository": "acme/nothing", "labels": [] }),
            404,
        ),
        (
            "/simulator/workflow-jobs",
            json!({ "repository": "acme/widgets", "labels": [], "labelz": [] }),
            422,
        ),
        ("/simulator/webhook/deliveries/1/redeliver", json!({}), 404),
        ("/simulator/installations", json!({ "login": "acme" }), 409),
        ("/simulator/installations/1/suspend", json!({}), 404),
    ] {
        let answer = sim.post(path, "", body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
    }
    let webhook = json!({ "url": "http://127.0.0.1:9/", "secret": "s" });
    for (path, body) in [
        ("/simulator/webhook", webhook),
        ("/simulator/assignment", json!({ "paused": true })),
        (
            "/simulator/runners/deprecated",
            json!({ "deprecated": true }),
        ),
    ] {
        assert_eq!(
            sim.call(Method::PUT, path, "", Some(body)).await.status,
            204,
            "{path}"
        );
    }
    let state = sim.get("/simulator/state", "").await;
    assert_eq!(state.body["assignment_paused"], true);
}
