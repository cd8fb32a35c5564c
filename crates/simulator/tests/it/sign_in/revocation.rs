//! The App and people end what they authorized.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{access_token, basic, start};
use crate::Sim;
use crate::webhooks::{received, receiver};

impl Sim {
    fn client(&self) -> String {
        let secret = self.handle.client_secret();
        basic(&self.handle.client_id(), secret.expose_secret())
    }

    fn application(&self, rest: &str) -> String {
        format!("/applications/{}/{rest}", self.handle.client_id())
    }

    async fn user_status(&self, tokens: &Value) -> u16 {
        self.get("/user", access_token(tokens))
            .await
            .status
            .as_u16()
    }
}

fn body(tokens: &Value) -> String {
    json!({ "access_token": access_token(tokens) }).to_string()
}

#[tokio::test]
async fn the_app_ends_one_token() {
    let sim = start(&["ada"]);
    let (first, second) = (sim.sign_in("ada").await, sim.sign_in("ada").await);
    let path = sim.application("token");
    assert_eq!(sim.delete(&path, &sim.client(), &body(&first)).await, 204);
    assert_eq!(sim.user_status(&first).await, 401);
    assert_eq!(sim.refresh(&first).await["error"], "bad_refresh_token");
    assert_eq!(sim.user_status(&second).await, 200);
    assert_eq!(sim.delete(&path, &sim.client(), &body(&first)).await, 404);
    let path = format!("/api/v3{path}");
    assert_eq!(sim.delete(&path, &sim.client(), &body(&second)).await, 204);
    assert_eq!(sim.user_status(&second).await, 401);
    assert!(sim.handle.state().people[0].authorized);
}

#[tokio::test]
async fn the_app_ends_an_authorization() {
    let sim = start(&["ada", "grace"]);
    let (first, second) = (sim.sign_in("ada").await, sim.sign_in("ada").await);
    let other = sim.sign_in("grace").await;
    let code = sim.code("ada");
    let path = sim.application("grant");
    assert_eq!(sim.delete(&path, &sim.client(), &body(&first)).await, 204);
    for tokens in [&first, &second] {
        assert_eq!(sim.user_status(tokens).await, 401);
        assert_eq!(sim.refresh(tokens).await["error"], "bad_refresh_token");
    }
    let late = sim.exchange(json!({ "code": code })).await;
    assert_eq!(late["error"], "bad_verification_code");
    assert_eq!(sim.user_status(&other).await, 200);
    assert!(!sim.handle.state().people[0].authorized);
    assert_eq!(sim.delete(&path, &sim.client(), &body(&first)).await, 404);
}

#[tokio::test]
async fn only_the_app_ends_tokens() {
    let sim = start(&["ada"]);
    let tokens = sim.sign_in("ada").await;
    let body = body(&tokens);
    let (id, client) = (sim.handle.client_id(), sim.client());
    for rest in ["token", "grant"] {
        let path = sim.application(rest);
        let bearer = format!("Bearer {}", access_token(&tokens));
        for wrong in [
            &basic(&id, "wrong"),
            &basic("wrong", "wrong"),
            &bearer,
            "Basic",
        ] {
            assert_eq!(sim.delete(&path, wrong, &body).await, 401, "{wrong}");
        }
        let other = format!("/applications/other/{rest}");
        assert_eq!(sim.delete(&other, &client, &body).await, 404);
        for nothing in ["", "{}", "{\"access_token\": 1}"] {
            assert_eq!(sim.delete(&path, &client, nothing).await, 422, "{nothing}");
        }
    }
    assert_eq!(sim.user_status(&tokens).await, 200);
}

#[tokio::test]
async fn a_person_revokes_the_app_and_it_receives_a_webhook() {
    let sim = start(&["ada", "grace"]);
    let server = receiver(&sim, 202).await;
    let (tokens, other) = (sim.sign_in("ada").await, sim.sign_in("grace").await);
    sim.handle.revoke_authorization("ada").unwrap();
    assert_eq!(sim.user_status(&tokens).await, 401);
    assert_eq!(sim.refresh(&tokens).await["error"], "bad_refresh_token");
    assert_eq!(sim.user_status(&other).await, 200);
    let requests = received(&server, 1).await;
    assert_eq!(requests.len(), 1);
    assert_eq!(
        requests[0].headers["x-github-event"],
        "github_app_authorization"
    );
    let body: Value = requests[0].body_json().unwrap();
    let ada = &sim.handle.state().people[0];
    assert_eq!(body["action"], "revoked");
    assert_eq!(body["sender"]["id"], ada.id);
    assert_eq!(body["sender"]["login"], "ada");
    let members = body.as_object().unwrap();
    assert!(members.keys().eq(["action", "sender"]), "{body}");
    assert!(!body.to_string().contains("octocat"), "{body}");
    assert!(!ada.authorized);

    // There is nothing to revoke until the person signs in again.
    assert!(sim.handle.revoke_authorization("ada").is_err());
    assert!(sim.handle.revoke_authorization("nobody").is_err());
    let again = sim.sign_in("ada").await;
    assert_eq!(sim.user_status(&again).await, 200);
}
