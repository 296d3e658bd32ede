//! Through a forward proxy, which the environment names: so each test runs once more as a child with its own.

use std::process::Command;
use std::sync::{Arc, Mutex};

use registry::{Client, Kind, Options, Reference};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::docker_registry::{Registry, installed};
use crate::server::{Reply, Server};
use crate::{content, fast, read, tls};

/// Tells the child where things are.
const CHILD: &str = "REGISTRY_TEST_CHILD";

/// A proxy that leads every connection to one port, and notes what it was asked for.
async fn proxy(port: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(forward(stream, port, Arc::clone(&lines)));
        }
    });
    (address.port(), log)
}

async fn forward(stream: TcpStream, port: u16, log: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    log.lock().unwrap().push(line.trim().to_owned());
    let mut onward = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    if line.starts_with("CONNECT ") {
        let mut rest = String::new();
        while rest != "\r\n" {
            rest.clear();
            stream.read_line(&mut rest).await.ok()?;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    } else {
        // One request for each connection is enough: the path is what a server expects.
        let (before, path) = line.split_once("://")?;
        let method = before.split(' ').next()?;
        let path = &path[path.find('/')?..];
        onward.write_all(format!("{method} {path}").as_bytes()).await.ok()?;
        let mut rest = vec![0; 8192];
        let n = stream.read(&mut rest).await.ok()?;
        onward.write_all(&rest[..n]).await.ok()?;
    }
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await.ok()?;
    None
}

/// Runs the test `name` again as a child that has `proxy` in its environment.
async fn again(name: &str, proxy: u16, argument: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture"]).env(CHILD, argument);
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        child.env(variable, format!("http://127.0.0.1:{proxy}"));
    }
    child.env("NO_PROXY", "direct.invalid").env("no_proxy", "direct.invalid");
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy() {
    if std::env::var(CHILD).is_ok() {
        let hosts = ["registry.test".to_owned(), "direct.invalid".to_owned()];
        let client = Client::new(Options { plain_http_hosts: hosts.into(), ..fast() }, Vec::new()).unwrap();
        let blob =
            |reference: &str| client.blob(&Reference::parse(reference).unwrap(), &format::Digest::of(b"any"));
        assert_eq!(read(&blob("registry.test/a/b"), 0..10).await.unwrap(), content(10));
        let error = read(&blob("direct.invalid/a/b"), 0..10).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error}");
        return;
    }
    let server = Server::start(|request| Reply::blob(request, &content(100))).await;
    let port = server.host().rsplit_once(':').unwrap().1.parse().unwrap();
    let (proxy, log) = proxy(port).await;
    again("proxy::plain_http_goes_through_the_proxy", proxy, "1").await;
    let log = log.lock().unwrap();
    assert!(log.len() == 1 && log[0].starts_with("GET http://registry.test/v2/a/b/blobs/"), "{log:?}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    if let Ok(ca) = std::env::var(CHILD) {
        let certificates = vec![std::fs::read(ca).unwrap()];
        let client = Client::new(Options { certificates, ..fast() }, Vec::new()).unwrap();
        client.manifest(&Reference::parse("registry.test/a/b:1").unwrap()).await.unwrap();
        return;
    }
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    let dir = tls::certificates();
    let configuration = tls::server_tls(dir.path(), false);
    let ca = dir.path().join("ca.pem").display().to_string();
    let registry = Registry::start(dir, &configuration, "").await;
    let (proxy, log) = proxy(registry.port).await;
    again("proxy::https_goes_through_a_tunnel", proxy, &ca).await;
    let log = log.lock().unwrap();
    assert!(
        !log.is_empty() && log.iter().all(|line| line.starts_with("CONNECT registry.test:443 ")),
        "{log:?}"
    );
}
