//! Every route of every service, with every kind of credential: let in where the OpenAPI documents (and so `docs/security/routes.md`) say
//! so, 401 or 403 otherwise.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gha_slurm_auth::{KeyFolder, SigningKey, webhook};
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER};
use gha_slurm_contract::mapping::AUDIENCE_REPO_MAPPING;
use gha_slurm_contract::outbound::AUDIENCE_LAUNCHER;
use gha_slurm_contract::self_service::CredentialPayload;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stack::{ADMINISTRATOR, Builder, REPOSITORY, SLURM_USER, Service, Stack};

const SHARED_SECRET: &str = "the shared secret of a test, long enough";
/// Shaped like those that token-broker makes.
const PROGRESS_TOKEN: &str = "0123456789012345678901234567890123456789abc";
/// Debian's system user with uid 1: MUNGE credentials are of users that exist.
const MUNGE_UID: u32 = 1;
const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// What a caller may have to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    Nothing,
    /// A made-up bearer token.
    Invented,
    /// A launch token and an assertion in one, signed with a key of the caller's own.
    ForeignKey,
    WebhookSignature,
    LaunchToken,
    /// As the original contract sends it, which is off by default: without `Bearer`.
    BareLaunchToken,
    LaunchTokenInBody,
    ProgressToken,
    ServiceToken,
    AdministratorToken,
    /// The agent's, for this service and call.
    AgentAssertion,
    /// The agent's, for another service.
    AgentAssertionElsewhere,
    /// The launcher's, for this call.
    LauncherAssertion,
    /// The launcher's, for another call.
    LauncherAssertionElsewhere,
    Munge,
    /// A MUNGE credential for another call.
    MungeElsewhere,
    SharedSecret,
    /// Of an administrator.
    AdministratorSession,
    /// Of the Slurm user in the path.
    UserSession,
    /// Of another Slurm user: what has no user in its path shows their own things.
    OtherUserSession,
    /// Of somebody who is linked to no Slurm user.
    UnlinkedSession,
    /// A cookie that is made up.
    InventedSession,
}

use Credential as C;

const CREDENTIALS: [Credential; 22] = [
    C::Nothing,
    C::Invented,
    C::ForeignKey,
    C::WebhookSignature,
    C::LaunchToken,
    C::BareLaunchToken,
    C::LaunchTokenInBody,
    C::ProgressToken,
    C::ServiceToken,
    C::AdministratorToken,
    C::AgentAssertion,
    C::AgentAssertionElsewhere,
    C::LauncherAssertion,
    C::LauncherAssertionElsewhere,
    C::Munge,
    C::MungeElsewhere,
    C::SharedSecret,
    C::AdministratorSession,
    C::UserSession,
    C::OtherUserSession,
    C::UnlinkedSession,
    C::InventedSession,
];

impl Credential {
    /// The security scheme that it fulfils on a path. `None`: none.
    fn scheme(self, path: &str) -> Option<&'static str> {
        match self {
            C::AdministratorSession => Some("administratorSession"),
            C::UserSession => Some("userSession"),
            C::OtherUserSession if !path.contains(SLURM_USER) => Some("userSession"),
            C::UnlinkedSession => Some("personSession"),
            C::WebhookSignature => Some("webhookSignature"),
            C::LaunchToken => Some("launchToken"),
            C::LaunchTokenInBody => Some("launchTokenInBody"),
            C::ProgressToken => Some("progressToken"),
            C::ServiceToken => Some("serviceToken"),
            C::AdministratorToken => Some("administratorToken"),
            C::AgentAssertion => Some("agentAssertion"),
            C::LauncherAssertion => Some("launcherAssertion"),
            C::Munge => Some("mungeCredential"),
            C::SharedSecret => Some("authToken"),
            C::Nothing
            | C::Invented
            | C::ForeignKey
            | C::BareLaunchToken
            | C::AgentAssertionElsewhere
            | C::LauncherAssertionElsewhere
            | C::MungeElsewhere
            | C::OtherUserSession
            | C::InventedSession => None,
        }
    }
}

/// One route of a document.
#[derive(Debug)]
struct Route {
    method: Method,
    /// With its parameters filled in.
    path: String,
    has_body: bool,
    /// The schemes of which one is needed. `None`: open to everybody.
    schemes: Option<BTreeSet<String>>,
}

/// The OpenAPI document of this name. (A test of xtask compares it with the code.)
fn document(name: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto-schemas/openapi");
    let text = std::fs::read_to_string(root.join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn filled_in(path: &str) -> String {
    path.replace("{username}", SLURM_USER)
        .replace("{owner}", "acme")
        .replace("{name}", "nowhere")
        .replace("{workflow_job_id}", "1")
        .replace("{github_id}", "1")
        .replace("{path}", "index.html")
}

fn routes_of(document: &Value) -> Vec<Route> {
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let declared = operation["security"].as_array();
            let declared = declared.unwrap_or_else(|| panic!("{method} {path} has no security"));
            let alternatives = declared.iter().map(|one| one.as_object().unwrap());
            let open = alternatives.clone().any(serde_json::Map::is_empty);
            let named = alternatives.flat_map(|one| one.keys().cloned()).collect();
            let mut path = filled_in(path);
            if path == "/gha/installations" {
                path = format!("{path}?url={REPOSITORY}");
            }
            assert!(!path.contains('{'), "{path}: what should the parameter be?");
            routes.push(Route {
                method: Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(),
                path,
                has_body: !operation["requestBody"].is_null(),
                schemes: (!open).then_some(named),
            });
        }
    }
    routes
}

/// Makes credentials, and calls with them.
struct Caller<'a> {
    stack: &'a Stack,
    launcher: SigningKey,
    agent: SigningKey,
    stranger: SigningKey,
    _strangers_keys: tempfile::TempDir,
}

impl<'a> Caller<'a> {
    fn new(stack: &'a Stack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let strangers = KeyFolder::new(folder.path().join("keys"));
        strangers.generate(chrono::Utc::now().timestamp()).unwrap();
        Self {
            stack,
            launcher: SigningKey::read(&KeyFolder::new(stack.launch_keys())).unwrap(),
            agent: SigningKey::read(&KeyFolder::new(stack.agent_keys())).unwrap(),
            stranger: SigningKey::read(&strangers).unwrap(),
            _strangers_keys: folder,
        }
    }

    /// Claims that every token has, and these.
    fn claims(issuer: &str, audience: &[&str], more: &Value) -> Value {
        let now = chrono::Utc::now().timestamp();
        let mut claims = json!({
            "iss": issuer,
            "aud": audience,
            "jti": uuid::Uuid::new_v4(),
            "iat": now,
            "nbf": now - 60,
            "exp": now + 60,
            "cluster": "main",
        });
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        claims
    }

    /// An unplanned launch, which the agent's policy refuses.
    fn launch_claims(&self) -> Value {
        let (owner, name) = REPOSITORY.split_once('/').unwrap();
        let more = json!({
            "sub": uuid::Uuid::now_v7(),
            "runnerName": "gha-slurm-e2e-nobody",
            "tokenURL": self.stack.url(Service::TokenBroker),
            "owner": owner,
            "repositoryName": name,
            "repositoryURL": format!("https://github.com/{REPOSITORY}"),
            "repositoryId": 1,
            "labels": "self-hosted,slurm",
            "workflowId": 1,
            "slurmUser": SLURM_USER,
            "resources": { "cpus": 1000 },
        });
        Self::claims("e2e", &[AUDIENCE_AGENT, AUDIENCE_BROKER], &more)
    }

    fn sign(signer: &SigningKey, claims: &Value) -> String {
        signer.sign(claims).unwrap().expose_secret().to_owned()
    }

    fn launch_token(&self) -> String {
        Self::sign(&self.launcher, &self.launch_claims())
    }

    /// What the last part of the path calls: `/runner/list` is called with the purpose `list`.
    fn assertion(signer: &SigningKey, issuer: &str, audience: &str, purpose: &str) -> String {
        let claims = Self::claims(
            issuer,
            &[audience],
            &json!({ "sub": purpose, "launcher": uuid::Uuid::nil() }),
        );
        Self::sign(signer, &claims)
    }

    /// Calls a route with a credential.
    async fn call(
        &self,
        url: &str,
        document: &str,
        route: &Route,
        credential: Credential,
    ) -> StatusCode {
        // Not JSON: a caller who is let in gets an error about the body, and nothing happens.
        let mut body = if route.has_body { "[" } else { "" }.to_owned();
        let purpose = route.path.rsplit('/').next().unwrap().to_owned();
        if document == "webhook-ingest" {
            body = "{}".into();
        } else if route.path == "/runner/start" {
            let token = match credential {
                C::LaunchTokenInBody => self.launch_token(),
                C::ForeignKey => Self::sign(&self.stranger, &self.launch_claims()),
                _ => "a.b.c".to_owned(),
            };
            body = json!({
                "gitHubURL": format!("https://github.com/{REPOSITORY}"),
                "launcherToken": token,
                "runnerLabels": "self-hosted,slurm",
                "tokenURL": self.stack.url(Service::TokenBroker),
                "runnerName": "gha-slurm-e2e-nobody",
            })
            .to_string();
        } else if credential == C::LaunchTokenInBody && route.has_body {
            body = json!({ "launcherToken": self.launch_token() }).to_string();
        }
        let mut call = self
            .stack
            .http()
            .request(route.method.clone(), format!("{url}{}", route.path))
            .header("X-GitHub-Event", "ping")
            .header("X-GitHub-Delivery", "72d3162e");
        if route.has_body {
            call = call.header("Content-Type", "application/json");
        }
        let user = json!({ "sub": SLURM_USER });
        call = match credential {
            C::Nothing | C::LaunchTokenInBody => call,
            C::Invented => call.bearer_auth("x".repeat(PROGRESS_TOKEN.len())),
            C::ForeignKey => {
                let mut claims = self.launch_claims();
                let everywhere = [
                    AUDIENCE_AGENT,
                    AUDIENCE_BROKER,
                    AUDIENCE_LAUNCHER,
                    AUDIENCE_REPO_MAPPING,
                ];
                claims["aud"] = json!(everywhere);
                call.bearer_auth(Self::sign(&self.stranger, &claims))
            }
            C::WebhookSignature => {
                let signature = webhook::sign(&self.stack.webhook_secret(), body.as_bytes());
                call.header("X-Hub-Signature-256", signature)
            }
            C::LaunchToken => call.bearer_auth(self.launch_token()),
            C::BareLaunchToken => call.header("Authorization", self.launch_token()),
            C::ProgressToken => call.bearer_auth(PROGRESS_TOKEN),
            C::ServiceToken => call.bearer_auth(self.stack.service_token().expose_secret()),
            C::AdministratorToken => {
                call.bearer_auth(self.stack.administrator_token().expose_secret())
            }
            C::AgentAssertion if document == "launcher" => call.bearer_auth(Self::assertion(
                &self.agent,
                AUDIENCE_AGENT,
                AUDIENCE_LAUNCHER,
                &purpose,
            )),
            C::AgentAssertion => call.bearer_auth(Self::sign(
                &self.agent,
                &Self::claims("main", &[AUDIENCE_REPO_MAPPING], &user),
            )),
            C::AgentAssertionElsewhere if document == "launcher" => call.bearer_auth(Self::sign(
                &self.agent,
                &Self::claims("main", &[AUDIENCE_REPO_MAPPING], &user),
            )),
            C::AgentAssertionElsewhere => call.bearer_auth(Self::assertion(
                &self.agent,
                AUDIENCE_AGENT,
                AUDIENCE_LAUNCHER,
                "poll",
            )),
            C::LauncherAssertion => call.bearer_auth(Self::assertion(
                &self.launcher,
                "e2e",
                AUDIENCE_AGENT,
                &purpose,
            )),
            C::LauncherAssertionElsewhere => {
                let other = if purpose == "list" { "states" } else { "list" };
                call.bearer_auth(Self::assertion(
                    &self.launcher,
                    "e2e",
                    AUDIENCE_AGENT,
                    other,
                ))
            }
            C::Munge | C::MungeElsewhere => {
                let path = match credential {
                    C::Munge => route.path.clone(),
                    _ => "/config/elsewhere".to_owned(),
                };
                let made_for = CredentialPayload {
                    method: route.method.to_string(),
                    path,
                    body_sha256: hex::encode(Sha256::digest(body.as_bytes())),
                };
                let credential = STANDARD.encode(serde_json::to_vec(&made_for).unwrap());
                call.header("Authorization", format!("Munge MUNGE:{credential}:"))
            }
            C::SharedSecret => call.header("auth-token", SHARED_SECRET),
            C::InventedSession => call.header("Cookie", "__Host-gha-slurm=made-up"),
            C::AdministratorSession | C::UserSession | C::OtherUserSession | C::UnlinkedSession => {
                let login = match credential {
                    C::AdministratorSession => ADMINISTRATOR,
                    C::UserSession => "ada",
                    C::OtherUserSession => "bob",
                    _ => "eve",
                };
                // A new one each time: one of the routes ends it.
                let session = self.stack.sign_in(login).await;
                let page = self.stack.url(Service::RepoMapping);
                call.header("Cookie", session).header("Origin", page)
            }
        };
        call.body(body).send().await.unwrap().status()
    }

    /// Every route of a document at this address, with every credential; and with methods that it does not have.
    async fn walk(&self, url: &str, name: &str, only: impl Fn(&str) -> bool) {
        let document = document(name);
        let routes = routes_of(&document);
        let mut wrong = Vec::new();
        let mut cells = 0;
        for route in routes.iter().filter(|route| only(&route.path)) {
            for credential in CREDENTIALS {
                let opens = match &route.schemes {
                    None => true,
                    Some(schemes) => credential
                        .scheme(&route.path)
                        .is_some_and(|scheme| schemes.contains(scheme)),
                };
                let status = self.call(url, name, route, credential).await;
                let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
                if refused == opens || status.is_server_error() {
                    wrong.push(format!(
                        "{} {} with {credential:?}: {status}",
                        route.method, route.path
                    ));
                }
                cells += 1;
            }
            for scheme in route.schemes.iter().flatten() {
                let known = CREDENTIALS
                    .iter()
                    .any(|credential| credential.scheme("/") == Some(scheme));
                assert!(known, "{name}: nobody tries the security scheme {scheme}");
            }
            let methods = METHODS.iter().filter(|method| {
                let known = |known: &&Route| known.path == route.path && known.method == **method;
                !routes.iter().any(|other| known(&other))
            });
            for method in methods {
                let call = self
                    .stack
                    .http()
                    .request(method.clone(), format!("{url}{}", route.path));
                let status = call.send().await.unwrap().status();
                let none = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND];
                if !none.contains(&status) {
                    wrong.push(format!(
                        "{method} {}, which no document has: {status}",
                        route.path
                    ));
                }
            }
        }
        assert!(cells >= CREDENTIALS.len(), "{name} has no route here");
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    }
}

/// Has people sign in: one of each kind.
async fn people_come(stack: &Stack) {
    for (login, user) in [
        (ADMINISTRATOR, None),
        ("ada", Some(SLURM_USER)),
        ("bob", Some("mallory")),
        ("eve", None),
    ] {
        let id = stack.github.create_person(login).unwrap().id;
        let _ = stack.sign_in(login).await;
        if let Some(user) = user {
            let link = format!(
                "{}/api/people/{id}/slurm-user",
                stack.url(Service::RepoMapping)
            );
            let call = stack
                .http()
                .put(link)
                .bearer_auth(stack.administrator_token().expose_secret())
                .json(&json!({ "slurmUser": user }));
            assert_eq!(call.send().await.unwrap().status(), StatusCode::OK);
        }
    }
}

/// A stack in which every route is there, and one build that runs until the file is made.
async fn running(builder: Builder) -> (Stack, i64, PathBuf) {
    let stack = builder.start().await;
    people_come(&stack).await;
    stack.map(&[REPOSITORY]).await;
    let (script, file) = stack.until_there("walked");
    let id = stack.queue(&script);
    stack.until_in_progress(id).await;
    (stack, id, file)
}

/// Lets the runner of the one build have the progress token that the test knows, while `walk` goes on.
async fn with_progress_token(stack: &Stack, walk: impl AsyncFnOnce()) {
    let own: Vec<u8> = stack
        .sql("SELECT progress_token_hash FROM runners", &[])
        .await;
    let set = |hash: String| async move {
        // Under the scope's lock, as services do: one that had read the row before would write the old hash back.
        let statement = format!(
            "WITH locked AS MATERIALIZED (SELECT lock_scope_of(id) FROM launches) \
             UPDATE runners SET progress_token_hash = decode('{hash}', 'hex') FROM locked"
        );
        assert_eq!(stack.execute(&statement).await, 1);
    };
    set(hex::encode(Sha256::digest(PROGRESS_TOKEN))).await;
    walk().await;
    set(hex::encode(own)).await;
}

/// An executable that stands in for unmunge(1): a credential is the payload in base64, within `MUNGE:…:`. munged itself is tried by slurm-agent's
/// `self_service`.
fn unmunge(folder: &Path) -> PathBuf {
    let script = format!(
        "#!/bin/sh\npayload=$(cut -d: -f2 | base64 -d 2>/dev/null) || exit 4\n\
         printf 'ENCODE_HOST: login1 (10.0.0.5)\\nENCODE_TIME: now (%s)\\nUID: daemon ({MUNGE_UID})\\nUID_RESTRICTION: me (%s)\\n\\n%s' \
         \"$(date +%s)\" \"$(id -u)\" \"$payload\"\n"
    );
    let file = folder.join("unmunge");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[tokio::test]
async fn each_route_is_opened_by_what_its_document_says_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.yml");
    std::fs::write(
        &original,
        format!("ghaSharedSecret: {SHARED_SECRET}\nrepositories: []\n"),
    )
    .unwrap();
    std::fs::set_permissions(&original, std::fs::Permissions::from_mode(0o600)).unwrap();
    let builder = Stack::builder()
        .setting(Service::Agent, "POLICY__MIN_UID", "1")
        .setting(Service::Agent, "POLICY__MAX__CPUS", "64")
        .setting(Service::Agent, "ORIGINAL__FILE", original.to_str().unwrap())
        .self_service(&unmunge(folder.path()), "login1");
    let (stack, id, file) = running(builder).await;
    let caller = Caller::new(&stack);
    let everything = |_: &str| true;
    with_progress_token(&stack, async || {
        for (service, name) in [
            (Service::WebhookIngest, "webhook-ingest"),
            (Service::TokenBroker, "token-broker"),
            (Service::RepoMapping, "repo-mapping"),
            (Service::Agent, "gha-slurm-munge"),
        ] {
            caller.walk(&stack.url(service), name, everything).await;
        }
        for service in Service::ALL {
            caller
                .walk(&stack.operations_url(service), "operations", everything)
                .await;
        }
    })
    .await;
    std::fs::write(file, "").unwrap();
    stack.until_completed(id).await;
    stack.finish().await;
}

#[tokio::test]
async fn outbound_mode_and_the_relay_are_opened_by_what_their_documents_say() {
    let (stack, id, file) = running(Stack::builder().outbound()).await;
    let caller = Caller::new(&stack);
    with_progress_token(&stack, async || {
        caller
            .walk(&stack.url(Service::Launcher), "launcher", |_| true)
            .await;
        let relayed = |path: &str| path.starts_with("/gha/runner");
        caller
            .walk(&stack.url(Service::Agent), "token-broker", relayed)
            .await;
    })
    .await;
    std::fs::write(file, "").unwrap();
    stack.until_completed(id).await;
    stack.finish().await;
}
