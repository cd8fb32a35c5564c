//! What a user access token reads: only what both the person and the App can access.

use gha_slurm_simulator::model::Role;
use gha_slurm_simulator::request::{NewInstallation, NewRepository};
use serde_json::{Value, json};

use super::start;
use crate::{Answer, Sim, app_jwt, settings};

fn names(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let list = answer.body["repositories"].as_array().unwrap();
    list.iter()
        .map(|repository| repository["full_name"].as_str().unwrap())
        .collect()
}

fn accounts(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let list = answer.body["installations"].as_array().unwrap();
    assert_eq!(answer.body["total_count"], list.len());
    list.iter()
        .map(|installation| installation["account"]["login"].as_str().unwrap())
        .collect()
}

impl Sim {
    fn repositories_url(&self) -> String {
        format!("/user/installations/{}/repositories", self.installation.id)
    }

    fn create(&self, full_name: &str, private: bool, installed: bool) -> i64 {
        let new = NewRepository {
            private,
            installed,
            ..NewRepository::named(full_name)
        };
        self.handle.create_repository(&new).unwrap().id
    }
}

#[tokio::test]
async fn who_calls_with_what_is_told_apart() {
    let sim = start(&["ada"]);
    let token = sim.user_token("ada").await;
    for path in ["/user", "/user/installations", &sim.repositories_url()] {
        for unknown in ["ghu_unknown", "nonsense", &app_jwt()] {
            let answer = sim.get(path, unknown).await;
            let found = (answer.status.as_u16(), answer.message());
            assert_eq!(found, (401, "Bad credentials"), "{path} {unknown}");
        }
        assert_eq!(sim.get(path, "").await.status, 401, "{path}");
        let installation = sim.get(path, &sim.token().await).await;
        assert_eq!(installation.status, 403, "{path}");
    }
    let repository = sim.get("/repos/acme/widgets", "ghu_unknown").await;
    assert_eq!(repository.status, 401);
    for (path, status) in [("/installation/repositories", 403), ("/app", 401)] {
        assert_eq!(sim.get(path, &token).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_repository_tells_what_the_person_may_do_in_it() {
    let sim = start(&["ada", "grace"]);
    let widgets = sim.widgets.id;
    sim.create("acme/open", false, true);
    sim.create("ada/notes", true, true);
    let foreign = sim.create("globex/rockets", true, false);
    let foreign_and_open = sim.create("globex/moons", false, false);
    for id in [foreign, foreign_and_open] {
        sim.handle.set_role(id, "ada", Role::Push).unwrap();
    }
    let token = sim.user_token("ada").await;
    let permissions = async |name: &str| {
        let answer = sim.get(&format!("/repos/{name}"), &token).await;
        let api = sim.get(&format!("/api/v3/repos/{name}"), &token).await;
        assert_eq!(api.body, answer.body);
        if answer.status == 404 {
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        let permissions = answer.body["permissions"].as_object().unwrap();
        assert_eq!(permissions.len(), 5);
        let order = ["admin", "maintain", "push", "triage", "pull"];
        Some(order.map(|name| permissions[name] == true))
    };
    assert_eq!(permissions("acme/widgets").await, None);
    for (role, expected) in [
        (Role::Pull, [false, false, false, false, true]),
        (Role::Triage, [false, false, false, true, true]),
        (Role::Push, [false, false, true, true, true]),
        (Role::Maintain, [false, true, true, true, true]),
        (Role::Admin, [true, true, true, true, true]),
    ] {
        sim.handle.set_role(widgets, "ada", role).unwrap();
        assert_eq!(permissions("acme/widgets").await, Some(expected));
    }
    let pull = [false, false, false, false, true];
    assert_eq!(permissions("acme/open").await, Some(pull));
    assert_eq!(permissions("ada/notes").await, Some([true; 5]));
    assert_eq!(permissions("globex/rockets").await, None, "no App there");
    let push = [false, false, true, true, true];
    assert_eq!(permissions("globex/moons").await, Some(push));
    assert_eq!(permissions("acme/nothing").await, None);
    let grace = sim.user_token("grace").await;
    for name in ["acme/widgets", "ada/notes"] {
        let answer = sim.get(&format!("/repos/{name}"), &grace).await;
        assert_eq!(answer.status, 404, "{name}");
    }
    // What is taken away is gone at once.
    sim.handle.remove_role(widgets, "ada").unwrap();
    assert_eq!(permissions("acme/widgets").await, None);
    let own = sim.get("/repos/ada/notes", &token).await;
    let own = own.body["id"].as_i64().unwrap();
    assert!(sim.handle.set_role(own, "ada", Role::Pull).is_err());
    assert!(sim.handle.remove_role(own, "ada").is_err());
    sim.handle
        .suspend_installation(sim.installation.id, true)
        .unwrap();
    sim.handle.set_role(widgets, "ada", Role::Admin).unwrap();
    assert_eq!(permissions("acme/widgets").await, None, "suspended");
}

#[tokio::test]
async fn installations_are_listed_with_their_repositories() {
    let sim = start(&["ada", "grace"]);
    let open = sim.create("acme/open", false, true);
    let hidden = sim.create("acme/hidden", true, true);
    sim.create("ada/notes", true, true);
    sim.create("globex/rockets", false, true);
    let (ada, grace) = (sim.user_token("ada").await, sim.user_token("grace").await);
    assert_eq!(
        accounts(&sim.get("/user/installations", &ada).await),
        ["ada"]
    );
    assert!(accounts(&sim.get("/user/installations", &grace).await).is_empty());
    for (token, id) in [(&grace, sim.installation.id), (&ada, 1)] {
        let path = format!("/user/installations/{id}/repositories");
        assert_eq!(sim.get(&path, token).await.status, 404);
    }

    let widgets = sim.widgets.id;
    sim.handle.set_role(widgets, "ada", Role::Admin).unwrap();
    sim.handle.set_role(widgets, "grace", Role::Push).unwrap();
    sim.handle.set_role(open, "grace", Role::Triage).unwrap();
    let all = sim.get("/user/installations", &ada).await;
    assert_eq!(accounts(&all), ["acme", "ada"]);
    assert_eq!(all.body["installations"][0]["id"], sim.installation.id);
    assert_eq!(
        accounts(&sim.get("/user/installations", &grace).await),
        ["acme"]
    );
    // A public repository counts only for those who were given access to it.
    let path = sim.repositories_url();
    let answer = sim.get(&path, &ada).await;
    assert_eq!(names(&answer), ["acme/widgets"]);
    assert_eq!(answer.body["repositories"][0]["permissions"]["admin"], true);
    let answer = sim.get(&path, &grace).await;
    assert_eq!(names(&answer), ["acme/widgets", "acme/open"]);
    assert_eq!(answer.body["total_count"], 2);
    let permissions = |at: usize| answer.body["repositories"][at]["permissions"].clone();
    assert_eq!(
        permissions(0),
        json!({ "admin": false, "maintain": false, "push": true, "triage": true, "pull": true })
    );
    assert_eq!(permissions(1)["push"], false);

    // Only where the App is installed, now.
    sim.handle.set_installed(widgets, false).unwrap();
    assert_eq!(names(&sim.get(&path, &grace).await), ["acme/open"]);
    assert_eq!(sim.get(&path, &ada).await.status, 404);
    sim.handle.set_role(hidden, "ada", Role::Pull).unwrap();
    assert_eq!(names(&sim.get(&path, &ada).await), ["acme/hidden"]);
    sim.handle
        .suspend_installation(sim.installation.id, true)
        .unwrap();
    let suspended = sim.get("/user/installations", &ada).await;
    assert!(suspended.body["installations"][0]["suspended_at"].is_string());
    assert_eq!(sim.get(&path, &ada).await.status, 403);
    sim.handle.delete_installation(sim.installation.id).unwrap();
    assert_eq!(sim.get(&path, &ada).await.status, 404);
    assert_eq!(
        accounts(&sim.get("/user/installations", &ada).await),
        ["ada"]
    );
    assert_eq!(sim.get("/user", &ada).await.status, 200);
    // The App on an account of one's own is accessible without a repository as well.
    let new = NewInstallation {
        organization: false,
        ..NewInstallation::on("grace")
    };
    sim.handle.create_installation(new).unwrap();
    assert_eq!(
        accounts(&sim.get("/user/installations", &grace).await),
        ["grace"]
    );
}

#[tokio::test]
async fn lists_have_pages() {
    let sim = start(&["ada"]);
    for number in 0..4 {
        let id = sim.create(&format!("acme/r{number}"), true, true);
        sim.handle.set_role(id, "ada", Role::Push).unwrap();
    }
    for number in 0..2 {
        let id = sim.create(&format!("org{number}/x"), true, true);
        sim.handle.set_role(id, "ada", Role::Pull).unwrap();
    }
    let token = sim.user_token("ada").await;
    for (first, list, total) in [
        (sim.repositories_url(), "repositories", 4),
        ("/user/installations".to_owned(), "installations", 3),
        // As GitHub Enterprise Server has it, links and all.
        (
            format!("/api/v3{}", sim.repositories_url()),
            "repositories",
            4,
        ),
        ("/api/v3/user/installations".to_owned(), "installations", 3),
    ] {
        let mut url = format!("{}{first}?per_page=2", sim.base);
        let mut ids: Vec<Value> = Vec::new();
        loop {
            let path = url.strip_prefix(&sim.base).unwrap();
            assert!(path.starts_with(&first), "{path}");
            let answer = sim.get(path, &token).await;
            assert_eq!(answer.body["total_count"], total, "{path}");
            let items = answer.body[list].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].clone()));
            let link = answer.header("link");
            let next = link.split(", ").find(|one| one.ends_with("rel=\"next\""));
            let Some(next) = next else {
                assert!(link.contains("rel=\"prev\""), "{link}");
                break;
            };
            url = next[1..next.find('>').unwrap()].to_owned();
        }
        assert_eq!(ids.len(), total);
        ids.dedup();
        assert_eq!(ids.len(), total);
    }
    let all = sim.get(&sim.repositories_url(), &token).await;
    assert!(all.headers.get("link").is_none());
}

#[tokio::test]
async fn each_person_has_a_rate_limit() {
    let mut settings = settings();
    settings.app.callback_urls = vec![super::CALLBACK.to_owned()];
    settings.timing.rate_limit = 2;
    let sim = super::start_with(settings, &["ada", "grace"]);
    let (ada, grace) = (sim.user_token("ada").await, sim.user_token("grace").await);
    for expected in [200, 200, 403] {
        let answer = sim.get("/user", &ada).await;
        assert_eq!(answer.status, expected);
        assert_eq!(answer.header("x-ratelimit-limit"), "2");
    }
    assert_eq!(sim.get("/user", &grace).await.status, 200);
}
