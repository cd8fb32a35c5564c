//! Bodies of requests. A handler reads one when it knows who calls; until then no byte of it is taken, however large the caller says it
//! is. What is read is bounded in size, time and, over all requests together and those of one address, in memory.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client_address::{client_address, counted_as};
use crate::problem::ApiError;

const LARGEST: u32 = 2 << 20;
const DEADLINE: Duration = Duration::from_secs(10);
const ROOM: u32 = 32 << 20;
/// Bodies that say that they have at most so many bytes have a room of their own, which others cannot fill.
const SMALL: usize = 128 << 10;
/// Larger ones that are read at the same time.
const LARGE_AT_ONCE: usize = 8;
/// Bytes of a part of a body.
const PART: usize = 64 << 10;
/// Share of each room that the bodies of one address may take, but always one of the largest.
const SHARE: usize = 4;
/// When to come again.
const RETRY_AFTER_S: u64 = 10;

/// What the bodies of a service may cost. Clones share their room.
#[derive(Clone)]
pub struct BodyLimits {
    largest: usize,
    deadline: Duration,
    room: Arc<Room>,
}

struct Room {
    small: Part,
    large: Part,
}

/// Bytes that bodies may take together.
struct Part {
    left: Arc<Semaphore>,
    /// Bodies that may be read at the same time: a connection has buffers of its own.
    places: Semaphore,
    most_of_one: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Bytes taken from a [`Part`] for an address.
struct Taken {
    permit: OwnedSemaphorePermit,
    by: Option<IpAddr>,
    of_all: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self::new(LARGEST, ROOM, DEADLINE)
    }
}

impl BodyLimits {
    /// `largest` bytes for one, `room` bytes for all that are being read or used, `deadline` to arrive.
    pub fn new(largest: u32, room: u32, deadline: Duration) -> Self {
        let (largest, room) = (largest as usize, room as usize);
        let small = (room / 4).max(SMALL);
        Self {
            largest,
            deadline,
            room: Arc::new(Room {
                small: Part::new(small, SMALL, Semaphore::MAX_PERMITS),
                large: Part::new(room.saturating_sub(small), largest, LARGE_AT_ONCE),
            }),
        }
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The body is too large",
        )
        .detail(format!("At most {} bytes.", self.largest))
    }
}

impl Part {
    fn new(bytes: usize, largest: usize, places: usize) -> Self {
        Self {
            left: Arc::new(Semaphore::new(bytes)),
            places: Semaphore::new(places),
            most_of_one: (bytes / SHARE).max(largest),
            taken: Arc::default(),
        }
    }

    fn take(&self, bytes: usize, by: Option<IpAddr>) -> Result<Taken, ApiError> {
        if let Some(address) = by {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let of_one = taken.entry(address).or_default();
            if *of_one + bytes > self.most_of_one {
                return Err(ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too_many_bodies",
                    "Too many bodies at once",
                )
                .detail("Too many bytes arrive from this address at the same time.")
                .retry_after(RETRY_AFTER_S));
            }
            *of_one += bytes;
        }
        let permit = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&self.left).try_acquire_many_owned(bytes).ok());
        if let Some(permit) = permit {
            Ok(Taken {
                permit,
                by,
                of_all: Arc::clone(&self.taken),
            })
        } else {
            give_back(&self.taken, by, bytes);
            Err(overloaded())
        }
    }
}

fn overloaded() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "Not available right now",
    )
    .detail("Too many large bodies arrive at once; try again.")
    .retry_after(RETRY_AFTER_S)
}

fn give_back(taken: &Mutex<HashMap<IpAddr, usize>>, by: Option<IpAddr>, bytes: usize) {
    let Some(address) = by else { return };
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(of_one) = taken.get_mut(&address) {
        *of_one = of_one.saturating_sub(bytes);
        if *of_one == 0 {
            taken.remove(&address);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back(&self.of_all, self.by, self.permit.num_permits());
    }
}

/// Largest body of a route, bytes, where it is not that of the service: data of the route.
#[derive(Debug, Clone, Copy)]
pub struct LargestBody(pub usize);

/// A body that has not been read. To take it as an argument reads nothing, but refuses what says itself that it is too large, or
/// compressed.
pub struct Body {
    payload: Payload,
    limits: BodyLimits,
    by: Option<IpAddr>,
    /// What it says itself.
    length: Option<usize>,
    says_json: bool,
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Self::of(request, payload.take()))
    }
}

/// Bytes of a body, which keep their room until they are dropped.
pub struct Bytes {
    bytes: Vec<u8>,
    _room: Option<Taken>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.bytes
    }
}

/// A body in parts, as it arrives. Parts are small, so that the memory of one is used again by another, of whatever length.
pub struct Parts {
    blocks: Vec<Vec<u8>>,
    length: usize,
    room: Option<Taken>,
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
            _room: self.room,
        }
    }

    /// `length`: what the body says itself.
    fn push(&mut self, mut chunk: &[u8], length: Option<usize>) {
        self.length += chunk.len();
        while !chunk.is_empty() {
            let full = |part: &Vec<u8>| part.len() == part.capacity();
            if self.blocks.last().is_none_or(full) {
                let before = self.blocks.iter().map(Vec::len).sum();
                let left = length.map_or(PART, |length| length.saturating_sub(before));
                self.blocks.push(Vec::with_capacity(left.clamp(1, PART)));
            }
            let Some(part) = self.blocks.last_mut() else {
                return;
            };
            let fits = chunk.len().min(part.capacity() - part.len());
            let (now, later) = chunk.split_at(fits);
            part.extend_from_slice(now);
            chunk = later;
        }
    }
}

impl Body {
    fn of(request: &HttpRequest, payload: Payload) -> Result<Self, ApiError> {
        let mut limits = request
            .app_data::<Data<BodyLimits>>()
            .map(|limits| BodyLimits::clone(limits))
            .unwrap_or_default();
        if let Some(LargestBody(bytes)) = request.app_data() {
            limits.largest = *bytes;
        }
        refuse_encoded(request.headers())?;
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limits.largest) {
            return Err(limits.too_large());
        }
        Ok(Self {
            payload,
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

    /// Reads it, for whoever has to see all of it to know who calls. Room is taken as the bytes arrive: to promise many costs nobody
    /// anything.
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
        let bytes = self.read().await?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))
    }

    async fn collect(mut self) -> Result<Parts, ApiError> {
        let room = match self.length {
            Some(length) if length <= SMALL => &self.limits.room.small,
            _ => &self.limits.room.large,
        };
        let _place = room.places.try_acquire().map_err(|_| overloaded())?;
        let mut body = Parts {
            blocks: Vec::new(),
            length: 0,
            room: None,
        };
        while let Some(chunk) = self.payload.next().await {
            let chunk = chunk.map_err(|error| invalid(error.to_string()))?;
            if body.length + chunk.len() > self.limits.largest {
                return Err(self.limits.too_large());
            }
            merge(&mut body.room, room.take(chunk.len(), self.by)?);
            body.push(&chunk, self.length);
        }
        Ok(body)
    }
}

fn merge(held: &mut Option<Taken>, mut more: Taken) {
    match held {
        Some(held) => {
            if let Some(permit) = more.permit.split(more.permit.num_permits()) {
                held.permit.merge(permit);
            }
        }
        None => *held = Some(more),
    }
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(detail)
}

/// 415 for a body that would have to be decompressed: a small one can become a thousand times as large.
pub(crate) fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding_unsupported",
            "The body is compressed",
        )
        .detail("Send it without Content-Encoding."));
    }
    Ok(())
}
