//! Asks `gha-slurm-token-signer`, which alone reads Slurm's JWT key.

use std::path::Path;

use anyhow::Context;
use gha_slurm_contract::slurm_token::{LONGEST_LINE, SlurmTokenAnswer, SlurmTokenRequest};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Asks the signer at `socket`.
pub async fn ask(socket: &Path, request: &SlurmTokenRequest) -> anyhow::Result<SlurmTokenAnswer> {
    let mut stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("the token signer at {}", socket.display()))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_LINE))
        .read_line(&mut answer)
        .await?;
    serde_json::from_str(&answer).context("the token signer's answer")
}
