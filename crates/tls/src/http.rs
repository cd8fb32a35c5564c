//! Answers of HTTP servers, read no further than they may be long.

/// Bytes of an answer that is not a list.
pub const SHORT: usize = 1024 * 1024;

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It broke off.
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    /// It is longer than this many bytes.
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
}

/// The body of an answer, of at most `most` bytes. The rest of a longer one is not read.
pub async fn body(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)?
    {
        if body.len() + piece.len() > most {
            return Err(BodyError::TooLong(most));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers once, and never stops.
    async fn endless() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let mut piece = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            while stream.write_all(&piece).await.is_ok() {
                piece = vec![b'x'; 1000];
            }
        });
        url
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_given_up() {
        let response = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap()
            .get(endless().await)
            .send()
            .await
            .unwrap();
        let error = body(response, 100_000).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the answer has more than 100000 bytes",
            "{error:?}"
        );
    }
}
