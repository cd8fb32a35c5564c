//! Authentication, tokens, and the one place where a call is made.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gha_slurm_domain::{Clock, InstallationId, RepositoryFullName, RepositoryId};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use moka::future::Cache;
use octocrab::Octocrab;
use octocrab::service::middleware::retry::RetryConfig;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::budget::{Budget, Left, Urgency, Wanted};
use crate::error::GithubError;
use crate::runners::RegistrationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens of an installation live an hour (docs.github.com, "Generating an installation access token").
const INSTALLATION_TOKEN_USE: Duration = Duration::from_secs(50 * 60);
/// A repository that was renamed or transferred redirects once.
const MOST_REDIRECTS: usize = 3;
/// GitHub allows 100 concurrent requests over all programs of an App; this process keeps well below.
const CONCURRENT_CALLS: usize = 40;

/// Points a minute that GitHub's secondary limit allows (docs.github.com, "Rate limits for the REST API").
const POINTS_PER_MINUTE: u32 = 900;
/// Entries per page, GitHub's maximum.
pub(crate) const PER_PAGE: usize = 100;
/// Bytes of answers that are kept to ask for them conditionally.
const MOST_KEPT_BYTES: u64 = 32 << 20;

/// An answer that is the same for as long as GitHub says so: asking whether it is costs nothing of the primary limit
/// (<https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests-if-appropriate>).
#[derive(Clone)]
struct Kept {
    etag: HeaderValue,
    body: Arc<str>,
    link: Option<String>,
}

/// A repository as the scope of runners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Installation that reaches it.
    pub installation: InstallationId,
    /// Its id: what installation tokens are narrowed to.
    pub repository: RepositoryId,
    /// Its name: what URLs contain.
    pub name: RepositoryFullName,
}

/// What an installation token is for; each asks only for the permissions it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Runners: `administration: write`.
    Runners,
    /// Workflow jobs and runs: `actions: read`.
    WorkflowJobs,
    /// Names and visibility: `metadata: read`.
    Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TokenKey {
    installation: InstallationId,
    repository: Option<RepositoryId>,
    purpose: Purpose,
}

/// A client of GitHub's REST API as our App. Clones share their caches, and what GitHub allows.
#[derive(Clone)]
pub struct Github {
    shared: Arc<Shared>,
    urgency: Urgency,
    points_per_minute: u32,
}

struct Shared {
    app: Octocrab,
    /// The address of the API, without a slash at its end.
    api_url: String,
    installations: Cache<TokenKey, Octocrab>,
    pub(crate) registration_tokens: Cache<RepositoryId, RegistrationToken>,
    /// By whose call it was, and its path.
    kept: Cache<(Option<InstallationId>, String), Kept>,
    budgets: Cache<Option<InstallationId>, Arc<Mutex<Budget>>>,
    calls: Semaphore,
    clock: Clock,
    /// Why GitHub does not accept the App's own credentials, since the last call as the App.
    app_trouble: Mutex<Option<String>>,
    /// No call before these.
    pauses: Cache<Pause, Instant>,
}

/// Which calls wait after a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pause {
    /// All of an installation: its primary limit is used up.
    Installation(InstallationId),
    /// One kind of call, as an installation or as the App. Secondary limits are about kinds of calls; and whatever GitHub limits of
    /// the App's own calls, installation tokens are minted until it refuses those.
    Kind(Option<InstallationId>, &'static str),
}

/// An answer: its status and body, for statuses the caller named or 2xx.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    body: Arc<str>,
    call: &'static str,
    link: Option<String>,
}

impl Answer {
    /// The `cursor` of the next page, from the `Link` header.
    pub(crate) fn next_cursor(&self) -> Option<String> {
        let next = self
            .link
            .as_deref()?
            .split(',')
            .find(|link| link.contains("rel=\"next\""))?;
        let (_, rest) = next.split_once('<')?;
        let (target, _) = rest.split_once('>')?;
        url::Url::parse(target)
            .ok()?
            .query_pairs()
            .find_map(|(key, value)| (key == "cursor").then(|| value.into_owned()))
    }

    pub(crate) fn json<T: for<'de> Deserialize<'de>>(&self) -> Result<T, GithubError> {
        serde_json::from_str(&self.body).map_err(|error| GithubError::Unexpected {
            call: self.call,
            detail: error.to_string(),
        })
    }
}

/// A call to be made.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<&'a serde_json::Value>,
    /// Statuses other than 2xx that are an answer and no error.
    pub(crate) also: &'static [u16],
}

impl Call<'_> {
    pub(crate) fn get(name: &'static str, path: String, also: &'static [u16]) -> Self {
        Self {
            name,
            method: Method::GET,
            path,
            body: None,
            also,
        }
    }
}

impl Github {
    /// A client of the API at `api_url` (`https://api.github.com`, or `https://HOST/api/v3`), as App `app_id` with its
    /// private key in PEM. `ca_file`: a PEM file of CAs that are trusted beside the system's. `clock` decides when a rate limit or
    /// a token ends. Proxies are those of the environment (`https_proxy`, `no_proxy`).
    pub fn new(
        api_url: &str,
        app_id: u64,
        private_key: &SecretString,
        ca_file: Option<&Path>,
        clock: Clock,
    ) -> Result<Self, GithubError> {
        let url = url::Url::parse(api_url)
            .map_err(|e| GithubError::Setup(format!("github.api_url `{api_url}`: {e}")))?;
        let setup = |error: octocrab::Error| GithubError::Setup(format!("github: {error}"));
        let api_url = url.as_str().trim_end_matches('/').to_owned();
        let app = Octocrab::builder()
            .base_uri(api_url.clone())
            .map_err(setup)?
            .app_from_rsa_pem(app_id.into(), private_key.expose_secret().as_bytes())
            .map_err(|_| {
                GithubError::Setup(
                    "github.private_key is not an RSA private key in PEM, as GitHub gives it for an App".into(),
                )
            })?
            .add_retry_config(RetryConfig::None)
            .build_with_reqwest(http_client(ca_file)?)
            .map_err(setup)?;
        Ok(Self {
            shared: Arc::new(Shared {
                app,
                api_url,
                installations: Cache::builder()
                    .max_capacity(10_000)
                    .time_to_live(INSTALLATION_TOKEN_USE)
                    .build(),
                registration_tokens: crate::runners::token_cache(clock.clone()),
                kept: Cache::builder()
                    .max_capacity(MOST_KEPT_BYTES)
                    .weigher(|(_, path): &(_, String), kept: &Kept| {
                        u32::try_from(path.len() + kept.body.len()).unwrap_or(u32::MAX)
                    })
                    .build(),
                budgets: Cache::builder().max_capacity(10_000).build(),
                calls: Semaphore::new(CONCURRENT_CALLS),
                clock,
                app_trouble: Mutex::default(),
                pauses: Cache::builder()
                    .max_capacity(10_000)
                    .time_to_live(Duration::from_secs(2 * 3600))
                    .build(),
            }),
            urgency: Urgency::Launch,
            points_per_minute: POINTS_PER_MINUTE,
        })
    }

    /// The same client, for calls of another urgency than [`Urgency::Launch`].
    #[must_use]
    pub fn for_calls(&self, urgency: Urgency) -> Self {
        Self {
            urgency,
            ..self.clone()
        }
    }

    /// With another secondary limit than GitHub's, in points a minute: a call that reads costs 1, one that changes something 5.
    #[must_use]
    pub fn with_points_per_minute(self, points_per_minute: u32) -> Self {
        Self {
            points_per_minute,
            ..self
        }
    }

    pub(crate) fn registration_tokens(&self) -> &Cache<RepositoryId, RegistrationToken> {
        &self.shared.registration_tokens
    }

    /// The percentage of the primary rate limit of an installation (`None`: of the App itself) that is left, as far as is known.
    pub async fn percent_left(&self, installation: Option<InstallationId>) -> u32 {
        let now = self.shared.clock.now().timestamp();
        self.with_budget(installation, |budget| budget.percent_left(now))
            .await
    }

    /// How long a call that reads has to wait, so that what is left of the limits of an installation (`None`: of the App itself)
    /// serves more urgent ones. `None`: it need not.
    pub async fn wait(&self, installation: Option<InstallationId>) -> Option<Duration> {
        let wanted = self.wanted(&Method::GET);
        self.with_budget(installation, |budget| budget.wait(&wanted))
            .await
    }

    fn wanted(&self, method: &Method) -> Wanted {
        let now_s = self.shared.clock.now().timestamp();
        Wanted::new(self.urgency, method, self.points_per_minute, now_s)
    }

    async fn with_budget<T>(
        &self,
        installation: Option<InstallationId>,
        work: impl FnOnce(&mut Budget) -> T,
    ) -> T {
        let budget = self
            .shared
            .budgets
            .get_with(installation, async { Arc::default() });
        let budget = budget.await;
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut budget)
    }

    /// Calls as the App.
    pub(crate) async fn as_app(&self, call: &Call<'_>) -> Result<Answer, GithubError> {
        let answer = self.call(&self.shared.app, None, call).await;
        match &answer {
            Ok(_) | Err(GithubError::Refused { .. }) => self.note_app_trouble(None),
            Err(error @ GithubError::Unauthorized { .. }) => {
                self.note_app_trouble(Some(error.to_string()));
            }
            Err(_) => {}
        }
        answer
    }

    /// Why GitHub does not accept the App's own credentials, for people; `None`: it did when it was last asked.
    pub fn app_trouble(&self) -> Option<String> {
        let trouble = self.shared.app_trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_app_trouble(&self, trouble: Option<String>) {
        let known = self.shared.app_trouble.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(trouble)) = (known.as_ref(), &trouble) {
            tracing::error!("{trouble}");
        }
        *known = trouble;
    }

    /// Calls as an installation, with a token for this purpose only, narrowed to `repository` where one is given.
    pub(crate) async fn as_installation(
        &self,
        installation: InstallationId,
        repository: Option<RepositoryId>,
        purpose: Purpose,
        call: &Call<'_>,
    ) -> Result<Answer, GithubError> {
        let key = TokenKey {
            installation,
            repository,
            purpose,
        };
        let client = self.installation_client(key).await?;
        let answer = self.call(&client, Some(installation), call).await;
        if !matches!(answer, Err(GithubError::Unauthorized { .. })) {
            return answer;
        }
        // The token was revoked, by a suspension and its end for example. 401 means that the call took no effect.
        self.shared.installations.invalidate(&key).await;
        let client = self.installation_client(key).await?;
        self.call(&client, Some(installation), call).await
    }

    pub(crate) async fn as_scope(
        &self,
        scope: &Scope,
        purpose: Purpose,
        call: &Call<'_>,
    ) -> Result<Answer, GithubError> {
        let refused = |answer: &Result<Answer, GithubError>, statuses: &[u16]| {
            let status = answer.as_ref().err().and_then(GithubError::status);
            status.is_some_and(|status| statuses.contains(&status))
        };
        let repository = Some(scope.repository);
        let first = self.as_installation(scope.installation, repository, purpose, call);
        let answer = Box::pin(first).await;
        if !refused(&answer, &[403, 404, 422]) {
            return answer;
        }
        // The repository was transferred to another account, where another installation reaches it; or its former name is that of
        // another repository now, which the token does not reach. Its id stays.
        let installation = match Box::pin(self.installation_of_id(scope.repository)).await? {
            Some(now) if now != scope.installation => now,
            _ if refused(&answer, &[403, 404]) => scope.installation,
            _ => return answer,
        };
        let Some(rest) = call.path.strip_prefix(&format!("/repos/{}", scope.name)) else {
            return answer;
        };
        let by_number = Call {
            name: call.name,
            method: call.method.clone(),
            path: format!("{}{rest}", at_number(scope.repository)),
            body: call.body,
            also: call.also,
        };
        let again = self.as_installation(installation, repository, purpose, &by_number);
        let again = Box::pin(again).await;
        // What GitHub refused in the end is said of the first call.
        if again.as_ref().is_err_and(|error| error.status().is_some()) {
            return answer;
        }
        again
    }

    async fn installation_client(&self, key: TokenKey) -> Result<Octocrab, GithubError> {
        self.shared
            .installations
            .try_get_with(key, self.mint_installation_token(key))
            .await
            .map_err(|error| (*error).clone())
    }

    /// `POST /app/installations/{id}/access_tokens`.
    async fn mint_installation_token(&self, key: TokenKey) -> Result<Octocrab, GithubError> {
        #[derive(Serialize)]
        struct Wanted {
            #[serde(skip_serializing_if = "Option::is_none")]
            repository_ids: Option<[i64; 1]>,
            permissions: serde_json::Value,
        }
        #[derive(Deserialize)]
        struct Minted {
            token: SecretString,
        }
        const CALL: &str = "create an installation access token";
        let wanted = Wanted {
            repository_ids: key.repository.map(|id| [id.0]),
            permissions: match key.purpose {
                Purpose::Runners => serde_json::json!({"administration": "write"}),
                Purpose::WorkflowJobs => serde_json::json!({"actions": "read"}),
                Purpose::Metadata => serde_json::json!({"metadata": "read"}),
            },
        };
        let body = serde_json::to_value(wanted).map_err(|e| GithubError::Setup(e.to_string()))?;
        let call = Call {
            name: CALL,
            method: Method::POST,
            path: format!("/app/installations/{}/access_tokens", key.installation),
            body: Some(&body),
            also: &[],
        };
        let github = self.for_calls(Urgency::Token);
        let minted: Minted = github.as_app(&call).await?.json()?;
        self.shared
            .app
            .user_access_token(minted.token)
            .map_err(|e| GithubError::Setup(e.to_string()))
    }

    /// Makes a call. Follows redirects within the API, with the same method and body: a repository that was renamed or transferred
    /// redirects to its numeric address
    /// (<https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects>).
    async fn send(
        &self,
        client: &Octocrab,
        call: &Call<'_>,
        etag: Option<&HeaderValue>,
    ) -> Result<(StatusCode, HeaderMap, String), octocrab::Error> {
        let condition: Option<HeaderMap> =
            etag.map(|etag| std::iter::once((http::header::IF_NONE_MATCH, etag.clone())).collect());
        let mut path = call.path.clone();
        let mut redirects = 0;
        loop {
            let answer = match (&call.method, call.body) {
                (&Method::GET, _) => {
                    client
                        ._get_with_headers(path.as_str(), condition.clone())
                        .await
                }
                (&Method::DELETE, _) => client._delete(path.as_str(), None::<&()>).await,
                (_, body) => client._post(path.as_str(), body).await,
            }?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = client.body_to_string(answer).await?;
            match self.redirected(status, &headers) {
                Some(to) if redirects < MOST_REDIRECTS => {
                    tracing::debug!(call = call.name, to, "GitHub redirects a call");
                    path = to;
                    redirects += 1;
                }
                _ => return Ok((status, headers, body)),
            }
        }
    }

    /// The path that an answer redirects to. `None`: it does not, or to somewhere else than the API, which must not get our credentials.
    fn redirected(&self, status: StatusCode, headers: &HeaderMap) -> Option<String> {
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 307 | 308);
        let location = headers.get(http::header::LOCATION)?.to_str().ok()?;
        let path = location
            .strip_prefix(self.shared.api_url.as_str())
            .filter(|path| is_redirect && path.starts_with('/'))?;
        Some(path.to_owned())
    }

    async fn call(
        &self,
        client: &Octocrab,
        installation: Option<InstallationId>,
        call: &Call<'_>,
    ) -> Result<Answer, GithubError> {
        let name = call.name;
        let pauses = [
            installation.map(Pause::Installation),
            Some(Pause::Kind(installation, name)),
        ];
        for pause in pauses.into_iter().flatten() {
            let Some(until) = self.shared.pauses.get(&pause).await else {
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Err(GithubError::RateLimited {
                    call: name,
                    retry_after: left,
                });
            }
        }
        let trouble = |detail: String| GithubError::Unavailable { call: name, detail };
        let _permit = self.shared.calls.acquire().await;
        let wanted = self.wanted(&call.method);
        self.with_budget(installation, |budget| budget.take(&wanted))
            .await
            .map_err(|retry_after| GithubError::RateLimited {
                call: name,
                retry_after,
            })?;
        let key = (installation, call.path.clone());
        let kept = match call.method {
            Method::GET => self.shared.kept.get(&key).await,
            _ => None,
        };
        let etag = kept.as_ref().map(|kept| &kept.etag);
        let sent = Box::pin(self.send(client, call, etag));
        // Over all of it: octocrab's own time-outs are per read.
        let (status, headers, body) = tokio::time::timeout(CONNECT_TIMEOUT + ANSWER_TIMEOUT, sent)
            .await
            .map_err(|_| trouble("no answer in time".into()))?
            .map_err(|error| trouble(innermost(&error)))?;
        tracing::debug!(call = name, status = status.as_u16(), "asked GitHub");
        if let Some(left) = Left::read(&headers) {
            let was_free = status == StatusCode::NOT_MODIFIED;
            self.with_budget(installation, |budget| {
                budget.heard(left, was_free, Instant::now());
            })
            .await;
        }
        if let (StatusCode::NOT_MODIFIED, Some(kept)) = (status, kept) {
            return Ok(Answer {
                status: StatusCode::OK,
                body: kept.body,
                call: name,
                link: kept.link,
            });
        }
        let failure = (!status.is_success())
            .then(|| {
                let now = u64::try_from(self.shared.clock.now().timestamp()).unwrap_or_default();
                GithubError::from_answer(name, status, &headers, &body, now)
            })
            // Not where the App itself is unknown.
            .filter(|error| {
                error
                    .status()
                    .is_none_or(|status| !call.also.contains(&status))
            });
        let Some(error) = failure else {
            let link = headers.get(http::header::LINK);
            let answer = Answer {
                status,
                body: body.into(),
                call: name,
                link: link.and_then(|l| l.to_str().ok()).map(str::to_owned),
            };
            let etag = headers.get(http::header::ETAG);
            if let (&Method::GET, StatusCode::OK, Some(etag)) = (&call.method, status, etag) {
                let kept = Kept {
                    etag: etag.clone(),
                    body: Arc::clone(&answer.body),
                    link: answer.link.clone(),
                };
                self.shared.kept.insert(key, kept).await;
            }
            return Ok(answer);
        };
        if let GithubError::RateLimited { retry_after, .. } = error {
            tracing::warn!(
                call = name,
                ?installation,
                ?retry_after,
                "rate limited by GitHub"
            );
            let used_up = headers
                .get("x-ratelimit-remaining")
                .is_some_and(|left| left == "0");
            let pause = match installation {
                Some(installation) if used_up => Pause::Installation(installation),
                _ => Pause::Kind(installation, name),
            };
            let until = Instant::now() + retry_after;
            // Calls that were under way together may be told different times: the longest counts.
            let pauses = self.shared.pauses.entry(pause);
            pauses
                .and_upsert_with(async |known| {
                    known.map_or(until, |known| known.into_value().max(until))
                })
                .await;
        }
        Err(error)
    }
}

/// A repository's numeric address, which is where GitHub redirects from a former name: everything answers there, too.
pub(crate) fn at_number(repository: RepositoryId) -> String {
    format!("/repositories/{repository}")
}

fn http_client(ca_file: Option<&Path>) -> Result<reqwest::Client, GithubError> {
    let setup = |error: &dyn std::fmt::Display| match ca_file {
        Some(path) => GithubError::Setup(format!("github.ca_file: {}: {error}", path.display())),
        None => GithubError::Setup(format!("github: {error}")),
    };
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(ANSWER_TIMEOUT)
        // `Github::send` follows them.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = ca_file {
        let text = std::fs::read(path).map_err(|e| setup(&e))?;
        let roots = reqwest::Certificate::from_pem_bundle(&text).map_err(|e| setup(&e))?;
        if roots.is_empty() {
            return Err(setup(&"there is no certificate (PEM) in it"));
        }
        builder = builder.tls_certs_merge(roots);
    }
    builder.build().map_err(|e| setup(&e))
}

/// octocrab's own texts say "Service Error"; the cause says what happened.
fn innermost(error: &octocrab::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
