//! Users on a login node, with real MUNGE credentials and the real command; and workflow code, which gets nowhere with them.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gha_slurm_auth::{KeyFolder, verify};
use gha_slurm_contract::mapping::{AUDIENCE_REPO_MAPPING, UserClaims};
use gha_slurm_contract::self_service::CredentialPayload;
use gha_slurm_test_support::{LOGIN_NODE, PrivateSlurm, SLURM_USERS, binary, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site};
use crate::real_slurm::{By, by_both, of};

by_both!(
    a_user_manages_their_repositories_from_a_login_node,
    another_repository_than_was_confirmed_gets_no_consent,
    a_credential_is_good_for_one_call_from_a_login_node,
    workflow_code_on_a_compute_node_cannot_use_it,
    a_user_has_github_asked_a_few_times_a_minute,
);

const USER: &str = SLURM_USERS[0];
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A cluster whose users manage their repositories themselves.
struct Cluster {
    slurm: PrivateSlurm,
    site: Site,
    agent: Agent,
    repo_mapping: MockServer,
    /// The login node's munged.
    login: PathBuf,
    consents: PathBuf,
}

struct Said {
    ok: bool,
    out: String,
    err: String,
}

impl Cluster {
    /// `None`: not root.
    async fn start(by: By) -> Option<Self> {
        let slurm = PrivateSlurm::for_test(1).await?;
        let login = slurm.start_login_munged().await.unwrap();
        let repo_mapping = MockServer::start().await;
        let site = by.site(&slurm);
        let identity = site.path("identity");
        KeyFolder::new(&identity).generate(1).unwrap();
        let consents = site.path("consents");
        std::fs::write(&consents, "news 77 # by hand\n").unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let settings = format!(
            "[self_service]\nrepo_mapping_url = \"{}\"\nlogin_nodes = [\"login.example\", \"{LOGIN_NODE}\"]\n\
             munge_socket = \"{}\"\n",
            repo_mapping.uri(),
            slurm.munge_socket().display(),
        );
        std::fs::write(site.path("settings.toml"), settings).unwrap();
        let site = site
            .with("IDENTITY__KEYS", &text(identity))
            .with("POLICY__CONSENTS", &text(consents.clone()))
            .with_file("settings.toml");
        let agent = site.agent().await;
        // What the users of a login node find: the command, and where the agent is.
        let command = site.path("gha-slurm");
        // By a process of its own: one that another test starts meanwhile would inherit the open file, which then is busy.
        let copied = std::process::Command::new("cp")
            .args([binary("gha-slurm"), command.clone()])
            .status();
        assert!(copied.unwrap().success());
        std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).unwrap();
        let client = format!(
            "agent_url = \"{}\"\nagent_user = \"root\"\nmunge_socket = \"{}\"\n",
            agent.url(),
            login.display()
        );
        std::fs::write(site.path("client.toml"), client).unwrap();
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(site.path("client.toml"), readable).unwrap();
        Some(Self {
            slurm,
            site,
            agent,
            repo_mapping,
            login,
            consents,
        })
    }

    /// The command, as the user types it on the login node.
    async fn gha_slurm(&self, user: &str, words: &[&str]) -> Said {
        let (uid, gid) = ids(user);
        let mut command = tokio::process::Command::new(self.site.path("gha-slurm"));
        command
            .args(words)
            .arg("--settings")
            .arg(self.site.path("client.toml"))
            .current_dir("/")
            .uid(uid)
            .gid(gid);
        let output = command.output().await.unwrap();
        Said {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// repo-mapping knows these of the user.
    async fn has(&self, list: Value) {
        Mock::given(method("GET"))
            .and(path(of_user("")))
            .respond_with(ResponseTemplate::new(200).set_body_json(list))
            .with_priority(1)
            .mount(&self.repo_mapping)
            .await;
    }

    /// repo-mapping says that `acme/widgets` is this one.
    async fn finds(&self, name: &str, id: i64) {
        let answer = json!({"id": id, "url": format!("https://github.com/{name}")});
        Mock::given(method("GET"))
            .and(path(of_user("/acme/widgets")))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount(&self.repo_mapping)
            .await;
    }

    fn consents(&self) -> String {
        std::fs::read_to_string(&self.consents).unwrap()
    }

    async fn call(&self, method: Method, credential: &str, body: &str) -> (u16, Value) {
        let call = self.request(method, "/config/repos", credential);
        let response = call.body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    fn request(&self, method: Method, path: &str, credential: &str) -> reqwest::RequestBuilder {
        reqwest::Client::builder()
            .timeout(DEADLINE)
            .build()
            .unwrap()
            .request(method, format!("{}{path}", self.agent.url()))
            .header("Authorization", format!("Munge {}", credential.trim()))
    }
}

/// A credential of the user for this call.
fn credential(socket: &Path, call: &CredentialPayload, restricted: bool) -> String {
    let (uid, gid) = ids(USER);
    let mut command = Command::new("munge");
    command.arg("--socket").arg(socket).uid(uid).gid(gid);
    if restricted {
        command.arg("--restrict-uid=root");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    serde_json::to_writer(&mut stdin, call).unwrap();
    drop(stdin);
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn of_user(rest: &str) -> String {
    format!("/api/users/{USER}/repositories{rest}")
}

fn ids(user: &str) -> (u32, u32) {
    let user = nix::unistd::User::from_name(user).unwrap().unwrap();
    (user.uid.as_raw(), user.gid.as_raw())
}

fn widgets(state: &str) -> Value {
    json!({"user": USER, "state": state, "id": 42, "url": "https://github.com/acme/widgets", "account": "chemistry"})
}

fn list_call() -> CredentialPayload {
    CredentialPayload {
        method: "GET".into(),
        path: "/config/repos".into(),
        body_sha256: EMPTY_SHA256.into(),
    }
}

async fn a_user_manages_their_repositories_from_a_login_node(by: By) {
    let Some(cluster) = Cluster::start(by).await else {
        return;
    };
    Mock::given(method("POST"))
        .and(path(of_user("")))
        .respond_with(ResponseTemplate::new(202).set_body_json(widgets("waiting")))
        .mount(&cluster.repo_mapping)
        .await;
    cluster.finds("acme/widgets", 42).await;
    let add = ["repos", "add", "acme/widgets", "--account", "chemistry"];
    let unconfirmed = cluster.gha_slurm(USER, &add).await;
    assert!(
        !unconfirmed.ok && unconfirmed.err.contains("--id 42"),
        "{}",
        unconfirmed.err
    );
    assert_eq!(cluster.consents(), "news 77 # by hand\n");
    let added = cluster
        .gha_slurm(USER, &[&add[..], &["--yes"]].concat())
        .await;
    assert!(
        added.ok && added.out.contains("waits for an administrator"),
        "{}{}",
        added.out,
        added.err
    );
    let asked = cluster.repo_mapping.received_requests().await.unwrap();
    let asked = asked.last().unwrap();
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(
        body,
        json!({"repository": "acme/widgets", "account": "chemistry", "id": 42})
    );
    let bearer = asked.headers["authorization"].to_str().unwrap();
    let keys = KeyFolder::new(cluster.site.path("identity"))
        .key_set()
        .unwrap();
    let claims: UserClaims = verify(
        bearer.strip_prefix("Bearer ").unwrap(),
        &keys,
        AUDIENCE_REPO_MAPPING,
        "main",
    )
    .unwrap();
    assert_eq!(claims.sub.as_str(), USER, "MUNGE says who it is");
    assert!(claims.exp - claims.iat <= 60);
    assert!(
        cluster
            .consents()
            .contains(&format!("{USER} 42 # acme/widgets by the user, ")),
        "the cluster keeps the consent: {}",
        cluster.consents()
    );

    cluster.has(json!([widgets("mapped")])).await;
    let listed = cluster.gha_slurm(USER, &["repos", "list"]).await;
    assert_eq!(
        listed.out, "https://github.com/acme/widgets  account=chemistry\n",
        "{}",
        listed.err
    );
    Mock::given(method("DELETE"))
        .and(path(of_user("/acme/widgets")))
        .respond_with(ResponseTemplate::new(204))
        .mount(&cluster.repo_mapping)
        .await;
    let url = "https://github.com/ACME/widgets.git";
    let removed = cluster.gha_slurm(USER, &["repos", "remove", url]).await;
    assert!(removed.ok, "{}", removed.err);
    assert_eq!(cluster.consents(), "news 77 # by hand\n");
    let unknown = cluster
        .gha_slurm(USER, &["repos", "remove", "acme/$(reboot)"])
        .await;
    assert!(
        !unknown.ok && unknown.err.contains("Not a repository"),
        "{}",
        unknown.err
    );
    // Whom the policy does not let in gets no further than their name.
    let root = cluster.gha_slurm("root", &["repos", "list"]).await;
    assert!(!root.ok && root.err.contains("uid 0"), "{}", root.err);
    cluster.agent.stop();
}

/// A service that was taken over cannot have the cluster write down another consent than the user's.
async fn another_repository_than_was_confirmed_gets_no_consent(by: By) {
    let Some(cluster) = Cluster::start(by).await else {
        return;
    };
    let theirs = |id: i64, name: &str| {
        let mut answer = widgets("mapped");
        answer["id"] = json!(id);
        answer["url"] = json!(format!("https://github.com/{name}"));
        answer
    };
    for answer in [theirs(666, "acme/widgets"), theirs(42, "evil/widgets")] {
        let mock = Mock::given(method("POST"))
            .and(path(of_user("")))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount_as_scoped(&cluster.repo_mapping)
            .await;
        let add = ["repos", "add", "acme/widgets", "--id", "42"];
        let added = cluster.gha_slurm(USER, &add).await;
        assert!(
            !added.ok && added.err.contains("another repository than you confirmed"),
            "{}{}",
            added.out,
            added.err
        );
        drop(mock);
        assert_eq!(cluster.consents(), "news 77 # by hand\n");
    }
    cluster.finds("evil/widgets", 666).await;
    let add = ["repos", "add", "acme/widgets", "--yes"];
    let added = cluster.gha_slurm(USER, &add).await;
    assert!(!added.ok, "{}", added.out);
    let unconfirmed = json!({"repository": "acme/widgets"}).to_string();
    let call = CredentialPayload {
        method: "POST".into(),
        path: "/config/repos".into(),
        body_sha256: hex::encode(aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            unconfirmed.as_bytes(),
        )),
    };
    let credential = credential(&cluster.login, &call, true);
    let (status, problem) = cluster.call(Method::POST, &credential, &unconfirmed).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("repository_unconfirmed"))
    );
    assert_eq!(cluster.consents(), "news 77 # by hand\n");

    // A consent ends with the user's word, although repo-mapping pretends not to know the repository.
    let consents = format!("{USER} 42 # acme/widgets by the user, 2026-11-28\n");
    std::fs::write(&cluster.consents, consents).unwrap();
    cluster.has(json!([])).await;
    let removed = cluster
        .gha_slurm(USER, &["repos", "remove", "acme/widgets"])
        .await;
    assert!(removed.ok, "{}", removed.err);
    assert_eq!(cluster.consents().trim(), "");
    cluster.agent.stop();
}

async fn a_credential_is_good_for_one_call_from_a_login_node(by: By) {
    let Some(cluster) = Cluster::start(by).await else {
        return;
    };
    cluster.has(json!([])).await;
    let login = &cluster.login;
    let fine = credential(login, &list_call(), true);
    assert_eq!(cluster.call(Method::GET, &fine, "").await.0, 200);
    let (status, problem) = cluster.call(Method::GET, &fine, "").await;
    assert_eq!(status, 401, "a second time: {problem}");
    assert!(problem["detail"].as_str().unwrap().contains("used before"));

    let other_call = |change: fn(&mut CredentialPayload)| {
        let mut call = list_call();
        change(&mut call);
        credential(login, &call, true)
    };
    for (what, credential) in [
        ("method", other_call(|call| call.method = "DELETE".into())),
        (
            "path",
            other_call(|call| call.path = "/config/runners".into()),
        ),
        ("body", other_call(|call| call.body_sha256 = "0".repeat(64))),
        ("no restriction", credential(login, &list_call(), false)),
        ("garbage", "MUNGE:AwQFAAA=:".into()),
    ] {
        let (status, problem) = cluster.call(Method::GET, &credential, "").await;
        assert_eq!(status, 401, "{what}: {problem}");
    }
    let body = json!({"repository": "acme/widgets"}).to_string();
    let (status, _) = cluster
        .call(Method::POST, &credential(login, &list_call(), true), &body)
        .await;
    assert_eq!(status, 401, "a body that was put under it");
    let elsewhere = credential(&cluster.slurm.munge_socket(), &list_call(), true);
    let (status, problem) = cluster.call(Method::GET, &elsewhere, "").await;
    assert_eq!(
        (status, &problem["code"]),
        (403, &json!("not_a_login_node"))
    );
    cluster.agent.stop();
}

/// Each question was two calls to GitHub, whose limit all users of an installation share.
async fn a_user_has_github_asked_a_few_times_a_minute(by: By) {
    let Some(cluster) = Cluster::start(by).await else {
        return;
    };
    cluster.finds("acme/widgets", 42).await;
    let path = "/config/repos/identity?repository=acme/widgets";
    let call = CredentialPayload {
        path: path.into(),
        ..list_call()
    };
    let mut refused = 0;
    for _ in 0..30 {
        let credential = credential(&cluster.login, &call, true);
        let ask = cluster.request(Method::GET, path, &credential);
        let answer = ask.send().await.unwrap();
        match answer.status().as_u16() {
            200 => {}
            429 => {
                assert!(answer.headers().contains_key("retry-after"));
                refused += 1;
            }
            status => panic!("{status} {}", answer.text().await.unwrap()),
        }
    }
    assert_eq!(refused, 10);
    let asked = cluster.repo_mapping.received_requests().await.unwrap();
    assert_eq!(asked.len(), 20);
    // What concerns nobody but this user goes on.
    cluster.has(json!([])).await;
    let credential = credential(&cluster.login, &list_call(), true);
    assert_eq!(cluster.call(Method::GET, &credential, "").await.0, 200);
    cluster.agent.stop();
}

/// Workflow code runs as the user: it may ask munged for a credential, but that says where it was made.
async fn workflow_code_on_a_compute_node_cannot_use_it(by: By) {
    let Some(cluster) = Cluster::start(by).await else {
        return;
    };
    cluster.has(json!([])).await;
    let payload = serde_json::to_string(&list_call()).unwrap();
    let script = format!(
        "#!/bin/bash\nexec >>\"$(mktemp --suffix=.log \"$GHA_SLURM_OUTPUT.XXXXXXXXXX\")\"\ncredential=$(munge --socket={} --restrict-uid=root <<<'{payload}' | tr -d '\\n')\n\
         curl --silent -H \"Authorization: Munge $credential\" {}/config/repos\necho\nsleep 600\n",
        cluster.slurm.munge_socket().display(),
        cluster.agent.url(),
    );
    std::fs::write(cluster.site.path("script"), script).unwrap();
    std::fs::write(&cluster.consents, format!("{USER} 1\n")).unwrap();
    let asked = of(USER, "r1");
    let id = cluster.agent.start(&cluster.site.request(&asked)).await;
    let said = wait_until("the build was answered", DEADLINE, || async {
        let text = gha_slurm_test_support::output_of(&cluster.site.path("output"), "r1");
        text.ends_with('\n').then_some(text)
    })
    .await;
    assert!(said.contains("not_a_login_node"), "{said}");

    // The user sees it from the login node, and can end it there.
    let shown = cluster.gha_slurm(USER, &["runners"]).await;
    assert!(
        shown.out.contains(&id) && shown.out.contains("https://github.com/acme/widgets"),
        "{}{}",
        shown.out,
        shown.err
    );
    let other = cluster
        .gha_slurm(SLURM_USERS[1], &["runners", "cancel", &id])
        .await;
    assert!(
        !other.ok && other.err.contains("no such runner"),
        "{}",
        other.err
    );
    let cancelled = cluster.gha_slurm(USER, &["runners", "cancel", &id]).await;
    assert!(cancelled.ok, "{}", cancelled.err);
    wait_until("Slurm has cancelled it", DEADLINE, || async {
        let queue = crate::real_slurm::queue(&cluster.slurm).await;
        let ended = crate::real_slurm::of_launch(&queue, asked.sub);
        if ended.iter().all(|line| line.contains("CANCELLED")) {
            Ok(())
        } else {
            Err(queue)
        }
    })
    .await;
    cluster.agent.stop();
}
