//! How GitHub wraps a payload.

use std::borrow::Cow;

use actix_web::{HttpMessage, HttpRequest};

use crate::refusal::Refusal;

/// How a webhook's payload is wrapped, as chosen in the webhook's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Encoding {
    /// The body is the payload.
    Json,
    /// The payload is the field `payload` of a form.
    Form,
}

impl Encoding {
    /// By the content type.
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Refusal> {
        match request.content_type() {
            t if t.eq_ignore_ascii_case("application/json") => Ok(Self::Json),
            t if t.eq_ignore_ascii_case("application/x-www-form-urlencoded") => Ok(Self::Form),
            _ => Err(Refusal::ContentType),
        }
    }

    /// The payload's JSON.
    pub(crate) fn json(self, body: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
        match self {
            Self::Json => Ok(Cow::Borrowed(body)),
            Self::Form => form_urlencoded::parse(body)
                .find(|(key, _)| key == "payload")
                .map(|(_, value)| match value {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                })
                .ok_or(Refusal::Form),
        }
    }
}
