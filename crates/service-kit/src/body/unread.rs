//! Payloads that nobody has read to their end.
//!
//! If such a payload is dropped before the response is sent, actix waits for its end, on a connection that no deadline of its own closes.
//! If it is still there, actix closes the connection. So it outlives the response.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::{HttpMessage, web};
use futures_util::StreamExt;

/// The payload of a request, unless it was read to its end.
#[derive(Clone, Default)]
pub(crate) struct Unread(Rc<RefCell<Option<Payload>>>);

impl Unread {
    /// Takes the payload out of a request; [`Unread::of`] finds it.
    pub(crate) fn set_aside(request: ServiceRequest) -> (ServiceRequest, Self) {
        let (request, payload) = request.into_parts();
        let unread = Self::default();
        if !matches!(payload, Payload::None) {
            unread.0.replace(Some(payload));
        }
        request.extensions_mut().insert(unread.clone());
        (ServiceRequest::from_parts(request, Payload::None), unread)
    }

    pub(super) fn of(request: &impl HttpMessage) -> Self {
        let unread = request.extensions().get::<Self>().cloned();
        unread.unwrap_or_default()
    }

    pub(super) fn read(&self) -> Reading<'_> {
        Reading {
            payload: self.0.take(),
            unread: self,
        }
    }

    /// What is left goes with the response.
    pub(crate) fn keep_in<B: MessageBody + 'static>(
        &self,
        response: ServiceResponse<B>,
    ) -> ServiceResponse<impl MessageBody + use<B>> {
        response.map_body(|_, body| WithUnread {
            body: body.boxed(),
            _payload: self.0.take(),
        })
    }
}

/// A payload that is being read. If it is not read to its end, it goes back.
pub(super) struct Reading<'a> {
    payload: Option<Payload>,
    unread: &'a Unread,
}

impl Reading<'_> {
    pub(super) async fn chunk(&mut self) -> Option<Result<web::Bytes, PayloadError>> {
        let chunk = self.payload.as_mut()?.next().await;
        if chunk.is_none() {
            self.payload = None;
        }
        chunk
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.unread.0.replace(self.payload.take());
    }
}

/// The body of a response, and the payload of its request.
struct WithUnread {
    body: BoxBody,
    _payload: Option<Payload>,
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
