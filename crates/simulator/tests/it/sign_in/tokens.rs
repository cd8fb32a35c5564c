//! `POST /login/oauth/access_token`, and how long codes and tokens last.

use std::time::Duration;

use gha_slurm_simulator::request::{RestEffect, RestFault, TokenKind};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    CALLBACK, CHALLENGE, VERIFIER, access_token, encoded, parameter, start, start_with,
    with_callback,
};
use crate::Sim;

fn error(answer: &Value) -> &str {
    assert!(answer["error_description"].is_string(), "{answer}");
    let more = answer["error_uri"].as_str().unwrap();
    assert!(more.starts_with("https://docs.github.com/"), "{more}");
    assert!(answer.get("access_token").is_none(), "{answer}");
    answer["error"].as_str().unwrap()
}

/// The status of `GET /user` with the access token of these.
async fn works(sim: &Sim, tokens: &Value) -> bool {
    let answer = sim.get("/user", access_token(tokens)).await;
    if answer.status != 200 {
        assert_eq!(
            (answer.status.as_u16(), answer.message()),
            (401, "Bad credentials")
        );
    }
    answer.status == 200
}

#[tokio::test]
async fn a_code_is_exchanged_once_and_the_token_tells_who_it_is() {
    let sim = start(&["ada"]);
    let challenge = [
        ("redirect_uri", CALLBACK),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let exchange = json!({
        "grant_type": "authorization_code",
        "code": sim.code_for("ada", &challenge),
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    });
    let tokens = sim.exchange(exchange.clone()).await;
    assert!(access_token(&tokens).starts_with("ghu_"), "{tokens}");
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    assert!(refresh_token.starts_with("ghr_"), "{tokens}");
    assert_eq!(tokens["expires_in"], 28_800);
    assert_eq!(tokens["refresh_token_expires_in"], 15_811_200);
    assert_eq!(
        (&tokens["scope"], &tokens["token_type"]),
        (&json!(""), &json!("bearer"))
    );

    let user = sim.get("/user", access_token(&tokens)).await;
    let ada = &sim.handle.state().people[0];
    assert_eq!(user.status, 200);
    assert_eq!(
        (&user.body["id"], &user.body["login"]),
        (&json!(ada.id), &json!("ada"))
    );
    assert_eq!(user.body["type"], "User");
    // GitHub Enterprise Server has the API elsewhere.
    let same = sim.get("/api/v3/user", access_token(&tokens)).await;
    assert_eq!(same.body, user.body);

    assert_eq!(
        error(&sim.exchange(exchange).await),
        "bad_verification_code"
    );
    assert!(works(&sim, &tokens).await);
    assert_eq!(sim.handle.calls("POST /login/oauth/access_token"), 2);
}

#[tokio::test]
async fn what_is_wrong_is_told_with_status_200() {
    let sim = start(&["ada"]);
    let id = sim.handle.client_id();
    let secret = sim.handle.client_secret();
    let secret = secret.expose_secret();
    for credentials in [
        json!({ "client_id": id, "client_secret": "wrong", "code": sim.code("ada") }),
        json!({ "client_id": "wrong", "client_secret": secret, "code": sim.code("ada") }),
        json!({ "client_id": id, "code": sim.code("ada") }),
        json!({}),
    ] {
        let answer = sim.exchange_as(&credentials).await;
        assert_eq!(error(&answer), "incorrect_client_credentials");
    }
    for (parameters, expected) in [
        (json!({ "code": "unknown" }), "bad_verification_code"),
        (json!({}), "bad_verification_code"),
        (
            json!({ "code": sim.code("ada"), "redirect_uri": "http://127.0.0.1:8001/" }),
            "redirect_uri_mismatch",
        ),
        (
            json!({ "grant_type": "password" }),
            "unsupported_grant_type",
        ),
        (
            json!({ "grant_type": "refresh_token" }),
            "bad_refresh_token",
        ),
        (
            json!({ "grant_type": "refresh_token", "refresh_token": "ghr_unknown" }),
            "bad_refresh_token",
        ),
    ] {
        assert_eq!(error(&sim.exchange(parameters).await), expected);
    }
    for verifier in [None, Some(""), Some(CHALLENGE)] {
        let challenge = [
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let mut exchange = json!({ "code": sim.code_for("ada", &challenge) });
        if let Some(verifier) = verifier {
            exchange["code_verifier"] = json!(verifier);
        }
        assert_eq!(
            error(&sim.exchange(exchange.clone()).await),
            "bad_verification_code"
        );
        // The code has been used up.
        exchange["code_verifier"] = json!(VERIFIER);
        assert_eq!(
            error(&sim.exchange(exchange).await),
            "bad_verification_code"
        );
    }
}

#[tokio::test]
async fn forms_json_and_queries_are_read_and_a_form_is_the_default_answer() {
    let sim = start(&["ada"]);
    let url = format!("{}/login/oauth/access_token", sim.base);
    let secret = sim.handle.client_secret().expose_secret().to_owned();
    let body = json!({
        "client_id": sim.handle.client_id(), "client_secret": secret, "code": sim.code("ada"),
    });
    let answer = sim.http.post(&url).json(&body).send().await.unwrap();
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        kind.starts_with("application/x-www-form-urlencoded"),
        "{kind}"
    );
    assert!(answer.headers().get("x-ratelimit-limit").is_none());
    let text = answer.text().await.unwrap();
    let as_url = format!("http://form/?{text}");
    let token = parameter(&as_url, "access_token").unwrap();
    assert_eq!(parameter(&as_url, "expires_in").as_deref(), Some("28800"));
    assert_eq!(parameter(&as_url, "scope").as_deref(), Some(""));
    assert_eq!(sim.get("/user", &token).await.status, 200);

    let again = sim.http.post(format!("{url}?{}", encoded(&body)));
    let again = again.send().await.unwrap();
    let text = again.text().await.unwrap();
    let as_url = format!("http://form/?{text}");
    assert_eq!(
        parameter(&as_url, "error").as_deref(),
        Some("bad_verification_code")
    );
    let nonsense = sim
        .http
        .post(&url)
        .header("content-type", "application/json");
    let text = nonsense
        .body("{")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        text.contains("error=incorrect_client_credentials"),
        "{text}"
    );
}

#[tokio::test]
async fn a_refresh_token_serves_once_and_ends_the_old_access_token() {
    let sim = start(&["ada"]);
    let first = sim.sign_in("ada").await;
    let other = sim.sign_in("ada").await;
    let second = sim.refresh(&first).await;
    assert_ne!(access_token(&second), access_token(&first));
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(second["expires_in"], 28_800);
    assert!(!works(&sim, &first).await);
    assert!(works(&sim, &second).await);
    assert!(works(&sim, &other).await, "another sign-in goes on");
    assert_eq!(error(&sim.refresh(&first).await), "bad_refresh_token");
    assert!(works(&sim, &second).await);
    // It outlives the access token.
    sim.handle.expire_tokens(TokenKind::User);
    assert!(!works(&sim, &second).await);
    let third = sim.refresh(&second).await;
    assert!(works(&sim, &third).await);
    sim.handle.expire_tokens(TokenKind::Refresh);
    assert_eq!(error(&sim.refresh(&third).await), "bad_refresh_token");
    assert!(works(&sim, &third).await);
}

#[tokio::test]
async fn codes_and_tokens_end() {
    let mut settings = with_callback();
    settings.timing.user_token = Duration::ZERO;
    settings.timing.refresh_token = Duration::ZERO;
    let sim = start_with(settings, &["ada"]);
    let tokens = sim.sign_in("ada").await;
    assert_eq!(
        (&tokens["expires_in"], &tokens["refresh_token_expires_in"]),
        (&json!(0), &json!(0))
    );
    assert!(!works(&sim, &tokens).await);
    assert_eq!(error(&sim.refresh(&tokens).await), "bad_refresh_token");
    let code = sim.code("ada");
    sim.handle.expire_tokens(TokenKind::AuthorizationCode);
    assert_eq!(
        error(&sim.exchange(json!({ "code": code })).await),
        "bad_verification_code"
    );

    let mut settings = with_callback();
    settings.timing.authorization_code = Duration::ZERO;
    let sim = start_with(settings, &["ada"]);
    assert_eq!(error(&sim.sign_in("ada").await), "bad_verification_code");
}

#[tokio::test]
async fn an_exchange_can_go_wrong_on_request() {
    let sim = start(&["ada"]);
    let first = sim.sign_in("ada").await;
    let route = "POST /login/oauth/access_token";
    sim.handle
        .add_rest_fault(RestFault::on(route, 1, RestEffect::LoseAnswer));
    let url = format!("{}/login/oauth/access_token", sim.base);
    let secret = sim.handle.client_secret();
    let body = json!({
        "client_id": sim.handle.client_id(), "client_secret": secret.expose_secret(),
        "grant_type": "refresh_token", "refresh_token": first["refresh_token"],
    });
    let lost = sim.http.post(&url).json(&body).send().await.unwrap();
    assert_eq!(lost.status(), 502);
    // The tokens were replaced, but nobody knows the new ones: the person has to sign in again.
    assert!(!works(&sim, &first).await);
    assert_eq!(error(&sim.refresh(&first).await), "bad_refresh_token");
}
