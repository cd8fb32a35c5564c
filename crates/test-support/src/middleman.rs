//! A way to a server that can go silent, as a pooler that is frozen or a firewall that forgot its connections.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections to a server until it is silenced. Dropped, it closes them.
pub struct Middleman {
    address: SocketAddr,
    is_silent: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Middleman {
    /// Stands before the server of a URL, `postgres://` or `amqp://`.
    pub async fn before(url: &str) -> anyhow::Result<Self> {
        let url: url::Url = url.parse()?;
        let named = url.host_str().zip(url.port());
        let named = named.context("the URL names host and port")?;
        let mut found = tokio::net::lookup_host(named).await?;
        let server = found.next().context("the host has an address")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (is_silent, silent) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, silent));
        Ok(Self {
            address,
            is_silent,
            _tasks: tasks,
        })
    }

    /// A URL of the server as one of the way through here.
    pub fn through(&self, url: &str) -> anyhow::Result<String> {
        let mut url: url::Url = url.parse()?;
        let host = self.address.ip().to_string();
        url.set_host(Some(&host))?;
        url.set_port(Some(self.address.port()))
            .map_err(|()| anyhow::anyhow!("the URL takes no port"))?;
        Ok(url.into())
    }

    /// From now on nothing passes, in either direction: connections stay open, new ones are accepted, the kernel acknowledges all that
    /// is sent, and nobody answers.
    pub fn silence(&self) {
        self.is_silent.send_replace(true);
    }

    /// Everything passes again, also what was sent meanwhile.
    pub fn speak(&self) {
        self.is_silent.send_replace(false);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, silent: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                connections.spawn(connect(client, server, silent.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: SocketAddr, mut silent: watch::Receiver<bool>) {
    if silent.wait_for(|silent| !silent).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = forward(from_client, to_server, silent.clone()) => {}
        () = forward(from_server, to_client, silent) => {}
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut silent: watch::Receiver<bool>,
) {
    let mut bytes = [0; 8192];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let passes = silent.wait_for(|silent| !silent).await.is_ok();
        let read = bytes.get(..count).unwrap_or_default();
        if !passes || to.write_all(read).await.is_err() {
            return;
        }
    }
}
