//! People sign in through the App, over HTTP as a service and a browser do it.

mod access;
mod browser;
mod revocation;
mod tokens;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gha_slurm_simulator::Settings;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::{Sim, settings};

const FORM: &str = "application/x-www-form-urlencoded";
const CALLBACK: &str = "http://127.0.0.1:8001/auth/github/callback";
/// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn with_callback() -> Settings {
    let mut settings = settings();
    settings.app.callback_urls = vec![CALLBACK.to_owned()];
    settings
}

/// The text fields of an object as a form or a query.
fn encoded(fields: &Value) -> String {
    let fields = fields.as_object().unwrap().iter();
    let pairs = fields.map(|(name, value)| (name, value.as_str().unwrap()));
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

/// A simulator whose App has a callback URL, with these people.
fn start(people: &[&str]) -> Sim {
    start_with(with_callback(), people)
}

fn start_with(settings: Settings, people: &[&str]) -> Sim {
    let sim = Sim::start_with(settings);
    for login in people {
        sim.handle.create_person(login).unwrap();
    }
    sim
}

/// The value of a parameter of an address's query.
fn parameter(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).unwrap();
    url.query_pairs()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.into_owned())
}

impl Sim {
    /// The address of the App's "Sign in with GitHub", with further parameters.
    fn authorize_url(&self, more: &[(&str, &str)]) -> String {
        let client_id = self.handle.client_id();
        let mut pairs = vec![("client_id", client_id.as_str()), ("state", "s t&te")];
        pairs.extend(more);
        let base = format!("{}/login/oauth/authorize", self.handle.web_url());
        Url::parse_with_params(&base, pairs).unwrap().into()
    }

    /// The code that a person brings back.
    fn code(&self, login: &str) -> String {
        self.code_for(login, &[("redirect_uri", CALLBACK)])
    }

    /// The same, of an address with these parameters.
    fn code_for(&self, login: &str, more: &[(&str, &str)]) -> String {
        let url = self.authorize_url(more);
        let location = self.handle.authorize(login, &url).unwrap();
        parameter(&location, "code").unwrap()
    }

    /// Exchanges something for tokens, with the App's credentials.
    async fn exchange(&self, parameters: Value) -> Value {
        let mut form = json!({
            "client_id": self.handle.client_id(),
            "client_secret": self.handle.client_secret().expose_secret(),
        });
        form.as_object_mut()
            .unwrap()
            .extend(parameters.as_object().unwrap().clone());
        self.exchange_as(&form).await
    }

    async fn exchange_as(&self, form: &Value) -> Value {
        let answer = self
            .http
            .post(format!("{}/login/oauth/access_token", self.base))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, FORM)
            .body(encoded(form))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "GitHub answers errors with 200, too");
        answer.json().await.unwrap()
    }

    async fn refresh(&self, tokens: &Value) -> Value {
        let token = &tokens["refresh_token"];
        self.exchange(json!({ "grant_type": "refresh_token", "refresh_token": token }))
            .await
    }

    /// Signs in. Returns GitHub's answer with the tokens.
    async fn sign_in(&self, login: &str) -> Value {
        self.exchange(json!({ "code": self.code(login) })).await
    }

    /// Signs in. Returns the access token.
    async fn user_token(&self, login: &str) -> String {
        access_token(&self.sign_in(login).await).to_owned()
    }

    /// The App calls `DELETE /applications/…` with this header.
    async fn delete(&self, path: &str, authorization: &str, body: &str) -> StatusCode {
        let request = self.http.delete(format!("{}{path}", self.base));
        let request = request.header("authorization", authorization);
        request.body(body.to_owned()).send().await.unwrap().status()
    }
}

/// A header of HTTP Basic.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn access_token(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}
