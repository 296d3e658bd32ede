//! Challenges, tokens and passwords, and that they go nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::{Client, Credential, HostOptions, Keychain, KeychainError, Kind, Mirror, Options, Reference};

use crate::server::{Reply, Request, Server};
use crate::{blob_with, client, content, fast, image_on, read};

/// Knows one host, or is broken.
#[derive(Debug)]
struct Known(Option<(String, Credential)>);

#[async_trait]
impl Keychain for Known {
    fn name(&self) -> String {
        "the test keychain".into()
    }

    async fn credentials(&self, host: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
        match &self.0 {
            None => Err(KeychainError("the test keychain is locked".into())),
            Some((known, credential)) => {
                Ok((known == host).then(|| credential.clone()).into_iter().collect())
            }
        }
    }
}

fn password() -> Credential {
    Credential::Password { user: "user".into(), secret: "topsecret".into() }
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode("user:topsecret"))
}

fn client_for(host: &str, credential: Credential) -> Client {
    Client::new(fast(), vec![Arc::new(Known(Some((host.to_owned(), credential))))]).unwrap()
}

/// A registry with a token server in it: tokens are `t1`, `t2`, …, and only the newest is valid.
struct Tokens {
    server: Server,
    issued: Arc<AtomicUsize>,
}

impl Tokens {
    async fn start(expires_in: f64, accept: fn(&Request) -> bool) -> Tokens {
        let issued = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&issued);
        let server = Server::start(move |request| {
            if request.target.starts_with("/token") {
                if !accept(request) {
                    return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
                }
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                return Reply::new(
                    200,
                    format!(r#"{{"access_token":"t{number}","expires_in":{expires_in}}}"#),
                )
                .delay(Duration::from_millis(20));
            }
            if request.header("authorization") == format!("Bearer t{}", counter.load(Ordering::SeqCst)) {
                return Reply::blob(request, &content(1000));
            }
            let realm = format!("http://{}/token", request.header("host"));
            Reply::new(401, "").header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="s p",scope="repository:a/b:pull""#),
            )
        })
        .await;
        Tokens { server, issued }
    }

    fn token_requests(&self) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.target.starts_with("/token")).collect()
    }
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once_and_kept() {
    let tokens = Tokens::start(300.0, |_| true).await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(read(&blob_with(&client, &tokens.server), 0..10).await.unwrap(), content(10));
    }
    let requests = tokens.token_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].target, "/token?service=s+p&scope=repository%3Aa%2Fb%3Apull&client_id=stargz");
    assert_eq!(requests[0].header("authorization"), "");
    assert_eq!(tokens.server.count(), 5);
}

#[tokio::test]
async fn passwords_go_to_the_token_server_only() {
    let tokens = Tokens::start(300.0, |request| request.header("authorization") == basic()).await;
    let client = client_for(&tokens.server.host(), password());
    read(&blob_with(&client, &tokens.server), 0..10).await.unwrap();
    assert!(tokens.token_requests()[0].target.contains("account=user"));
    let others = tokens.server.requests();
    assert!(
        others
            .iter()
            .filter(|r| !r.target.starts_with("/token"))
            .all(|r| r.header("authorization") != basic())
    );
}

#[tokio::test]
async fn identity_tokens_are_exchanged_by_oauth2() {
    let tokens = Tokens::start(300.0, |request| request.method == "POST").await;
    let client = client_for(&tokens.server.host(), Credential::IdentityToken("refresh&me".into()));
    read(&blob_with(&client, &tokens.server), 0..10).await.unwrap();
    let request = &tokens.token_requests()[0];
    assert_eq!(
        request.body,
        "grant_type=refresh_token&client_id=stargz&service=s+p&scope=repository%3Aa%2Fb%3Apull&refresh_token=refresh%26me"
    );
    assert_eq!((request.target.as_str(), request.header("authorization")), ("/token", ""));
}

/// On a slow line a token can end on its way: that is no fault of the password.
#[tokio::test]
async fn tokens_that_end_before_they_arrive_are_fetched_again() {
    let (issued, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        if request.target.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            return Reply::new(200, format!(r#"{{"token":"t{number}","expires_in":0.01}}"#));
        }
        // The first one is asked for without a token.
        if refused.fetch_add(1, Ordering::SeqCst) > 3 {
            return Reply::blob(request, &content(1000));
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host"));
        Reply::new(401, "").header("WWW-Authenticate", realm).delay(Duration::from_millis(50))
    })
    .await;
    let client = client_for(&server.host(), password());
    assert_eq!(read(&blob_with(&client, &server), 0..10).await.unwrap(), content(10));
}

#[tokio::test]
async fn many_requests_share_one_token_fetch() {
    let tokens = Tokens::start(300.0, |_| true).await;
    let client = client();
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let blob = blob_with(&client, &tokens.server);
            tokio::spawn(async move { read(&blob, 0..10).await })
        })
        .collect();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap(), content(10));
    }
    assert_eq!(tokens.issued.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failed_token_fetch_is_shared_as_well() {
    let tokens = Tokens::start(300.0, |_| false).await;
    let client = client();
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let blob = blob_with(&client, &tokens.server);
            tokio::spawn(async move { read(&blob, 0..10).await })
        })
        .collect();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap_err().kind(), Kind::Unauthorized);
    }
    assert!(tokens.token_requests().len() < 10, "{} token requests", tokens.token_requests().len());
}

#[tokio::test]
async fn a_cancelled_token_fetch_does_not_cancel_others() {
    let tokens = Tokens::start(300.0, |_| true).await;
    let client = client();
    let blob = blob_with(&client, &tokens.server);
    let leader = tokio::spawn({
        let blob = blob.clone();
        async move { read(&blob, 0..10).await }
    });
    while tokens.token_requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let follower = tokio::spawn(async move { read(&blob, 0..10).await });
    tokio::time::sleep(Duration::from_millis(3)).await;
    leader.abort();
    assert_eq!(follower.await.unwrap().unwrap(), content(10));
}

#[tokio::test]
async fn tokens_are_renewed_ahead_of_their_end() {
    let tokens = Tokens::start(2.0, |_| true).await;
    let client = client();
    let blob = blob_with(&client, &tokens.server);
    read(&blob, 0..10).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    read(&blob, 0..10).await.unwrap();
    assert_eq!(tokens.issued.load(Ordering::SeqCst), 2);
    let refused =
        tokens.server.requests().iter().filter(|r| r.header("authorization") == "Bearer t1").count();
    assert_eq!(refused, 1, "the ended token is not sent again");
}

#[tokio::test]
async fn a_token_that_is_refused_midway_is_renewed_once() {
    let tokens = Tokens::start(300.0, |_| true).await;
    let client = client();
    let blob = blob_with(&client, &tokens.server);
    read(&blob, 0..10).await.unwrap();
    tokens.issued.fetch_add(1, Ordering::SeqCst);
    assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    assert_eq!(tokens.token_requests().len(), 2);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_the_end() {
    let server = Server::start(|request| match request.target.starts_with("/token") {
        true => Reply::new(200, format!(r#"{{"token":"topsecret{}"}}"#, request.number)),
        false => Reply::new(401, "")
            .header("WWW-Authenticate", format!(r#"Bearer realm="http://{}/token""#, request.header("host"))),
    })
    .await;
    let error = client().manifest(&image_on(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let text = error.to_string();
    assert!(text.contains("without credentials") && text.contains(&server.host()), "{text}");
    assert!(!text.contains("topsecret"), "{text}");
    assert_eq!(server.count(), 3, "no endless renewal: {:?}", server.summary());
    assert!(
        server.requests()[1].target.contains("scope=repository%3Aa%2Fb%3Apull"),
        "a missing scope is filled in"
    );
}

#[tokio::test]
async fn an_expired_grant_may_be_refused_by_403() {
    let valid = Arc::new(AtomicUsize::new(1));
    let current = Arc::clone(&valid);
    let server = Server::start(move |request| {
        if request.target.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"t{}"}}"#, current.load(Ordering::SeqCst)));
        }
        match request.header("authorization") {
            "" => Reply::new(401, "").header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{}/token""#, request.header("host")),
            ),
            token if token == format!("Bearer t{}", current.load(Ordering::SeqCst)) => {
                Reply::blob(request, &content(100))
            }
            _ => Reply::new(403, "your token has expired"),
        }
    })
    .await;
    let client = client();
    let blob = blob_with(&client, &server);
    read(&blob, 0..10).await.unwrap();
    valid.fetch_add(1, Ordering::SeqCst);
    read(&blob, 0..10).await.unwrap();
}

#[tokio::test]
async fn basic_credentials_are_sent_once_asked_for() {
    let server = Server::start(|request| match request.header("authorization") == basic() {
        true => Reply::blob(request, &content(100)),
        false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    })
    .await;
    let client = client_for(&server.host(), password());
    read(&blob_with(&client, &server), 0..10).await.unwrap();
    read(&blob_with(&client, &server), 0..10).await.unwrap();
    assert_eq!(server.count(), 3, "asked without once, then with");

    let wrong = Credential::Password { user: "user".into(), secret: "wrongsecret".into() };
    let error = client_for(&server.host(), wrong).manifest(&image_on(&server)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let text = error.to_string();
    assert!(
        text.contains(&format!("with the credentials for {}", server.host()))
            && !text.contains("wrongsecret"),
        "{text}"
    );

    let none = crate::client().manifest(&image_on(&server)).await.unwrap_err();
    assert_eq!(none.kind(), Kind::Unauthorized);
    assert!(none.to_string().contains("run `docker login"), "{none}");

    let token = client_for(&server.host(), Credential::IdentityToken("topsecret".into()));
    let error = token.manifest(&image_on(&server)).await.unwrap_err();
    assert!(
        error.to_string().contains("identity token") && !error.to_string().contains("topsecret"),
        "{error}"
    );
}

#[tokio::test]
async fn a_keychain_that_fails_does_not_hide_the_next_one() {
    let server = Server::start(|request| match request.header("authorization") == basic() {
        true => Reply::blob(request, &content(100)),
        false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    })
    .await;
    let good: Arc<dyn Keychain> = Arc::new(Known(Some((server.host(), password()))));
    let broken: Arc<dyn Keychain> = Arc::new(Known(None));
    let client = Client::new(fast(), vec![Arc::clone(&broken), good]).unwrap();
    read(&blob_with(&client, &server), 0..10).await.unwrap();
    let error = Client::new(fast(), vec![broken]).unwrap().manifest(&image_on(&server)).await.unwrap_err();
    assert!(error.to_string().contains("the test keychain is locked"), "{error}");
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_to_other_hosts() {
    let store = Server::start(|request| Reply::blob(request, &content(100))).await;
    let target = store.host_as("localhost");
    let server = Server::start(move |request| match request.header("authorization") == basic() {
        true if request.target == "/here" => Reply::redirect(307, format!("http://{target}/there")),
        true => Reply::redirect(307, "/here"),
        false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    })
    .await;
    let client = client_for(&server.host(), password());
    let blob = blob_with(&client, &server);
    for _ in 0..2 {
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    }
    assert!(store.requests().iter().all(|request| request.header("authorization").is_empty()));
    assert_eq!((server.count(), store.count()), (3, 2));
}

#[tokio::test]
async fn a_store_cannot_ask_for_credentials() {
    let store = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")).await;
    let target = store.host_as("localhost");
    let server = Server::start(move |_| Reply::redirect(307, format!("http://{target}/there"))).await;
    let client = client_for(&server.host(), password());
    assert_eq!(blob_with(&client, &server).read(0..10).await.unwrap_err().kind(), Kind::Unauthorized);
    assert!(store.requests().iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test]
async fn mirrors_get_no_credentials_of_the_host_they_mirror() {
    let demand = |_: &Request| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x");
    let (mirror, origin) = (Server::start(demand).await, Server::start(demand).await);
    let mirrors = vec![Mirror { host: mirror.host(), ..Mirror::default() }];
    let options = Options { hosts: [(origin.host(), HostOptions { mirrors })].into(), ..fast() };
    let keychain = Arc::new(Known(Some((origin.host(), password()))));
    let client = Client::new(options, vec![keychain]).unwrap();
    client.manifest(&image_on(&origin)).await.unwrap_err();
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_empty()));
    assert_eq!(origin.requests()[1].header("authorization"), basic());
}

#[tokio::test]
async fn hostile_token_servers_are_refused() {
    let challenges = [
        ("Bearer", "no usable address"),
        ("Bearer realm=\"/token\"", "no usable address"),
        ("Bearer realm=\"ftp://a.test/\"", "ftp address"),
    ];
    for (challenge, reason) in challenges {
        let server = Server::start(move |_| Reply::new(401, "").header("WWW-Authenticate", challenge)).await;
        let error = client().manifest(&image_on(&server)).await.unwrap_err();
        assert!(error.kind() == Kind::Protocol && error.to_string().contains(reason), "{error}");
    }
    let answers = [
        ("topsecret".to_owned(), Kind::Protocol, "not a JSON"),
        (r#"{"token":""}"#.to_owned(), Kind::Protocol, "no token"),
        (r#"{"token":"topsecret\r\nX: y"}"#.to_owned(), Kind::Protocol, "does not fit into a header"),
        (format!(r#"{{"token":"{}"}}"#, "x".repeat(300_000)), Kind::TooLarge, "larger than"),
    ];
    for (answer, kind, reason) in answers {
        let server = Server::start(move |request| match request.target.starts_with("/token") {
            true => Reply::new(200, answer.clone()),
            false => Reply::new(401, "").header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{}/token""#, request.header("host")),
            ),
        })
        .await;
        let error = client().manifest(&image_on(&server)).await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(reason), "{error}");
        assert!(!error.to_string().contains("topsecret"), "{error}");
    }
}

#[tokio::test]
async fn a_busy_token_server_is_asked_again() {
    let server = Server::start(|request| match (request.target.starts_with("/token"), request.number) {
        (true, ..3) => Reply::new(503, ""),
        (true, _) => Reply::new(200, r#"{"token":"t"}"#),
        (false, _) if request.header("authorization") == "Bearer t" => Reply::blob(request, &content(100)),
        (false, _) => Reply::new(401, "")
            .header("WWW-Authenticate", format!(r#"Bearer realm="http://{}/token""#, request.header("host"))),
    })
    .await;
    read(&blob_with(&client(), &server), 0..10).await.unwrap();
}
