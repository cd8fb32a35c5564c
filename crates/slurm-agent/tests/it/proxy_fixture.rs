//! A forward proxy that wants a password, and a TLS server with a certificate that only its own authority signed. The way out
//! of a cluster, on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only host that the proxy knows.
pub(crate) const HOST: &str = "token-broker.test";

/// A proxy for [`HOST`] alone, wherever its port. It serves as long as this process.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads `CONNECT` to `tls`, and everything else to `plain`.
    pub(crate) fn start(tls: SocketAddr, plain: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        each(listener, move |mut client| {
            let head = read_head(&mut client)?;
            log.lock().unwrap().push(head.clone());
            // alice:hunter2
            if !head.contains("Proxy-Authorization: Basic YWxpY2U6aHVudGVyMg==") {
                return client.write_all(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
                );
            }
            if !head
                .split_whitespace()
                .nth(1)
                .is_some_and(|to| to.contains(HOST))
            {
                return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
            }
            let mut server;
            if head.starts_with("CONNECT ") {
                server = TcpStream::connect(tls)?;
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            } else {
                server = TcpStream::connect(plain)?;
                server.write_all(
                    head.replacen("\r\n", "\r\nConnection: close\r\n", 1)
                        .as_bytes(),
                )?;
            }
            let (mut up, mut to) = (client.try_clone()?, server.try_clone()?);
            let upload = std::thread::spawn(move || std::io::copy(&mut up, &mut to));
            std::io::copy(&mut server, &mut client)?;
            client.shutdown(std::net::Shutdown::Both)?;
            // It ends when either side hangs up.
            let _ = upload.join();
            Ok(())
        });
        Self { address, asked }
    }

    /// The heads of the requests that it got.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Starts a TLS server for [`HOST`] that hands requests on to `plain`; its authority is in `folder/ca.pem`.
pub(crate) fn tls_before(plain: SocketAddr, folder: &Path) -> SocketAddr {
    let openssl = |arguments: &str| {
        let words = arguments.split_whitespace();
        let output = Command::new("openssl")
            .args(words)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2"
    ));
    openssl(&format!(
        "req {key} -keyout key.pem -out request.pem -subj /CN={HOST}"
    ));
    std::fs::write(folder.join("names"), format!("subjectAltName=DNS:{HOST}")).unwrap();
    openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names",
    );
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    each(listener, move |client| {
        let session =
            rustls::ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        let mut client = rustls::StreamOwned::new(session, client);
        let head = read_head(&mut client)?;
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body)?;
        let mut server = TcpStream::connect(plain)?;
        server.write_all(
            head.replacen("\r\n", "\r\nConnection: close\r\n", 1)
                .as_bytes(),
        )?;
        server.write_all(&body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        client.write_all(&answer)?;
        client.conn.send_close_notify();
        client.flush()
    });
    address
}

/// Serves every connection on a thread of its own. A connection that breaks is its client's affair.
fn each(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(client));
        }
    });
}

/// Up to and with the empty line.
fn read_head(from: &mut impl Read) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.extend(byte);
    }
    String::from_utf8(head).map_err(std::io::Error::other)
}
