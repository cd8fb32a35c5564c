use chrono::Utc;
use gha_slurm_auth::{KeyFolder, Signer};
use gha_slurm_contract::mapping::{AUDIENCE_REPO_MAPPING, UserClaims};
use gha_slurm_domain::RepositoryId;
use gha_slurm_storage::replan;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Answer, Service, TOKEN};

const OF_ALICE: &str = "/api/users/alice/repositories";

/// repo-mapping and the agent whose word it takes.
struct Cluster {
    service: Service,
    signer: Signer,
    _keys: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(keys.path());
        folder.generate(1).unwrap();
        let service = Service::start_with_agent(keys.path()).await;
        service.at_github("widgets", 1, true).await;
        service.at_github("gadgets", 2, true).await;
        Self {
            service,
            signer: Signer::load(&folder).unwrap(),
            _keys: keys,
        }
    }

    fn claims(user: &str) -> UserClaims {
        let iat = Utc::now().timestamp();
        UserClaims {
            iss: "main".into(),
            aud: vec![AUDIENCE_REPO_MAPPING.into()],
            sub: user.parse().unwrap(),
            jti: uuid::Uuid::new_v4(),
            iat,
            nbf: iat - 5,
            exp: iat + 60,
        }
    }

    async fn with(&self, claims: &UserClaims, path: &str) -> Answer {
        let token = self.signer.sign(claims).unwrap();
        let token = token.expose_secret();
        self.service.call(Method::GET, path, token, None).await
    }

    /// As alice, by the agent's word.
    async fn alice(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let token = self.signer.sign(&Self::claims("alice")).unwrap();
        self.service
            .call(method, path, token.expose_secret(), body)
            .await
    }

    async fn administrator(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.service.call(method, path, TOKEN, body).await
    }

    async fn replan_requests(&self) -> Vec<RepositoryId> {
        let mut conn = self.service.database.connection().await.unwrap();
        replan::pending(&mut conn, 10).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_adds_waits_for_an_administrator() {
    let cluster = Cluster::start().await;
    let wanted = json!({"repository": "acme/widgets", "account": "chemistry"});
    let asked = cluster.alice(Method::POST, OF_ALICE, Some(wanted)).await;
    assert_eq!(
        (asked.status, &asked.body["state"], &asked.body["id"]),
        (202, &json!("waiting"), &json!(1)),
        "{}",
        asked.text
    );
    let mapped = cluster.service.get("/repositories/alice").await;
    assert_eq!(mapped.body, json!([]));
    assert_eq!(cluster.replan_requests().await, []);
    let requests = cluster.service.get("/api/mapping-requests").await;
    let [request] = requests.body.as_array().unwrap().as_slice() else {
        panic!("{}", requests.text);
    };
    let seen = [&request["user"], &request["cluster"], &request["account"]];
    assert_eq!(seen, ["alice", "main", "chemistry"]);

    let grant = json!({"repository": "acme/widgets"});
    let if_waiting = format!("{OF_ALICE}?waiting=true");
    let granted = cluster
        .administrator(Method::POST, &if_waiting, Some(grant.clone()))
        .await;
    assert_eq!(
        (granted.status, &granted.body["account"]),
        (200, &json!("chemistry")),
        "as it was asked for: {}",
        granted.text
    );
    assert_eq!(cluster.replan_requests().await, [RepositoryId(1)]);
    let too_late = [
        (Method::POST, if_waiting, Some(grant)),
        (
            Method::DELETE,
            format!("{OF_ALICE}/acme/widgets?waiting=true"),
            None,
        ),
    ];
    for (method, path, body) in too_late {
        let said = cluster.administrator(method, &path, body).await;
        assert_eq!(
            (said.status, &said.body["code"]),
            (409, &json!("repository_not_waiting")),
            "{path}: {}",
            said.text
        );
    }
    let list = cluster.alice(Method::GET, OF_ALICE, None).await;
    assert_eq!(
        (
            list.body[0]["state"].as_str(),
            list.body.as_array().unwrap().len()
        ),
        (Some("mapped"), 1),
        "{}",
        list.text
    );
    let again = json!({"repository": "https://github.com/acme/WIDGETS"});
    cluster.service.at_github("WIDGETS", 1, true).await;
    let again = cluster.alice(Method::POST, OF_ALICE, Some(again)).await;
    assert_eq!(again.status, 200, "it is mapped: {}", again.text);

    let gone = cluster
        .alice(Method::DELETE, &format!("{OF_ALICE}/acme/widgets"), None)
        .await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    let gone = cluster
        .alice(Method::DELETE, &format!("{OF_ALICE}/acme/widgets"), None)
        .await;
    assert_eq!(
        (gone.status, &gone.body["code"]),
        (404, &json!("repository_not_mapped"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_word_is_about_one_user_and_no_administrators() {
    let cluster = Cluster::start().await;
    let claims = Cluster::claims("alice");
    let of = |change: fn(&mut UserClaims)| {
        let mut claims = claims.clone();
        change(&mut claims);
        claims
    };
    let fine = cluster.with(&claims, OF_ALICE).await;
    assert_eq!(fine.status, 200, "{}", fine.text);
    let other = cluster.with(&claims, "/api/users/bob/repositories").await;
    assert_eq!(
        (other.status, &other.body["code"]),
        (403, &json!("not_this_user"))
    );
    for (what, claims) in [
        ("expired", of(|claims| claims.exp -= 100)),
        ("not yet", of(|claims| claims.nbf += 100)),
        (
            "for somebody else",
            of(|claims| claims.aud = vec!["gha-slurm-munge".into()]),
        ),
        (
            "of another cluster",
            of(|claims| claims.iss = "other".into()),
        ),
    ] {
        let refused = cluster.with(&claims, OF_ALICE).await;
        assert_eq!(refused.status, 401, "{what}: {}", refused.text);
    }
    for path in [
        "/repositories/alice",
        "/api/mapping-requests",
        "/api/builds",
    ] {
        let refused = cluster.with(&claims, path).await;
        assert_eq!(refused.status, 401, "{path}: {}", refused.text);
    }
    let stranger = tempfile::tempdir().unwrap();
    let stranger = KeyFolder::new(stranger.path());
    stranger.generate(2).unwrap();
    let forged = Signer::load(&stranger).unwrap().sign(&claims).unwrap();
    let forged = cluster
        .service
        .call(Method::GET, OF_ALICE, forged.expose_secret(), None)
        .await;
    assert_eq!(forged.status, 401, "{}", forged.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_repository_is_not_given_away() {
    let cluster = Cluster::start().await;
    cluster.service.post("bob", &["acme/gadgets"], None).await;
    let wanted = json!({"repository": "acme/gadgets"});
    let asked = cluster
        .alice(Method::POST, OF_ALICE, Some(wanted.clone()))
        .await;
    let granted = cluster
        .administrator(Method::POST, OF_ALICE, Some(wanted))
        .await;
    for refused in [asked, granted] {
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (409, &json!("repository_mapped_elsewhere"))
        );
        assert!(!refused.text.contains("bob"), "{}", refused.text);
    }
    let gone = cluster
        .alice(Method::DELETE, &format!("{OF_ALICE}/acme/gadgets"), None)
        .await;
    assert_eq!(gone.status, 404, "{}", gone.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_may_say_what_is_charged() {
    let cluster = Cluster::start().await;
    let list = json!(["acme/gadgets", {"repository": "acme/widgets", "account": "chemistry", "qos": "high"}]);
    let answer = cluster
        .service
        .post_body("alice", list.to_string(), None)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.body[1].is_string(), "the answer is URLs, as ever");
    // Who knows nothing of accounts changes none.
    cluster
        .service
        .post("alice", &["acme/widgets"], answer.etag.as_deref())
        .await;
    let list = cluster.service.get(OF_ALICE).await;
    assert_eq!(
        (&list.body[0]["account"], &list.body[0]["qos"]),
        (&json!("chemistry"), &json!("high")),
        "{}",
        list.text
    );
    let hostile = json!([{"repository": "acme/widgets", "account": "$(reboot)"}]);
    let refused = cluster
        .service
        .post_body("alice", hostile.to_string(), None)
        .await;
    assert_eq!(
        (
            refused.status,
            &refused.body["errors"][0]["code"],
            &refused.body["errors"][0]["index"]
        ),
        (422, &json!("charge_invalid"), &json!(0)),
        "{}",
        refused.text
    );
    let detail = refused.body["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("account: "), "{detail}");
    let unknown = json!([{"repository": "acme/widgets", "acount": "x"}]);
    let refused = cluster
        .service
        .post_body("alice", unknown.to_string(), None)
        .await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("acount"), "{}", refused.text);
}
