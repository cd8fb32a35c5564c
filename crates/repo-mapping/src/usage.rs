//! `/api/usage`: what Slurm jobs used, as Slurm's accounting says.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Months, NaiveDate, NaiveTime, Utc};
use gha_slurm_contract::problem::Problem;
use gha_slurm_contract::usage::{BuildUsage, MonthlyUsage, UsageSum};
use gha_slurm_domain::{RepositoryFullName, SlurmUser, Usage};
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::problem::{query, query_invalid};
use gha_slurm_storage::usage;
use serde::Deserialize;

use crate::builds::of_visible;
use crate::state::{State, storage_error};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageQuery {
    /// The month, in UTC: `2026-11`.
    month: String,
    /// Only what spent this Slurm user's account.
    #[param(value_type = Option<String>)]
    user: Option<SlurmUser>,
    /// Only this repository: `owner/name` or its URL.
    #[param(value_type = Option<String>)]
    repository: Option<String>,
}

/// What was used in a month, summed for each repository and Slurm user.
#[utoipa::path(
    get,
    path = "/api/usage",
    operation_id = "getUsage",
    params(UsageQuery),
    responses(
        (status = 200, description = "The sums", body = MonthlyUsage),
        (status = 400, description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_linked`: the person is linked to no Slurm user; `not_this_user`: they ask for another one's", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn get(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let visible = state.visible(&request).await?;
    let query: UsageQuery = query(&request)?;
    let user = of_visible(visible, query.user)?;
    let span =
        span(&query.month).ok_or_else(|| query_invalid("month: write a month as 2026-11"))?;
    let repository = query.repository.as_deref();
    let repository = repository
        .map(|text| RepositoryFullName::parse(text, &state.web_url))
        .transpose()
        .map_err(|error| query_invalid(format!("repository: {error}")))?;
    let mut conn = state.connection().await?;
    let sums = usage::sums(&mut conn, span, user.as_ref(), repository.as_ref())
        .await
        .map_err(|e| storage_error(&e))?;
    Ok(HttpResponse::Ok().json(MonthlyUsage {
        month: query.month,
        sums: sums.into_iter().map(|sum| shown(&state, sum)).collect(),
    }))
}

fn shown(state: &State, sum: usage::UsageSum) -> UsageSum {
    UsageSum {
        repository_url: state.repository_url(&sum.owner, &sum.name),
        slurm_user: sum.slurm_user,
        builds: sum.builds,
        launches: sum.launches,
        elapsed_s: sum.elapsed_s,
        cpu_allocated_s: sum.cpu_allocated_s,
        cpu_used_s: sum.cpu_used_s,
        gpu_allocated_s: sum.gpu_allocated_s,
        max_rss_bytes: sum.max_rss_bytes,
    }
}

/// From the first instant of a month to that of the next.
fn span(month: &str) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    // chrono also takes signs and blanks.
    let digits = |c: (usize, char)| (c.0 == 4 && c.1 == '-') || (c.0 != 4 && c.1.is_ascii_digit());
    if month.len() != 7 || !month.char_indices().all(digits) {
        return None;
    }
    let first = NaiveDate::parse_from_str(&format!("{month}-01"), "%Y-%m-%d").ok()?;
    let next = first.checked_add_months(Months::new(1))?;
    let instant = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    Some((instant(first), instant(next)))
}

/// As the page shows it for one build.
pub(crate) fn of_build(usage: &Usage) -> BuildUsage {
    let tres = usage.tres.iter().map(|(name, count)| {
        let unit = if name == "mem" { "M" } else { "" };
        format!("{name}={count}{unit}")
    });
    BuildUsage {
        tres: tres.collect::<Vec<_>>().join(","),
        gpu_allocated_s: usage.gpu_allocated_s(),
        elapsed_s: usage.elapsed_s,
        cpu_allocated_s: usage.cpu_allocated_s,
        cpu_used_s: usage.cpu_used_s,
        max_rss_bytes: usage.max_rss_bytes,
    }
}
