//! GitHub's web application flow: who a person is, by the code in the callback
//! (<https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app>).

use std::time::Duration;

use gha_slurm_service_kit::settings::Address;
use gha_slurm_service_kit::tls::http::{BodyError, body};
use oauth2::basic::BasicClient;
use oauth2::{
    AsyncHttpClient, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, TokenResponse as _, TokenUrl,
};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;

/// Where GitHub sends people back to, below the public address.
pub(crate) const CALLBACK: &str = "/api/sign-in/github/callback";
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// Sign-ins that call GitHub at the same time.
const CALLERS: usize = 16;
/// Answers are a few kilobytes.
const LONGEST_ANSWER: usize = 64 << 10;

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// The App, as one that people sign in with.
pub(crate) struct GithubSignIn {
    oauth: Client,
    client_id: String,
    client_secret: SecretString,
    http: Http,
    api_url: String,
    callers: Semaphore,
}

/// An account at GitHub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) login: String,
}

/// A sign-in that begins: where to send the browser, and what it has to bring back.
pub(crate) struct Begun {
    pub(crate) url: String,
    pub(crate) state: String,
    pub(crate) verifier: String,
}

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    /// The code has expired, was used, or belongs to another sign-in.
    #[error("GitHub does not take the code: {0}")]
    Code(String),
    /// GitHub cannot be reached, or is in trouble.
    #[error("GitHub cannot be asked: {0}")]
    Unavailable(String),
    /// The settings are wrong, or the response is not one that GitHub documents.
    #[error("GitHub answered: {0}")]
    Unexpected(String),
}

/// GitHub tells errors with the status 200.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl GithubSignIn {
    /// With the App's client id and secret. `origin`: where people reach this service.
    pub(crate) fn new(
        origin: &str,
        web_url: &Address,
        api_url: &Address,
        client_id: &str,
        client_secret: SecretString,
    ) -> anyhow::Result<Self> {
        let secret = ClientSecret::new(client_secret.expose_secret().to_owned());
        let oauth = BasicClient::new(ClientId::new(client_id.to_owned()))
            .set_client_secret(secret)
            // GitHub reads them from the body.
            .set_auth_type(oauth2::AuthType::RequestBody)
            .set_auth_uri(AuthUrl::new(format!("{web_url}/login/oauth/authorize"))?)
            .set_token_uri(TokenUrl::new(format!(
                "{web_url}/login/oauth/access_token"
            ))?)
            .set_redirect_uri(RedirectUrl::new(format!("{origin}{CALLBACK}"))?);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            // GitHub refuses calls without one.
            .user_agent("gha-slurm")
            .build()?;
        Ok(Self {
            oauth,
            client_id: client_id.to_owned(),
            client_secret,
            http: Http(http),
            api_url: api_url.to_string(),
            callers: Semaphore::new(CALLERS),
        })
    }

    /// Begins a sign-in.
    pub(crate) fn begin(&self) -> Begun {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = self
            .oauth
            .authorize_url(CsrfToken::new_random)
            .set_pkce_challenge(challenge)
            .url();
        Begun {
            url: url.into(),
            state: state.into_secret(),
            verifier: verifier.into_secret(),
        }
    }

    /// Exchanges the code of a callback for a token, asks GitHub whose it is, and has the token deleted.
    pub(crate) async fn finish(
        &self,
        code: String,
        verifier: String,
    ) -> Result<Account, SignInError> {
        let work = async {
            let _place = self.callers.acquire().await;
            let token = self.exchange(code, verifier).await?;
            let account = self.account(&token).await;
            self.delete(&token).await;
            account
        };
        tokio::time::timeout(2 * DEADLINE, work)
            .await
            .map_err(|_| SignInError::Unavailable("no answer in time".into()))?
    }

    async fn exchange(&self, code: String, verifier: String) -> Result<SecretString, SignInError> {
        let answer = self
            .oauth
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier))
            .request_async(&self.http)
            .await;
        match answer {
            Ok(token) => Ok(token.access_token().secret().clone().into()),
            Err(RequestTokenError::Request(error)) => {
                Err(SignInError::Unavailable(error.to_string()))
            }
            Err(RequestTokenError::ServerResponse(error)) => {
                Err(SignInError::Unexpected(error.to_string()))
            }
            Err(RequestTokenError::Parse(error, body)) => match serde_json::from_slice(&body) {
                Ok(Refusal { error, .. }) if error == "bad_verification_code" => {
                    Err(SignInError::Code(error))
                }
                Ok(Refusal {
                    error,
                    error_description,
                }) => Err(SignInError::Unexpected(format!(
                    "{error}: {error_description}"
                ))),
                Err(_) => Err(SignInError::Unexpected(error.to_string())),
            },
            Err(RequestTokenError::Other(error)) => Err(SignInError::Unexpected(error)),
        }
    }

    async fn account(&self, token: &SecretString) -> Result<Account, SignInError> {
        let request = self
            .request(Method::GET, "/user")
            .bearer_auth(token.expose_secret());
        let (status, body) = self.http.send(request).await?;
        if !status.is_success() {
            return Err(SignInError::Unexpected(format!("GET /user: {status}")));
        }
        serde_json::from_slice(&body)
            .map_err(|error| SignInError::Unexpected(format!("GET /user: {error}")))
    }

    /// The token was needed once, and without this it may never expire.
    async fn delete(&self, token: &SecretString) {
        let path = format!("/applications/{}/token", self.client_id);
        let request = self
            .request(Method::DELETE, &path)
            .basic_auth(&self.client_id, Some(self.client_secret.expose_secret()))
            .json(&serde_json::json!({ "access_token": token.expose_secret() }));
        match self.http.send(request).await {
            Ok((status, _)) if status.is_success() => {}
            Ok((status, _)) => tracing::warn!(%status, "a user's token could not be deleted"),
            Err(error) => tracing::warn!(%error, "a user's token could not be deleted"),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .0
            .request(method, format!("{}{path}", self.api_url))
            .header(ACCEPT, "application/vnd.github+json")
    }
}

/// A client that reads responses up to [`LONGEST_ANSWER`].
struct Http(reqwest::Client);

impl Http {
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, Vec<u8>), SignInError> {
        let unavailable = |error: reqwest::Error| {
            // The address of a call is no secret, what is in its query may be.
            SignInError::Unavailable(error.without_url().to_string())
        };
        let response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(SignInError::Unavailable(status.to_string()));
        }
        match body(response, LONGEST_ANSWER).await {
            Ok(body) => Ok((status, body)),
            Err(BodyError::Transport(error)) => Err(unavailable(error)),
            Err(error @ BodyError::TooLong(_)) => Err(SignInError::Unexpected(error.to_string())),
        }
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = SignInError;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, SignInError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let unexpected =
                |error: &dyn std::fmt::Display| SignInError::Unexpected(error.to_string());
            let request = reqwest::Request::try_from(request).map_err(|e| unexpected(&e))?;
            let request = reqwest::RequestBuilder::from_parts(self.0.clone(), request);
            let (status, body) = self.send(request).await?;
            http::Response::builder()
                .status(status)
                .body(body)
                .map_err(|e| unexpected(&e))
        })
    }
}
