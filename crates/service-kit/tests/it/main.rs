//! A small service over real HTTP.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bodies;
mod connections;
mod strangers;
mod tls;

use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::Problem;
use gha_slurm_service_kit::settings::{HttpSettings, OperationsSettings};
use gha_slurm_service_kit::strangers::limited;
use gha_slurm_service_kit::{
    ApiError, Body, BodyLimits, CancellationToken, HttpService, Operations, Readiness, Strangers,
    authentication, operations, problem,
};
use gha_slurm_telemetry::Metrics;
use secrecy::SecretString;

async fn echo(request: HttpRequest, body: Body) -> Result<HttpResponse, ApiError> {
    authentication::require_bearer(
        &request,
        &[SecretString::from("old"), SecretString::from("new")],
    )?;
    let body: Vec<String> = serde_json::from_slice(&body.read().await?).map_err(|e| {
        ApiError::new(
            actix_web::http::StatusCode::BAD_REQUEST,
            "body_invalid",
            "Bad",
        )
        .detail(e.to_string())
    })?;
    Ok(HttpResponse::Ok().json(body))
}

async fn typed(body: Body) -> Result<HttpResponse, ApiError> {
    let body: Vec<String> = body.json().await?;
    Ok(HttpResponse::Ok().json(body))
}

const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of the largest body that counts as small.
const SMALL: u32 = 128 << 10;

struct Service {
    url: String,
    operations_url: String,
    readiness: Readiness,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn start() -> Service {
    let any = "127.0.0.1:0".parse().unwrap();
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    // Room for one of the largest small bodies, and three times as much for others.
    let limits = BodyLimits::new(200_000, 4 * SMALL, Duration::from_secs(3));
    let strangers = Strangers::at_most(3);
    let http = HttpService::bind(&HttpSettings::plain(any), &metrics, move |config| {
        config
            .service(
                web::resource("/echo/{name}")
                    .route(web::post().to(echo))
                    .default_service(problem::method_not_allowed("POST")),
            )
            .route("/typed", web::post().to(typed))
            .service(
                web::resource("/open")
                    .wrap(from_fn({
                        let strangers = strangers.clone();
                        move |request, next| limited(strangers.clone(), request, next)
                    }))
                    .route(web::get().to(HttpResponse::NoContent)),
            )
            .app_data(web::Data::new(limits.clone()));
    })
    .unwrap();
    let operations = Operations::bind(
        &OperationsSettings { listen: any },
        readiness.clone(),
        metrics,
    )
    .unwrap();
    let stop = CancellationToken::new();
    let url = format!("http://127.0.0.1:{}", http.port());
    let operations_url = format!("http://127.0.0.1:{}", operations.port());
    let task = tokio::spawn({
        let stop = stop.clone();
        async move {
            let (a, b) = tokio::join!(
                http.run_until_stopped(stop.clone()),
                operations.run_until(stop)
            );
            a.and(b)
        }
    });
    Service {
        url,
        operations_url,
        readiness,
        stop,
        task,
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(10))
        .build()
        .unwrap()
}

async fn problem_of(response: reqwest::Response, status: u16, code: &str) -> Problem {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: Problem = response.json().await.unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code));
    problem
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let service = start();
    let client = client();
    let url = |path: &str| format!("{}{path}", service.url);
    problem_of(
        client.get(url("/nowhere")).send().await.unwrap(),
        404,
        "not_found",
    )
    .await;
    let response = client.get(url("/echo/x")).send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    problem_of(response, 405, "method_not_allowed").await;
    let response = client
        .post(url("/typed"))
        .header("content-type", "application/json")
        .body("{")
        .send()
        .await
        .unwrap();
    problem_of(response, 400, "body_invalid").await;
    let response = client
        .post(url("/typed"))
        .header("content-type", "text/plain")
        .body("[]")
        .send()
        .await
        .unwrap();
    problem_of(response, 415, "content_type_unsupported").await;
}

#[tokio::test]
async fn authentication_fails_before_the_body_is_looked_at() {
    let service = start();
    let client = client();
    let post = |token: Option<&str>, body: &'static str| {
        let request = client.post(format!("{}/echo/x", service.url)).body(body);
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    };
    problem_of(
        post(None, "garbage").send().await.unwrap(),
        401,
        "unauthorized",
    )
    .await;
    problem_of(
        post(Some("ol"), "garbage").send().await.unwrap(),
        401,
        "unauthorized",
    )
    .await;
    problem_of(
        post(Some("old"), "garbage").send().await.unwrap(),
        400,
        "body_invalid",
    )
    .await;
    assert_eq!(
        post(Some("new"), "[\"a\"]")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn a_service_is_asked_whether_it_is_ready() {
    let service = start();
    let port = service.operations_url.rsplit_once(':').unwrap().1;
    // As in a container: it listens everywhere, and is asked over loopback.
    let settings = OperationsSettings {
        listen: format!("0.0.0.0:{port}").parse().unwrap(),
    };
    operations::check_ready(&settings).await.unwrap();

    service.readiness.not_ready("broker", "no connection yet");
    let error = operations::check_ready(&settings).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("no connection yet"),
        "{error:#}"
    );

    service.stop.cancel();
    service.task.await.unwrap().unwrap();
    let error = operations::check_ready(&settings).await.unwrap_err();
    assert!(format!("{error:#}").contains("no answer"), "{error:#}");
}

#[tokio::test]
async fn readiness_metrics_and_a_graceful_stop() {
    let service = start();
    let client = client();
    let get = |path: &str| client.get(format!("{}{path}", service.operations_url));
    service.readiness.not_ready("broker", "no connection yet");
    assert_eq!(
        get("/health/live").send().await.unwrap().status().as_u16(),
        200
    );
    let response = get("/health/ready").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.text().await.unwrap().contains("no connection yet"));
    service.readiness.ready("broker");
    assert_eq!(
        get("/health/ready").send().await.unwrap().status().as_u16(),
        200
    );

    client
        .get(format!("{}/echo/secret-name", service.url))
        .send()
        .await
        .unwrap();
    let metrics = get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains(r#"gha_slurm_http_request_seconds_count{method="GET",route="/echo/{name}",status="405"} 1"#),
        "{metrics}"
    );
    assert!(!metrics.contains("secret-name"));

    service.stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(10), service.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(get("/health/live").send().await.is_err());
}
