//! Programs that are asked something: input on standard input, an answer on standard output.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program with `input` on its standard input until it ends, for `deadline` at most.
pub async fn answer(command: &mut Command, input: &str, deadline: Duration) -> io::Result<Output> {
    let work = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends early says why on standard error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let late = |_| {
        let text = format!("no answer within {} s", deadline.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    tokio::time::timeout(deadline, work).await.map_err(late)?
}
