//! Reading a body within bounds of size, time and memory.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{HttpMessage, HttpRequest, web};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::refusal::Refusal;

/// What bodies may cost.
pub(crate) struct BodyLimits {
    /// Largest body, bytes.
    max_body: u32,
    /// Bytes left for all bodies in hand.
    room: Semaphore,
    deadline: Duration,
}

/// How a webhook's payload is wrapped, as chosen in the webhook's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Encoding {
    /// The body is the payload.
    Json,
    /// The payload is the field `payload` of a form.
    Form,
}

/// The raw bytes, which the signature is over, and the room they take until dropped.
pub(crate) struct Body<'a> {
    bytes: Vec<u8>,
    _room: SemaphorePermit<'a>,
}

impl BodyLimits {
    /// `max_body` bytes for one, `max_bodies` for all in hand, `deadline` to arrive.
    pub(crate) fn new(max_body: u32, max_bodies: u32, deadline: Duration) -> Self {
        Self {
            max_body,
            room: Semaphore::new(max_bodies as usize),
            deadline,
        }
    }

    /// Refuses what says itself that it is too large, before a byte of it is read.
    pub(crate) fn check_length(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        match length {
            Some(length) if length > u64::from(self.max_body) => {
                Err(Refusal::TooLarge(self.max_body))
            }
            _ => Ok(()),
        }
    }

    /// Reads a body. Room is taken as the bytes arrive: to promise many costs a stranger's peers nothing.
    pub(crate) async fn read(&self, payload: web::Payload) -> Result<Body<'_>, Refusal> {
        tokio::time::timeout(self.deadline, self.collect(payload))
            .await
            .unwrap_or(Err(Refusal::SlowBody(self.deadline)))
    }

    async fn collect(&self, mut payload: web::Payload) -> Result<Body<'_>, Refusal> {
        let mut room = self.take_room(0)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|e| Refusal::BrokenBody(e.to_string()))?;
            if bytes.len() + chunk.len() > self.max_body as usize {
                return Err(Refusal::TooLarge(self.max_body));
            }
            room.merge(self.take_room(chunk.len())?);
            bytes.extend_from_slice(&chunk);
        }
        Ok(Body { bytes, _room: room })
    }

    fn take_room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let bytes = u32::try_from(bytes).map_err(|_| Refusal::TooLarge(self.max_body))?;
        self.room
            .try_acquire_many(bytes)
            .map_err(|_| Refusal::NoRoom)
    }
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
}

impl Body<'_> {
    /// The bytes as they came.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The payload's JSON.
    pub(crate) fn json(&self, encoding: Encoding) -> Result<Cow<'_, [u8]>, Refusal> {
        match encoding {
            Encoding::Json => Ok(Cow::Borrowed(&self.bytes)),
            Encoding::Form => form_urlencoded::parse(&self.bytes)
                .find(|(key, _)| key == "payload")
                .map(|(_, value)| match value {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                })
                .ok_or(Refusal::Form),
        }
    }
}
