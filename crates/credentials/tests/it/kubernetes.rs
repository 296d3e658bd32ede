//! Image pull secrets from an API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use credentials::{InCluster, KubernetesOptions, KubernetesSecrets};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use registry::Keychain as _;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::api_server::{ApiServer, CFG, JSON};
use crate::{LONG, SECRET, logs, reference, until_users, users, write_script};

struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Node {
        logs::record();
        Node { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // Renamed into place, as tools do it.
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn options(&self) -> KubernetesOptions {
        KubernetesOptions {
            poll: Duration::from_millis(30),
            retry_pause: (Duration::from_millis(20), Duration::from_millis(200)),
            ..KubernetesOptions::new(vec![self.path("config")])
        }
    }

    fn start(&self) -> KubernetesSecrets {
        KubernetesSecrets::start(self.options())
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn error(secrets: &KubernetesSecrets) -> String {
    let error = secrets.credentials("reg.io", &reference("reg.io/a")).await.unwrap_err().to_string();
    assert!(error.starts_with("kubernetes secrets: "), "{error}");
    error
}

#[tokio::test]
async fn secrets_are_listed_and_followed() {
    let node = Node::new();
    let server = ApiServer::start().await;
    for number in 0..5 {
        server.put(JSON, &format!("s{number}"), "reg.io/many", &format!("u{number}"));
    }
    server.put(CFG, "old", "https://reg.io/v1/", "legacy");
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    // The first question waits for the first list.
    assert_eq!(users(&secrets, "reg.io/many/a").await, ["u0", "u1", "u2", "u3", "u4", "legacy"]);
    server.put(JSON, "new", "reg.io", "added");
    until_users(&secrets, "reg.io/a", &["added", "legacy"]).await;
    server.put(JSON, "new", "reg.io", "changed");
    until_users(&secrets, "reg.io/a", &["changed", "legacy"]).await;
    server.delete("new");
    until_users(&secrets, "reg.io/a", &["legacy"]).await;
    server.delete("old");
    until_users(&secrets, "reg.io/a", &[]).await;
    assert_eq!(server.state().lists, 4, "three pages and one");
    assert!(!format!("{secrets:?}").contains(SECRET));
    logs::assert_clean();
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    assert_eq!(users(&secrets, "reg.io/a").await, ["one"]);
    until("both watches", || server.state().watches == 2).await;
    for round in ["two", "three"] {
        server.cut();
        server.put(JSON, "a", "reg.io", round);
        until_users(&secrets, "reg.io/a", &[round]).await;
    }
    assert_eq!(server.state().lists, 2, "one for each type");
}

#[tokio::test]
async fn a_version_that_is_too_old_is_listed_anew() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    server.put(JSON, "b", "reg.io", "two");
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    assert_eq!(users(&secrets, "reg.io/x").await, ["one", "two"]);
    for (name, want) in [("b", &["one"][..]), ("a", &[])] {
        until("both watches", || server.state().watches >= 2).await;
        // What happens meanwhile is not in any event.
        server.state().refuse = Some(500);
        server.cut();
        server.delete(name);
        server.compact();
        server.state().refuse = None;
        until_users(&secrets, "reg.io/x", want).await;
    }
}

#[tokio::test]
async fn bookmarks_spare_a_list() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    assert_eq!(users(&secrets, "reg.io/a").await, ["one"]);
    until("both watches", || server.state().watches == 2).await;
    server.compact();
    server.bookmark(JSON);
    server.bookmark(CFG);
    // Nothing tells that they have arrived.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.cut();
    server.put(JSON, "a", "reg.io", "two");
    until_users(&secrets, "reg.io/a", &["two"]).await;
    assert_eq!(server.state().lists, 2);
}

#[tokio::test]
async fn a_kubeconfig_that_appears_and_changes() {
    let node = Node::new();
    let secrets = node.start();
    assert!(users(&secrets, "reg.io/a").await.is_empty());
    let (first, second) = (ApiServer::start().await, ApiServer::start().await);
    first.put(JSON, "a", "reg.io", "first");
    second.put(JSON, "b", "reg.io", "second");
    node.write("config", &first.kubeconfig("", ""));
    until_users(&secrets, "reg.io/a", &["first"]).await;
    // Neither garbage nor the loss of the file changes anything.
    node.write("config", "clusters: [");
    until("the log", || logs::count(&["kubeconfig cannot be used", "line 1"]) > 0).await;
    std::fs::remove_file(node.path("config")).unwrap();
    first.put(JSON, "a", "reg.io", "still");
    until_users(&secrets, "reg.io/a", &["still"]).await;
    node.write("config", &second.kubeconfig("", ""));
    until_users(&secrets, "reg.io/a", &["second"]).await;
}

#[tokio::test]
async fn a_refusal_is_logged_once_and_ends() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    server.state().refuse = Some(403);
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    let text = error(&secrets).await;
    assert!(text.contains("not allowed: secrets is forbidden") && text.contains("grant \"list\""), "{text}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(logs::count(&["WARN", JSON, "not allowed"]), 1);
    server.state().refuse = None;
    until_users(&secrets, "reg.io/a", &["one"]).await;
}

#[tokio::test]
async fn nobody_there_delays_no_answer_for_long() {
    let node = Node::new();
    node.write(
        "config",
        "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\n\
         clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\n",
    );
    let secrets = node.start();
    let started = Instant::now();
    for _ in 0..3 {
        let text = error(&secrets).await;
        assert!(text.contains("http://127.0.0.1:1/ cannot be reached"), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_list_that_is_too_large_is_asked_for_in_pieces() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    server.state().padding = 40 << 20;
    node.write("config", &server.kubeconfig("", ""));
    let secrets = node.start();
    until_users(&secrets, "reg.io/a", &["one"]).await;
    assert_eq!(server.state().limit, 10);
}

#[tokio::test]
async fn tokens_from_text_files_and_programs() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    server.state().token = Some(SECRET.into());
    node.write("config", &server.kubeconfig("", "token: wrong"));
    let secrets = node.start();
    assert!(error(&secrets).await.contains("not authenticated: Unauthorized"));
    node.write("config", &server.kubeconfig("", &format!("token: {SECRET}")));
    until_users(&secrets, "reg.io/a", &["one"]).await;
    drop(secrets);

    node.write("token", &format!("{SECRET}\n"));
    node.write("config", &server.kubeconfig("", "tokenFile: token"));
    let secrets = node.start();
    until_users(&secrets, "reg.io/a", &["one"]).await;
    drop(secrets);

    // The program is run again when its token is no longer taken.
    let script = |token: &str| {
        format!(
            "#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO\" >> \"$1\"\necho '{{\"kind\":\"ExecCredential\",\
             \"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{{\"token\":\"{token}\"}}}}'\n"
        )
    };
    write_script(&node.path("login"), &script(SECRET));
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: ./login, args: ['{}'], provideClusterInfo: true}}",
        node.path("runs").display()
    );
    node.write("config", &server.kubeconfig("", &exec));
    let secrets = node.start();
    until_users(&secrets, "reg.io/a", &["one"]).await;
    let runs = std::fs::read_to_string(node.path("runs")).unwrap();
    assert_eq!(runs.lines().count(), 1);
    let info: serde_json::Value = serde_json::from_str(&runs).unwrap();
    assert_eq!(info["spec"]["interactive"], false);
    assert_eq!(info["spec"]["cluster"]["server"], format!("http://{}", server.address));
    write_script(&node.path("login"), &script("rotated"));
    server.state().token = Some("rotated".into());
    server.cut();
    server.put(JSON, "a", "reg.io", "two");
    until_users(&secrets, "reg.io/a", &["two"]).await;
    logs::assert_clean();
}

/// A certificate authority, a server that demands certificates of it, and files of a client.
fn tls(dir: &Path) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |names: Vec<String>| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        (certificate, key)
    };
    let (client, client_key) = issue(Vec::new());
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(dir.join("client.pem"), client.pem()).unwrap();
    std::fs::write(dir.join("client.key"), client_key.serialize_pem()).unwrap();

    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let (server, server_key) = issue(vec!["127.0.0.1".into()]);
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn tls_with_a_private_authority_and_a_client_certificate() {
    let node = Node::new();
    let server = ApiServer::start_with(Some(tls(node.dir.path()))).await;
    server.put(JSON, "a", "reg.io", "one");
    let user = "client-certificate: client.pem, client-key: client.key";
    // Certificates of others are not trusted,
    node.write("config", &server.kubeconfig(", insecure-skip-tls-verify: false", user));
    let secrets = node.start();
    let text = error(&secrets).await;
    assert!(text.contains("cannot be reached"), "{text}");
    // unless they are named,
    node.write("config", &server.kubeconfig(", certificate-authority: ca.pem", user));
    until_users(&secrets, "reg.io/a", &["one"]).await;
    drop(secrets);
    // or do not matter. Files that appear later are waited for.
    node.write(
        "config",
        &server.kubeconfig(", insecure-skip-tls-verify: true", &user.replace(".key", ".later")),
    );
    let secrets = node.start();
    assert!(users(&secrets, "reg.io/a").await.is_empty());
    std::fs::copy(node.path("client.key"), node.path("client.later")).unwrap();
    until_users(&secrets, "reg.io/a", &["one"]).await;
}

#[tokio::test]
async fn in_a_pod() {
    let node = Node::new();
    let server = ApiServer::start().await;
    server.put(JSON, "a", "reg.io", "one");
    server.state().token = Some(SECRET.into());
    std::fs::create_dir(node.path("account")).unwrap();
    let in_cluster = InCluster {
        server: format!("http://{}", server.address).parse().unwrap(),
        service_account: node.path("account"),
    };
    let secrets =
        KubernetesSecrets::start(KubernetesOptions { in_cluster: Some(in_cluster), ..node.options() });
    assert!(users(&secrets, "reg.io/a").await.is_empty());
    node.write("account/token", SECRET);
    until_users(&secrets, "reg.io/a", &["one"]).await;
}
