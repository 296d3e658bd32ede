use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::image::{self, Layer};
use crate::tarball;
use crate::tree::{Entry, Tree, content};

/// An answer as a client sees it.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// How reading ended early, if it did.
    error: Option<ErrorKind>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn send(addr: SocketAddr, request: &str, headers: &[&str], body: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    let mut text = format!("{request} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = headers.get(9..12).map_or(0, |status| status.parse().unwrap());
    Reply { status, headers, body: bytes.split_off((end + 4).min(bytes.len())), error }
}

fn get(registry: &Registry, path: &str, headers: &[&str]) -> Reply {
    send(registry.addr(), &format!("GET {path}"), headers, "")
}

/// A registry with one blob of 100,000 bytes, and the path of that blob.
fn with_blob() -> (Registry, String, Bytes) {
    let registry = Registry::start();
    let bytes = content(2, 100_000);
    let digest = Digest::of(&bytes);
    registry.put_blob(digest, bytes.clone());
    (registry, format!("/v2/some/repo/blobs/{digest}"), bytes)
}

#[test]
fn an_image_is_served_by_tag_and_by_digest() {
    let registry = Registry::start();
    let tar = tarball::write(&Tree::new().with("f", Entry::file("x")));
    let image = Image::new(vec![Layer::gzip(&tar)], &image::Options::default());
    let reference = registry.push_index("a/b", "v1", &image);
    assert_eq!(reference, format!("127.0.0.1:{}/a/b:v1", registry.addr().port()));

    let index = get(&registry, "/v2/a/b/manifests/v1", &[]);
    assert_eq!((index.status, index.header("Content-Type")), (200, Some(image::INDEX)));
    let manifest = get(&registry, &format!("/v2/a/b/manifests/{}", image.manifest.digest), &[]);
    assert_eq!(manifest.body, image.manifest.bytes);
    assert_eq!(manifest.header("Docker-Content-Digest"), Some(image.manifest.digest.to_string().as_str()));
    let layer = get(&registry, &format!("/v2/a/b/blobs/{}", image.layers[0].digest), &[]);
    assert_eq!(layer.body, image.layers[0].content.to_bytes());

    let head = send(registry.addr(), "HEAD /v2/a/b/manifests/v1", &[], "");
    assert_eq!(head.header("Content-Length"), Some(image.index.bytes.len().to_string().as_str()));
    assert!(head.body.is_empty());
    assert_eq!(get(&registry, "/v2/a/b/manifests/v2", &[]).status, 404);
    assert_eq!(get(&registry, "/v2/", &[]).status, 200);
    assert_eq!(registry.requests_to("/manifests/v1").len(), 2);
}

#[test]
fn ranges_are_answered_as_asked() {
    let (registry, path, bytes) = with_blob();
    let check = |range: &str, status: u16, told: Option<&str>, body: &[u8]| {
        let reply = get(&registry, &path, &[&format!("Range: bytes={range}")]);
        assert_eq!((reply.status, reply.header("Content-Range")), (status, told), "{range}");
        if status != 416 {
            assert_eq!(reply.body, body, "{range}");
        }
    };
    check("10-19", 206, Some("bytes 10-19/100000"), &bytes[10..20]);
    check("99990-", 206, Some("bytes 99990-99999/100000"), &bytes[99_990..]);
    check("99990-200000", 206, Some("bytes 99990-99999/100000"), &bytes[99_990..]);
    check("-51", 206, Some("bytes 99949-99999/100000"), &bytes[99_949..]);
    check("-200000", 206, Some("bytes 0-99999/100000"), &bytes);
    check("100000-", 416, Some("bytes */100000"), b"");
    check("-0", 416, Some("bytes */100000"), b"");
    check("20-10", 200, None, &bytes);
    registry.fault(Rule::new(&path, Fault::OneRange));
    check("0-1,5-6", 200, None, &bytes);
    assert_eq!(registry.requests()[3].range(), Some("bytes=-51"));
}

#[test]
fn connections_are_kept_alive() {
    let (registry, path, _) = with_blob();
    let mut stream = TcpStream::connect(registry.addr()).unwrap();
    for _ in 0..3 {
        write!(stream, "GET {path} HTTP/1.1\r\nRange: bytes=0-0\r\n\r\n").unwrap();
        let mut reply = Vec::new();
        while !reply.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            reply.push(byte[0]);
        }
        assert!(reply.starts_with(b"HTTP/1.1 206"));
        stream.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn rules_count_requests() {
    let (registry, path, bytes) = with_blob();
    registry.fault(Rule::new("/blobs/", Fault::Status(500)).method("GET").skip(1).times(2));
    let statuses: Vec<_> = (0..4).map(|_| get(&registry, &path, &[]).status).collect();
    assert_eq!(statuses, [200, 500, 500, 200]);
    assert!(registry.body_bytes() > 200_000, "errors have bodies too");

    registry.fault(Rule::new(&path, Fault::RetryAfter { status: 429, seconds: 7 }).times(1));
    assert_eq!(get(&registry, &path, &[]).header("Retry-After"), Some("7"));
    registry.fault(Rule::new(&path, Fault::Status(416)));
    assert_eq!(get(&registry, &path, &[]).header("Content-Range"), Some("bytes */100000"));
    registry.clear_faults();
    assert_eq!(get(&registry, &path, &[]).body, bytes);
}

#[test]
fn answers_to_ranges_can_be_wrong() {
    let (registry, path, bytes) = with_blob();
    registry.fault(Rule::new(&path, Fault::IgnoreRange).times(1));
    registry.fault(Rule::new(&path, Fault::WrongContentRange).skip(1).times(1));
    registry.fault(Rule::new(&path, Fault::CorruptByte(40_000)).skip(2));
    let whole = get(&registry, &path, &["Range: bytes=0-9"]);
    assert_eq!((whole.status, whole.body.len()), (200, bytes.len()));
    let shifted = get(&registry, &path, &["Range: bytes=0-9"]);
    assert_eq!(
        (shifted.header("Content-Range"), &shifted.body[..]),
        (Some("bytes 1-10/100000"), &bytes[..10])
    );
    let corrupt = get(&registry, &path, &["Range: bytes=39999-40001"]).body;
    assert_eq!(corrupt, [bytes[39_999], !bytes[40_000], bytes[40_001]]);
    let corrupt = get(&registry, &path, &[]).body;
    assert_eq!(corrupt.iter().zip(&bytes).filter(|(sent, stored)| sent != stored).count(), 1);
}

#[test]
fn bodies_can_end_early() {
    let (registry, path, bytes) = with_blob();
    registry.fault(Rule::new(&path, Fault::ShortBody(777)).times(1));
    registry.fault(Rule::new(&path, Fault::Reset).skip(1).times(1));
    registry.fault(Rule::new(&path, Fault::ResetAfter(5000)).skip(2).times(1));
    let short = get(&registry, &path, &[]);
    assert_eq!((short.header("Content-Length"), short.error), (Some("100000"), None));
    assert_eq!(short.body, bytes[..777]);
    let reset = get(&registry, &path, &[]);
    assert_eq!((reset.status, reset.error), (0, Some(ErrorKind::ConnectionReset)));
    let reset = get(&registry, &path, &[]);
    assert_eq!(reset.error, Some(ErrorKind::ConnectionReset));
    assert!(reset.body.len() <= 5000);
    let statuses: Vec<_> = registry.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 0, 200]);
}

#[test]
fn answers_can_be_slow() {
    let (registry, path, bytes) = with_blob();
    let timed = |fault| {
        registry.clear_faults();
        registry.fault(Rule::new(&path, fault));
        let start = Instant::now();
        assert_eq!(get(&registry, &path, &[]).body, bytes);
        start.elapsed()
    };
    let pause = Duration::from_millis(80);
    assert!(timed(Fault::StallHeaders(pause)) >= pause);
    assert!(timed(Fault::StallBody { after: 50_000, pause }) >= pause);
    assert!(timed(Fault::Drip(400_000)) >= Duration::from_millis(250));
    registry.clear_faults();
    registry.set_distance(Duration::from_millis(30), 8_000_000);
    let start = Instant::now();
    get(&registry, &path, &[]);
    assert!(start.elapsed() >= Duration::from_millis(60 + 100 - 10)); // two round trips, 100 ms on the line
}

#[test]
fn basic_authentication_wants_its_password() {
    let (registry, path, _) = with_blob();
    registry.set_auth(Auth::Basic { user: "u".into(), password: "p".into() });
    let refused = get(&registry, &path, &[]);
    assert_eq!((refused.status, refused.header("WWW-Authenticate")), (401, Some("Basic realm=\"testkit\"")));
    assert_eq!(get(&registry, &path, &["Authorization: Basic dTpx"]).status, 401);
    assert_eq!(get(&registry, &path, &["Authorization: Basic dTpw"]).status, 200);
    assert_eq!(registry.requests()[2].authorization(), Some("Basic dTpw"));
}

#[test]
fn bearer_tokens_are_granted_scoped_and_expire() {
    let (registry, path, _) = with_blob();
    let credentials = Some(("u".to_owned(), "p".to_owned()));
    registry.set_auth(Auth::Bearer { credentials, ttl: Duration::from_secs(60) });
    let challenge = get(&registry, &path, &[]);
    assert_eq!(
        challenge.header("WWW-Authenticate").unwrap(),
        format!(
            "Bearer realm=\"http://{}/token\",service=\"testkit\",scope=\"repository:some/repo:pull\"",
            registry.addr()
        )
    );
    let token_path = "/token?service=testkit&scope=repository%3Asome/repo%3Apull";
    assert_eq!(get(&registry, token_path, &[]).status, 401);
    let granted = get(&registry, token_path, &["Authorization: Basic dTpw"]).json();
    assert_eq!(granted["expires_in"], 60);
    let bearer = format!("Authorization: Bearer {}", granted["token"].as_str().unwrap());
    assert_eq!(get(&registry, &path, &[&bearer]).status, 200);
    let other = get(&registry, &path.replace("some", "other"), &[&bearer]);
    assert!(other.header("WWW-Authenticate").unwrap().ends_with(",error=\"insufficient_scope\""));

    registry.revoke_tokens();
    let revoked = get(&registry, &path, &[&bearer]);
    assert!(revoked.header("WWW-Authenticate").unwrap().ends_with(",error=\"invalid_token\""));

    let form = "grant_type=refresh_token&refresh_token=p&service=testkit&scope=repository:some/repo:pull";
    let granted = send(registry.addr(), "POST /token", &[], form).json();
    let bearer = format!("Authorization: Bearer {}", granted["access_token"].as_str().unwrap());
    assert_eq!(get(&registry, &path, &[&bearer]).status, 200);

    registry.set_auth(Auth::Bearer { credentials: None, ttl: Duration::ZERO });
    let token = get(&registry, token_path, &[]).json();
    let bearer = format!("Authorization: Bearer {}", token["token"].as_str().unwrap());
    assert_eq!(get(&registry, &path, &[&bearer]).status, 401, "expired at birth");
}

#[test]
fn redirected_urls_expire() {
    let (registry, path, bytes) = with_blob();
    registry.set_redirect(Some(Redirect { ttl: Duration::from_secs(60), uses: 2 }));
    let redirected = get(&registry, &path, &["Range: bytes=0-9"]);
    assert_eq!(redirected.status, 307);
    let url = redirected.header("Location").unwrap().strip_prefix("http://").unwrap();
    let (host, path_and_query) = url.split_once('/').unwrap();
    let cdn: SocketAddr = host.parse().unwrap();
    assert_ne!(cdn, registry.addr());
    let fetch = || send(cdn, &format!("GET /{path_and_query}"), &["Range: bytes=0-9"], "");
    assert_eq!(fetch().body, bytes[..10]);
    assert_eq!(fetch().status, 206);
    assert_eq!(fetch().status, 403, "used twice");
    let last = registry.requests().pop().unwrap();
    assert_eq!((last.listener, last.query.as_str()), (Listener::Cdn, "signature=0"));

    let again = get(&registry, &path, &[]);
    registry.expire_redirects();
    let url = again.header("Location").unwrap().strip_prefix("http://").unwrap();
    let (_, path_and_query) = url.split_once('/').unwrap();
    assert_eq!(send(cdn, &format!("GET /{path_and_query}"), &[], "").status, 403, "expired");
}

#[test]
fn tests_wait_for_requests_without_sleeping() {
    let (registry, path, _) = with_blob();
    assert!(!registry.wait_for(Duration::from_millis(1), |requests| !requests.is_empty()));
    std::thread::scope(|scope| {
        scope.spawn(|| get(&registry, &path, &[]));
        assert!(registry.wait_for(Duration::from_secs(10), |requests| requests.len() == 1));
    });
    registry.clear_requests();
    assert!(registry.requests().is_empty());
}

#[test]
fn a_dropped_registry_is_gone_even_while_stalling() {
    let (registry, path, _) = with_blob();
    registry.fault(Rule::new(&path, Fault::StallHeaders(Duration::from_secs(3600))));
    let addr = registry.addr();
    std::thread::scope(|scope| {
        let request = format!("GET {path}");
        let stalled = scope.spawn(move || send(addr, &request, &[], "").status);
        assert!(registry.wait_for(Duration::from_secs(10), |requests| requests.len() == 1));
        drop(registry);
        assert_eq!(stalled.join().unwrap(), 0);
    });
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn tokens_and_urls_expire_at_a_request_of_the_script() {
    let (registry, path, bytes) = with_blob();
    registry.set_auth(Auth::Bearer { credentials: None, ttl: Duration::from_secs(60) });
    let grant = || get(&registry, "/token?service=testkit&scope=repository%3Asome/repo%3Apull", &[]).json();
    let bearer = format!("Authorization: Bearer {}", grant()["token"].as_str().unwrap());
    registry.fault(Rule::new("/v2/some/repo/blobs/", Fault::ExpireTokens).skip(2).times(1));
    let statuses: Vec<_> = (0..4).map(|_| get(&registry, &path, &[&bearer]).status).collect();
    assert_eq!(statuses, [200, 200, 401, 401]);
    let bearer = format!("Authorization: Bearer {}", grant()["token"].as_str().unwrap());
    assert_eq!(get(&registry, &path, &[&bearer]).status, 200, "a new token is good");

    registry.set_auth(Auth::Anonymous);
    registry.set_redirect(Some(Redirect { ttl: Duration::from_secs(60), uses: 0 }));
    registry.fault(Rule::new("/cdn/", Fault::ExpireRedirects).skip(1).times(1));
    let fetch = |reply: &Reply| {
        let url = reply.header("Location").unwrap().strip_prefix("http://").unwrap();
        let (host, path) = url.split_once('/').unwrap();
        send(host.parse().unwrap(), &format!("GET /{path}"), &[], "")
    };
    let redirected = get(&registry, &path, &[]);
    assert_eq!(fetch(&redirected).body, bytes);
    assert_eq!(fetch(&redirected).status, 403);
    assert_eq!(fetch(&get(&registry, &path, &[])).body, bytes);
}

#[test]
fn platforms_share_an_index_and_tocs_have_an_image_of_their_own() {
    let registry = Registry::start();
    let tar = tarball::write(&Tree::new().with("f", Entry::file("x")));
    let blob = crate::estargz::build(&tar, &crate::estargz::Options::external());
    let image = |architecture: &str| {
        let options = image::Options { architecture: architecture.to_owned(), ..Default::default() };
        Image::new(vec![Layer::estargz(&blob)], &options)
    };
    let (one, two) = (image("amd64"), image("arm64"));
    registry.push_platforms("a", "v1", &[&one, &two]);
    let index = get(&registry, "/v2/a/manifests/v1", &[]).json();
    for (number, image) in [one, two].iter().enumerate() {
        let descriptor = &index["manifests"][number];
        assert_eq!(descriptor["digest"], image.manifest.digest.to_string());
        assert_eq!(descriptor["platform"], image.platform);
        let path = format!("/v2/a/manifests/{}", image.manifest.digest);
        assert_eq!(get(&registry, &path, &[]).body, image.manifest.bytes);
    }

    registry.push_toc_image("a", "v1", &[&blob]);
    let manifest = get(&registry, "/v2/a/manifests/v1-esgztoc", &[]).json();
    let layer = &manifest["layers"][0];
    assert_eq!(layer["annotations"]["containerd.io/snapshot/stargz/layer.digest"], blob.digest.to_string());
    let toc = get(&registry, &format!("/v2/a/blobs/{}", layer["digest"].as_str().unwrap()), &[]).body;
    assert_eq!(tarball::parse(&crate::estargz::gunzip(&toc))[0].member.content, blob.toc_json);
}

#[test]
fn what_goes_on_at_the_same_time_is_counted() {
    let (registry, path, _) = with_blob();
    registry.fault(Rule::new(&path, Fault::StallHeaders(Duration::from_secs(1))));
    let addr = registry.addr();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| send(addr, &format!("GET {path}"), &[], ""));
        }
    });
    assert_eq!((registry.most_connections(), registry.most_requests()), (3, 3));
}
