//! Several credentials for one repository, refusals, and keychains that misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::{Client, Credential, Keychain, KeychainError, Kind, Reference};

use crate::server::{Reply, Request, Server};
use crate::{blob_with, content, fast, image_on, read};

/// Gives what it is told to, for every host.
#[derive(Debug, Default)]
struct Ring(Mutex<Vec<Credential>>);

#[async_trait]
impl Keychain for Ring {
    fn name(&self) -> String {
        "the ring".into()
    }

    async fn credentials(&self, _: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// Never answers.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl Keychain for Hanging {
    fn name(&self) -> String {
        "the hanging one".into()
    }

    async fn credentials(&self, _: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
        std::future::pending().await
    }
}

fn ring(credentials: &[(&str, &str)]) -> Arc<Ring> {
    Arc::new(Ring(Mutex::new(credentials.iter().map(|(u, p)| Credential::password(*u, *p)).collect())))
}

fn client(keychain: Arc<Ring>) -> Client {
    Client::new(fast(), vec![keychain]).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn authorizations(server: &Server) -> Vec<String> {
    server.requests().iter().map(|r| r.header("authorization").to_owned()).filter(|a| !a.is_empty()).collect()
}

/// Wants the password of `user`; knows `stranger`, who may not pull.
fn wants_basic(request: &Request) -> Reply {
    match request.header("authorization") {
        right if right == basic("user", "right") => Reply::blob(request, &content(1000)),
        stranger if stranger == basic("stranger", "right") => {
            Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#)
        }
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    }
}

/// The same by tokens, which are the name of the user.
fn wants_tokens(request: &Request) -> Reply {
    let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host"));
    if request.target.starts_with("/token") {
        return match request.header("authorization") {
            right if right == basic("user", "right") => Reply::new(200, r#"{"token":"user"}"#),
            right if right == basic("stranger", "right") => Reply::new(200, r#"{"token":"stranger"}"#),
            "" => Reply::new(200, r#"{"token":"nobody"}"#),
            _ => Reply::new(401, ""),
        };
    }
    match request.header("authorization") {
        "Bearer user" => Reply::blob(request, &content(1000)),
        "Bearer stranger" => Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#),
        _ => Reply::new(401, "").header("WWW-Authenticate", realm),
    }
}

#[tokio::test]
async fn all_candidates_are_tried_in_order() {
    for script in [wants_basic, wants_tokens] {
        let server = Server::start(script).await;
        let ring = ring(&[("user", "wrong"), ("stranger", "right"), ("user", "right"), ("later", "x")]);
        let client = client(ring);
        for _ in 0..3 {
            assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
        }
        let sent = authorizations(&server);
        let times = |user: &str, password: &str| sent.iter().filter(|a| **a == basic(user, password)).count();
        assert_eq!(
            (times("user", "wrong"), times("stranger", "right"), times("later", "x")),
            (1, 1, 0),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_per_burst() {
    for script in [wants_basic, wants_tokens] {
        let server = Server::start(script).await;
        let ring = ring(&[("user", "topsecret")]);
        let client = client(Arc::clone(&ring));
        let reads: Vec<_> = (0..20)
            .map(|_| {
                let blob = blob_with(&client, &server);
                tokio::spawn(async move { read(&blob, 0..10).await })
            })
            .collect();
        for read in reads {
            let error = read.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorized);
            assert!(!format!("{error} {error:?}").contains("topsecret"));
        }
        let wrong = authorizations(&server).into_iter().filter(|a| *a == basic("user", "topsecret")).count();
        assert_eq!(wrong, 1);
        let error = read(&blob_with(&client, &server), 0..10).await.unwrap_err().to_string();
        assert!(error.contains("from the ring; check that they are valid"), "{error}");
        assert!(error.contains("not tried again for"), "{error}");
        // A password that was corrected is tried at once.
        *ring.0.lock().unwrap() = vec![Credential::password("user", "right")];
        assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
    }
}

#[tokio::test]
async fn a_password_that_is_rotated_is_taken_up_while_in_use() {
    let valid = Arc::new(Mutex::new("first".to_owned()));
    let current = Arc::clone(&valid);
    let server = Server::start(move |request| {
        match request.header("authorization") == basic("user", &current.lock().unwrap()) {
            true => Reply::blob(request, &content(1000)),
            false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        }
    })
    .await;
    let ring = ring(&[("user", "first")]);
    let blob = blob_with(&client(Arc::clone(&ring)), &server);
    read(&blob, 0..10).await.unwrap();
    *valid.lock().unwrap() = "second".into();
    *ring.0.lock().unwrap() = vec![Credential::password("user", "second")];
    assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
}

#[tokio::test]
async fn forbidden_is_told_from_unauthorized() {
    for script in [wants_basic, wants_tokens] {
        let server = Server::start(script).await;
        let client = client(ring(&[("stranger", "right")]));
        let error = read(&blob_with(&client, &server), 0..10).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("not yours") && text.contains("check that they are valid and allow to pull"),
            "{text}"
        );
        let again = read(&blob_with(&client, &server), 0..10).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Forbidden, "{again}");
    }
}

#[tokio::test]
async fn public_content_is_read_despite_outdated_credentials() {
    let server = Server::start(|request| {
        if request.target.starts_with("/token") {
            return match request.header("authorization") {
                "" => Reply::new(200, r#"{"token":"nobody"}"#),
                _ => Reply::new(401, ""),
            };
        }
        match request.header("authorization") {
            "Bearer nobody" => Reply::blob(request, &content(100)),
            _ => Reply::new(401, "").header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{}/token""#, request.header("host")),
            ),
        }
    })
    .await;
    let client = client(ring(&[("user", "old")]));
    assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
}

#[tokio::test]
async fn registry_tokens_are_sent_as_they_are() {
    let server = Server::start(wants_tokens).await;
    let ring = Arc::new(Ring(Mutex::new(vec![Credential::RegistryToken("user".into())])));
    assert_eq!(read(&blob_with(&client(ring), &server), 0..10).await.unwrap(), content(10));
    assert!(server.requests().iter().all(|request| !request.target.starts_with("/token")));
}

#[tokio::test]
async fn a_hanging_keychain_holds_up_little() {
    let server = Server::start(wants_basic).await;
    let keychains: Vec<Arc<dyn Keychain>> = vec![Arc::new(Hanging), ring(&[("user", "right")])];
    let client = Client::new(fast(), keychains).unwrap();
    let started = Instant::now();
    assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_token_server_that_is_down_condemns_nobody() {
    let failures = Arc::new(AtomicUsize::new(100));
    let left = Arc::clone(&failures);
    let server = Server::start(move |request| {
        let fails = request.target.starts_with("/token") && left.load(Ordering::Relaxed) > 0;
        if fails { Reply::new(503, "") } else { wants_tokens(request) }
    })
    .await;
    let client = client(ring(&[("user", "right")]));
    assert_eq!(client.manifest(&image_on(&server)).await.unwrap_err().kind(), Kind::Unavailable);
    failures.store(0, Ordering::Relaxed);
    assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
}

/// Collects what is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let store = Server::start(|request| Reply::blob(request, &content(1000))).await;
    let target = store.host_as("localhost");
    // What a callsite remembers of who listens may come from another thread's test: then it is told anew.
    for _ in 0..5 {
        for script in [wants_basic, wants_tokens] {
            let target = target.clone();
            let server = Server::start(move |request| match script(request) {
                _ if request.header("authorization") == basic("user", "right")
                    || request.header("authorization") == "Bearer user" =>
                {
                    match request.target.starts_with("/token") {
                        true => script(request),
                        false => Reply::redirect(307, format!("http://{target}/x?sig=topsecret1")),
                    }
                }
                reply => reply,
            })
            .await;
            let client = client(ring(&[("user", "topsecret2"), ("user", "right")]));
            read(&blob_with(&client, &server), 0..10).await.unwrap();
            let hopeless = self::client(ring(&[("user", "topsecret2")]));
            read(&blob_with(&hopeless, &server), 0..10).await.unwrap_err();
            tracing::info!("{client:?}");
        }
        if log.0.lock().unwrap().windows(14).any(|said| said == b"attempt failed") {
            break;
        }
        tracing::callsite::rebuild_interest_cache();
    }
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("attempt failed"), "the log is seen: {text}");
    for secret in ["topsecret", &STANDARD.encode("user:topsecret2"), &STANDARD.encode("user:right")] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
