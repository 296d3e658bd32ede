//! Networks and hosts that fail: retries, waits, deadlines, bodies that end early or never.

use std::time::{Duration, Instant};

use registry::{Client, Kind, Mirror, Options, Reference, Retry};

use crate::server::{Reply, Server};
use crate::{blob_on, blob_with, content, fast, image_on, impatient, read};

/// A blob on a server that stalls.
fn impatient_blob_on(server: &Server) -> registry::Blob {
    blob_with(&Client::new(impatient(), Vec::new()).unwrap(), server)
}

#[tokio::test]
async fn what_may_succeed_later_is_tried_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = Server::start(move |request| match request.number {
            0 | 1 => Reply::new(status, ""),
            _ => Reply::blob(request, &content(100)),
        })
        .await;
        assert_eq!(read(&blob_on(&server), 5..10).await.unwrap(), content(100)[5..10], "{status}");
        assert_eq!(server.count(), 3);
    }
}

#[tokio::test]
async fn what_will_not_succeed_is_not_tried_again() {
    let rows = [
        (400, Kind::Protocol),
        (401, Kind::Unauthorized),
        (403, Kind::Forbidden),
        (404, Kind::NotFound),
        (410, Kind::NotFound),
        (416, Kind::RangeNotSatisfiable),
        (418, Kind::Protocol),
        (501, Kind::Protocol),
    ];
    for (status, kind) in rows {
        let server = Server::start(move |_| {
            Reply::new(status, r#"{"errors":[{"code":"X","message":"the moon is full"}]}"#)
        })
        .await;
        let error = blob_on(&server).read(0..1).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        let text = error.to_string();
        let url = format!("GET http://{}/v2/a/b/blobs/sha256:", server.host());
        assert!(text.starts_with(&url) && text.contains(&status.to_string()), "{text}");
        assert!(text.contains("the moon is full"), "{text}");
        assert_eq!(server.count(), 1, "{status}");
    }
}

#[tokio::test]
async fn retries_end_and_are_counted_in_the_error() {
    let server = Server::start(|_| Reply::new(503, "")).await;
    let error = blob_on(&server).read(0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("(3 attempts)"), "{error}");
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let server = Server::start(|request| match request.number {
        0 => Reply::new(429, "").header("Retry-After", "1"),
        _ => Reply::blob(request, &content(100)),
    })
    .await;
    let started = Instant::now();
    read(&blob_on(&server), 0..1).await.unwrap();
    let waited = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&waited), "waited {waited:?}");
}

#[tokio::test]
async fn retry_after_is_bounded_by_the_longest_wait_and_by_the_budget() {
    let server = Server::start(|request| match request.number {
        0 => Reply::new(503, "").header("Retry-After", "86400"),
        _ => Reply::blob(request, &content(100)),
    })
    .await;
    let retry = Retry { max_wait: Duration::from_millis(100), ..fast().retry };
    let client = Client::new(Options { retry, ..fast() }, Vec::new()).unwrap();
    read(&blob_with(&client, &server), 0..1).await.unwrap();

    let server = Server::start(|_| Reply::new(503, "").header("Retry-After", "86400")).await;
    let retry = Retry { max_wait: Duration::from_secs(3600), ..fast().retry };
    let client = Client::new(Options { retry, ..fast() }, Vec::new()).unwrap();
    let started = Instant::now();
    assert_eq!(blob_with(&client, &server).read(0..1).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(5), "does not wait for what is out of the budget");
}

#[tokio::test]
async fn broken_connections_are_tried_again() {
    let server = Server::start(|request| match request.number {
        0 => Reply::hangup(),
        _ => Reply::blob(request, &content(100)),
    })
    .await;
    read(&blob_on(&server), 0..1).await.unwrap();

    let server = Server::start(|_| Reply::hangup()).await;
    let error = blob_on(&server).read(0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error}");
    assert!(error.to_string().contains("(3 attempts)"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_said_plainly() {
    let host = Server::start(|_| Reply::new(200, "")).await.host();
    let reference = Reference::parse(&format!("{host}/a:1")).unwrap();
    // The listener ends with its task, some moments after the server was dropped.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = crate::client().manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    let text = error.to_string();
    assert!(text.contains("cannot connect") && text.contains("refused") && text.contains(&host), "{text}");
}

#[tokio::test]
async fn a_silent_host_times_out() {
    let server = Server::start(|_| Reply::new(200, "").delay(Duration::from_secs(30))).await;
    let started = Instant::now();
    let error = impatient_blob_on(&server).read(0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains("no answer within 400"), "{error}");
    assert_eq!(server.count(), 3);
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn the_budget_ends_everything() {
    let server = Server::start(|_| Reply::new(200, "").delay(Duration::from_secs(30))).await;
    let retry = Retry { max_retries: 1000, ..fast().retry };
    let client =
        Client::new(Options { retry, fetch_timeout: Duration::from_millis(600), ..impatient() }, Vec::new())
            .unwrap();
    let started = Instant::now();
    assert_eq!(blob_with(&client, &server).read(0..1).await.unwrap_err().kind(), Kind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_that_stops_is_an_error_at_the_reader() {
    let server = Server::start(|request| Reply::blob(request, &content(100_000)).stall(50_000)).await;
    let blob = impatient_blob_on(&server);
    let mut body = blob.read(0..100_000).await.unwrap();
    let mut received = 0;
    let error = loop {
        match body.next().await {
            Ok(piece) => received += piece.expect("the body is not over").len(),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), received), (Kind::Timeout, 50_000));
    assert!(
        error.to_string().contains("stalled") && error.to_string().contains("50000 of 100000"),
        "{error}"
    );
    assert_eq!(body.next().await.unwrap_err().kind(), Kind::Timeout, "the error stays");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_body_that_ends_early_is_short() {
    for chunked in [false, true] {
        let server = Server::start(move |_| {
            let reply = Reply::part(0, 100, 100, &content(if chunked { 60 } else { 100 }));
            if chunked { reply.chunked() } else { reply.cut(60) }
        })
        .await;
        let error = read(&blob_on(&server), 0..100).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ShortBody, "{error}");
        assert!(error.to_string().contains("60 of 100 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_dripping_body_ends_with_the_budget() {
    let server =
        Server::start(|_| Reply::part(0, 100, 100, &content(100)).drip(Duration::from_millis(50))).await;
    let client =
        Client::new(Options { fetch_timeout: Duration::from_millis(500), ..fast() }, Vec::new()).unwrap();
    let started = Instant::now();
    let error = read(&blob_with(&client, &server), 0..100).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_slow_but_steady_body_is_not_cut_by_the_request_timeout() {
    let server =
        Server::start(|_| Reply::part(0, 20, 20, &content(20)).drip(Duration::from_millis(50))).await;
    assert_eq!(read(&impatient_blob_on(&server), 0..20).await.unwrap(), content(20));
}

#[tokio::test]
async fn tails_and_documents_are_read_again_when_their_body_breaks() {
    let server = Server::start(|request| match request.number {
        0 => Reply::blob(request, &content(1000)).cut(10),
        1 => Reply::blob(request, &content(1000)).stall(10),
        _ => Reply::blob(request, &content(1000)),
    })
    .await;
    assert_eq!(impatient_blob_on(&server).tail(100).await.unwrap().bytes, content(1000)[900..]);
    assert_eq!(server.count(), 3);
}

fn with_mirrors(origin: &Server, mirrors: &[&Server]) -> Client {
    let mirrors = mirrors
        .iter()
        .map(|mirror| Mirror {
            host: mirror.host(),
            headers: vec![("X-Mirror".into(), "yes".into())],
            request_timeout: Some(Duration::from_secs(1)),
            ..Mirror::default()
        })
        .collect();
    let hosts = [(origin.host(), registry::HostOptions { mirrors })].into();
    Client::new(Options { hosts, ..fast() }, Vec::new()).unwrap()
}

#[tokio::test]
async fn mirrors_are_tried_first_and_passed_over_when_they_fail() {
    let failing: [fn() -> Reply; 4] = [
        || Reply::new(404, ""),
        || Reply::new(503, "").header("Retry-After", "60"),
        || Reply::new(200, "").delay(Duration::from_secs(30)),
        || Reply::hangup(),
    ];
    for reply in failing {
        let origin = Server::start(|request| Reply::blob(request, &content(100))).await;
        let bad = Server::start(move |_| reply()).await;
        let good = Server::start(|request| Reply::blob(request, &content(100))).await;
        let blob = blob_with(&with_mirrors(&origin, &[&bad, &good]), &origin);
        let started = Instant::now();
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
        assert!(started.elapsed() < Duration::from_secs(8));
        assert_eq!(
            (bad.count(), good.count(), origin.count()),
            (1, 2, 0),
            "the host that served is asked first"
        );
        let request = &good.requests()[0];
        assert!(
            request.target.ends_with(&format!("?ns={}", origin.host().replace(':', "%3A"))),
            "{}",
            request.target
        );
        assert_eq!(request.header("x-mirror"), "yes");
    }
}

#[tokio::test]
async fn when_all_hosts_fail_the_error_names_each() {
    let origin = Server::start(|_| Reply::new(404, "")).await;
    let mirror = Server::start(|_| Reply::new(500, "")).await;
    let error = with_mirrors(&origin, &[&mirror]).manifest(&image_on(&origin)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    assert!(
        text.contains(&format!("; mirror {}: GET ", mirror.host())) && text.contains("(3 attempts)"),
        "{text}"
    );
    assert!(text.starts_with(&format!("GET http://{}/", origin.host())), "{text}");
    assert!(!text.contains("ns="), "queries are not shown: {text}");
    assert_eq!((mirror.count(), origin.count()), (3, 1));
}
