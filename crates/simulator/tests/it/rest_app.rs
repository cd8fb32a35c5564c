//! The App, its installations, their tokens, and what they see.

use std::time::Duration;

use gha_slurm_simulator::request::{
    NewInstallation, NewRepository, NewWorkflowJob, RepositoryChange, TokenKind,
};
use reqwest::Method;
use serde_json::json;

use crate::{APP_ID, Sim, app_jwt, settings, signed};

#[tokio::test]
async fn the_apps_jwt_is_verified_as_github_does() {
    let sim = Sim::start();
    let now = chrono::Utc::now().timestamp();
    assert_eq!(sim.get("/app", &app_jwt()).await.body["id"], APP_ID);
    // The client id serves as issuer as well, and a number as well as a text.
    for issuer in [json!(APP_ID), json!("Iv23li00000000004242")] {
        let jwt = signed(&json!({ "iat": now, "exp": now + 60, "iss": issuer }));
        assert_eq!(sim.get("/app", &jwt).await.status, 200, "{issuer}");
    }
    let refused = [
        (
            json!({ "iat": now, "exp": now - 1, "iss": APP_ID }),
            401,
            "future time",
        ),
        (
            json!({ "iat": now, "exp": now + 660, "iss": APP_ID }),
            401,
            "too far in the future",
        ),
        (
            json!({ "iat": now + 30, "exp": now + 60, "iss": APP_ID }),
            401,
            "'Issued at'",
        ),
        (
            json!({ "exp": now + 60, "iss": APP_ID }),
            401,
            "'Issued at'",
        ),
        (
            json!({ "iat": now, "exp": now + 60 }),
            401,
            "'issuer' claim",
        ),
        (
            json!({ "iat": now, "exp": now + 60, "iss": "me" }),
            401,
            "must be an Integer",
        ),
        (
            json!({ "iat": now, "exp": now + 60, "iss": 1 }),
            404,
            "Integration not found",
        ),
    ];
    for (claims, status, message) in refused {
        let answer = sim.get("/app", &signed(&claims)).await;
        assert_eq!(answer.status, status, "{claims}");
        assert!(
            answer.message().contains(message),
            "{claims}: {}",
            answer.message()
        );
        assert_eq!(answer.body["status"], status.to_string());
    }
    let claims = json!({ "iat": now, "exp": now + 60, "iss": APP_ID });
    let by_another_key = jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &claims,
        &jsonwebtoken::EncodingKey::from_secret(b"not RSA"),
    )
    .unwrap();
    for wrong in [by_another_key, sim.token().await, String::new()] {
        let answer = sim.get("/app", &wrong).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.message(), "A JSON web token could not be decoded");
    }
}

#[tokio::test]
async fn tokens_are_narrowed_and_no_wider_than_the_installation() {
    let sim = Sim::start();
    let other = sim
        .handle
        .create_repository(&NewRepository::named("acme/gadgets"))
        .unwrap();
    let foreign = sim
        .handle
        .create_repository(&NewRepository::named("globex/secret"))
        .unwrap();
    let narrowed = sim
        .mint(json!({ "repository_ids": [sim.widgets.id], "permissions": { "actions": "read" } }))
        .await;
    assert_eq!(narrowed.status, 201);
    assert_eq!(
        narrowed.body["permissions"],
        json!({ "actions": "read", "metadata": "read" })
    );
    assert_eq!(
        narrowed.body["repositories"][0]["full_name"],
        "acme/widgets"
    );
    assert_eq!(narrowed.body["repository_selection"], "selected");
    let token = narrowed.body["token"].as_str().unwrap();
    assert!(
        token.starts_with("ghs_4242_") && token.len() > 480,
        "{token}"
    );

    let status = async |path: &str| sim.get(path, token).await.status.as_u16();
    assert_eq!(status("/repos/acme/widgets").await, 200);
    assert_eq!(status("/repos/acme/widgets/actions/runs").await, 200);
    // Not its permission, not its repository, not its installation.
    assert_eq!(status("/repos/acme/widgets/actions/runners").await, 403);
    assert_eq!(status("/repos/acme/gadgets").await, 404);
    assert_eq!(status("/repos/acme/gadgets/actions/runs").await, 404);
    assert_eq!(status("/repos/globex/secret").await, 404);
    let seen = sim.get("/installation/repositories", token).await;
    assert_eq!(seen.body["total_count"], 1);

    for (wrong, message) in [
        (
            json!({ "repository_ids": [foreign.id] }),
            "at least one repository",
        ),
        (
            json!({ "repository_ids": [sim.widgets.id, 1] }),
            "at least one repository",
        ),
        (
            json!({ "repositories": ["nothing"] }),
            "at least one repository",
        ),
        (
            json!({ "permissions": { "administration": "admin" } }),
            "not granted",
        ),
        (
            json!({ "permissions": { "contents": "read" } }),
            "not granted",
        ),
    ] {
        let answer = sim.mint(wrong.clone()).await;
        assert_eq!(answer.status, 422, "{wrong}");
        assert!(answer.message().contains(message), "{}", answer.message());
    }
    let by_name = sim.mint(json!({ "repositories": ["gadgets"] })).await;
    assert_eq!(by_name.body["repositories"][0]["id"], other.id);
    let path = format!("/app/installations/{}/access_tokens", i64::MAX);
    assert_eq!(sim.post(&path, &app_jwt(), json!({})).await.status, 404);
}

#[tokio::test]
async fn tokens_end() {
    let mut settings = settings();
    settings.timing.installation_token = Duration::from_millis(300);
    let sim = Sim::start_with(settings);
    let token = sim.token().await;
    gha_slurm_test_support::wait_until("the token has expired", crate::DEADLINE, || async {
        let answer = sim.get("/installation/repositories", &token).await;
        (answer.status == 401).then(|| assert_eq!(answer.message(), "Bad credentials"))
    })
    .await;

    let sim = Sim::start();
    let token = sim.token().await;
    assert_eq!(
        sim.get("/installation/repositories", &token).await.status,
        200
    );
    sim.handle.expire_tokens(TokenKind::Installation);
    assert_eq!(
        sim.get("/installation/repositories", &token).await.status,
        401
    );
    assert_eq!(sim.get("/installation/repositories", "").await.status, 401);
}

#[tokio::test]
async fn suspension_and_removal_cut_off_tokens_at_once() {
    let sim = Sim::start();
    let token = sim.token().await;
    let runs = "/repos/acme/widgets/actions/runs";
    sim.handle
        .suspend_installation(sim.installation.id, true)
        .unwrap();
    assert_eq!(sim.get(runs, &token).await.status, 403);
    assert_eq!(
        sim.mint(json!({})).await.message(),
        "This installation has been suspended"
    );
    sim.handle
        .suspend_installation(sim.installation.id, false)
        .unwrap();
    assert_eq!(sim.get(runs, &token).await.status, 200);
    sim.handle.set_installed(sim.widgets.id, false).unwrap();
    assert_eq!(sim.get(runs, &token).await.status, 404);
    let installation = format!("{runs}/../../installation").replace("/actions/runs/../..", "");
    assert_eq!(sim.get(&installation, &app_jwt()).await.status, 404);
    sim.handle.set_installed(sim.widgets.id, true).unwrap();
    let found = sim.get(&installation, &app_jwt()).await;
    assert_eq!(found.body["id"], sim.installation.id);
    sim.handle.delete_installation(sim.installation.id).unwrap();
    assert_eq!(sim.get(runs, &token).await.status, 401);
    assert_eq!(sim.get(&installation, &app_jwt()).await.status, 404);
}

#[tokio::test]
async fn a_renamed_repository_redirects_and_a_new_one_takes_the_name_over() {
    let sim = Sim::start();
    let token = sim.token().await;
    let change = RepositoryChange {
        name: Some("gears".into()),
        ..RepositoryChange::default()
    };
    sim.handle
        .change_repository(sim.widgets.id, &change)
        .unwrap();
    let moved = sim.get("/repos/Acme/Widgets/actions/runs", &token).await;
    assert_eq!(moved.status, 301);
    let location = format!("{}/repositories/{}/actions/runs", sim.base, sim.widgets.id);
    assert_eq!(moved.header("location"), location);
    let followed = sim
        .get(location.strip_prefix(&sim.base).unwrap(), &token)
        .await;
    assert_eq!(followed.status, 200);
    let post = sim
        .post(
            "/repos/acme/widgets/actions/runners/registration-token",
            &token,
            json!({}),
        )
        .await;
    assert_eq!(post.status, 307);
    let location = format!(
        "{}/repositories/{}/actions/runners/registration-token",
        sim.base, sim.widgets.id
    );
    assert_eq!(post.header("location"), location);
    let rest = location.strip_prefix(&sim.base).unwrap();
    assert_eq!(sim.post(rest, &token, json!({})).await.status, 201);
    let by_id = sim
        .get(&format!("/repositories/{}", sim.widgets.id), &token)
        .await;
    assert_eq!(by_id.body["full_name"], "acme/gears");

    let again = sim
        .handle
        .create_repository(&NewRepository::named("acme/widgets"))
        .unwrap();
    assert_ne!(again.id, sim.widgets.id);
    let found = sim.get("/repos/acme/widgets", &token).await;
    assert_eq!(
        (found.status.as_u16(), &found.body["id"]),
        (200, &json!(again.id))
    );
    sim.handle.delete_repository(again.id).unwrap();
    assert_eq!(sim.get("/repos/acme/widgets", &token).await.status, 404);
}

#[tokio::test]
async fn a_transferred_repository_redirects_and_has_the_other_installation() {
    let sim = Sim::start();
    let umbrella = NewInstallation::on("umbrella");
    let umbrella = sim.handle.create_installation(umbrella).unwrap();
    let old = sim.token().await;
    let change = RepositoryChange {
        owner: Some("umbrella".into()),
        ..RepositoryChange::default()
    };
    let id = sim.widgets.id;
    sim.handle.change_repository(id, &change).unwrap();
    let moved = sim
        .get("/repos/acme/widgets/installation?x=1", &app_jwt())
        .await;
    assert_eq!(moved.status, 301);
    let location = format!("{}/repositories/{id}/installation?x=1", sim.base);
    assert_eq!(moved.header("location"), location);
    let found = format!("/repositories/{id}/installation");
    let found = sim.get(&found, &app_jwt()).await;
    assert_eq!(found.body["id"], umbrella.id);
    let runners = format!("/repositories/{id}/actions/runners");
    assert_eq!(sim.get(&runners, &old).await.status, 404);
}

#[tokio::test]
async fn a_public_repository_is_seen_by_everybody_and_used_by_nobody() {
    let sim = Sim::start();
    sim.handle
        .create_repository(&NewRepository {
            private: false,
            installed: false,
            ..NewRepository::named("globex/open")
        })
        .unwrap();
    let token = sim.token().await;
    let seen = sim.get("/repos/globex/open", "").await;
    assert_eq!(
        (seen.status.as_u16(), &seen.body["visibility"]),
        (200, &json!("public"))
    );
    assert_eq!(sim.get("/repos/globex/open", &token).await.status, 200);
    assert_eq!(sim.get("/repos/acme/widgets", "").await.status, 404);
    let runners = sim.get("/repos/globex/open/actions/runners", &token).await;
    assert_eq!(runners.status, 403);
    assert_eq!(runners.message(), "Resource not accessible by integration");
}

#[tokio::test]
async fn what_did_not_change_is_304_and_does_not_count() {
    let sim = Sim::start();
    let token = sim.token().await;
    let runs = format!("{}/repos/acme/widgets/actions/runs", sim.base);
    let read = async |etag: &str| {
        let call = sim.http.get(&runs).bearer_auth(&token);
        let answer = call.header("if-none-match", etag).send().await.unwrap();
        let header = |name: &str| {
            let value = answer.headers().get(name).unwrap();
            value.to_str().unwrap().to_owned()
        };
        let (etag, used) = (header("etag"), header("x-ratelimit-used"));
        (answer.status().as_u16(), etag, used)
    };
    let (status, etag, used) = read("W/\"none\"").await;
    assert_eq!(status, 200);
    assert_eq!(read(&etag).await, (304, etag.clone(), used.clone()));
    assert_eq!(read(&etag).await, (304, etag.clone(), used));
    let job = NewWorkflowJob::of("acme/widgets", &["slurm"]);
    sim.handle.queue(job).unwrap();
    let (status, changed, _) = read(&etag).await;
    assert_eq!(status, 200);
    assert_ne!(changed, etag);
}

#[tokio::test]
async fn lists_have_pages_with_links() {
    let sim = Sim::start();
    for number in 0..4 {
        sim.handle
            .create_repository(&NewRepository::named(&format!("acme/r{number}")))
            .unwrap();
    }
    let token = sim.token().await;
    let first = sim
        .get("/installation/repositories?per_page=2", &token)
        .await;
    assert_eq!(first.body["total_count"], 5);
    assert_eq!(first.body["repositories"].as_array().unwrap().len(), 2);
    let link = first.header("link");
    assert!(
        link.contains(&format!(
            "<{}/installation/repositories?per_page=2&page=2>; rel=\"next\"",
            sim.base
        )),
        "{link}"
    );
    assert!(link.contains("page=3>; rel=\"last\""), "{link}");
    let last = sim
        .get("/installation/repositories?per_page=2&page=3", &token)
        .await;
    assert_eq!(last.body["repositories"].as_array().unwrap().len(), 1);
    assert!(!last.header("link").contains("rel=\"next\""));
    let beyond = sim
        .get("/installation/repositories?per_page=2&page=9", &token)
        .await;
    assert_eq!(beyond.body["repositories"], json!([]));

    sim.handle
        .create_installation(NewInstallation::on("globex"))
        .unwrap();
    let installations = sim.get("/app/installations", &app_jwt()).await;
    assert_eq!(installations.body.as_array().unwrap().len(), 2);
    assert_eq!(installations.body[0]["account"]["login"], "acme");
}

#[tokio::test]
async fn the_same_routes_are_below_api_v3_and_all_are_counted() {
    let sim = Sim::start();
    let token = sim.token().await;
    assert_eq!(
        sim.get("/api/v3/repos/acme/widgets", &token).await.status,
        200
    );
    assert_eq!(sim.get("/repos/acme/widgets", &token).await.status, 200);
    let by_id = format!("/repositories/{}", sim.widgets.id);
    assert_eq!(sim.get(&by_id, &token).await.status, 200);
    assert_eq!(sim.handle.calls("GET /repos/{owner}/{repo}"), 3);
    assert_eq!(
        sim.handle
            .calls("POST /app/installations/{installation_id}/access_tokens"),
        1
    );
    sim.handle.reset_calls();
    assert_eq!(sim.handle.calls("GET /repos/{owner}/{repo}"), 0);
    assert_eq!(
        sim.get("/no/such/route", &token).await.message(),
        "Not Found"
    );
    let wrong_method = sim.call(Method::PUT, "/app", &token, None).await;
    assert_eq!(wrong_method.status, 404);
}
