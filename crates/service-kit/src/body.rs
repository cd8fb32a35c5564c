//! Bodies of requests. A handler reads one when it knows who calls; until then no more of it is taken than the connection's own buffer
//! holds, however large the caller says it is. What is read is bounded in size, time and, over all requests together and those of one
//! address, in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
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
    small: Pool,
    large: Pool,
    /// Large bodies that may be read at the same time: a connection has buffers of its own.
    places: Pool,
}

/// Something of which there is so much for all, and so much for one address.
struct Pool {
    left: Arc<Semaphore>,
    most_of_one: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// What was taken from a [`Pool`] for an address.
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
    /// Whether one of the largest bodies finds room.
    pub fn fits(largest: u32, room: u32) -> bool {
        let (largest, room) = (largest as usize, room as usize);
        largest <= SMALL.max(room.saturating_sub(small_part(room)))
    }

    /// `largest` bytes for one, `room` bytes for all that are being read or used, `deadline` to arrive.
    pub fn new(largest: u32, room: u32, deadline: Duration) -> Self {
        let (largest, room) = (largest as usize, room as usize);
        let small = small_part(room);
        Self {
            largest,
            deadline,
            room: Arc::new(Room {
                small: Pool::new(small, SMALL),
                large: Pool::new(room.saturating_sub(small), largest),
                places: Pool::new(LARGE_AT_ONCE, 1),
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

impl Pool {
    /// `least`: what one address may always have.
    fn new(all: usize, least: usize) -> Self {
        Self {
            left: Arc::new(Semaphore::new(all)),
            most_of_one: (all / SHARE).max(least),
            taken: Arc::default(),
        }
    }

    fn take(&self, amount: usize, by: Option<IpAddr>) -> Result<Taken, ApiError> {
        if let Some(address) = by {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let of_one = taken.entry(address).or_default();
            if *of_one + amount > self.most_of_one {
                if *of_one == 0 {
                    taken.remove(&address);
                }
                return Err(overloaded(
                    "Too many large bodies come from this address at once; try again.",
                ));
            }
            *of_one += amount;
        }
        let permit = u32::try_from(amount)
            .ok()
            .and_then(|amount| Arc::clone(&self.left).try_acquire_many_owned(amount).ok());
        if let Some(permit) = permit {
            Ok(Taken {
                permit,
                by,
                of_all: Arc::clone(&self.taken),
            })
        } else {
            give_back(&self.taken, by, amount);
            Err(overloaded(
                "Too many large bodies arrive at once; try again.",
            ))
        }
    }
}

/// How much of a room is for small bodies.
fn small_part(room: usize) -> usize {
    (room / 4).max(SMALL)
}

fn overloaded(detail: &str) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "Not available right now",
    )
    .detail(detail)
    .retry_after(RETRY_AFTER_S)
}

fn give_back(taken: &Mutex<HashMap<IpAddr, usize>>, by: Option<IpAddr>, amount: usize) {
    let Some(address) = by else { return };
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(of_one) = taken.get_mut(&address) {
        *of_one = of_one.saturating_sub(amount);
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

/// A request's payload, until a handler reads it. It outlives the response: if a payload that has not ended is dropped before the
/// response is sent, actix waits for its end on a connection that no deadline of its own closes; if it is still there, actix closes.
#[derive(Clone, Default)]
pub(crate) struct Unread(Rc<RefCell<Option<Payload>>>);

/// The body of a response, and the payload of its request that nobody has read to its end.
pub(crate) struct WithUnread {
    body: BoxBody,
    _payload: Option<Payload>,
}

impl Unread {
    /// What nobody has read to its end goes with the response.
    pub(crate) fn keep_in<B: MessageBody + 'static>(
        &self,
        response: ServiceResponse<B>,
    ) -> ServiceResponse<WithUnread> {
        let payload = self.0.take();
        response.map_body(|_, body| WithUnread {
            body: body.boxed(),
            _payload: payload,
        })
    }
}

impl MessageBody for WithUnread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<web::Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}

/// Takes the payload out of a request, for [`Body`] to find.
pub(crate) fn set_aside(request: ServiceRequest) -> (ServiceRequest, Unread) {
    let (request, payload) = request.into_parts();
    let unread = Unread::default();
    if !matches!(payload, Payload::None) {
        *unread.0.borrow_mut() = Some(payload);
    }
    request.extensions_mut().insert(unread.clone());
    (ServiceRequest::from_parts(request, Payload::None), unread)
}

/// A payload that is being read; if it is not read to its end, it goes back.
struct Reading {
    payload: Option<Payload>,
    unread: Unread,
}

impl Reading {
    async fn chunk(&mut self) -> Option<Result<web::Bytes, PayloadError>> {
        let chunk = self.payload.as_mut()?.next().await;
        if chunk.is_none() {
            self.payload = None;
        }
        chunk
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        *self.unread.0.borrow_mut() = self.payload.take();
    }
}

/// A body that has not been read. To take it as an argument reads nothing, but refuses what says itself that it is too large, or
/// compressed.
pub struct Body {
    unread: Unread,
    limits: BodyLimits,
    by: Option<IpAddr>,
    /// What it says itself.
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

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
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
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
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
        let unread = request.extensions().get::<Unread>().cloned();
        Ok(Self {
            unread: unread.unwrap_or_default(),
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

    /// Reads it as JSON, whatever its content type says.
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
        let is_small = self.length.is_some_and(|length| length <= SMALL);
        let Room {
            small,
            large,
            places,
        } = &*self.limits.room;
        let pool = if is_small { small } else { large };
        let mut place = None;
        let mut body = Parts {
            blocks: Vec::new(),
            length: 0,
            room: None,
        };
        let mut reading = Reading {
            payload: self.unread.0.take(),
            unread: self.unread.clone(),
        };
        while let Some(chunk) = reading.chunk().await {
            let chunk = chunk.map_err(|error| invalid(error.to_string()))?;
            if body.length + chunk.len() > self.limits.largest {
                return Err(self.limits.too_large());
            }
            if !is_small && place.is_none() {
                place = Some(places.take(1, self.by)?);
            }
            merge(&mut body.room, pool.take(chunk.len(), self.by)?);
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
