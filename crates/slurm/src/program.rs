//! Programs that are asked something: input on standard input, an answer on standard output.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Bytes that a program may print on standard error; and on standard output, if it does not list something.
pub const SHORT: usize = 1024 * 1024;

/// Runs a program with `input` on its standard input until it ends, for `deadline` at most. One that prints more than `most` bytes, or on
/// standard error more than [`SHORT`], is killed, and it is an error.
pub async fn answer(
    command: &mut Command,
    input: &str,
    deadline: Duration,
    most: usize,
) -> io::Result<Output> {
    let work = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that ends early says why on standard error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            Ok(())
        };
        let ((), stdout, stderr) =
            tokio::try_join!(write, printed(stdout, most), printed(stderr, SHORT))?;
        Ok(Output {
            status: child.wait().await?,
            stdout,
            stderr,
        })
    };
    let late = |_| {
        let text = format!("no answer within {} s", deadline.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    tokio::time::timeout(deadline, work).await.map_err(late)?
}

async fn printed(from: Option<impl AsyncRead + Unpin>, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > most {
        let text = format!("it printed more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    async fn of(script: &str, input: &str, most: usize) -> io::Result<Output> {
        let mut command = Command::new("bash");
        answer(command.args(["-c", script]), input, DEADLINE, most).await
    }

    #[tokio::test]
    async fn a_program_that_prints_without_end_is_given_up() {
        for script in ["exec yes", "exec yes >&2"] {
            let error = of(script, "", 100_000).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
            assert!(error.to_string().starts_with("it printed more than"));
        }
    }

    #[tokio::test]
    async fn what_a_program_prints_is_read_to_the_last_byte_while_it_reads() {
        let input = "x".repeat(500_000);
        let output = of("cat; echo done >&2; exit 3", &input, input.len())
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout == input.as_bytes());
        assert_eq!(output.stderr, b"done\n");
    }
}
