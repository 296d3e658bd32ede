//! The proxy of the image service, before a container runtime that answers everything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use credentials::{Beside, CriKeychain, CriOptions, CriProxy, PersistOptions};
use registry::{Credential, Keychain as _};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

use crate::backend::Backend;
use crate::grpc::{self, AuthConfig, auth, call, frame, image_service, named, pull};
use crate::{LONG, SECRET, logs, reference, until_users, users};

/// A proxy, and where the container runtime would be.
struct Node {
    dir: TempDir,
    keychain: Arc<CriKeychain>,
    server: JoinHandle<()>,
    client: Channel,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    async fn new() -> Node {
        Node::at(tempfile::tempdir().unwrap(), CriOptions::default()).await
    }

    async fn at(dir: TempDir, options: CriOptions) -> Node {
        logs::record();
        let keychain = Arc::new(CriKeychain::open(options).await);
        let proxy = CriProxy::new(dir.path().join("runtime"), Arc::clone(&keychain));
        let socket = dir.path().join("proxy");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let server =
            tokio::spawn(async move { proxy.serve(listener, std::future::pending()).await.unwrap() });
        Node { client: grpc::client(&socket), dir, keychain, server }
    }

    fn runtime(&self) -> PathBuf {
        self.dir.path().join("runtime")
    }

    async fn pull(&self, image: &str, auth: Option<AuthConfig>) -> Result<Vec<u8>, tonic::Status> {
        image_service(&self.client, "PullImage", &pull(image, auth)).await
    }
}

fn persisted(dir: &Path) -> CriOptions {
    let persist = PersistOptions { store: dir.join("sealed"), key: dir.join("key") };
    CriOptions { persist: Some(persist), ..CriOptions::default() }
}

#[tokio::test]
async fn bytes_pass_unchanged_both_ways() {
    let node = Node::new().await;
    let backend = Backend::default();
    let _serving = backend.serve(&node.runtime());
    for path in ["/runtime.v1.ImageService/ListImages", "/runtime.v1alpha2.ImageService/Unknown"] {
        let (messages, trailers) = call(&node.client, path, b"any bytes").await.unwrap();
        assert_eq!(messages, [b"any bytes"]);
        assert_eq!(trailers["x-trailer"], "kept");
        let seen = backend.seen().pop().unwrap();
        assert_eq!((seen.path.as_str(), seen.body), (path, frame(b"any bytes")));
        assert_eq!(seen.headers["x-note"], "kept");
    }
    let (messages, _) = call(&node.client, "/runtime.v1.ImageService/StreamImages", b"").await.unwrap();
    assert_eq!(messages, [b"1", b"2", b"3"]);
    let refused = image_service(&node.client, "Refuse", b"").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no such"));
    // What is looked into passes as it came, too: here with fields that are not known.
    let request = [pull("reg.io/a", Some(auth("u"))), vec![0x98, 0x06, 1]].concat();
    image_service(&node.client, "PullImage", &request).await.unwrap();
    assert_eq!(backend.seen().pop().unwrap().body, frame(&request));
    // So does what is not understood.
    image_service(&node.client, "RemoveImage", &[0xff]).await.unwrap();
    let other = call(&node.client, "/runtime.v1.RuntimeService/Version", b"").await.unwrap_err();
    assert_eq!(other.code(), Code::Unimplemented);
}

#[tokio::test]
async fn credentials_are_learned_whether_the_pull_works_or_not() {
    let node = Node::new().await;
    let _serving = Backend::default().serve(&node.runtime());
    let keychain = &*node.keychain;
    node.pull("reg.io/fail:1", Some(auth("failed"))).await.unwrap_err();
    assert_eq!(users(keychain, "reg.io/fail:1").await, ["failed"]);
    node.pull(
        "nginx",
        Some(AuthConfig { server_address: "https://index.docker.io/v1/".into(), ..auth("hub") }),
    )
    .await
    .unwrap();
    assert_eq!(users(keychain, "docker.io/library/nginx:latest").await, ["hub"]);
    // The host must be the one that it is for, if it says so; else any that serves the image.
    let image = reference("nginx");
    assert!(keychain.credentials("mirror.local", &image).await.unwrap().is_empty());
    node.pull("reg.io/a:1", Some(auth("any"))).await.unwrap();
    let image = reference("reg.io/a:1");
    assert_eq!(keychain.credentials("mirror.local", &image).await.unwrap().len(), 1);
    let token = |name: &str| {
        let mut auth = AuthConfig::default();
        match name {
            "identity" => auth.identity_token = SECRET.into(),
            _ => auth.registry_token = SECRET.into(),
        }
        auth
    };
    node.pull("reg.io/b:1", Some(token("identity"))).await.unwrap();
    node.pull("reg.io/c:1", Some(token("registry"))).await.unwrap();
    let found = async |image: &str| keychain.credentials("reg.io", &reference(image)).await.unwrap();
    assert!(matches!(found("reg.io/b:1").await[..], [Credential::IdentityToken(_)]));
    assert!(matches!(found("reg.io/c:1").await[..], [Credential::RegistryToken(_)]));
    logs::assert_clean();
}

#[tokio::test]
async fn a_pull_without_a_credential_changes_nothing() {
    let node = Node::new().await;
    let _serving = Backend::default().serve(&node.runtime());
    node.pull("reg.io/a:1", None).await.unwrap();
    node.pull("reg.io/a:1", Some(AuthConfig::default())).await.unwrap();
    assert!(users(&*node.keychain, "reg.io/a:1").await.is_empty());
    node.pull("reg.io/a:1", Some(auth("u"))).await.unwrap();
    node.pull("reg.io/a:1", None).await.unwrap();
    // One that is not usable is as good as none; the pull is the runtime's to refuse.
    node.pull("reg.io/a:1", Some(AuthConfig { auth: SECRET.into(), ..AuthConfig::default() })).await.unwrap();
    assert_eq!(users(&*node.keychain, "reg.io/a:1").await, ["u"]);
    logs::assert_clean();
}

#[tokio::test]
async fn what_is_removed_is_forgotten() {
    let node = Node::new().await;
    let _serving = Backend::default().serve(&node.runtime());
    for image in ["reg.io/a:1", "reg.io/b:1", "reg.io/fail:1"] {
        let _ = node.pull(image, Some(auth("u"))).await;
    }
    let remove = async |image: &str| image_service(&node.client, "RemoveImage", &named(image)).await;
    remove("reg.io/a:1").await.unwrap();
    until_users(&*node.keychain, "reg.io/a:1", &[]).await;
    // The kubelet names images by the ID that the pull gave.
    remove("sha256:reg.io/b:1").await.unwrap();
    until_users(&*node.keychain, "reg.io/b:1", &[]).await;
    // A removal that fails removes nothing.
    remove("reg.io/fail:1").await.unwrap_err();
    assert_eq!(users(&*node.keychain, "reg.io/fail:1").await, ["u"]);
}

#[tokio::test]
async fn without_a_runtime_calls_end_at_once_and_later_work() {
    let node = Node::new().await;
    let started = Instant::now();
    for _ in 0..3 {
        let error = node.pull("reg.io/a:1", Some(auth("u"))).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        let text = error.message();
        assert!(
            text.contains(&node.runtime().display().to_string()) && text.contains("No such file"),
            "{text}"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(users(&*node.keychain, "reg.io/a:1").await, ["u"], "the kubelet may not say it again");
    for _ in 0..2 {
        // A runtime of its own: its connections end with it.
        let process = tokio::runtime::Runtime::new().unwrap();
        let socket = node.runtime();
        process.spawn(async move { Backend::default().serve(&socket).await });
        grpc::until_answered(&node.client, "ListImages").await;
        process.shutdown_background();
        std::fs::remove_file(node.runtime()).unwrap();
        let started = Instant::now();
        while image_service(&node.client, "ListImages", b"").await.is_ok() {
            assert!(started.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused() {
    let node = Node::new().await;
    let backend = Backend::default();
    let _serving = backend.serve(&node.runtime());
    let error = image_service(&node.client, "PullImage", &vec![0; (16 << 20) + 1]).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    // Those that are not held have the limits of the runtime.
    let large = vec![7; 17 << 20];
    assert_eq!(image_service(&node.client, "Other", &large).await.unwrap(), large);
}

#[tokio::test]
async fn another_service_on_the_same_socket() {
    let node = Node::new().await;
    let _serving = Backend::default().serve(&node.runtime());
    let other = Backend::default();
    let proxy = CriProxy::new(format!("unix://{}", node.runtime().display()), Arc::clone(&node.keychain));
    let both = Beside::new(proxy, other.clone());
    let socket = node.dir.path().join("both");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(both.serve(listener, std::future::pending()));
    let client = grpc::client(&socket);
    image_service(&client, "PullImage", &pull("reg.io/both:1", Some(auth("u")))).await.unwrap();
    assert_eq!(users(&*node.keychain, "reg.io/both:1").await, ["u"]);
    assert!(other.seen().is_empty());
    call(&client, "/containerd.services.snapshots.v1.Snapshots/List", b"").await.unwrap();
    assert_eq!(other.seen().len(), 1);
    serving.abort();
}

#[tokio::test]
async fn what_was_learned_survives() {
    let files = tempfile::tempdir().unwrap();
    let node = Node::at(tempfile::tempdir().unwrap(), persisted(files.path())).await;
    let _serving = Backend::default().serve(&node.runtime());
    node.pull("reg.io/a:1", Some(auth("one"))).await.unwrap();
    node.pull("reg.io/a:1", Some(AuthConfig { server_address: "reg.io".into(), ..auth("two") }))
        .await
        .unwrap();
    node.pull("reg.io/b:1", Some(AuthConfig { identity_token: SECRET.into(), ..AuthConfig::default() }))
        .await
        .unwrap();
    // Written by itself, a moment later.
    let started = Instant::now();
    loop {
        let again = CriKeychain::open(persisted(files.path())).await;
        let found = again.credentials("reg.io", &reference("reg.io/b:1")).await.unwrap();
        if matches!(found[..], [Credential::IdentityToken(_)]) {
            assert_eq!(users(&again, "reg.io/a:1").await, ["two", "one"]);
            break;
        }
        assert!(started.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sealed = std::fs::read(files.path().join("sealed")).unwrap();
    assert!(!sealed.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    // The ID survives as well.
    node.keychain.flush().await.unwrap();
    drop(node);
    let node = Node::at(tempfile::tempdir().unwrap(), persisted(files.path())).await;
    let _serving = Backend::default().serve(&node.runtime());
    image_service(&node.client, "RemoveImage", &named("sha256:reg.io/a:1")).await.unwrap();
    until_users(&*node.keychain, "reg.io/a:1", &[]).await;
}

#[tokio::test]
async fn off_by_default() {
    let node = Node::new().await;
    let _serving = Backend::default().serve(&node.runtime());
    node.pull("reg.io/a:1", Some(auth("u"))).await.unwrap();
    node.keychain.flush().await.unwrap();
    let names: Vec<_> =
        std::fs::read_dir(node.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the sockets: {names:?}");
}

#[tokio::test]
async fn a_store_that_was_tampered_with_is_ignored() {
    let files = tempfile::tempdir().unwrap();
    let learn = |node: Node| async move {
        let serving = Backend::default().serve(&node.runtime());
        node.pull("reg.io/a:1", Some(auth("u"))).await.unwrap();
        node.keychain.flush().await.unwrap();
        serving.abort();
    };
    learn(Node::at(tempfile::tempdir().unwrap(), persisted(files.path())).await).await;
    let store = files.path().join("sealed");
    let mut bytes = std::fs::read(&store).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&store, bytes).unwrap();
    let node = Node::at(tempfile::tempdir().unwrap(), persisted(files.path())).await;
    assert!(users(&*node.keychain, "reg.io/a:1").await.is_empty());
    let path = store.display().to_string();
    assert_eq!(logs::count(&["WARN", &path, "was changed since", "ignored"]), 1);
    // It is written anew.
    learn(node).await;
    let again = CriKeychain::open(persisted(files.path())).await;
    assert_eq!(users(&again, "reg.io/a:1").await, ["u"]);
    logs::assert_clean();
}

#[tokio::test]
async fn what_is_old_is_not_kept() {
    let files = tempfile::tempdir().unwrap();
    let node = Node::at(tempfile::tempdir().unwrap(), persisted(files.path())).await;
    let _serving = Backend::default().serve(&node.runtime());
    node.pull("reg.io/a:1", Some(auth("u"))).await.unwrap();
    node.keychain.flush().await.unwrap();
    assert_eq!(users(&CriKeychain::open(persisted(files.path())).await, "reg.io/a:1").await, ["u"]);
    let forgetful = CriOptions { expire_after: Duration::ZERO, ..persisted(files.path()) };
    assert!(users(&CriKeychain::open(forgetful).await, "reg.io/a:1").await.is_empty());
}
