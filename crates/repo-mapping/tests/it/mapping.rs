use gha_slurm_domain::RepositoryId;
use gha_slurm_storage::{replan, repositories};
use serde_json::json;
use wiremock::matchers::{method, path};
use wiremock::{Mock, ResponseTemplate};

use crate::support::{SERVICE_TOKEN, Service};

const WIDGETS: &str = "https://github.com/acme/widgets";
const GADGETS: &str = "https://github.com/acme/gadgets";

async fn two_repositories(service: &Service) {
    service.at_github("widgets", 1, true).await;
    service.at_github("gadgets", 2, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_replaced_as_a_whole() {
    let service = Service::start().await;
    two_repositories(&service).await;
    let empty = service.get("/repositories/alice").await;
    assert_eq!((empty.status, &empty.body), (200, &json!([])));

    let first = service
        .post("alice", &["acme/gadgets", WIDGETS], None)
        .await;
    assert_eq!(first.body, json!([GADGETS, WIDGETS]), "{}", first.text);
    let list = service.get("/repositories/alice").await;
    assert_eq!(list.body, json!([GADGETS, WIDGETS]));
    assert_eq!(list.etag, first.etag);

    let second = service.post("alice", &[WIDGETS], None).await;
    assert_eq!(second.body, json!([WIDGETS]));
    assert_ne!(second.etag, first.etag);
    let cleared = service.post("alice", &[], None).await;
    assert_eq!(cleared.body, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_wakes_the_launcher_for_what_changed() {
    let service = Service::start().await;
    two_repositories(&service).await;
    service.post("alice", &["acme/widgets"], None).await;
    let mut conn = service.database.connection().await.unwrap();
    let pending = replan::pending(&mut conn, 10).await.unwrap();
    assert_eq!(pending, [RepositoryId(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_one_repository_collapse() {
    let service = Service::start().await;
    two_repositories(&service).await;
    service.at_github("WIDGETS", 1, true).await;
    let spellings = [
        "acme/widgets",
        "https://github.com/acme/WIDGETS/",
        "acme/widgets.git",
    ];
    let answer = service.post("alice", &spellings, None).await;
    assert_eq!(answer.body.as_array().unwrap().len(), 1, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_entry_changes_nothing_and_every_one_is_named() {
    let service = Service::start().await;
    two_repositories(&service).await;
    service.post("alice", &["acme/widgets"], None).await;
    let list = [
        "acme/gadgets",
        "https://evil.example/a/b",
        "acme/unseen",
        "$(reboot)/x",
    ];
    let answer = service.post("alice", &list, None).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (422, &json!("repositories_invalid"))
    );
    let errors = answer.body["errors"].as_array().unwrap();
    let named: Vec<(u64, &str)> = errors
        .iter()
        .map(|e| (e["index"].as_u64().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    let wanted = [
        (1, "repository_invalid"),
        (2, "repository_unreachable"),
        (3, "repository_invalid"),
    ];
    assert_eq!(named, wanted);
    let install = "https://github.com/apps/gha-slurm/installations/new";
    assert_eq!(errors[1]["link"], install);
    assert_eq!(
        service.get("/repositories/alice").await.body,
        json!([WIDGETS])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_repository_is_refused_without_saying_whose() {
    let service = Service::start().await;
    two_repositories(&service).await;
    service.post("alice", &["acme/widgets"], None).await;
    let answer = service
        .post("bob", &["acme/gadgets", "acme/widgets"], None)
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (409, &json!("repository_mapped_elsewhere"))
    );
    assert_eq!(answer.body["errors"][0]["index"], 1);
    assert_eq!(answer.body["errors"][0]["value"], "acme/widgets");
    assert!(!answer.text.contains("alice"), "{}", answer.text);
    assert_eq!(service.get("/repositories/bob").await.body, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_updates_are_refused() {
    let service = Service::start().await;
    two_repositories(&service).await;
    let seen = service.get("/repositories/alice").await.etag.unwrap();
    assert_eq!(
        service
            .post("alice", &["acme/widgets"], Some(&seen))
            .await
            .status,
        200
    );
    let late = service.post("alice", &["acme/gadgets"], Some(&seen)).await;
    assert_eq!(
        (late.status, &late.body["code"]),
        (412, &json!("mapping_changed"))
    );
    let now = late.etag.unwrap();
    assert_eq!(
        service
            .post("alice", &["acme/gadgets"], Some(&now))
            .await
            .status,
        200
    );
    assert_eq!(
        service.post("alice", &[], Some("nonsense")).await.status,
        412
    );
    assert_eq!(service.post("alice", &[], Some("*")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_at_once_leave_one_whole_list() {
    let service = Service::start().await;
    two_repositories(&service).await;
    let seen = service.get("/repositories/alice").await.etag.unwrap();
    let (a, b) = tokio::join!(
        service.post("alice", &["acme/widgets"], Some(&seen)),
        service.post("alice", &["acme/gadgets"], Some(&seen)),
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let (first, second) = tokio::join!(
        service.post("carol", &["acme/widgets", "acme/gadgets"], None),
        service.post("alice", &[], None),
    );
    assert!([200, 409].contains(&first.status) && second.status == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_keeps_the_mapping_and_a_new_repository_of_the_name_inherits_nothing() {
    let service = Service::start().await;
    service.at_github("widgets", 1, true).await;
    service.post("alice", &["acme/widgets"], None).await;
    // A webhook tells of the new name.
    let mut conn = service.database.connection().await.unwrap();
    let now = chrono::Utc::now();
    repositories::upsert(
        &mut conn,
        RepositoryId(1),
        None,
        "acme",
        "renamed",
        None,
        now,
    )
    .await
    .unwrap();
    let list = service.get("/repositories/alice").await;
    assert_eq!(list.body, json!(["https://github.com/acme/renamed"]));
    // Somebody makes a new acme/widgets.
    service.token_broker.reset().await;
    let other = Service::start().await;
    other.at_github("widgets", 9, true).await;
    repositories::upsert(
        &mut conn,
        RepositoryId(9),
        None,
        "acme",
        "widgets",
        None,
        now,
    )
    .await
    .unwrap();
    let standing = repositories::standing(&mut conn, RepositoryId(9))
        .await
        .unwrap();
    assert_eq!(standing.unwrap().1.mapped_to, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_need_the_token_and_bodies_need_sense() {
    let service = Service::start().await;
    for path in ["/repositories/alice", "/api/builds", "/api/builds/1"] {
        let answer = service.get_without_token(path).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (401, &json!("unauthorized")),
            "{path}"
        );
    }
    for body in ["", "{", "{\"a\": 1}", "[1]", "\"acme/widgets\""] {
        let answer = service.post_body("alice", body.into(), None).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (400, &json!("body_invalid")),
            "{body}"
        );
    }
    let many = json!(vec!["acme/widgets"; 1001]).to_string();
    let answer = service.post_body("alice", many, None).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (422, &json!("too_many_repositories"))
    );
    let answer = service.get("/repositories/-rf").await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (400, &json!("user_invalid"))
    );
    let answer = service.get("/api/nothing").await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (404, &json!("not_found"))
    );
}

/// token-broker answers this, before it knows any repository.
async fn broker_answers(service: &Service, status: u16, code: &str, retry_after: Option<&str>) {
    let problem = json!({"type": "urn:x", "title": "No", "status": status, "code": code});
    let mut answer = ResponseTemplate::new(status).set_body_json(problem);
    if let Some(seconds) = retry_after {
        answer = answer.insert_header("retry-after", seconds);
    }
    Mock::given(method("GET"))
        .and(path("/gha/repositories"))
        .respond_with(answer)
        .with_priority(1)
        .up_to_n_times(1)
        .mount(&service.token_broker)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_github_is_503_with_the_time_that_github_asks_for() {
    let service = Service::start().await;
    two_repositories(&service).await;
    broker_answers(&service, 503, "github_unavailable", Some("60")).await;
    let answer = service.post("alice", &["acme/widgets"], None).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("github_unavailable")),
        "{}",
        answer.text
    );
    assert_eq!(answer.headers["retry-after"], "60");
    let asked = service.token_broker.received_requests().await.unwrap();
    assert_eq!(asked.len(), 1, "not asked again before that");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_trouble_is_nobodys_trouble() {
    let service = Service::start().await;
    two_repositories(&service).await;
    broker_answers(&service, 503, "github_unavailable", Some("1")).await;
    broker_answers(&service, 503, "unavailable", Some("0")).await;
    let answer = service.post("alice", &["acme/widgets"], None).await;
    assert_eq!(answer.body, json!([WIDGETS]), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_broker_of_no_use_is_named() {
    let service = Service::start().await;
    two_repositories(&service).await;
    for (status, code, named) in [
        (401, "unauthorized", "token_broker.service_token"),
        (404, "not_found", "older"),
        (500, "internal", "logs"),
    ] {
        broker_answers(&service, status, code, None).await;
        let answer = service.post("alice", &["acme/widgets"], None).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (502, &json!("token_broker_failed")),
            "{status}: {}",
            answer.text
        );
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(named), "{status}: {detail}");
        assert!(!answer.text.contains(SERVICE_TOKEN), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_allows_a_public_repository_with_a_reason() {
    let service = Service::start().await;
    service.at_github("widgets", 1, false).await;
    let path = "/api/public-repositories/acme/widgets";
    let nothing = service.put(path, json!({"reason": "  "})).await;
    assert_eq!(nothing.status, 400, "{}", nothing.text);
    let nul = service.put(path, json!({"reason": "a\0b"})).await;
    assert_eq!(nul.status, 400, "{}", nul.text);
    let allowed = async || {
        let mut conn = service.database.connection().await.unwrap();
        let standing = repositories::standing(&mut conn, RepositoryId(1)).await;
        standing
            .unwrap()
            .is_some_and(|(_, s)| s.public && s.public_allowed)
    };
    assert_eq!(
        service.put(path, json!({"reason": "ours"})).await.status,
        204
    );
    assert!(allowed().await);
    assert_eq!(service.delete(path).await.status, 204);
    assert!(!allowed().await);
    let unseen = service
        .put(
            "/api/public-repositories/acme/unseen",
            json!({"reason": "x"}),
        )
        .await;
    assert_eq!(
        (unseen.status, &unseen.body["code"]),
        (404, &json!("repository_unreachable"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_given_twice_is_asked_for_once() {
    let service = Service::start().await;
    service.at_github("widgets", 1, true).await;
    let list = [
        "acme/widgets",
        "ACME/Widgets",
        "https://github.com/acme/widgets",
    ];
    let answer = service.post("bin", &list, None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.body.as_array().map(Vec::len),
        Some(1),
        "{}",
        answer.text
    );
    let asked = service.token_broker.received_requests().await.unwrap();
    assert_eq!(asked.len(), 1);
}
