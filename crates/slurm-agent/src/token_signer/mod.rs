//! The token signer: the one process that reads Slurm's JWT key, and the way to ask it. One line of JSON each way, over a
//! unix socket.

mod service;
mod settings;

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

pub use service::TokenSigner;
pub use settings::Settings;

/// Longest line, in bytes.
const LONGEST: u64 = 4096;

/// What the signer is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Whose token.
    pub user: String,
    /// For how many seconds; the signer may give less.
    pub lifespan_s: u32,
}

/// What it answers. Not `Debug`: it may hold the token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The token.
    Token(String),
    /// Not for this user, or not to this peer, and why.
    Refused(String),
    /// Not now, and why.
    Failed(String),
}

/// Asks the signer at `socket`.
pub async fn ask(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("the token signer at {}", socket.display()))?;
    let mut stream = BufReader::new(stream);
    write_line(&mut stream, request).await?;
    let line = read_line(&mut stream).await?;
    serde_json::from_str(&line).context("the token signer's answer")
}

async fn write_line(
    stream: &mut BufReader<UnixStream>,
    value: &impl Serialize,
) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(stream.flush().await?)
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    stream.take(LONGEST).read_line(&mut line).await?;
    anyhow::ensure!(line.ends_with('\n'), "a line that has no end");
    Ok(line)
}
