//! SQLSTATE, the code of an error of Postgres (its manual, "PostgreSQL Error Codes").
//!
//! diesel's errors keep the text of an error and hide its code, and the text is in the server's language. So the connection
//! itself puts the code before the text, `[40P01] deadlock detected`, as the message arrives. diesel 2.4 has the codes
//! (`diesel::pg::sql_state`): this module goes when diesel-async gives them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::silence::Heard;

/// Tag and length of a message (its manual, "Message Formats").
const HEADER: usize = 5;
/// A longer error passes as it is.
const LONGEST_ERROR: usize = 64 << 10;
const ERROR_RESPONSE: u8 = b'E';

/// The code that the connection put before `message`.
pub(crate) fn of(message: &str) -> Option<&str> {
    let (code, _) = message.strip_prefix('[')?.split_once("] ")?;
    (code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// Marks the errors in a stream of messages from the server.
#[derive(Default)]
struct Marker {
    /// A header, or an error, that is not complete yet.
    held: Vec<u8>,
    /// Bytes that pass before the next header.
    passing: usize,
    /// Whether `held` is to be a whole error of this length.
    error: Option<usize>,
}

impl Marker {
    /// Appends to `out` what `bytes` complete.
    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            let wanted = self.error.unwrap_or(HEADER) - self.held.len();
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            if now.len() < wanted {
                return;
            }
            if self.error.take().is_some() {
                out.extend(marked(&self.held).unwrap_or_else(|| self.held.clone()));
                self.held.clear();
                continue;
            }
            let [tag, a, b, c, d] = *self.held.as_slice() else {
                return;
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if tag == ERROR_RESPONSE && (HEADER..LONGEST_ERROR).contains(&length) {
                self.error = Some(1 + length);
            } else {
                out.append(&mut self.held);
                // The length counts itself.
                self.passing = length.saturating_sub(4);
            }
        }
    }
}

/// An ErrorResponse with its code (field `C`) before its text (field `M`).
fn marked(message: &[u8]) -> Option<Vec<u8>> {
    let body = message.get(HEADER..)?;
    let fields = || {
        body.split(|byte| *byte == 0)
            .filter_map(|field| field.split_first())
    };
    let (_, code) = fields().find(|(kind, _)| **kind == b'C')?;
    let mut marked = vec![ERROR_RESPONSE, 0, 0, 0, 0];
    for (kind, value) in fields() {
        marked.push(*kind);
        if *kind == b'M' {
            marked.push(b'[');
            marked.extend_from_slice(code);
            marked.extend_from_slice(b"] ");
        }
        marked.extend_from_slice(value);
        marked.push(0);
    }
    marked.push(0);
    let length = u32::try_from(marked.len() - 1).ok()?.to_be_bytes();
    marked.get_mut(1..HEADER)?.copy_from_slice(&length);
    Some(marked)
}

/// A connection to Postgres whose errors carry their codes.
pub(crate) struct Marked<S> {
    stream: S,
    marker: Marker,
    ready: Vec<u8>,
    /// How much of `ready` was read.
    read: usize,
}

impl<S> Marked<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            marker: Marker::default(),
            ready: Vec::new(),
            read: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Marked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let waiting = this.ready.get(this.read..).unwrap_or_default();
            if !waiting.is_empty() {
                let some = waiting.len().min(buffer.remaining());
                buffer.put_slice(waiting.get(..some).unwrap_or_default());
                this.read += some;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.read = 0;
            let mut bytes = [0; 8 << 10];
            let mut arrived = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut arrived))?;
            if arrived.filled().is_empty() {
                // The end; also of an error that was cut off.
                this.ready.append(&mut this.marker.held);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            this.marker.feed(arrived.filled(), &mut this.ready);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Marked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Marked<Heard<S>> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.get_ref().channel_binding()
    }
}

/// TLS whose stream is [`Marked`], and [`Heard`] with this patience.
#[derive(Clone)]
pub(crate) struct MarkedTls(pub(crate) MakeRustlsConnect, pub(crate) Duration);

type Rustls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

pub(crate) struct MarkedConnect(Rustls, Duration);

impl MakeTlsConnect<Socket> for MarkedTls {
    type Stream = Marked<Heard<<Rustls as TlsConnect<Socket>>::Stream>>;
    type TlsConnect = MarkedConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.0, domain)?;
        Ok(MarkedConnect(tls, self.1))
    }
}

impl TlsConnect<Socket> for MarkedConnect {
    type Stream = Marked<Heard<<Rustls as TlsConnect<Socket>>::Stream>>;
    type Error = <Rustls as TlsConnect<Socket>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let stream = self.0.connect(socket).await?;
            Ok(Marked::new(Heard::new(stream, self.1)))
        })
    }
}

/// No TLS, for `sslnegotiation=direct`, where tokio-postgres hands over the bare socket.
#[derive(Clone, Copy)]
pub(crate) struct MarkedPlain(pub(crate) Duration);

/// A socket without TLS.
pub(crate) struct Plain(Marked<Heard<Socket>>);

impl MakeTlsConnect<Socket> for MarkedPlain {
    type Stream = Plain;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(*self)
    }
}

impl TlsConnect<Socket> for MarkedPlain {
    type Stream = Plain;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Plain>>;

    fn connect(self, socket: Socket) -> Self::Future {
        std::future::ready(Ok(Plain(Marked::new(Heard::new(socket, self.0)))))
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl TlsStream for Plain {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    #[test]
    fn the_code_stands_before_the_text_however_the_bytes_arrive() {
        let error = message(
            b'E',
            b"SFEHLER\0VERROR\0C40P01\0MVerklemmung entdeckt\0Ddetail\0\0",
        );
        let expected = message(
            b'E',
            b"SFEHLER\0VERROR\0C40P01\0M[40P01] Verklemmung entdeckt\0Ddetail\0\0",
        );
        // A row that contains what looks like an error, and an empty message.
        let row = message(b'D', &error);
        let ready = message(b'Z', b"I");
        let sent = [&row[..], &message(b'1', b""), &error, &ready].concat();
        let expected = [&row[..], &message(b'1', b""), &expected, &ready].concat();
        for step in 1..=sent.len() {
            let (mut marker, mut out) = (Marker::default(), Vec::new());
            for piece in sent.chunks(step) {
                marker.feed(piece, &mut out);
            }
            assert_eq!(out, expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn only_a_code_is_taken_for_one() {
        assert_eq!(of("[22021] invalid byte sequence"), Some("22021"));
        assert_eq!(of("[a note] text"), None);
        assert_eq!(of("deadlock detected"), None);
    }
}
