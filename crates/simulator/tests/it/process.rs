//! The simulator as a process.

use std::process::Stdio;

use gha_slurm_test_support::{free_port, wait_until};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::DEADLINE;

async fn json_of(request: reqwest::RequestBuilder) -> Value {
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn it_starts_with_repositories_and_a_new_key_and_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("app.pem");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let client_secret = folder.path().join("client-secret");
    std::fs::write(&client_secret, "t0p\n").unwrap();
    let base = format!("http://127.0.0.1:{}", free_port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_gha-slurm-simulator"))
        .args([
            "--listen",
            base.strip_prefix("http://").unwrap(),
            "--app-id",
            "7",
        ])
        .arg("--app-private-key-file")
        .arg(&key)
        .arg("--create-app-private-key")
        .args([
            "--webhook-url",
            "http://127.0.0.1:9/",
            "--webhook-secret-file",
        ])
        .arg(&secret)
        .args([
            "--repository",
            "acme/widgets",
            "--repository",
            "acme/open:public",
        ])
        .args(["--repository", "ada/notes", "--client-id", "Iv1.seven"])
        .args(["--callback-url", "http://127.0.0.1:9/callback"])
        .args(["--person", "grace", "--person"])
        .arg("ada:acme/widgets=maintain,Acme/Open=triage")
        .arg("--client-secret-file")
        .arg(&client_secret)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = reqwest::Client::builder()
        .timeout(DEADLINE)
        .build()
        .unwrap();
    wait_until("it answers", DEADLINE, || async {
        http.get(format!("{base}/simulator/health"))
            .send()
            .await
            .ok()
    })
    .await;
    let pem = std::fs::read(&key).unwrap();
    let now = chrono::Utc::now().timestamp();
    let claims = json!({ "iat": now, "exp": now + 60, "iss": "7" });
    let jwt = jsonwebtoken::encode(
        &Header::new(Algorithm::RS256),
        &claims,
        &EncodingKey::from_rsa_pem(&pem).unwrap(),
    )
    .unwrap();
    let found = json_of(
        http.get(format!("{base}/repos/acme/widgets/installation"))
            .bearer_auth(jwt),
    )
    .await;
    assert_eq!(found["account"]["login"], "acme");
    let open = json_of(http.get(format!("{base}/repos/acme/open"))).await;
    assert_eq!(open["private"], false);
    let authorize = format!("{base}/login/oauth/authorize?client_id=Iv1.seven");
    let signed_in = json_of(
        http.post(format!("{base}/simulator/sign-ins"))
            .json(&json!({ "url": authorize, "login": "ada" })),
    )
    .await;
    let (_, code) = signed_in["location"]
        .as_str()
        .unwrap()
        .split_once("?code=")
        .unwrap();
    let tokens = json_of(
        http.post(format!("{base}/login/oauth/access_token"))
            .header("accept", "application/json")
            .json(&json!({ "client_id": "Iv1.seven", "client_secret": "t0p", "code": code })),
    )
    .await;
    let mut roles = Vec::new();
    for name in ["ada/notes", "acme/open", "acme/widgets"] {
        let repository = json_of(
            http.get(format!("{base}/repos/{name}"))
                .bearer_auth(tokens["access_token"].as_str().unwrap()),
        )
        .await;
        let permissions = &repository["permissions"];
        roles.push(["admin", "maintain", "triage"].map(|name| permissions[name] == true));
    }
    assert_eq!(
        roles,
        [
            [true, true, true],
            [false, false, true],
            [false, true, true]
        ]
    );
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(DEADLINE, child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let run = async |arguments: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_gha-slurm-simulator"))
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert!(!ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    };
    for wrong in ["ada:acme/widgets", "ada:acme/widgets=owner"] {
        let wrong = run(&["--app-id", "1", "--person", wrong]).await;
        assert!(wrong.contains("--person"), "{wrong}");
    }
    assert!(
        run(&["--app-id", "1"])
            .await
            .contains("--app-private-key-file")
    );
    let missing = run(&["--app-id", "1", "--app-public-key-file", "/nowhere/key.pem"]).await;
    assert!(
        missing.contains("cannot read /nowhere/key.pem"),
        "{missing}"
    );
}
