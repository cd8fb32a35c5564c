//! Real TLS handshakes with certificates made here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::{HttpResponse, web};
use gha_slurm_service_kit::settings::HttpSettings;
use gha_slurm_service_kit::tls::{ClientTlsSettings, ServerTlsSettings};
use gha_slurm_service_kit::{CancellationToken, HttpService};
use gha_slurm_telemetry::Metrics;
use gha_slurm_test_support::{TestCa, TestCertificate, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

fn served(certificate: &TestCertificate, client_ca: Option<PathBuf>) -> ServerTlsSettings {
    ServerTlsSettings {
        certificate: certificate.certificate.clone(),
        key: certificate.key.clone(),
        client_ca,
    }
}

fn with_ca(path: PathBuf) -> ClientTlsSettings {
    ClientTlsSettings {
        ca_file: Some(path),
        ..ClientTlsSettings::default()
    }
}

fn showing(ca: PathBuf, certificate: &TestCertificate) -> ClientTlsSettings {
    ClientTlsSettings {
        ca_file: Some(ca),
        client_certificate: Some(certificate.certificate.clone()),
        client_key: Some(certificate.key.clone()),
    }
}

fn bind(tls: ServerTlsSettings) -> anyhow::Result<HttpService> {
    let settings = HttpSettings {
        tls: Some(tls),
        ..HttpSettings::plain("127.0.0.1:0".parse().unwrap())
    };
    HttpService::bind(&settings, &Metrics::default(), |config| {
        config.route("/", web::get().to(HttpResponse::NoContent));
    })
}

/// Serves until dropped.
fn serve(tls: ServerTlsSettings) -> (String, tokio_util::sync::DropGuard) {
    let http = bind(tls).unwrap();
    let url = format!("https://127.0.0.1:{}/", http.port());
    let stop = CancellationToken::new();
    tokio::spawn(http.run_until_stopped(stop.clone()));
    (url, stop.drop_guard())
}

fn client(tls: &ClientTlsSettings) -> reqwest::Client {
    let builder = reqwest::Client::builder()
        .timeout(DEADLINE)
        .no_proxy()
        // A handshake for each call.
        .pool_max_idle_per_host(0);
    tls.apply(builder, "cluster.tls").unwrap().build().unwrap()
}

/// The status of a call, or why there is none.
async fn get(client: &reqwest::Client, url: &str) -> Result<u16, String> {
    match client.get(url).send().await {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    }
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_it_is_given_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(folder.path(), "ca");
    TestCa::new(folder.path(), "other-ca");
    let (url, _serving) = serve(served(&ca.issue("server", &[]), None));
    let path = |name: &str| folder.path().join(name);
    let trusting = client(&with_ca(path("ca.pem")));
    assert_eq!(get(&trusting, &url).await, Ok(204));
    // Who came by HTTPS comes again by HTTPS.
    let answer = trusting.get(&url).send().await.unwrap();
    assert_eq!(
        answer.headers()["strict-transport-security"],
        "max-age=31536000"
    );
    for tls in [ClientTlsSettings::default(), with_ca(path("other-ca.pem"))] {
        let error = get(&client(&tls), &url).await.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{error}");
    }
    let plain = url.replace("https:", "http:");
    assert!(
        get(&client(&with_ca(path("ca.pem"))), &plain)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn mutual_tls_lets_in_who_shows_a_certificate_of_the_ca() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(folder.path(), "ca");
    let other = TestCa::new(folder.path(), "other-ca");
    let ca_file = folder.path().join("ca.pem");
    let (url, _serving) = serve(served(&ca.issue("server", &[]), Some(ca_file.clone())));

    // The alert may come after the connection's end: what is certain is that there is no answer.
    let without = with_ca(ca_file.clone());
    let wrong = showing(ca_file.clone(), &other.issue("stranger", &[]));
    for tls in [without, wrong] {
        let error = get(&client(&tls), &url).await.unwrap_err();
        assert!(
            !error.contains("UnknownIssuer"),
            "the server is known: {error}"
        );
    }
    let right = showing(ca_file, &ca.issue("launcher", &[]));
    assert_eq!(get(&client(&right), &url).await, Ok(204));
}

#[tokio::test]
async fn renewed_certificates_are_taken_in_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (
        TestCa::new(folder.path(), "old"),
        TestCa::new(folder.path(), "new"),
    );
    let path = |name: &str| folder.path().join(name);
    let both = [path("old.pem"), path("new.pem")].map(|p| std::fs::read_to_string(p).unwrap());
    std::fs::write(path("both.pem"), both.concat()).unwrap();
    let server = old.issue("server", &[]);
    let (url, _serving) = serve(served(&server, Some(path("both.pem"))));
    let shown = old.issue("launcher", &[]);
    let kept = client(&showing(path("both.pem"), &shown));
    assert_eq!(get(&kept, &url).await, Ok(204));

    // Who trusts only the new CA gets in once the server's certificate is one of it.
    let strict = client(&showing(path("new.pem"), &shown));
    assert!(get(&strict, &url).await.is_err());
    // The certificate alone does not fit the key: the old one stays until the key follows.
    let old_key = std::fs::read(&server.key).unwrap();
    new.issue("server", &[]);
    let new_key = std::fs::read(&server.key).unwrap();
    std::fs::write(&server.key, old_key).unwrap();
    wait_until("it was looked at again", DEADLINE, || async {
        let answer = get(&kept, &url).await;
        assert_eq!(answer, Ok(204), "the old one stays in use");
        let looked = std::fs::metadata(&server.key).unwrap().modified().unwrap();
        looked
            .elapsed()
            .is_ok_and(|since| since > Duration::from_millis(1500))
    })
    .await;
    std::fs::write(&server.key, new_key).unwrap();
    wait_until("the renewed certificate is served", DEADLINE, || async {
        get(&strict, &url).await
    })
    .await;
    // The client's, too: a server that lets in only those of the new CA.
    let (url, _strict) = serve(served(&new.issue("strict", &[]), Some(path("new.pem"))));
    assert!(get(&kept, &url).await.is_err());
    new.issue("launcher", &[]);
    wait_until("the renewed certificate is shown", DEADLINE, || async {
        get(&kept, &url).await
    })
    .await;
}

#[test]
fn what_is_wrong_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(folder.path(), "ca");
    let (one, two) = (ca.issue("one", &[]), ca.issue("two", &[]));
    let nowhere = Path::new("/nowhere.pem");
    let server = |certificate: &Path, key: &Path, client_ca: Option<&Path>| {
        let tls = ServerTlsSettings {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: client_ca.map(Into::into),
        };
        format!("{:#}", bind(tls).err().unwrap())
    };
    for (error, expected) in [
        (
            server(nowhere, &one.key, None),
            "http.tls.certificate: /nowhere.pem: No such file",
        ),
        (
            server(&one.certificate, nowhere, None),
            "http.tls.key: /nowhere.pem: No such file",
        ),
        (
            server(&one.key, &one.key, None),
            "there is no certificate (PEM) in it",
        ),
        (
            server(&one.certificate, &one.certificate, None),
            "there is no private key (PEM) in it",
        ),
        (
            server(&one.certificate, &two.key, None),
            "two.key.pem does not fit",
        ),
        (
            server(&one.certificate, &one.key, Some(nowhere)),
            "http.tls.client_ca: /nowhere.pem: No such file",
        ),
    ] {
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    let client = |tls: ClientTlsSettings| {
        let error = tls.apply(reqwest::Client::builder(), "cluster.tls").err();
        format!("{:#}", error.unwrap())
    };
    let alone = ClientTlsSettings {
        client_certificate: Some(one.certificate.clone()),
        ..ClientTlsSettings::default()
    };
    for (error, expected) in [
        (
            client(with_ca(nowhere.into())),
            "cluster.tls.ca_file: /nowhere.pem: No such file",
        ),
        (
            client(alone),
            "cluster.tls: give both client_certificate and client_key",
        ),
    ] {
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}
