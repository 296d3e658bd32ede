//! TLS with an authority of one's own, and client certificates, against a real registry.
//!
//! 0.0.0.0 reaches this machine but is not a loopback address, so that HTTPS is spoken to it.

use std::path::{Path, PathBuf};

use registry::{Client, CriHost, CriRegistry, CriTls, Kind, Options};
use tempfile::TempDir;

use crate::docker_registry::{Registry, check, installed, run};
use crate::fast;

/// An authority, a certificate for a server and one for a client, as files in a directory: `ca.pem`,
/// `cert.pem`, `key.pem`, `client.pem`, `client.key`.
pub fn certificates() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let req = |args: &[&str]| run("openssl", &[&["req"], &new_key[..], args].concat());
    req(&[
        "-x509",
        "-keyout",
        &at("ca.key"),
        "-out",
        &at("ca.pem"),
        "-subj",
        "/CN=test authority",
        "-days",
        "2",
    ]);
    let rows = [
        ("cert.pem", "key.pem", "subjectAltName=IP:0.0.0.0,DNS:registry.test"),
        ("client.pem", "client.key", "subjectAltName=DNS:client.test"),
    ];
    for (cert, key, extension) in rows {
        req(&["-keyout", &at(key), "-out", &at("request.pem"), "-subj", "/CN=test"]);
        std::fs::write(at("ext"), extension).unwrap();
        run(
            "openssl",
            &[
                &["x509", "-req", "-in", &at("request.pem"), "-CA", &at("ca.pem"), "-CAkey", &at("ca.key")],
                &["-CAcreateserial", "-days", "2", "-extfile", &at("ext"), "-out", &at(cert)][..],
            ]
            .concat(),
        );
    }
    dir
}

/// The part of the registry's configuration that names its certificate; `clients` asks for those of clients.
pub fn server_tls(dir: &Path, clients: bool) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    let clients = if clients { format!(", clientcas: [{}]", at("ca.pem")) } else { String::new() };
    format!("  tls: {{certificate: {}, key: {}{clients}}}\n", at("cert.pem"), at("key.pem"))
}

fn client(options: Options) -> Client {
    Client::new(options, Vec::new()).unwrap()
}

#[tokio::test]
async fn an_own_authority_is_trusted_if_configured() {
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    let dir = certificates();
    let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let tls = server_tls(dir.path(), false);
    let registry = Registry::start(dir, &tls, "").await;
    let reference = registry.reference("0.0.0.0");

    let trusting = Options { certificates: vec![ca], ..fast() };
    check(&client(trusting), &reference).await;
    let log = std::fs::read_to_string(registry.dir.path().join("log")).unwrap();
    assert!(
        log.contains("HTTP/2.0") && !log.contains("HTTP/1.1"),
        "HTTP/2 is used where it is offered: {log}"
    );

    let error = client(fast()).manifest(&reference).await.unwrap_err();
    assert!(error.kind() == Kind::Network && error.to_string().contains("authority that signed"), "{error}");
    assert!(!error.to_string().contains("attempts"), "a wrong certificate is not tried again: {error}");

    let root = tempfile::tempdir().unwrap();
    let of_host = root.path().join(reference.host());
    std::fs::create_dir(&of_host).unwrap();
    std::fs::write(of_host.join("hosts.toml"), "skip_verify = true").unwrap();
    check(&client(Options { config_path: vec![root.path().to_owned()], ..fast() }), &reference).await;
}

#[tokio::test]
async fn https_to_a_plain_host_is_explained() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "").await;
    let reference = registry.reference("0.0.0.0");
    let error = client(fast()).manifest(&reference).await.unwrap_err();
    assert!(
        error.kind() == Kind::Network && error.to_string().contains("configure it as insecure"),
        "{error}"
    );
    let plain = Options { plain_http_hosts: [reference.host().to_owned()].into(), ..fast() };
    check(&client(plain), &reference).await;
}

#[tokio::test]
async fn client_certificates_are_shown_as_configured() {
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    let dir = certificates();
    let tls = server_tls(dir.path(), true);
    let at = |name: &str| dir.path().join(name);
    let files: Vec<PathBuf> = ["ca.pem", "client.pem", "client.key"].into_iter().map(at).collect();
    let files: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let registry = Registry::start(dir, &tls, "").await;
    let reference = registry.reference("0.0.0.0");

    let without = client(Options { certificates: vec![files[0].clone()], ..fast() });
    // The registry may hang up before its reason has arrived.
    let mut explained = false;
    for _ in 0..20 {
        let error = without.manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error}");
        explained |= error.to_string().contains("the client certificate, or wants one");
    }
    assert!(explained);

    // As a hosts.toml has it: for the host itself, and for a mirror.
    let root = tempfile::tempdir().unwrap();
    let write = |host: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(root.path().join(host)).unwrap();
        std::fs::write(root.path().join(host).join(name), bytes).unwrap();
    };
    let escaped = format!("0.0.0.0_{}_", registry.port);
    let mirrored = format!(
        "[host.\"https://{}\"]\nca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\ndial_timeout = \"5s\"",
        reference.host()
    );
    for (host, toml) in
        [(escaped.as_str(), "ca = [\"ca.pem\"]\nclient = \"both.pem\""), ("mirrored.test", mirrored.as_str())]
    {
        write(host, "ca.pem", &files[0]);
        write(host, "client.pem", &files[1]);
        write(host, "client.key", &files[2]);
        write(host, "both.pem", &[files[1].clone(), files[2].clone()].concat());
        write(host, "hosts.toml", toml.as_bytes());
    }
    let with = client(Options { config_path: vec![root.path().to_owned()], ..fast() });
    check(&with, &reference).await;
    let elsewhere = registry::Reference::parse("mirrored.test/a/b:1").unwrap();
    with.image(&elsewhere, &registry::Platform::host()).await.unwrap();

    // As Docker has it: by the names of files alone.
    let root = tempfile::tempdir().unwrap();
    let of_host = root.path().join(reference.host());
    std::fs::create_dir(&of_host).unwrap();
    for (name, bytes) in ["ca.crt", "me.cert", "me.key"].iter().zip(&files) {
        std::fs::write(of_host.join(name), bytes).unwrap();
    }
    let by_names = client(Options { config_path: vec![root.path().to_owned()], ..fast() });
    check(&by_names, &reference).await;

    // As CRI has it.
    let file = |name: &str| Some(of_host.join(name));
    let tls = CriTls {
        ca_file: file("ca.crt"),
        cert_file: file("me.cert"),
        key_file: file("me.key"),
        insecure_skip_verify: false,
    };
    let configs = [(reference.host().to_owned(), CriHost { auth: None, tls: Some(tls) })].into();
    let cri = CriRegistry { configs, ..CriRegistry::default() };
    check(&client(Options { cri, ..fast() }), &reference).await;
}
