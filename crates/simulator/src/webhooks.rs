//! Sends deliveries, one after the other, signed as GitHub signs them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::Utc;
use secrecy::ExposeSecret;

use crate::shared::Shared;
use crate::world::deliveries::{Attempt, Due};
use crate::world::events::HOOK_ID;

/// Longest wait between two looks at what is delayed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// As much of an answer as is kept.
const KEPT_ANSWER: usize = 64 * 1024;

/// The client that deliveries are sent with: they must be answered in time, and redirects are not followed.
pub(crate) fn client(timeout: Duration) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent("GitHub-Hookshot/simulator")
        .no_proxy()
        .build()
        .context("cannot make the webhook client")
}

/// Sends whatever is due, forever.
pub(crate) async fn send(shared: Shared, client: reqwest::Client) {
    loop {
        let Some(due) = shared.note(|world, now| world.deliveries.take_due(now)) else {
            let next = shared.read(|world, _| world.deliveries.next_due());
            let pause = next.map_or(LOOK_AGAIN, |at| {
                (at - Utc::now()).to_std().unwrap_or_default()
            });
            shared.changed(pause.min(LOOK_AGAIN)).await;
            continue;
        };
        let app_id = shared.read(|world, _| world.app.id);
        let id = due.delivery.id;
        let attempt = attempt(&client, due, app_id).await;
        shared.change(|world, now| world.deliveries.attempted_now(id, attempt, now));
    }
}

async fn attempt(client: &reqwest::Client, due: Due, app_id: u64) -> Attempt {
    let Due { delivery, hook } = due;
    let (content_type, body) = if hook.form {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &delivery.payload)
            .finish();
        ("application/x-www-form-urlencoded", form)
    } else {
        ("application/json", delivery.payload.clone())
    };
    let signature = gha_slurm_auth::webhook::sign(&hook.secret, body.as_bytes());
    let mut headers: BTreeMap<String, String> = [
        ("Accept", "*/*"),
        ("content-type", content_type),
        ("User-Agent", "GitHub-Hookshot/simulator"),
        ("X-GitHub-Delivery", &delivery.guid),
        ("X-GitHub-Event", &delivery.event),
        ("X-GitHub-Hook-ID", &HOOK_ID.to_string()),
        ("X-GitHub-Hook-Installation-Target-ID", &app_id.to_string()),
        ("X-GitHub-Hook-Installation-Target-Type", "integration"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if !hook.secret.expose_secret().is_empty() {
        headers.insert("X-Hub-Signature-256".to_owned(), signature);
    }
    let mut request = client.post(&hook.url).body(body);
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    let started = Instant::now();
    let outcome = request.send().await;
    let mut attempt = Attempt {
        request_headers: headers,
        url: hook.url,
        ..Attempt::default()
    };
    match outcome {
        Ok(answer) => {
            let status = answer.status();
            attempt.status_code = status.as_u16();
            attempt.status = if status.is_success() {
                "OK".to_owned()
            } else {
                format!("Invalid HTTP Response: {}", status.as_u16())
            };
            attempt.response_headers = answer
                .headers()
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.to_string(), value)
                })
                .collect();
            let body = answer.bytes().await.unwrap_or_default();
            let kept = body.get(..KEPT_ANSWER).unwrap_or(&body);
            attempt.response_payload = String::from_utf8_lossy(kept).into_owned();
        }
        Err(error) if error.is_timeout() => {
            attempt.status.push_str("timed out");
            attempt.status_code = 504;
        }
        Err(_) => {
            attempt.status.push_str("failed to connect to host");
            attempt.status_code = 502;
        }
    }
    attempt.duration = (started.elapsed().as_secs_f64() * 100.0).round() / 100.0;
    attempt
}
