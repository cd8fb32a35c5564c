//! Bodies of requests. A handler reads one when it knows who calls; until then no more of it is taken than the connection's own buffer
//! holds, however large the caller says it is. Reading is bounded in size and time, and in the memory that all bodies, and those of one
//! address, take together.

mod budget;
mod unread;

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::Deref;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use gha_slurm_domain::nul::find_nul;
use serde::de::DeserializeOwned;

pub use budget::BodyLimits;
use budget::Claim;
pub(crate) use unread::Unread;

use crate::client_address::{client_address, counted_as};
use crate::problem::ApiError;

/// Bytes of a part of a body.
const PART: usize = 64 << 10;

/// Largest body of a route, bytes, where it is not that of the service: data of the route.
#[derive(Debug, Clone, Copy)]
pub struct LargestBody(pub usize);

/// A body that has not been read. To take it as an argument reads nothing, but refuses one whose `Content-Length` is too large.
pub struct Body {
    unread: Unread,
    limits: BodyLimits,
    by: Option<IpAddr>,
    /// Its `Content-Length`.
    length: Option<usize>,
    says_json: bool,
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

/// The bytes of a body, which count until they are dropped.
pub struct Bytes {
    bytes: Vec<u8>,
    _claim: Claim,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A body in parts, as it arrives. Parts are small, so that the memory of one is used again for another, of whatever length the body is.
pub struct Parts {
    blocks: Vec<Vec<u8>>,
    length: usize,
    claim: Claim,
}

impl Parts {
    /// The parts.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.blocks.iter().map(Vec::as_slice)
    }

    /// In one piece.
    pub fn join(self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.length);
        for part in self.blocks {
            bytes.extend_from_slice(&part);
        }
        Bytes {
            bytes,
            _claim: self.claim,
        }
    }

    /// `expected`: the body's `Content-Length`.
    fn push(&mut self, mut chunk: &[u8], expected: Option<usize>) {
        while !chunk.is_empty() {
            let full = |part: &Vec<u8>| part.len() == part.capacity();
            if self.blocks.last().is_none_or(full) {
                let left = expected.map_or(PART, |length| length.saturating_sub(self.length));
                self.blocks.push(Vec::with_capacity(left.clamp(1, PART)));
            }
            let Some(part) = self.blocks.last_mut() else {
                return;
            };
            let fits = chunk.len().min(part.capacity() - part.len());
            let (now, later) = chunk.split_at(fits);
            part.extend_from_slice(now);
            self.length += fits;
            chunk = later;
        }
    }
}

impl Body {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let mut limits = request
            .app_data::<Data<BodyLimits>>()
            .map(|limits| BodyLimits::clone(limits))
            .unwrap_or_default();
        if let Some(LargestBody(bytes)) = request.app_data() {
            limits.largest = *bytes;
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limits.largest) {
            return Err(too_large(limits.largest));
        }
        Ok(Self {
            unread: Unread::of(request),
            limits,
            by: client_address(request).map(counted_as),
            length,
            says_json: request
                .content_type()
                .eq_ignore_ascii_case("application/json"),
        })
    }

    /// Reads it.
    pub async fn read(self) -> Result<Bytes, ApiError> {
        Ok(self.parts().await?.join())
    }

    /// Reads it, for whoever has to see all of it to know who calls. It counts as it arrives, so a large `Content-Length` alone takes
    /// nothing from others.
    pub async fn parts(self) -> Result<Parts, ApiError> {
        let deadline = self.limits.deadline;
        tokio::time::timeout(deadline, self.collect())
            .await
            .unwrap_or_else(|_| {
                Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_timeout",
                    "The body came too slowly",
                )
                .detail(format!("It did not arrive within {deadline:?}.")))
            })
    }

    /// Reads it as JSON, whatever its content type says. Texts can hold U+0000: what nodes and agents report is recorded without it.
    pub async fn json_of_any_type<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let bytes = self.read().await?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))
    }

    /// Reads it as JSON, which its content type says it is: no page of another site can make a browser send that unasked.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        if !self.says_json {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_type_unsupported",
                "The content type is wrong",
            )
            .detail("Send application/json."));
        }
        self.json_of_any_type().await
    }

    async fn collect(self) -> Result<Parts, ApiError> {
        let Self {
            unread,
            limits,
            by,
            length,
            ..
        } = self;
        let mut body = Parts {
            blocks: Vec::new(),
            length: 0,
            claim: limits.claim(length, by),
        };
        let mut reading = unread.read();
        while let Some(chunk) = reading.chunk().await {
            let chunk = chunk.map_err(|error| invalid(error.to_string()))?;
            if body.length + chunk.len() > limits.largest {
                return Err(too_large(limits.largest));
            }
            body.claim.grow(chunk.len())?;
            body.push(&chunk, length);
        }
        body.claim.read();
        Ok(body)
    }
}

/// Why a body is not what a route reads.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No JSON, or not of the shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// No text of the database can hold it.
    #[error("the character U+0000 is not allowed")]
    Nul,
}

/// Reads what a person wrote as JSON. The character that the database cannot store is refused.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    if find_nul(bytes).is_some() {
        return Err(JsonError::Nul);
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is too large",
    )
    .detail(format!("At most {most} bytes."))
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(detail)
}
