use chrono::Utc;
use gha_slurm_auth::{KeyFolder, SigningKey};
use gha_slurm_contract::mapping::{AUDIENCE_REPO_MAPPING, UserClaims};
use gha_slurm_domain::RepositoryId;
use gha_slurm_storage::replan;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Answer, Service, TOKEN};

const OF_ALICE: &str = "/api/users/alice/repositories";

/// repo-mapping and the agents whose word it takes: that of `main`, and perhaps that of `other`.
struct Cluster {
    service: Service,
    signer: SigningKey,
    other: SigningKey,
    _keys: [tempfile::TempDir; 2],
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(1).await
    }

    async fn start_with(agents: usize) -> Self {
        let keys = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [signer, other] = [&keys[0], &keys[1]].map(|keys| {
            let folder = KeyFolder::new(keys.path());
            folder.generate(1).unwrap();
            SigningKey::read(&folder).unwrap()
        });
        let known = [("main", keys[0].path()), ("other", keys[1].path())];
        let service = Service::start_with_agents(known.get(..agents).unwrap()).await;
        service.at_github("widgets", 1, true).await;
        service.at_github("gadgets", 2, true).await;
        Self {
            service,
            signer,
            other,
            _keys: keys,
        }
    }

    /// As the alice of the cluster `other`.
    async fn other_alice(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let claims = UserClaims {
            iss: "other".into(),
            ..Self::claims("alice")
        };
        let token = self.other.sign(&claims).unwrap();
        self.service
            .call(method, path, token.expose_secret(), body)
            .await
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
    let blind = cluster
        .administrator(Method::POST, &if_waiting, Some(grant.clone()))
        .await;
    assert_eq!(
        (blind.status, &blind.body["code"]),
        (428, &json!("version_needed"))
    );
    let version = request["version"].clone();
    let granted = cluster
        .service
        .call_if(Method::POST, &if_waiting, &version, Some(grant.clone()))
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
        let said = cluster.service.call_if(method, &path, &version, body).await;
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
        ("for an hour", of(|claims| claims.exp += 3600)),
        (
            "for later",
            of(|claims| {
                claims.iat += 86_400;
                claims.exp += 86_400;
            }),
        ),
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
    let forged = SigningKey::read(&stranger).unwrap().sign(&claims).unwrap();
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

/// What was granted is what was seen, although the user changed it between the look and the click.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_about_the_request_that_was_seen() {
    let cluster = Cluster::start().await;
    let service = &cluster.service;
    let ask = async |account: &str| {
        let wanted = json!({"repository": "acme/widgets", "account": account});
        let asked = cluster.alice(Method::POST, OF_ALICE, Some(wanted)).await;
        assert_eq!(asked.status, 202, "{}", asked.text);
        asked.body["version"].clone()
    };
    let seen = ask("chemistry").await;
    assert_eq!(ask("chemistry").await, seen, "the same is the same");
    let now = ask("physics").await;
    let if_waiting = format!("{OF_ALICE}?waiting=true");
    let one = format!("{OF_ALICE}/acme/widgets?waiting=true");
    let grant = json!({"repository": "acme/widgets"});
    for (method, path, body) in [
        (Method::POST, &if_waiting, Some(grant.clone())),
        (Method::DELETE, &one, None),
    ] {
        let refused = service.call_if(method, path, &seen, body).await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (412, &json!("request_changed")),
            "{}",
            refused.text
        );
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("account physics"), "{detail}");
        assert_eq!(refused.etag, Some(format!("\"{now}\"")));
    }
    assert_eq!(service.get("/repositories/alice").await.body, json!([]));

    // Whoever does not decide about the request grants what they write, whatever waits.
    let plain = service.post("alice", &["acme/widgets"], None).await;
    assert_eq!(plain.status, 200, "{}", plain.text);
    let list = service.get(OF_ALICE).await;
    assert_eq!(list.body[0]["account"], Value::Null, "{}", list.text);
    service.post("alice", &[], None).await;

    let seen = ask("physics").await;
    let grant = json!({"repository": "acme/widgets", "account": "default", "qos": "normal"});
    let granted = service
        .call_if(Method::POST, &if_waiting, &seen, Some(grant))
        .await;
    assert_eq!(
        (&granted.body["account"], &granted.body["qos"]),
        (&Value::Null, &json!("normal")),
        "{}",
        granted.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_changed_is_not_changed_blindly() {
    let cluster = Cluster::start().await;
    let service = &cluster.service;
    service.post("alice", &["acme/widgets"], None).await;
    let stale = json!(0);
    for (method, path, body) in [
        (
            Method::POST,
            OF_ALICE.to_owned(),
            Some(json!({"repository": "acme/gadgets"})),
        ),
        (Method::DELETE, format!("{OF_ALICE}/acme/widgets"), None),
    ] {
        let refused = service
            .call_if(method.clone(), &path, &stale, body.clone())
            .await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (412, &json!("mapping_changed")),
            "{}",
            refused.text
        );
        let etag = service.get(OF_ALICE).await.etag.unwrap();
        let current: Value = serde_json::from_str(etag.trim_matches('"')).unwrap();
        let done = service.call_if(method, &path, &current, body).await;
        assert!(done.status < 300, "{}", done.text);
    }
}

/// The agent of one cluster saw and removed what was mapped to the user of the same name on another.
#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_same_name_on_two_clusters_do_not_meet() {
    let cluster = Cluster::start_with(2).await;
    let service = &cluster.service;
    let wanted = json!({"repository": "acme/widgets", "account": "chemistry"});
    let asked = cluster.alice(Method::POST, OF_ALICE, Some(wanted)).await;
    let other = json!({"repository": "acme/widgets", "account": "stolen"});
    let others = cluster
        .other_alice(Method::POST, OF_ALICE, Some(other))
        .await;
    assert_eq!((asked.status, others.status), (202, 202), "{}", others.text);
    let list = cluster.alice(Method::GET, OF_ALICE, None).await;
    assert_eq!(list.body, json!([asked.body]), "unchanged by the other");

    let granted = service
        .call_if(
            Method::POST,
            &format!("{OF_ALICE}?waiting=true"),
            &asked.body["version"],
            Some(json!({"repository": "acme/widgets"})),
        )
        .await;
    assert_eq!(
        (&granted.body["cluster"], &granted.body["account"]),
        (&json!("main"), &json!("chemistry")),
        "{}",
        granted.text
    );
    // One for which an administrator named no cluster is nobody's but theirs.
    let list = json!(["acme/widgets", "acme/gadgets"]).to_string();
    let both = service.post_body("alice", list, None).await;
    assert_eq!(both.status, 200, "{}", both.text);
    let seen = cluster.other_alice(Method::GET, OF_ALICE, None).await;
    let [waits] = seen.body.as_array().unwrap().as_slice() else {
        panic!("{}", seen.text);
    };
    assert_eq!(waits["state"], "waiting");
    for (name, status) in [("widgets", 204), ("widgets", 404), ("gadgets", 404)] {
        let path = format!("{OF_ALICE}/acme/{name}");
        let removed = cluster.other_alice(Method::DELETE, &path, None).await;
        assert_eq!(removed.status, status, "{name}: {}", removed.text);
    }
    let left = service.get("/repositories/alice").await;
    assert_eq!(left.body.as_array().unwrap().len(), 2, "{}", left.text);
    let again = json!({"repository": "acme/widgets"});
    let again = cluster
        .other_alice(Method::POST, OF_ALICE, Some(again))
        .await;
    assert_eq!(again.body["code"], "repository_mapped_elsewhere");
    let named = json!({"repository": "acme/gadgets", "cluster": "main"});
    let named = cluster
        .other_alice(Method::POST, OF_ALICE, Some(named))
        .await;
    assert_eq!(named.body["errors"][0]["code"], "cluster_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_belongs_to_another_repository_is_refused() {
    let cluster = Cluster::start().await;
    let path = format!("{OF_ALICE}/acme/widgets");
    let found = cluster.alice(Method::GET, &path, None).await;
    assert_eq!(
        found.body,
        json!({"id": 1, "url": "https://github.com/acme/widgets"}),
        "{}",
        found.text
    );
    let wanted = json!({"repository": "acme/widgets", "id": 7});
    let refused = cluster.alice(Method::POST, OF_ALICE, Some(wanted)).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (409, &json!("repository_differs"))
    );
    let allowed = json!({"reason": "audited", "id": 7});
    let refused = cluster
        .service
        .put("/api/public-repositories/acme/widgets", allowed)
        .await;
    assert_eq!(refused.body["code"], "repository_differs");
}
