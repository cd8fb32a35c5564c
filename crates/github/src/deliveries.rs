//! Webhook deliveries: GitHub never repeats one by itself, so failed ones are asked for again.

use chrono::{DateTime, Utc};
use gha_slurm_domain::bounded;
use http::Method;
use serde::Deserialize;

use crate::client::{Call, Github, PER_PAGE};
use crate::error::GithubError;

/// Pages that one listing asks for; an App makes 5,000 calls an hour.
const MAX_PAGES: usize = 100;

/// One attempt to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Delivery {
    /// Id of the attempt.
    pub id: i64,
    /// `X-GitHub-Delivery`, the same for every attempt of an event.
    #[serde(deserialize_with = "bounded::name")]
    pub guid: String,
    /// When.
    pub delivered_at: DateTime<Utc>,
    /// `OK` when it was answered with 2xx in time.
    #[serde(deserialize_with = "bounded::text")]
    pub status: String,
    /// The event.
    #[serde(deserialize_with = "bounded::text")]
    pub event: String,
}

impl Delivery {
    /// Whether it arrived.
    pub fn succeeded(&self) -> bool {
        self.status == "OK"
    }
}

impl Github {
    /// The attempts since a time, newest first, at most 10,000. `GET /app/hook/deliveries`.
    pub async fn deliveries(&self, since: DateTime<Utc>) -> Result<Vec<Delivery>, GithubError> {
        let mut all: Vec<Delivery> = Vec::new();
        let mut cursor = String::new();
        for _ in 0..MAX_PAGES {
            let call = Call::get(
                "list webhook deliveries",
                format!("/app/hook/deliveries?per_page={PER_PAGE}{cursor}"),
                &[],
            );
            let answer = self.as_app(&call).await?;
            let page: Vec<Delivery> = answer.json()?;
            let older = page.iter().any(|delivery| delivery.delivered_at < since);
            all.extend(page.into_iter().filter(|d| d.delivered_at >= since));
            match answer.next_cursor() {
                Some(next) if !older => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        Ok(all)
    }

    /// Asks for one more attempt. `POST /app/hook/deliveries/{id}/attempts`.
    pub async fn redeliver(&self, id: i64) -> Result<(), GithubError> {
        let call = Call {
            name: "redeliver a webhook",
            method: Method::POST,
            path: format!("/app/hook/deliveries/{id}/attempts"),
            body: None,
            also: &[],
        };
        self.as_app(&call).await.map(|_| ())
    }
}
