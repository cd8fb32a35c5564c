//! Deliveries of the App's webhook, and their redelivery.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bodies;
use crate::rest::caller::require_app;
use crate::rest::error::GitHubError;
use crate::rest::page::Page;
use crate::shared::Shared;

type Answer = Result<HttpResponse, GitHubError>;

#[derive(Debug, Deserialize)]
pub(crate) struct DeliveriesQuery {
    per_page: Option<usize>,
    cursor: Option<String>,
    status: Option<Wanted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Success,
    Failure,
}

impl Wanted {
    /// GitHub counts 400 to 599 as failures.
    fn takes(self, status_code: u16) -> bool {
        (self == Self::Failure) == (400..600).contains(&status_code)
    }
}

/// `GET /app/hook/deliveries`: the newest first, pages by cursor.
pub(crate) async fn deliveries(
    request: HttpRequest,
    shared: web::Data<Shared>,
    query: web::Query<DeliveriesQuery>,
) -> Answer {
    require_app(&request, &shared)?;
    let size = query.per_page.unwrap_or(30).clamp(1, 100);
    // The cursor names the last delivery of the page before.
    let before: Option<i64> = match &query.cursor {
        None => None,
        Some(cursor) => Some(
            cursor
                .strip_prefix("v1_")
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| GitHubError::new(400, "Invalid cursor"))?,
        ),
    };
    let (mut found, api) = shared.read(|world, _| {
        let found: Vec<(i64, Value)> = world
            .deliveries
            .attempted()
            .rev()
            .filter(|delivery| before.is_none_or(|before| delivery.id < before))
            .filter(|delivery| query.status.is_none_or(|s| s.takes(delivery.status_code)))
            .take(size + 1)
            .map(|delivery| (delivery.id, bodies::delivery_item(delivery)))
            .collect();
        (found, world.addresses.api.clone())
    });
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more).map(|(id, _)| *id);
    let status = match query.status {
        Some(Wanted::Success) => "&status=success",
        Some(Wanted::Failure) => "&status=failure",
        None => "",
    };
    let link = last.map(|id| {
        format!("<{api}/app/hook/deliveries?per_page={size}{status}&cursor=v1_{id}>; rel=\"next\"")
    });
    let items: Vec<Value> = found.into_iter().map(|(_, item)| item).collect();
    Ok(Page::answer(link, &json!(items)))
}

/// `GET /app/hook/deliveries/{delivery_id}`.
pub(crate) async fn delivery(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<i64>,
) -> Answer {
    require_app(&request, &shared)?;
    let body = shared.read(|world, _| world.deliveries.get(*id).map(bodies::delivery));
    Ok(HttpResponse::Ok().json(body.ok_or_else(GitHubError::not_found)?))
}

/// `POST /app/hook/deliveries/{delivery_id}/attempts`.
pub(crate) async fn redeliver(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<i64>,
) -> Answer {
    require_app(&request, &shared)?;
    shared
        .change(|world, now| world.redeliver(*id, now))
        .map_err(|_| GitHubError::not_found())?;
    Ok(HttpResponse::Accepted().json(json!({})))
}
