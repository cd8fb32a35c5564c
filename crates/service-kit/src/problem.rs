//! Every HTTP error as a problem document (RFC 9457).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use gha_slurm_contract::Problem;
use gha_slurm_contract::problem::PROBLEM_JSON;
use serde::de::DeserializeOwned;

/// An error a handler answers. Its cause, if any, is logged once and never returned.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    retry_after_s: Option<u64>,
    header: Option<(&'static str, String)>,
}

impl ApiError {
    /// An error with a stable code; see [`Problem::new`].
    pub fn new(status: StatusCode, code: &str, title: &str) -> Self {
        Self {
            problem: Box::new(Problem::new(status.as_u16(), code, title)),
            retry_after_s: None,
            header: None,
        }
    }

    /// What it answers.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// With an explanation of this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.problem.detail = Some(detail.into());
        self
    }

    /// With the wrong parts of the input.
    #[must_use]
    pub fn errors(mut self, errors: Vec<gha_slurm_contract::problem::ProblemPart>) -> Self {
        self.problem.errors = errors;
        self
    }

    /// With `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    /// 500; `cause` is logged here, once.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something is wrong on our side",
        )
        .detail("The service's log says what; try again later.")
    }

    /// 503 with Retry-After; `cause` is logged here, once.
    pub fn unavailable(what: &str, cause: &dyn fmt::Display, retry_after_s: u64) -> Self {
        Self::unavailable_as("unavailable", what, cause, retry_after_s)
    }

    /// 503 `database_unavailable`: Postgres is down or overloaded. `cause` is logged here, once.
    pub fn database_unavailable(cause: &dyn fmt::Display, retry_after_s: u64) -> Self {
        Self::unavailable_as("database_unavailable", "The database", cause, retry_after_s)
    }

    /// 503 `github_unavailable`: GitHub cannot be reached, or asks to wait. `cause` is logged here, once.
    pub fn github_unavailable(cause: &dyn fmt::Display, retry_after_s: u64) -> Self {
        Self::unavailable_as("github_unavailable", "GitHub", cause, retry_after_s)
    }

    fn unavailable_as(
        code: &str,
        what: &str,
        cause: &dyn fmt::Display,
        retry_after_s: u64,
    ) -> Self {
        tracing::warn!(error = %cause, code, "{what} is not available");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code,
            "Not available right now",
        )
        .detail(format!("{what} is not available; try again."))
        .retry_after(retry_after_s)
    }

    /// 503 with Retry-After: other requests changed the same rows, again and again. `cause` is logged here, once.
    pub fn conflict(cause: &dyn fmt::Display) -> Self {
        tracing::warn!(error = %cause, "a request collided with others");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "conflict",
            "Too many changes at the same time",
        )
        .detail("Other requests change the same data; try again.")
        .retry_after(1)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.problem.code,
            self.problem
                .detail
                .as_deref()
                .unwrap_or(&self.problem.title)
        )
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Some((name, value)) = &self.header {
            response.insert_header((*name, value.as_str()));
        }
        // Not `.json()`: it would set its own content type. A struct of texts and numbers always serialises.
        response.body(serde_json::to_string(&*self.problem).unwrap_or_default())
    }
}

/// 400 for a text that names no repository.
pub fn repository_invalid(reason: &impl std::fmt::Display) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "repository_invalid",
        "Not a repository",
    )
    .detail(reason.to_string())
}

/// 422 for a body that names more than `most` of something.
pub fn too_many(title: &'static str, most: usize) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many", title)
        .detail(format!("Name at most {most} at once."))
}

/// What the query string says, for a handler that looks at something else first.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    web::Query::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| query_invalid(error.to_string()))
}

/// The query string says something wrong.
pub fn query_invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "query_invalid",
        "The query string is wrong",
    )
    .detail(detail)
}

/// Extractor errors as problem documents.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        // Bodies are read as `body::Body`, when it is known who calls.
        .app_data(web::PayloadConfig::new(0))
        .app_data(
            web::QueryConfig::default().error_handler(|e, _| query_invalid(e.to_string()).into()),
        )
        .app_data(web::PathConfig::default().error_handler(|e, _| {
            ApiError::new(StatusCode::BAD_REQUEST, "path_invalid", "The path is wrong")
                .detail(e.to_string())
                .into()
        }));
}

/// The answer for a path that has no handler.
pub async fn not_found(request: HttpRequest) -> HttpResponse {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here")
        .detail(request.path().to_owned())
        .error_response()
}

/// The default route of a resource: what a method gets that it does not have. `allow` lists those it has.
pub fn method_not_allowed(allow: &'static str) -> actix_web::Route {
    web::to(move || async move {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This method is not allowed here",
        )
        .detail(format!("Allowed: {allow}."))
        .header("Allow", allow)
        .error_response()
    })
}
