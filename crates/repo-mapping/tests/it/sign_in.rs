//! People sign in with GitHub, and see and change what is theirs.

use gha_slurm_auth::KeyFolder;
use gha_slurm_simulator::{AppKey, Handle, Settings, Simulator};
use gha_slurm_test_support::seed::{Seed, facts};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{Answer, Service};

/// Where the page is, as the settings have it: what the tests call is behind its reverse proxy.
const PAGE: &str = "https://ci.example.org";
const SESSION: &str = "__Host-gha-slurm";

/// repo-mapping, and the GitHub that people sign in with: grace is an administrator.
struct Site {
    service: Service,
    github: Handle,
    _agent_keys: TempDir,
    _github_stops: DropGuard,
}

impl Site {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> Self {
        let key = AppKey::from_pem(AppKey::generate_private_pem().unwrap().as_bytes()).unwrap();
        let simulator = Simulator::build(Settings::new(4242, key)).unwrap();
        let github = simulator.handle();
        let stop = CancellationToken::new();
        tokio::spawn(simulator.run_until_stopped(stop.clone()));
        github
            .set_callback_urls(vec![format!("{PAGE}/api/sign-in/github/callback")])
            .unwrap();
        let grace = github.create_person("grace").unwrap();
        for login in ["ada", "eve"] {
            github.create_person(login).unwrap();
        }
        let agent_keys = tempfile::tempdir().unwrap();
        KeyFolder::new(agent_keys.path()).generate(0).unwrap();
        let mut settings = vec![
            ("GITHUB__WEB_URL", github.web_url()),
            ("ACCESS__ADMINISTRATORS", grace.id.to_string()),
            ("SIGN_IN__PUBLIC_URL", PAGE.into()),
            ("SIGN_IN__CLIENT_ID", github.client_id()),
            (
                "SIGN_IN__CLIENT_SECRET",
                github.client_secret().expose_secret().to_owned(),
            ),
            ("SIGN_IN__API_URL", github.api_url()),
        ];
        change(&mut settings);
        Self {
            service: Service::start_with_agents_and(&[("main", agent_keys.path())], settings).await,
            github,
            _agent_keys: agent_keys,
            _github_stops: stop.drop_guard(),
        }
    }

    /// Begins a sign-in: GitHub's address, and the cookie that has to come back.
    async fn begin(&self, return_to: &str) -> (String, String) {
        let path = format!("/api/sign-in/github?return_to={return_to}");
        let begun = self
            .service
            .as_browser(Method::GET, &path, None, None, None)
            .await;
        assert_eq!(begun.status, 302, "{}", begun.text);
        let cookie = cookie(&begun, "__Host-gha-slurm-sign-in").unwrap();
        (location(&begun), cookie)
    }

    /// GitHub sends the browser back, as it says in `callback`.
    async fn come_back(&self, callback: &str, cookie: Option<&str>) -> Answer {
        let path = callback.strip_prefix(PAGE).unwrap();
        self.service
            .as_browser(Method::GET, path, cookie, None, None)
            .await
    }

    /// The session of somebody who signs in.
    async fn sign_in(&self, login: &str) -> String {
        let (url, started) = self.begin("/").await;
        let callback = self.github.authorize(login, &url).unwrap();
        let back = self.come_back(&callback, Some(&started)).await;
        assert_eq!(location(&back), "/", "{}", back.text);
        cookie(&back, SESSION).unwrap()
    }

    async fn get(&self, path: &str, session: &str) -> Answer {
        self.service
            .as_browser(Method::GET, path, Some(session), None, None)
            .await
    }

    /// As the page does it.
    async fn change(
        &self,
        method: Method,
        path: &str,
        session: &str,
        body: Option<Value>,
    ) -> Answer {
        self.service
            .as_browser(method, path, Some(session), Some(PAGE), body)
            .await
    }

    async fn id(&self, session: &str) -> i64 {
        self.get("/api/me", session)
            .await
            .body
            .pointer("/githubId")
            .unwrap()
            .as_i64()
            .unwrap()
    }

    async fn link(&self, person: i64, user: &str, by: &str) -> Answer {
        let path = format!("/api/people/{person}/slurm-user");
        self.change(Method::PUT, &path, by, Some(json!({ "slurmUser": user })))
            .await
    }
}

fn location(answer: &Answer) -> String {
    answer
        .headers
        .get("location")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// `name=value` of a cookie that is set, not removed.
fn cookie(answer: &Answer, name: &str) -> Option<String> {
    let set = answer.headers.get_all("set-cookie").iter();
    set.map(|value| value.to_str().unwrap())
        .filter(|value| value.starts_with(&format!("{name}=")) && !value.contains("Max-Age=0"))
        .map(|value| {
            for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
                assert!(value.contains(attribute), "{value}");
            }
            assert!(!value.contains("Domain"), "{value}");
            value.split(';').next().unwrap().to_owned()
        })
        .next()
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.body.get("code")),
        (status, Some(&json!(code))),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn people_sign_in_with_github_and_out_again() {
    let site = Site::start().await;
    let ways = site.service.get_without_token("/api/sign-in").await;
    assert_eq!(ways.body, json!({ "github": true }));
    refused(
        &site.service.get_without_token("/api/me").await,
        401,
        "unauthorized",
    );

    let (url, started) = site.begin("/builds/17%3Fuser=alice").await;
    assert!(url.contains("code_challenge_method=S256"), "{url}");
    let callback = site.github.authorize("eve", &url).unwrap();
    let back = site.come_back(&callback, Some(&started)).await;
    assert_eq!(location(&back), "/builds/17?user=alice");
    let session = cookie(&back, SESSION).unwrap();
    let me = site.get("/api/me", &session).await.body;
    assert_eq!(
        (&me["login"], &me["administrator"]),
        (&json!("eve"), &json!(false))
    );
    assert!(me.get("slurmUser").is_none());
    // The token that GitHub gave for the question is gone.
    assert_eq!(
        site.github.calls("DELETE /applications/{client_id}/token"),
        1
    );

    let other = site.sign_in("eve").await;
    let third = site.sign_in("eve").await;
    let out = |path: &'static str, session: String| {
        let site = &site;
        async move { site.change(Method::POST, path, &session, None).await.status }
    };
    assert_eq!(out("/api/sign-out", session.clone()).await, 204);
    assert_eq!(site.get("/api/me", &session).await.status, 401);
    assert_eq!(site.get("/api/me", &other).await.status, 200);
    assert_eq!(
        out("/api/sign-out?everywhere=true", other.clone()).await,
        204
    );
    for session in [&other, &third] {
        assert_eq!(site.get("/api/me", session).await.status, 401);
    }
    assert_eq!(out("/api/sign-out", third.clone()).await, 401);
}

#[tokio::test]
async fn a_sign_in_that_this_browser_did_not_begin_is_none() {
    let site = Site::start().await;
    let (url, started) = site.begin("/").await;
    let callback = site.github.authorize("eve", &url).unwrap();
    let (_, of_another) = site.begin("/").await;
    for (callback, cookie_then) in [
        (callback.as_str(), None),
        (&callback, Some(of_another.as_str())),
        (&callback, Some("__Host-gha-slurm-sign-in=AAAA")),
        (
            &format!("{PAGE}/api/sign-in/github/callback"),
            Some(&started),
        ),
        (
            &format!("{PAGE}/api/sign-in/github/callback?code=a&state="),
            Some(&started),
        ),
    ] {
        let back = site.come_back(callback, cookie_then).await;
        assert_eq!(
            location(&back),
            "/?sign_in=expired",
            "{callback} {cookie_then:?}"
        );
        assert_eq!(cookie(&back, SESSION), None);
    }
    // A code serves once.
    let back = site.come_back(&callback, Some(&started)).await;
    assert!(cookie(&back, SESSION).is_some());
    let again = site.come_back(&callback, Some(&started)).await;
    assert_eq!(location(&again), "/?sign_in=expired");
    assert_eq!(cookie(&again, SESSION), None);
    // Nor is a code of another App's sign-in, or of an attacker's account, taken without the verifier that belongs to it.
    let (of_eve, _) = site.begin("/").await;
    let stolen = site.github.authorize("eve", &of_eve).unwrap();
    let (_, own) = site.begin("/").await;
    let code = stolen
        .split("code=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let state = state_of(&own);
    let injected = format!("{PAGE}/api/sign-in/github/callback?code={code}&state={state}");
    let back = site.come_back(&injected, Some(&own)).await;
    assert_eq!(location(&back), "/?sign_in=expired");
    assert_eq!(cookie(&back, SESSION), None);
}

/// The state in the cookie of a sign-in that has begun.
fn state_of(cookie: &str) -> String {
    use base64::Engine as _;
    let value = cookie.split_once('=').unwrap().1;
    let value = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(value)
        .unwrap();
    let started: Value = serde_json::from_slice(&value).unwrap();
    started
        .get("state")
        .and_then(Value::as_str)
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn people_are_told_why_they_are_not_signed_in() {
    let site = Site::start().await;
    let (url, started) = site.begin("/").await;
    let cancelled = site.github.cancel_authorization(&url).unwrap();
    let back = site.come_back(&cancelled, Some(&started)).await;
    assert_eq!(location(&back), "/?sign_in=cancelled");

    let wrong = Site::start_with(|settings| {
        settings.retain(|(key, _)| *key != "SIGN_IN__CLIENT_SECRET");
        settings.push((
            "SIGN_IN__CLIENT_SECRET",
            "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567".into(),
        ));
    })
    .await;
    let (url, started) = wrong.begin("/").await;
    let callback = wrong.github.authorize("eve", &url).unwrap();
    let back = wrong.come_back(&callback, Some(&started)).await;
    assert_eq!(location(&back), "/?sign_in=failed");

    let away = Site::start_with(|settings| {
        settings.retain(|(key, _)| *key != "SIGN_IN__API_URL");
        // Nobody listens on the port that is reserved for tcpmux.
        settings.push(("SIGN_IN__API_URL", "http://127.0.0.1:1".into()));
    })
    .await;
    let (url, started) = away.begin("/").await;
    let callback = away.github.authorize("eve", &url).unwrap();
    let back = away.come_back(&callback, Some(&started)).await;
    assert_eq!(location(&back), "/?sign_in=unavailable");

    let none = Service::start().await;
    assert_eq!(
        none.get_without_token("/api/sign-in").await.body,
        json!({ "github": false })
    );
    for path in [
        "/api/sign-in/github",
        "/api/sign-in/github/callback?code=a&state=b",
    ] {
        refused(&none.get_without_token(path).await, 404, "sign_in_off");
    }
}

#[tokio::test]
async fn nobody_is_sent_to_another_site() {
    let site = Site::start().await;
    for return_to in [
        "//evil.example",
        "https://evil.example",
        "/%5Cevil.example",
        "/%09/evil.example",
    ] {
        let (url, started) = site.begin(return_to).await;
        let callback = site.github.authorize("eve", &url).unwrap();
        let back = site.come_back(&callback, Some(&started)).await;
        assert_eq!(location(&back), "/", "{return_to}");
    }
}

#[tokio::test]
async fn a_person_sees_and_changes_what_their_slurm_user_may() {
    let site = Site::start().await;
    let (grace, ada, eve) = (
        site.sign_in("grace").await,
        site.sign_in("ada").await,
        site.sign_in("eve").await,
    );
    let (of_alice, of_bob) = (
        build_of(&site, "alice", 1).await,
        build_of(&site, "bob", 2).await,
    );

    // Whoever is linked to nobody sees nothing, and is told so.
    for path in [
        "/api/builds",
        "/api/usage?month=2026-11",
        "/api/builds/1",
        "/repositories/alice",
        "/api/users/alice/repositories",
    ] {
        refused(&site.get(path, &ada).await, 403, "not_linked");
        refused(
            &site.get(path, &format!("{SESSION}=made-up")).await,
            401,
            "unauthorized",
        );
    }
    let linked = site.link(site.id(&ada).await, "alice", &grace).await;
    assert_eq!(linked.status, 200, "{}", linked.text);
    let shown = &linked.body;
    assert_eq!(
        (&shown["slurmUser"], &shown["cluster"], &shown["linkedBy"]),
        (
            &json!("alice"),
            &json!("main"),
            &json!(format!("grace ({})", site.id(&grace).await))
        )
    );
    assert_eq!(site.get("/api/me", &ada).await.body["slurmUser"], "alice");

    let ids = |answer: Answer| -> Vec<i64> {
        let builds = answer
            .body
            .as_array()
            .unwrap_or_else(|| panic!("{}", answer.text));
        builds
            .iter()
            .map(|build| build["workflowJobId"].as_i64().unwrap())
            .collect()
    };
    for path in ["/api/builds", "/api/builds?user=alice"] {
        assert_eq!(ids(site.get(path, &ada).await), [of_alice]);
    }
    assert_eq!(
        ids(site.get("/api/builds", &grace).await),
        [of_bob, of_alice]
    );
    for path in [
        "/api/builds?user=bob",
        "/api/usage?month=2026-11&user=bob",
        "/repositories/bob",
        "/api/users/bob/repositories",
    ] {
        refused(&site.get(path, &ada).await, 403, "not_this_user");
        assert_eq!(site.get(path, &grace).await.status, 200, "{path}");
    }
    assert_eq!(
        site.get(&format!("/api/builds/{of_alice}"), &ada)
            .await
            .status,
        200
    );
    refused(
        &site.get(&format!("/api/builds/{of_bob}"), &ada).await,
        404,
        "build_unknown",
    );
    assert_eq!(
        site.get(&format!("/api/builds/{of_bob}"), &grace)
            .await
            .status,
        200
    );

    // What they add waits for an administrator.
    site.service.at_github("gadgets", 77, true).await;
    let entry = json!({ "repository": "acme/gadgets" });
    let path = "/api/users/alice/repositories";
    let asked = site
        .change(Method::POST, path, &ada, Some(entry.clone()))
        .await;
    assert_eq!(
        (asked.status, &asked.body["state"]),
        (202, &json!("waiting")),
        "{}",
        asked.text
    );
    refused(
        &site
            .change(
                Method::POST,
                "/api/users/bob/repositories",
                &ada,
                Some(entry),
            )
            .await,
        403,
        "not_this_user",
    );
    let list = Some(json!([]));
    for (method, path, body) in [
        (Method::POST, "/repositories/alice", list),
        (Method::GET, "/api/mapping-requests", None),
        (Method::GET, "/api/people", None),
        (
            Method::PUT,
            "/api/people/1/slurm-user",
            Some(json!({ "slurmUser": "bob" })),
        ),
        (Method::DELETE, "/api/people/1/slurm-user", None),
        (
            Method::PUT,
            "/api/public-repositories/acme/gadgets",
            Some(json!({ "reason": "why not" })),
        ),
    ] {
        for session in [&ada, &eve] {
            refused(
                &site
                    .change(method.clone(), path, session, body.clone())
                    .await,
                403,
                "administrators_only",
            );
        }
    }
    assert_eq!(
        site.get("/api/mapping-requests", &grace).await.body[0]["user"],
        "alice"
    );
    let removed = site
        .change(
            Method::DELETE,
            "/api/users/alice/repositories/acme/gadgets",
            &ada,
            None,
        )
        .await;
    assert_eq!(removed.status, 204, "{}", removed.text);

    // A link that ends, ends at once.
    let path = format!("/api/people/{}/slurm-user", site.id(&ada).await);
    assert_eq!(
        site.change(Method::DELETE, &path, &grace, None)
            .await
            .status,
        200
    );
    refused(&site.get("/api/builds", &ada).await, 403, "not_linked");
}

/// A build of a repository that is mapped to `user`.
async fn build_of(site: &Site, user: &str, id: i64) -> i64 {
    let name = format!("widgets-{id}");
    site.service.at_github(&name, id, true).await;
    let mapped = site
        .service
        .post(user, &[&format!("acme/{name}")], None)
        .await;
    assert_eq!(mapped.status, 200, "{}", mapped.text);
    let seed = Seed {
        database: &site.service.database,
        repository: gha_slurm_domain::RepositoryId(id),
        user: user.parse().unwrap(),
    };
    let now = chrono::Utc::now();
    seed.queued(&facts(id, &["self-hosted", "slurm"], Some(now)), now)
        .await;
    id
}

#[tokio::test]
async fn administrators_link_people_to_slurm_users_of_known_clusters() {
    let site = Site::start().await;
    let (grace, ada) = (site.sign_in("grace").await, site.sign_in("ada").await);
    let id = site.id(&ada).await;
    let path = format!("/api/people/{id}/slurm-user");
    let put = |body: Value| site.change(Method::PUT, &path, &grace, Some(body));
    refused(
        &put(json!({ "slurmUser": "alice", "cluster": "moon" })).await,
        422,
        "cluster_unknown",
    );
    refused(
        &put(json!({ "slurmUser": "-alice" })).await,
        400,
        "body_invalid",
    );
    refused(&put(json!({ "user": "alice" })).await, 400, "body_invalid");
    assert_eq!(
        put(json!({ "slurmUser": "alice", "cluster": "main" }))
            .await
            .status,
        200
    );
    refused(
        &site.link(4711, "alice", &grace).await,
        404,
        "person_unknown",
    );
    refused(
        &site
            .change(Method::DELETE, "/api/people/x/slurm-user", &grace, None)
            .await,
        404,
        "person_unknown",
    );
    let people = site.get("/api/people", &grace).await.body;
    let logins: Vec<&str> = people
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["login"].as_str().unwrap())
        .collect();
    assert_eq!(logins, ["ada", "grace"]);
    assert_eq!(
        (&people[1]["administrator"], &people[0]["slurmUser"]),
        (&json!(true), &json!("alice"))
    );
    // A token may, too.
    let by_token = site.service.put(&path, json!({ "slurmUser": "bob" })).await;
    assert_eq!(by_token.body["linkedBy"], "an administrator's token");
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    let site = Site::start().await;
    let (grace, ada) = (site.sign_in("grace").await, site.sign_in("ada").await);
    let path = format!("/api/people/{}/slurm-user", site.id(&ada).await);
    let body = json!({ "slurmUser": "alice" });
    for origin in [
        None,
        Some("null"),
        Some("https://evil.example"),
        Some("http://ci.example.org"),
        Some("https://ci.example.org.evil.example"),
    ] {
        let forged = site
            .service
            .as_browser(Method::PUT, &path, Some(&grace), origin, Some(body.clone()))
            .await;
        refused(&forged, 403, "other_site");
        let forged = site
            .service
            .as_browser(Method::POST, "/api/sign-out", Some(&grace), origin, None)
            .await;
        refused(&forged, 403, "other_site");
    }
    assert!(
        site.get("/api/me", &ada)
            .await
            .body
            .get("slurmUser")
            .is_none()
    );
    assert_eq!(site.get("/api/me", &grace).await.status, 200);
}

#[tokio::test]
async fn sessions_end_by_themselves() {
    let site = Site::start_with(|settings| {
        settings.push(("SIGN_IN__SESSION_DAYS", "3".into()));
        settings.push(("SIGN_IN__IDLE_HOURS", "2".into()));
    })
    .await;
    let session = site.sign_in("eve").await;
    let age = |column: &'static str, hours: i64| {
        let database = site.service.database.clone();
        async move {
            let sql = format!("UPDATE sessions SET {column} = now() - interval '{hours} hours'");
            execute(&database, &sql).await;
        }
    };
    age("last_seen_at", 1).await;
    assert_eq!(site.get("/api/me", &session).await.status, 200);
    // It was used a moment ago.
    age("created_at", 71).await;
    assert_eq!(site.get("/api/me", &session).await.status, 200);
    age("created_at", 73).await;
    assert_eq!(site.get("/api/me", &session).await.status, 401);
    age("created_at", 3).await;
    age("last_seen_at", 3).await;
    assert_eq!(site.get("/api/me", &session).await.status, 401);
    // What is over goes with the next sign-in.
    let fresh = site.sign_in("grace").await;
    assert_eq!(site.get("/api/me", &fresh).await.status, 200);
    age("last_seen_at", 0).await;
    assert_eq!(site.get("/api/me", &session).await.status, 401);
}

#[tokio::test]
async fn made_up_sessions_are_looked_up_a_number_of_times() {
    let site = Site::start().await;
    let session = site.sign_in("eve").await;
    // The browser's address, by the word of the reverse proxy on this machine.
    let me = |session: String| {
        let call = site.service.browser("/api/me", &session);
        async move {
            call.header("x-forwarded-for", "192.0.2.7")
                .send()
                .await
                .unwrap()
                .status()
        }
    };
    assert_eq!(me(session.clone()).await, 200);
    let mut refused = 0;
    for number in 0..150 {
        match me(format!("{SESSION}=made-up-{number}")).await.as_u16() {
            401 => {}
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0, "all were looked up");
    // Whoever shares the address stays signed in.
    assert_eq!(me(session).await, 200);
}

/// Any host of the domain can set a cookie that only looks like ours when it is decoded.
#[tokio::test]
async fn a_session_that_another_host_has_set_is_none() {
    let site = Site::start().await;
    let session = site.sign_in("eve").await;
    let token = session.split_once('=').unwrap().1;
    let shadow = format!("%5F%5FHost-gha-slurm={token}");
    refused(&site.get("/api/me", &shadow).await, 401, "unauthorized");
    let own = site.sign_in("ada").await;
    let me = site.get("/api/me", &format!("{shadow}; {own}")).await;
    assert_eq!(me.body["login"], "ada");
    // Nor does such a host begin a sign-in.
    let (url, started) = site.begin("/").await;
    let callback = site.github.authorize("eve", &url).unwrap();
    let planted = started.replacen("__Host", "%5F%5FHost", 1);
    let back = site.come_back(&callback, Some(&planted)).await;
    assert_eq!(location(&back), "/?sign_in=expired");
}

#[tokio::test]
async fn another_site_cannot_begin_a_sign_in() {
    let site = Site::start().await;
    for (from, is_begun) in [
        ("cross-site", false),
        ("same-site", false),
        ("none", true),
        ("same-origin", true),
    ] {
        let call = site.service.browser("/api/sign-in/github", "");
        let answer = call.header("sec-fetch-site", from).send().await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        assert_eq!(location != "/", is_begun, "{from}: {location}");
    }
}

#[tokio::test]
async fn a_person_looks_up_a_number_of_repositories() {
    let site = Site::start().await;
    let (grace, ada) = (site.sign_in("grace").await, site.sign_in("ada").await);
    site.link(site.id(&ada).await, "alice", &grace).await;
    let look = |session: String, number: u32| {
        let path = format!("/api/users/alice/repositories/acme/made-up-{number}");
        let site = &site;
        async move { site.get(&path, &session).await.status }
    };
    for number in 0..20 {
        assert_eq!(look(ada.clone(), number).await, 422);
    }
    assert_eq!(look(ada.clone(), 20).await, 429);
    assert_eq!(look(grace.clone(), 20).await, 422);
}

async fn execute(database: &gha_slurm_storage::Database, sql: &str) {
    use diesel_async::SimpleAsyncConnection as _;
    let mut conn = database.connection().await.unwrap();
    conn.batch_execute(sql).await.unwrap();
}
