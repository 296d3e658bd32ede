//! Which hosts are asked: mirrors, containerd's host directories, CRI's settings; and hosts that fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry::{Client, CriRegistry, HostOptions, Kind, Mirror, Options, Reference};

use crate::server::{Reply, Request, Server};
use crate::{blob_with, content, fast, image_on, read};

fn serves(request: &Request) -> Reply {
    Reply::blob(request, &content(1000))
}

fn mirror(server: &Server) -> Mirror {
    Mirror { host: server.host(), ..Mirror::default() }
}

fn mirrored(origin: &Server, mirrors: Vec<Mirror>) -> Client {
    let hosts = [(origin.host(), HostOptions { mirrors })].into();
    Client::new(Options { hosts, ..fast() }, Vec::new()).unwrap()
}

/// Writes the `hosts.toml` of a host.
fn write(root: &Path, host: &str, text: &str) {
    std::fs::create_dir_all(root.join(host)).unwrap();
    std::fs::write(root.join(host).join("hosts.toml"), text).unwrap();
}

fn configured(root: &Path) -> Client {
    Client::new(Options { config_path: vec![root.to_owned()], ..fast() }, Vec::new()).unwrap()
}

#[tokio::test]
async fn a_mirror_that_is_down_is_asked_last_for_a_while() {
    let down = Server::start(|_| Reply::new(503, "")).await;
    let (second, origin) = (Server::start(serves).await, Server::start(serves).await);
    let client = mirrored(&origin, vec![mirror(&down), mirror(&second)]);
    for _ in 0..5 {
        read(&blob_with(&client, &origin), 0..10).await.unwrap();
    }
    assert_eq!((down.count(), second.count(), origin.count()), (1, 5, 0), "one attempt for all blobs");
    assert!(
        second
            .requests()
            .iter()
            .all(|r| r.target.ends_with(&format!("?ns={}", origin.host().replace(':', "%3A"))))
    );
}

#[tokio::test]
async fn a_mirror_that_recovers_is_asked_first_again() {
    let alive = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&alive);
    let first = Server::start(move |request| match flag.load(Ordering::Relaxed) {
        true => serves(request),
        false => Reply::hangup(),
    })
    .await;
    let other = Arc::clone(&alive);
    // Serves only while the mirror does not.
    let origin = Server::start(move |request| match other.load(Ordering::Relaxed) {
        true => Reply::new(503, ""),
        false => serves(request),
    })
    .await;
    let client = mirrored(&origin, vec![mirror(&first)]);
    read(&blob_with(&client, &origin), 0..10).await.unwrap();
    read(&blob_with(&client, &origin), 0..10).await.unwrap();
    let tried = first.count();
    alive.store(true, Ordering::Relaxed);
    read(&blob_with(&client, &origin), 0..10).await.unwrap();
    assert_eq!(first.count(), tried + 1, "the last resort");
    let asked = origin.count();
    read(&blob_with(&client, &origin), 0..10).await.unwrap();
    assert_eq!(origin.count(), asked, "it is healthy, and first again");
}

#[tokio::test]
async fn a_body_that_breaks_off_tells_against_the_host() {
    let bad = Server::start(|request| serves(request).cut(5)).await;
    let origin = Server::start(serves).await;
    let client = mirrored(&origin, vec![mirror(&bad)]);
    read(&blob_with(&client, &origin), 0..100).await.unwrap_err();
    assert_eq!(read(&blob_with(&client, &origin), 0..100).await.unwrap(), content(100));
    assert_eq!((bad.count(), origin.count()), (1, 1));
}

#[tokio::test]
async fn hosts_toml_decides_order_paths_headers_and_capabilities() {
    let (no_pull, first, server) = (
        Server::start(serves).await,
        Server::start(|_| Reply::new(404, "")).await,
        Server::start(serves).await,
    );
    let root = tempfile::tempdir().unwrap();
    let origin = "registry.test:5000";
    write(
        root.path(),
        "registry.test_5000_",
        &format!(
            r#"server = "http://{}/sub"
[host."http://{}"]
  capabilities = ["push", "resolve"]
[host."http://{}/own/path"]
  capabilities = ["pull"]
  override_path = true
  [host."http://{}/own/path".header]
    x-p2p = ["one", "two"]
    authorization = "Basic topsecret"
"#,
            server.host(),
            no_pull.host(),
            first.host(),
            first.host()
        ),
    );
    let client = configured(root.path());
    let digest = format::Digest::of(b"any");
    let reference = Reference::parse(&format!("{origin}/a/b:1")).unwrap();
    assert_eq!(read(&client.blob(&reference, &digest), 0..10).await.unwrap(), content(10));
    assert_eq!(no_pull.count(), 0);
    let request = &first.requests()[0];
    assert_eq!(request.target, format!("/own/path/a/b/blobs/{digest}?ns=registry.test%3A5000"));
    // The test server keeps the last of equal headers.
    assert_eq!((request.header("x-p2p"), request.header("authorization")), ("two", "Basic topsecret"));
    let request = &server.requests()[0];
    assert_eq!(request.target, format!("/sub/v2/a/b/blobs/{digest}?ns=registry.test%3A5000"));
    assert_eq!((request.header("x-p2p"), request.header("authorization")), ("", ""));
    // Tags are asked for elsewhere.
    client.manifest(&reference).await.unwrap_err();
    assert_eq!((no_pull.count(), first.count()), (1, 1));
    let text = format!("{client:?}");
    assert!(!text.contains("topsecret"), "{text}");
}

#[tokio::test]
async fn a_host_that_may_not_be_asked_at_all_is_explained() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "_default", "capabilities = [\"push\"]");
    let client = configured(root.path());
    let reference = Reference::parse("registry.test/a:1").unwrap();
    let error = client.manifest(&reference).await.unwrap_err();
    assert!(error.kind() == Kind::InvalidOptions && error.to_string().contains("\"resolve\""), "{error}");
}

#[tokio::test]
async fn a_broken_hosts_toml_leaves_the_host_itself() {
    let server = Server::start(serves).await;
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &server.host(), "server = \"topsecret");
    assert_eq!(read(&blob_with(&configured(root.path()), &server), 0..10).await.unwrap(), content(10));
    // A mirror with unusable files is left out.
    write(root.path(), &server.host(), "[host.\"https://m.test\"]\nca = \"missing.pem\"");
    assert_eq!(read(&blob_with(&configured(root.path()), &server), 0..10).await.unwrap(), content(10));
    write(root.path(), &server.host(), "ca = \"missing.pem\"");
    let error = read(&blob_with(&configured(root.path()), &server), 0..10).await.unwrap_err();
    assert!(error.kind() == Kind::InvalidOptions && error.to_string().contains("missing.pem"), "{error}");
}

#[tokio::test]
async fn settings_that_change_are_obeyed() {
    let (old, new) = (Server::start(serves).await, Server::start(serves).await);
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "registry.test", &format!("server = \"http://{}\"", old.host()));
    let client = configured(root.path());
    let reference = Reference::parse("registry.test/a:1").unwrap();
    let blob = client.blob(&reference, &format::Digest::of(b"any"));
    read(&blob, 0..10).await.unwrap();
    write(root.path(), "registry.test", &format!("server = \"http://{}\" # new", new.host()));
    for _ in 0..100 {
        read(&blob, 0..10).await.unwrap();
        if new.count() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new settings are not noticed");
}

#[tokio::test]
async fn mirrors_of_all_sources_are_combined() {
    let missing = |_: &Request| Reply::new(404, "");
    let (option, toml, origin) =
        (Server::start(missing).await, Server::start(missing).await, Server::start(serves).await);
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &origin.host(), &format!("[host.\"http://{}\"]", toml.host()));
    let hosts = [(origin.host(), HostOptions { mirrors: vec![mirror(&option)] })].into();
    let options = Options { hosts, config_path: vec![root.path().to_owned()], ..fast() };
    let client = Client::new(options, Vec::new()).unwrap();
    read(&blob_with(&client, &origin), 0..10).await.unwrap();
    assert_eq!((option.count(), toml.count(), origin.count()), (1, 1, 1));
}

#[tokio::test]
async fn cri_settings_name_mirrors_unless_there_is_a_config_path() {
    let (listed, origin) = (Server::start(|_| Reply::new(404, "")).await, Server::start(serves).await);
    let with = |host: &str, endpoints: Vec<String>| CriRegistry {
        mirrors: [(host.to_owned(), endpoints)].into(),
        ..CriRegistry::default()
    };
    let client = |cri: CriRegistry, config_path: Vec<std::path::PathBuf>| {
        Client::new(Options { cri, config_path, ..fast() }, Vec::new()).unwrap()
    };
    let wild = with("*", vec![format!("http://{}/api", listed.host())]);
    read(&blob_with(&client(wild.clone(), Vec::new()), &origin), 0..10).await.unwrap();
    assert!(listed.requests()[0].target.starts_with("/api/a/b/blobs/"), "a path stands for /v2");
    // The host itself is not asked again if it is among them.
    let asked = origin.count();
    let own = with(&origin.host(), vec![origin.host(), listed.host()]);
    read(&blob_with(&client(own, Vec::new()), &origin), 0..10).await.unwrap();
    assert_eq!((listed.count(), origin.count()), (1, asked + 1));
    let root = tempfile::tempdir().unwrap();
    read(&blob_with(&client(wild, vec![root.path().to_owned()]), &origin), 0..10).await.unwrap();
    assert_eq!(listed.count(), 1);
    let error = client(with("*", vec!["ftp://x".into()]), Vec::new()).manifest(&image_on(&origin)).await;
    assert_ne!(error.unwrap_err().kind(), Kind::InvalidOptions, "an unusable endpoint is passed over");
}
