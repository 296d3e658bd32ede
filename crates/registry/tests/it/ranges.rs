//! Ranges and tails, from hosts that do them right and from hosts that do not.

use registry::{Kind, Tail};

use crate::server::{Reply, Request, Server};
use crate::{blob_on, blob_with, client, content, read};

const SIZE: usize = 1_000_000;

fn suffix(request: &Request) -> bool {
    request.header("range").starts_with("bytes=-")
}

/// What each request asked for, in order.
fn ranges(server: &Server) -> Vec<String> {
    let line = |r: &Request| match r.method.as_str() {
        "GET" => r.header("range").trim_start_matches("bytes=").to_owned(),
        method => method.to_owned(),
    };
    server.requests().iter().map(line).collect()
}

fn last(len: usize) -> Tail {
    Tail { blob_size: SIZE as u64, bytes: content(SIZE)[SIZE - len..].to_vec().into() }
}

#[tokio::test]
async fn a_range_is_one_request() {
    let server = Server::start(|request| Reply::blob(request, &content(SIZE))).await;
    let blob = blob_on(&server);
    let mut body = blob.read(10..20).await.unwrap();
    assert_eq!((body.offset, body.whole, body.blob_size), (10, false, Some(SIZE as u64)));
    assert_eq!(body.next().await.unwrap().unwrap(), content(SIZE)[10..20]);
    assert_eq!(body.next().await.unwrap(), None);
    assert_eq!(body.next().await.unwrap(), None);
    let end = SIZE as u64;
    assert_eq!(read(&blob, 0..end).await.unwrap(), content(SIZE));
    assert_eq!(read(&blob, end - 5..end + 100).await.unwrap(), content(SIZE)[SIZE - 5..]);
    assert_eq!(ranges(&server), ["10-19", "0-999999", "999995-1000099"]);
    assert_eq!(server.connections(), 1, "connections are used again");
    let request = &server.requests()[0];
    assert_eq!(request.header("accept-encoding"), "identity");
    assert!(request.header("user-agent").starts_with("stargz/"));
    assert!(request.target.starts_with("/v2/a/b/blobs/sha256:"));
}

#[tokio::test]
async fn ranges_outside_are_refused() {
    let server = Server::start(|request| Reply::blob(request, &content(SIZE))).await;
    let blob = blob_on(&server);
    let error = blob.read(SIZE as u64..SIZE as u64 + 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RangeNotSatisfiable);
    assert!(error.to_string().contains("416"), "{error}");
    assert_eq!(blob.read(7..7).await.unwrap_err().kind(), Kind::RangeNotSatisfiable);
    assert_eq!(server.count(), 1, "416 is not tried again");
}

#[tokio::test]
async fn a_host_that_ignores_ranges_is_recognised() {
    let server = Server::start(|_| Reply::new(200, content(SIZE))).await;
    let mut body = blob_on(&server).read(10..20).await.unwrap();
    assert_eq!((body.offset, body.whole, body.blob_size), (0, true, Some(SIZE as u64)));
    let mut all = Vec::new();
    while let Some(piece) = body.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all, content(SIZE));
}

#[tokio::test]
async fn answers_about_another_range_are_not_believed() {
    type Row = (&'static str, fn() -> Reply);
    let rows: [Row; 8] = [
        ("shifted", || Reply::part(11, 20, SIZE, &[0; 9])),
        ("before", || Reply::part(9, 20, SIZE, &[0; 11])),
        ("short, not at the end", || Reply::part(10, 15, SIZE, &[0; 5])),
        ("longer", || Reply::part(10, 21, SIZE, &[0; 11])),
        ("length differs", || Reply::part(10, 20, SIZE, &[0; 9])),
        ("no Content-Range", || Reply::new(206, [0; 10])),
        ("multipart", || {
            Reply::new(206, "--x\r\n").header("Content-Type", "multipart/byteranges; boundary=x")
        }),
        ("compressed", || Reply::part(10, 20, SIZE, &[0; 10]).header("Content-Encoding", "gzip")),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |_| reply()).await;
        let error = blob_on(&server).read(10..20).await.expect_err(name);
        assert_eq!(error.kind(), Kind::Protocol, "{name}: {error}");
        assert!(error.to_string().contains(&server.host()), "{error}");
        assert_eq!(server.count(), 1, "{name}: not tried again");
    }
}

#[tokio::test]
async fn more_than_promised_is_cut_off() {
    let server = Server::start(|_| Reply::part(10, 20, SIZE, &content(5000)).chunked()).await;
    assert_eq!(read(&blob_on(&server), 10..20).await.unwrap(), content(10));
}

#[tokio::test]
async fn a_tail_is_one_request() {
    let server = Server::start(|request| Reply::blob(request, &content(SIZE))).await;
    let blob = blob_on(&server);
    assert_eq!(blob.tail(100).await.unwrap(), last(100));
    assert_eq!(ranges(&server), ["-100"]);
    assert_eq!(blob.clone().tail(50).await.unwrap(), last(50));
    assert_eq!(ranges(&server)[1..], ["999950-999999"], "the size is known by now");
    assert_eq!(blob.tail(0).await.unwrap(), last(0));
    assert_eq!(blob_on(&server).tail(2_000_000).await.unwrap(), last(SIZE));
}

#[tokio::test]
async fn tails_from_hosts_that_refuse_suffix_ranges() {
    for status in [400, 416, 501] {
        let server = Server::start(move |request| match suffix(request) {
            true => Reply::new(status, "no"),
            false => Reply::blob(request, &content(SIZE)),
        })
        .await;
        let client = client();
        assert_eq!(blob_with(&client, &server).tail(100).await.unwrap(), last(100), "{status}");
        assert_eq!(ranges(&server), ["-100", "0-0", "999900-999999"]);
        assert_eq!(blob_with(&client, &server).tail(100).await.unwrap(), last(100));
        assert_eq!(ranges(&server)[3..], ["0-0", "999900-999999"], "remembered for the host");
    }
}

#[tokio::test]
async fn tails_from_hosts_that_answer_200_to_suffix_ranges() {
    let server = Server::start(|request| match suffix(request) {
        true => Reply::new(200, content(SIZE)),
        false => Reply::blob(request, &content(SIZE)),
    })
    .await;
    let client = client();
    assert_eq!(blob_with(&client, &server).tail(100).await.unwrap(), last(100));
    assert_eq!(ranges(&server), ["-100", "999900-999999"], "the length of the 200 is the size");
    assert_eq!(blob_with(&client, &server).tail(100).await.unwrap(), last(100));
    assert_eq!(ranges(&server)[2..], ["0-0", "999900-999999"]);
}

#[tokio::test]
async fn tails_from_hosts_that_misread_suffix_ranges() {
    // Reads "-100" as "0-100".
    let server = Server::start(|request| match suffix(request) {
        true => Reply::part(0, 101, SIZE, &content(SIZE)[..101]),
        false => Reply::blob(request, &content(SIZE)),
    })
    .await;
    assert_eq!(blob_on(&server).tail(100).await.unwrap(), last(100));
    assert_eq!(ranges(&server), ["-100", "999900-999999"]);
}

#[tokio::test]
async fn tails_from_hosts_without_any_ranges() {
    for chunked in [false, true] {
        let server = Server::start(move |_| {
            let reply = Reply::new(200, content(SIZE));
            if chunked { reply.chunked() } else { reply }
        })
        .await;
        assert_eq!(blob_on(&server).tail(100).await.unwrap(), last(100));
        assert_eq!(blob_on(&server).tail(SIZE as u64 * 2).await.unwrap(), last(SIZE));
    }
    let small = Server::start(|_| Reply::new(200, content(5000))).await;
    assert_eq!(blob_on(&small).tail(100).await.unwrap().bytes, content(5000)[4900..]);
    assert_eq!(small.count(), 1, "a small blob is read at once");
}

#[tokio::test]
async fn the_size_comes_from_head_where_ranges_do_not_tell_it() {
    let server = Server::start(|request| match request.header("range") {
        range if range.starts_with("bytes=-") => Reply::new(400, ""),
        "bytes=0-0" => Reply::new(206, [0]).header("Content-Range", "bytes 0-0/*"),
        _ => Reply::blob(request, &content(SIZE)),
    })
    .await;
    assert_eq!(blob_on(&server).tail(100).await.unwrap(), last(100));
    assert_eq!(ranges(&server), ["-100", "0-0", "HEAD", "999900-999999"]);
}

#[tokio::test]
async fn an_empty_blob_has_an_empty_tail() {
    let polite = Server::start(|request| Reply::blob(request, b"")).await;
    let ignorant = Server::start(|_| Reply::new(200, "")).await;
    for server in [polite, ignorant] {
        assert_eq!(
            blob_on(&server).tail(100).await.unwrap(),
            Tail { blob_size: 0, bytes: Default::default() }
        );
    }
}
