//! Pushing, to a real registry and to hosts that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use format::Digest;
use registry::{
    Artifact, Client, Credential, Keychain, KeychainError, Kind, Options, Pushed, Reference, Upload,
};

use crate::docker_registry::{Registry, installed, run};
use crate::server::{Reply, Server};
use crate::{client, content, fast, image_on, read, tls};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Debug)]
struct Password;

#[async_trait::async_trait]
impl Keychain for Password {
    fn name(&self) -> String {
        "test".into()
    }

    async fn credentials(&self, _: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
        Ok(vec![Credential::password("user", "pass:word")])
    }
}

/// A real registry with a password, over TLS if that is asked for, and a client that knows both.
async fn guarded(tls: bool) -> (Registry, Client) {
    let dir = if tls { tls::certificates() } else { tempfile::tempdir().unwrap() };
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, run("htpasswd", &["-Bbn", "user", "pass:word"])).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let http = if tls { tls::server_tls(dir.path(), false) } else { String::new() };
    let registry = Registry::start(dir, &http, &auth).await;
    let client = Client::new(trusting(&registry), vec![Arc::new(Password)]).unwrap();
    (registry, client)
}

fn trusting(registry: &Registry) -> Options {
    let ca = std::fs::read(registry.dir.path().join("ca.pem"));
    Options { certificates: ca.into_iter().collect(), ..fast() }
}

fn manifest(config: &[u8], layer: &[u8]) -> Bytes {
    let blob = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": blob("application/vnd.oci.image.config.v1+json", config),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    manifest.to_string().into()
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

#[tokio::test]
async fn an_image_is_pushed_mounted_and_referred_to() {
    if !installed(&["docker-registry", "htpasswd"]) {
        return;
    }
    let (registry, client) = guarded(false).await;
    let reference = Reference::parse(&format!("127.0.0.1:{}/new/image:v1", registry.port)).unwrap();
    let pusher = client.pusher(&reference);
    let layer = content(3 << 20);
    let file = {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&layer).unwrap();
        file
    };
    let digest = Digest::of(&layer);
    assert!(!pusher.has_blob(&digest).await.unwrap());
    let upload = Upload::file(file, layer.len() as u64);
    assert_eq!(pusher.push_blob(&digest, &upload).await.unwrap(), Pushed::Sent);
    assert_eq!(pusher.push_blob(&digest, &upload).await.unwrap(), Pushed::There);
    pusher.push_blob(&Digest::of(CONFIG), &Upload::bytes(CONFIG)).await.unwrap();
    let manifest = manifest(CONFIG, &layer);
    let pushed = pusher.push_manifest(MANIFEST, &manifest, Some("v1")).await.unwrap();
    let (found, bytes) = client.manifest(&reference).await.unwrap();
    assert_eq!((found.digest, &bytes), (pushed, &manifest));
    assert_eq!(read(&client.blob(&reference, &digest), 0..layer.len() as u64).await.unwrap(), layer);

    let other = Reference::parse(&format!("127.0.0.1:{}/other:v1", registry.port)).unwrap();
    let mounting = client.pusher(&other).mounting_from(&reference);
    assert_eq!(mounting.adopt_blob(&digest).await.unwrap(), Some(Pushed::Mounted));
    assert_eq!(mounting.adopt_blob(&Digest::of(b"nowhere")).await.unwrap(), None);
    assert!(client.pusher(&other).has_blob(&digest).await.unwrap());

    // This registry has no referrers API.
    let artifact = |kind: &str| Artifact {
        artifact_type: kind.into(),
        blobs: vec![("text/plain".into(), Bytes::from_static(b"what was read"))],
        annotations: [("k".to_owned(), "v".to_owned())].into(),
    };
    let first = pusher.push_artifact(&found, &artifact("test/one")).await.unwrap();
    pusher.push_artifact(&found, &artifact("test/two")).await.unwrap();
    pusher.push_artifact(&found, &artifact("test/two")).await.unwrap();
    assert_eq!(client.referrers(&reference, &found.digest, None).await.unwrap().len(), 2);
    let one = client.referrers(&reference, &found.digest, Some("test/one")).await.unwrap();
    assert_eq!((one.len(), &one[0].descriptor), (1, &first));
    let nothing = client.referrers(&reference, &first.digest, None).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn over_tls_and_only_for_those_who_may() {
    if !installed(&["docker-registry", "htpasswd", "openssl"]) {
        return;
    }
    let (registry, client) = guarded(true).await;
    let reference = registry.reference("0.0.0.0");
    let blob = Upload::bytes(content(1000));
    let digest = Digest::of(&content(1000));
    assert_eq!(client.pusher(&reference).push_blob(&digest, &blob).await.unwrap(), Pushed::Sent);
    let nobody = Client::new(trusting(&registry), Vec::new()).unwrap();
    let error = nobody.pusher(&reference).push_blob(&digest, &blob).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
}

/// Passes connections on to `port`, and breaks the first so many that carry more than `limit` bytes to it.
fn breaking(port: u16, limit: u64, times: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicU64::new(times));
    std::thread::spawn(move || {
        for inward in listener.incoming() {
            let Ok(mut inward) = inward else { return };
            let Ok(mut outward) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let (mut back_from, mut back_to) = (outward.try_clone().unwrap(), inward.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let (mut passed, mut buffer) = (0, vec![0; 64 << 10]);
                while let Ok(got @ 1..) = inward.read(&mut buffer) {
                    if outward.write_all(&buffer[..got]).is_err() {
                        return;
                    }
                    passed += got as u64;
                    if passed > limit
                        && left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                            .is_ok()
                    {
                        let _ = inward.shutdown(Shutdown::Both);
                        // The registry gets what has arrived, and then the end.
                        let _ = outward.shutdown(Shutdown::Both);
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upload_survives_connections_that_break() {
    if !installed(&["docker-registry", "htpasswd"]) {
        return;
    }
    let (registry, client) = guarded(false).await;
    let port = breaking(registry.port, 2 << 20, 2);
    let reference = Reference::parse(&format!("127.0.0.1:{port}/new:v1")).unwrap();
    let layer = content(9 << 20);
    let digest = Digest::of(&layer);
    let upload = Upload::bytes(layer.clone());
    assert_eq!(client.pusher(&reference).push_blob(&digest, &upload).await.unwrap(), Pushed::Sent);
    let direct = Reference::parse(&format!("127.0.0.1:{}/new:v1", registry.port)).unwrap();
    assert_eq!(read(&client.blob(&direct, &digest), 0..layer.len() as u64).await.unwrap(), layer);
}

/// A host that keeps what it is sent, and takes no more than `most` bytes at once.
async fn picky(most: usize, resumes: bool) -> (Server, Arc<Mutex<Vec<u8>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&kept);
    let server = Server::start(move |request| {
        let mut kept = shared.lock().unwrap();
        let told = |kept: &Vec<u8>, status| {
            Reply::new(status, "")
                .header("Location", "/session?state=1")
                .header("Range", format!("0-{}", kept.len().saturating_sub(1)))
        };
        match request.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => {
                kept.clear();
                told(&kept, 202)
            }
            _ if request.body.len() > most => Reply::new(413, "too large"),
            "PATCH" => {
                let start: usize =
                    request.header("content-range").split('-').next().unwrap().parse().unwrap();
                if start != kept.len() {
                    return Reply::new(416, "");
                }
                kept.extend_from_slice(request.body.as_bytes());
                // Once, the answer is lost.
                if kept.len() == request.body.len() {
                    return Reply::hangup();
                }
                told(&kept, 202)
            }
            "GET" if resumes => told(&kept, 204),
            "GET" => Reply::new(404, ""),
            "PUT" => {
                kept.extend_from_slice(request.body.as_bytes());
                let digest = Digest::of(&kept).to_string().replace(':', "%3A");
                if request.target.contains(&digest) { Reply::new(201, "") } else { Reply::new(400, "") }
            }
            _ => Reply::new(405, ""),
        }
    })
    .await;
    (server, kept)
}

#[tokio::test]
async fn hosts_that_refuse_large_bodies_get_pieces_and_answers_that_are_lost_are_asked_for() {
    let (server, kept) = picky(17 << 20, true).await;
    let text = "0123456789abcdef".repeat(40 << 16);
    let digest = Digest::of(text.as_bytes());
    let pusher = client().pusher(&image_on(&server));
    assert_eq!(pusher.push_blob(&digest, &Upload::bytes(text.clone())).await.unwrap(), Pushed::Sent);
    assert!(*kept.lock().unwrap() == text.as_bytes());
    let methods: String = server.requests().iter().map(|request| request.method.clone() + " ").collect();
    assert_eq!(methods, "HEAD POST PUT POST PATCH GET PATCH PATCH PUT ");
}

#[tokio::test]
async fn hosts_that_forget_are_sent_all_again_within_bounds() {
    let (server, _) = picky(100, false).await;
    let text = "x".repeat(90);
    let pusher = client().pusher(&image_on(&server));
    pusher.push_blob(&Digest::of(text.as_bytes()), &Upload::bytes(text)).await.unwrap();

    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").header("Location", "/session"),
        "PUT" => Reply::hangup(),
        _ => Reply::new(404, ""),
    })
    .await;
    let pusher = client().pusher(&image_on(&server));
    let error = pusher.push_blob(&Digest::of(b"x"), &Upload::bytes("x")).await.unwrap_err();
    assert!(error.to_string().contains("attempts without progress"), "{error}");
    assert!(server.count() < 20, "{:?}", server.summary());
}

#[tokio::test]
async fn uploads_never_lose_encryption_and_stored_digests_are_compared() {
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").header("Location", "ftp://elsewhere/session"),
        _ => Reply::new(201, "").header("Docker-Content-Digest", Digest::of(b"other").to_string()),
    })
    .await;
    let pusher = client().pusher(&image_on(&server));
    let error = pusher.push_blob(&Digest::of(b"x"), &Upload::bytes("x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol, "{error}");
    let error = pusher.push_manifest(MANIFEST, &Bytes::from_static(b"{}"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Digest, "{error}");
}

#[tokio::test]
async fn the_referrers_api_is_used_where_it_is() {
    let entry = |n: u8| serde_json::json!({ "mediaType": MANIFEST, "digest": Digest::of(&[n]), "size": 1, "artifactType": format!("t/{n}") });
    let server = Server::start(move |request| match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/page2") => Reply::new(200, serde_json::json!({ "manifests": [entry(2)] }).to_string()),
        ("GET", target) if target.starts_with("/v2/a/b/referrers/") => {
            Reply::new(200, serde_json::json!({ "manifests": [entry(1)] }).to_string())
                .header("Link", "</page2>; rel=\"next\"")
        }
        ("HEAD", _) => Reply::new(200, ""),
        ("PUT", _) => Reply::new(201, "").header("OCI-Subject", "sha256:x"),
        _ => Reply::new(405, ""),
    })
    .await;
    let (client, reference) = (client(), image_on(&server));
    let subject = Digest::of(b"subject");
    let all = client.referrers(&reference, &subject, None).await.unwrap();
    assert_eq!(all.iter().map(|it| it.artifact_type.clone().unwrap()).collect::<Vec<_>>(), ["t/1", "t/2"]);
    assert_eq!(client.referrers(&reference, &subject, Some("t/2")).await.unwrap().len(), 1);
    let artifact = Artifact { artifact_type: "t/3".into(), ..Artifact::default() };
    client.pusher(&reference).push_artifact(&all[0].descriptor, &artifact).await.unwrap();
    // The registry lists it by itself: nothing stands in.
    assert!(!server.summary().iter().any(|line| line.contains("manifests/sha256-")));
}
