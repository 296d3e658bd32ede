//! The least of an HTTP server: `GET` of a few pages, for Prometheus and for people with curl.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once; the next one waits.
const CONNECTIONS: usize = 16;
/// Longest request line and headers, bytes.
const REQUEST_MAX: usize = 8 << 10;
/// For one request and its answer.
const LIMIT: Duration = Duration::from_secs(10);

/// What a path is answered with.
#[derive(Debug)]
pub struct Answer {
    /// The status line's number and word.
    pub status: &'static str,
    /// Type of the body.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

/// Answers a path. May block on the disk.
pub type Pages = Arc<dyn Fn(&str) -> Option<Answer> + Send + Sync>;

/// Where to listen.
#[derive(Debug)]
pub enum Listener {
    /// On a network.
    Tcp(TcpListener),
    /// On a socket that is removed with the value.
    Unix(UnixListener, Removed),
}

/// Removes a socket.
#[derive(Debug)]
pub struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may be another's by now, who has removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at `host:port`.
    ///
    /// # Errors
    /// The address can't be used.
    pub async fn tcp(address: &str) -> io::Result<Listener> {
        TcpListener::bind(address).await.map(Listener::Tcp)
    }

    /// Listens at a socket, for its owner alone.
    ///
    /// # Errors
    /// The path can't be used.
    pub fn unix(path: &Path) -> anyhow::Result<Listener> {
        Ok(Listener::Unix(crate::socket::listen_anew(path)?, Removed(path.to_owned())))
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |at| at.to_string())
            }
            Listener::Unix(_, path) => path.0.display().to_string(),
        }
    }
}

/// Serves until the future is dropped.
pub async fn serve(listener: Listener, pages: Pages) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream: io::Result<Box<dyn Stream>> = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
            Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
        };
        match stream {
            Ok(stream) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Ok(Err(error)) = tokio::time::timeout(LIMIT, converse(stream, pages)).await {
                        tracing::debug!(%error, "a connection for metrics ended badly");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connections for metrics cannot be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn converse(mut stream: Box<dyn Stream>, pages: Pages) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request);
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let plain =
        |status, body: &str| Answer { status, kind: "text/plain; charset=utf-8", body: body.to_owned() };
    let answer = if matches!(method.as_str(), "GET" | "HEAD") {
        let found = tokio::task::spawn_blocking(move || pages(&path)).await.map_err(io::Error::other)?;
        found.unwrap_or_else(|| plain("404 Not Found", "there is no such page\n"))
    } else {
        plain("405 Method Not Allowed", "only GET and HEAD\n")
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(answer.body.as_bytes()).await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: &str, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_found_by_their_path_and_nothing_else_is_served() {
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let pages: Pages = Arc::new(|path| {
            (path == "/metrics").then(|| Answer {
                status: "200 OK",
                kind: "text/plain",
                body: "a 1\n".to_owned(),
            })
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, pages));
        let said = ask(&address, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\na 1\n"), "{said}");
        assert!(ask(&address, "HEAD /metrics HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
        assert!(ask(&address, "GET /etc/passwd HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        let endless = "x".repeat(REQUEST_MAX);
        assert_eq!(ask(&address, &endless).await, "");
    }
}
