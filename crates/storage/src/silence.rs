//! Detects a server that has gone silent: after an unannounced failover, behind a firewall that dropped the connection, or a pooler or
//! server that is frozen while its kernel still acknowledges data. Keepalives do not detect the last, and the server's own limits none.
//!
//! `statement_timeout` and `lock_timeout` end every request in time. So a connection on which a response is overdue and no byte arrives is
//! dead: what waits for it fails, and the next caller gets a new connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Tag and length of a message (PostgreSQL's manual, "Message Formats").
const HEADER: usize = 5;
/// What the server sends when it has answered a request.
const READY_FOR_QUERY: u8 = b'Z';
/// What a client sends that is answered with [`READY_FOR_QUERY`]: Query, Sync, FunctionCall.
const ANSWERED: [u8; 3] = *b"QSF";

/// Finds the tags in a stream of messages.
#[derive(Default)]
struct Tags {
    header: [u8; HEADER],
    /// How much of it has come.
    length: usize,
    /// Bytes that pass before the next header.
    passing: usize,
}

impl Tags {
    /// Passes by the first message of a client, which has a length and no tag.
    fn of_client() -> Self {
        Self {
            header: [0; HEADER],
            length: 1,
            passing: 0,
        }
    }

    /// How many messages whose tag is `wanted` begin in `bytes`.
    fn count(&mut self, mut bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
        let mut found = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.passing > 0 {
                let now = self.passing.min(bytes.len());
                self.passing -= now;
                bytes = bytes.get(now..).unwrap_or_default();
                continue;
            }
            if let Some(byte) = self.header.get_mut(self.length) {
                *byte = *first;
            }
            self.length += 1;
            bytes = rest;
            if self.length == HEADER {
                let [tag, a, b, c, d] = self.header;
                found += usize::from(wanted(tag));
                // The length counts itself.
                self.passing = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.length = 0;
            }
        }
        found
    }
}

/// A connection to Postgres that fails when an answer is due and nothing comes for too long.
pub(crate) struct Heard<S> {
    stream: S,
    patience: Duration,
    sent: Tags,
    received: Tags,
    /// Requests without an answer.
    due: usize,
    /// Runs from the last byte that was heard, while something is due.
    deadline: Pin<Box<Sleep>>,
}

impl<S> Heard<S> {
    /// For a new connection: the first thing it sends, its start-up message, is a request.
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            sent: Tags::of_client(),
            received: Tags::default(),
            due: 1,
            deadline: Box::pin(tokio::time::sleep(patience)),
        }
    }

    /// What it reads and writes.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    fn start_waiting(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.patience);
    }

    /// Fails once it was silent for too long, and otherwise wakes whoever reads or writes when that is so.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.due > 0 && self.deadline.as_mut().poll(cx).is_ready() {
            let text = format!(
                "it owes an answer, and has been silent for {} s",
                self.patience.as_secs()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let heard = buffer.filled().get(before..).unwrap_or_default();
                let answers = this.received.count(heard, |tag| tag == READY_FOR_QUERY);
                this.due = this.due.saturating_sub(answers);
                this.start_waiting();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => this
                .check(cx)
                .map_or_else(|e| Poll::Ready(Err(e)), |()| Poll::Pending),
            failed @ Poll::Ready(_) => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &result {
            let sent = bytes.get(..*written).unwrap_or_default();
            let requests = this.sent.count(sent, |tag| ANSWERED.contains(&tag));
            if this.due == 0 && requests > 0 {
                this.start_waiting();
            }
            this.due += requests;
        }
        // Also while it takes nothing: one task reads and writes, and it may have read before.
        this.check(cx)
            .map_or_else(|e| Poll::Ready(Err(e)), |()| result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn connected() -> (DuplexStream, Heard<DuplexStream>) {
        let (server, client) = duplex(4096);
        (server, Heard::new(client, PATIENCE))
    }

    /// Starts, so that nothing is due.
    async fn started() -> (DuplexStream, Heard<DuplexStream>) {
        let (mut server, mut client) = connected();
        let startup = message(0, b"user\0QQQ\0\0");
        client.write_all(&startup[1..]).await.unwrap();
        server.write_all(&message(b'R', b"\0\0\0\0")).await.unwrap();
        server.write_all(&message(b'Z', b"I")).await.unwrap();
        hear(&mut client).await.unwrap();
        (server, client)
    }

    async fn hear(client: &mut Heard<DuplexStream>) -> io::Result<usize> {
        client.read(&mut [0; 4096]).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_may_be_silent() {
        let (_server, mut client) = started().await;
        let long = tokio::time::timeout(10 * PATIENCE, hear(&mut client)).await;
        assert!(long.is_err(), "{long:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_owes_an_answer_may_not() {
        // The start-up, a query, an answer that was cut short, and the second of two that were sent together.
        let unanswered = |answers: Vec<u8>, sent: Vec<u8>| async move {
            let (mut server, mut client) = started().await;
            client.write_all(&sent).await.unwrap();
            server.write_all(&answers).await.unwrap();
            let begun = Instant::now();
            loop {
                match hear(&mut client).await {
                    Ok(_) => {}
                    Err(error) => break (error.kind(), begun.elapsed() >= PATIENCE),
                }
            }
        };
        let query = || message(b'Q', b"SELECT 1\0");
        let sync = || [message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
        let late = (io::ErrorKind::TimedOut, true);
        assert_eq!(unanswered(Vec::new(), query()).await, late);
        assert_eq!(unanswered(message(b'D', b"row Z"), sync()).await, late);
        let two = [query(), sync()].concat();
        assert_eq!(unanswered(message(b'Z', b"I"), two).await, late);
        let (_server, mut client) = connected();
        let startup = message(0, b"user\0a\0\0");
        client.write_all(&startup[1..]).await.unwrap();
        assert_eq!(hear(&mut client).await.unwrap_err().kind(), late.0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_counts_as_news() {
        let (mut server, mut client) = started().await;
        client
            .write_all(&message(b'Q', b"SELECT 1\0"))
            .await
            .unwrap();
        for byte in message(b'D', &[b'Z'; 20]) {
            tokio::time::sleep(PATIENCE / 2).await;
            server.write_all(&[byte]).await.unwrap();
            assert_eq!(hear(&mut client).await.unwrap(), 1);
        }
        assert_eq!(client.due, 1);
        server.write_all(&message(b'Z', b"I")).await.unwrap();
        hear(&mut client).await.unwrap();
        assert_eq!(client.due, 0);
    }

    #[test]
    fn tags_are_found_however_the_bytes_arrive() {
        let sent = [
            message(b'P', b"QQQSSS\0"),
            message(b'S', b""),
            message(b'Q', &[b'S'; 300]),
            message(b'X', b""),
        ]
        .concat();
        for step in 1..=sent.len() {
            let mut tags = Tags::default();
            let found: usize = sent
                .chunks(step)
                .map(|piece| tags.count(piece, |tag| ANSWERED.contains(&tag)))
                .sum();
            assert_eq!(found, 2, "{step} bytes at a time");
        }
    }
}
