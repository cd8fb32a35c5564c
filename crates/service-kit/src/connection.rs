//! One connection, and what its client may make the service hold.
//!
//! actix-web reads ahead as much as comes, answers pipelined requests even if nobody reads the answers, and waits for the head of a second
//! request, or for a client that does not read, for as long as it takes. Here a request's head is bounded in size and time, the next one
//! is read when the last answer has been sent, and a client that does not read is cut off. If a client is still
//! sending when its last response has been sent, its input is discarded for a moment: if the connection were closed at once, the client's
//! kernel would discard the response.

use std::cell::{Cell, RefCell};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::CONTENT_LENGTH;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::places::Place;

/// Bytes of a request's head. Those of GitHub, of nodes and of browsers have 1 to 4 KiB.
const MAX_HEAD: usize = 16 * 1024;
/// From the first byte of a head to its last.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A client that takes no byte of an answer for so long is cut off.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// For so long what a client still sends is read and thrown away when its last answer is sent.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are read at once: a usual webhook, head and body.
const CHUNK: usize = 8192;
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Whose turn it is on a connection: the client's, who sends a request, or ours. Shared by the connection and the request that is
/// handled, on one thread.
#[derive(Default)]
pub(crate) struct Turn {
    /// Bytes of the request's body that have not come yet.
    body: Cell<Body>,
    /// Whether the answer to the request has been made.
    is_answered: Cell<bool>,
    /// Wakes who reads the connection.
    reader: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Rest(u64),
    /// Its end is known to who parses it.
    Chunked,
}

impl Default for Body {
    fn default() -> Self {
        Self::Rest(0)
    }
}

impl Turn {
    /// A request's head is understood: its body may follow. `false`: it came behind a chunked body, on a connection that was to end.
    pub(crate) fn begin(&self, request: &ServiceRequest) -> bool {
        if self.is_last() {
            return false;
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        self.body.set(if request.chunked().unwrap_or(true) {
            Body::Chunked
        } else {
            Body::Rest(length.unwrap_or(0))
        });
        self.wake();
        true
    }

    /// Whether the connection ends with this request: only who parses a chunked body knows where another one would begin.
    pub(crate) fn is_last(&self) -> bool {
        self.body.get() == Body::Chunked
    }

    /// Its answer is there: the next request may come once it is sent.
    pub(crate) fn answered(&self) {
        self.is_answered.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What of a request's head has been read.
#[derive(Default)]
struct Head {
    length: usize,
    /// The last line ended, and nothing but a CR came since.
    is_line_start: bool,
}

impl Head {
    /// How many of these bytes belong to it, and whether it ends with them. As for the parser, lines may end with a bare LF.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.is_line_start => return (index + 1, true),
                b'\n' => self.is_line_start = true,
                b'\r' if self.is_line_start => {}
                _ => self.is_line_start = false,
            }
            self.length += 1;
        }
        (bytes.len(), false)
    }
}

/// A deadline that runs from the first time that something is waited for.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn has_passed(&mut self, patience: Duration, cx: &mut Context<'_>) -> bool {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(cx).is_ready()
    }

    /// An error once it has passed.
    fn check(&mut self, patience: Duration, what: &str, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.has_passed(patience, cx) {
            return Err(Error::new(ErrorKind::TimedOut, what));
        }
        Ok(())
    }
}

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: S,
    turn: Rc<Turn>,
    /// `None`: a head has been handed out, and its request is not answered.
    head: Option<Head>,
    head_deadline: Deadline,
    /// What was read and is not due yet.
    ahead: Vec<u8>,
    /// Bytes of a chunked body were handed out, and those who wait for them come first.
    has_handed_out: bool,
    is_write_blocked: bool,
    write_deadline: Deadline,
    /// Nothing more is written.
    is_ended: bool,
    linger: Deadline,
    _place: Place,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S, place: Place) -> Self {
        Self {
            stream,
            turn: Rc::default(),
            head: Some(Head::default()),
            head_deadline: Deadline::default(),
            ahead: Vec::new(),
            has_handed_out: false,
            is_write_blocked: false,
            write_deadline: Deadline::default(),
            is_ended: false,
            linger: Deadline::default(),
            _place: place,
        }
    }

    pub(crate) fn turn(&self) -> Rc<Turn> {
        Rc::clone(&self.turn)
    }

    /// Reads into `ahead` if nothing is there. If nothing is there then, the client has sent its last.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.ahead.is_empty() {
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
            self.ahead.extend_from_slice(chunk.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Self::poll_ahead`], past empty lines before a head, which the parser skips, too.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.poll_ahead(cx))?;
            let is_empty = |byte: &u8| matches!(byte, b'\r' | b'\n');
            match self.ahead.iter().position(|byte| !is_empty(byte)) {
                Some(begin) => self.ahead.drain(..begin),
                None if self.ahead.is_empty() => return Poll::Ready(Ok(())),
                None => self.ahead.drain(..),
            };
            if !self.ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Hands out so many of the bytes that were read.
    fn hand_out(&mut self, count: usize, into: &mut ReadBuf<'_>) {
        let later = self.ahead.split_off(count.min(self.ahead.len()));
        into.put_slice(&self.ahead);
        self.ahead = later;
    }

    fn poll_head(
        &mut self,
        mut head: Head,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let is_begun = head.length > 0;
        let more = if is_begun {
            self.poll_ahead(cx)?
        } else {
            self.poll_begun(cx)?
        };
        if more.is_pending() {
            self.head = Some(head);
            if is_begun {
                let what = "a request's head did not come in time";
                self.head_deadline.check(HEAD_DEADLINE, what, cx)?;
            }
            return Poll::Pending;
        }
        let room = into.remaining().min(self.ahead.len());
        let (count, is_whole) = head.take(self.ahead.get(..room).unwrap_or_default());
        if head.length > MAX_HEAD {
            // As far as the client takes it at once. For who parses the head, the client has hung up.
            let _ = Pin::new(&mut self.stream).poll_write(cx, TOO_LARGE);
            return Poll::Ready(Ok(()));
        }
        if is_whole {
            self.head_deadline = Deadline::default();
            self.turn.is_answered.set(false);
            self.turn.body.set(Body::default());
        } else {
            self.head = Some(head);
        }
        self.hand_out(count, into);
        Poll::Ready(Ok(()))
    }

    /// Hands out what is due of a body. Beyond it, looks whether the client hangs up, and reads nothing more than that takes.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let due = match self.turn.body.get() {
            Body::Rest(rest) => usize::try_from(rest).unwrap_or(usize::MAX),
            Body::Chunked if self.has_handed_out => {
                // What is behind the body would be read, too: first, what was read is looked at.
                self.has_handed_out = false;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Body::Chunked => usize::MAX,
        };
        let looked = if due == 0 && !self.ahead.is_empty() {
            Poll::Pending
        } else {
            self.poll_ahead(cx)?
        };
        if looked.is_pending() || (due == 0 && !self.ahead.is_empty()) {
            self.turn.reader.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let count = due.min(self.ahead.len()).min(into.remaining());
        match self.turn.body.get() {
            Body::Rest(rest) => {
                let left = rest.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
                self.turn.body.set(Body::Rest(left));
            }
            Body::Chunked => self.has_handed_out = true,
        }
        self.hand_out(count, into);
        Poll::Ready(Ok(()))
    }

    /// Throws away what the client sends until it hangs up, too. One that does not in time is hung up on.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.linger.has_passed(LINGER, cx) {
            return Poll::Ready(Ok(()));
        }
        loop {
            self.ahead.clear();
            let more = ready!(self.poll_ahead(cx));
            if more.is_err() || self.ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Notes whether the client takes what is written.
    fn written<T>(
        &mut self,
        result: Poll<Result<T, Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Error>> {
        self.is_write_blocked = result.is_pending();
        if self.is_write_blocked {
            let what = "the client does not read";
            self.write_deadline.check(WRITE_DEADLINE, what, cx)?;
        } else {
            self.write_deadline = Deadline::default();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        if this.head.is_none()
            && this.turn.is_answered.get()
            && this.turn.body.get() == Body::Rest(0)
        {
            this.head = Some(Head::default());
        }
        // While the last answer is not sent, the writer is woken, which is who reads.
        if this.is_write_blocked {
            return Poll::Pending;
        }
        match this.head.take() {
            Some(head) => this.poll_head(head, cx, into),
            None => this.poll_body(cx, into),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.is_ended {
            let result = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.written(result, cx))?;
            self.is_ended = true;
        }
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use actix_web::test::TestRequest;
    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::client_address::TrustedProxies;
    use crate::places::Places;

    const HEAD: &str = "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n";

    fn connected(room: usize) -> (DuplexStream, Connection<DuplexStream>) {
        let (client, ours) = duplex(room);
        let places = Places::new(1, TrustedProxies::default());
        let place = places.take(Ipv4Addr::LOCALHOST.into()).unwrap();
        (client, Connection::new(ours, place))
    }

    /// What there is to read now; `None`: nothing yet.
    async fn read(connection: &mut Connection<DuplexStream>) -> Option<Result<String, Error>> {
        let mut bytes = [0; CHUNK];
        match poll!(Box::pin(connection.read(&mut bytes))) {
            Poll::Pending => None,
            Poll::Ready(Err(error)) => Some(Err(error)),
            Poll::Ready(Ok(count)) => Some(Ok(String::from_utf8(bytes[..count].to_vec()).unwrap())),
        }
    }

    async fn text(connection: &mut Connection<DuplexStream>) -> String {
        let read = read(connection).await;
        read.expect("nothing to read").unwrap()
    }

    async fn nothing(connection: &mut Connection<DuplexStream>) {
        let read = read(connection).await;
        assert!(read.is_none(), "{read:?}");
    }

    fn request(headers: &[(&'static str, &'static str)]) -> ServiceRequest {
        let request = headers.iter().fold(TestRequest::post(), |request, header| {
            request.insert_header(*header)
        });
        request.to_srv_request()
    }

    #[tokio::test]
    async fn the_next_request_waits_for_the_answer_to_the_last() {
        let (mut client, mut connection) = connected(4096);
        let turn = connection.turn();
        let sent = format!("\r\n\r\n{HEAD}abc{HEAD}def");
        client.write_all(sent.as_bytes()).await.unwrap();
        for body in ["abc", "def"] {
            assert_eq!(text(&mut connection).await, HEAD);
            nothing(&mut connection).await;
            assert!(turn.begin(&request(&[("content-length", "3")])));
            assert_eq!(text(&mut connection).await, body);
            nothing(&mut connection).await;
            turn.answered();
        }
        nothing(&mut connection).await;
        drop(client);
        assert_eq!(text(&mut connection).await, "", "the end");
    }

    #[tokio::test]
    async fn a_request_waits_until_the_last_answer_is_sent() {
        let (mut client, mut connection) = connected(64);
        let turn = connection.turn();
        let head = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(head.repeat(2).as_bytes()).await.unwrap();
        assert_eq!(text(&mut connection).await, head);
        assert!(turn.begin(&request(&[])));
        let answer = [b'a'; 100];
        assert_eq!(connection.write(&answer).await.unwrap(), 64);
        assert!(poll!(Box::pin(connection.write(&answer[64..]))).is_pending());
        turn.answered();
        nothing(&mut connection).await;
        client.read_exact(&mut [0; 64]).await.unwrap();
        connection.write_all(&answer[64..]).await.unwrap();
        assert_eq!(text(&mut connection).await, head);
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_is_noticed_while_its_request_is_handled() {
        let (mut client, mut connection) = connected(4096);
        client.write_all(HEAD.as_bytes()).await.unwrap();
        assert_eq!(text(&mut connection).await, HEAD);
        assert!(connection.turn().begin(&request(&[])));
        nothing(&mut connection).await;
        drop(client);
        assert_eq!(text(&mut connection).await, "");
    }

    #[tokio::test]
    async fn nothing_comes_behind_a_chunked_body() {
        let (mut client, mut connection) = connected(4096);
        let turn = connection.turn();
        let head = "POST / HTTP/1.1\ntransfer-encoding: chunked\n\n";
        let body = "3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        client
            .write_all((head.to_owned() + body).as_bytes())
            .await
            .unwrap();
        assert_eq!(text(&mut connection).await, head);
        assert!(turn.begin(&request(&[("transfer-encoding", "chunked")])));
        assert_eq!(text(&mut connection).await, body);
        assert!(turn.is_last());
        assert!(!turn.begin(&request(&[])));
    }

    #[tokio::test]
    async fn a_head_is_bounded() {
        let (mut client, mut connection) = connected(2 * MAX_HEAD);
        let large = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(MAX_HEAD));
        client.write_all(large.as_bytes()).await.unwrap();
        let mut length = 0;
        loop {
            match text(&mut connection).await.len() {
                0 => break,
                part => length += part,
            }
        }
        assert!(length <= MAX_HEAD, "{length} bytes");
        drop(connection);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_a_deadline_and_an_idle_connection_has_none_here() {
        let (mut client, mut connection) = connected(4096);
        for _ in 0..2 {
            nothing(&mut connection).await;
            tokio::time::advance(3 * HEAD_DEADLINE).await;
            nothing(&mut connection).await;
            client.write_all(HEAD.as_bytes()).await.unwrap();
            assert_eq!(text(&mut connection).await, HEAD);
            assert!(connection.turn().begin(&request(&[])));
            connection.turn().answered();
        }
        client.write_all(b"GET").await.unwrap();
        assert_eq!(text(&mut connection).await, "GET");
        nothing(&mut connection).await;
        tokio::time::advance(HEAD_DEADLINE + Duration::from_millis(1)).await;
        let error = read(&mut connection).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_still_sent_at_the_end_is_thrown_away_for_a_moment() {
        for hangs_up in [true, false] {
            let (mut client, mut connection) = connected(64);
            connection.write_all(b"413").await.unwrap();
            assert!(poll!(Box::pin(connection.shutdown())).is_pending());
            for _ in 0..3 {
                client.write_all(&[b'a'; 64]).await.unwrap();
                assert!(poll!(Box::pin(connection.shutdown())).is_pending());
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "413");
            if hangs_up {
                drop(client);
            } else {
                tokio::time::advance(LINGER + Duration::from_millis(1)).await;
            }
            connection.shutdown().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_waited_for_and_one_that_does_not_is_cut_off() {
        let (mut client, mut connection) = connected(16);
        connection.write_all(&[b'a'; 16]).await.unwrap();
        for _ in 0..3 {
            assert!(poll!(Box::pin(connection.write(b"a"))).is_pending());
            tokio::time::advance(WRITE_DEADLINE / 2).await;
            client.read_exact(&mut [0]).await.unwrap();
            connection.write_all(b"a").await.unwrap();
        }
        assert!(poll!(Box::pin(connection.write(b"a"))).is_pending());
        tokio::time::advance(WRITE_DEADLINE + Duration::from_millis(1)).await;
        let error = connection.write(b"a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
