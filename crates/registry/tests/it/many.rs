//! Several ranges by one request, from hosts that serve them, refuse them, or get them wrong.

use std::ops::Range;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use registry::{Blob, Client, Kind, MultiRange, Options};

use crate::server::{Reply, Request, Server};
use crate::{blob_on, blob_with, client, content, fast, read, read_many};

const SIZE: usize = 1_000_000;
const RANGES: [Range<u64>; 3] = [10..20, 1000..50_000, 999_990..1_000_000];

fn several(request: &Request) -> bool {
    request.header("range").contains(',')
}

fn slices(ranges: &[Range<u64>]) -> Vec<(u64, Vec<u8>)> {
    let all = content(SIZE);
    ranges.iter().map(|r| (r.start, all[r.start as usize..r.end as usize].to_vec())).collect()
}

async fn unsupported(blob: &Blob) -> bool {
    matches!(blob.read_many(&RANGES).await.unwrap(), MultiRange::Unsupported)
}

#[tokio::test]
async fn several_ranges_are_one_request() {
    for chunked in [false, true] {
        let server = Server::start(move |request| {
            let reply = Reply::blob_by_parts(request, &content(SIZE));
            if chunked { reply.chunked() } else { reply }
        })
        .await;
        let blob = blob_on(&server);
        assert_eq!(read_many(&blob, &RANGES).await.unwrap(), Some(slices(&RANGES)));
        assert_eq!(server.requests()[0].header("range"), "bytes=10-19,1000-49999,999990-999999");
        let over_the_end = [0..1, 999_999..1_000_500, 2_000_000..2_000_001];
        assert_eq!(read_many(&blob, &over_the_end).await.unwrap(), Some(slices(&[0..1, 999_999..1_000_000])));
        assert_eq!((server.count(), server.connections()), (2, 1));
    }
}

#[tokio::test]
async fn one_range_is_asked_for_as_such() {
    let server = Server::start(|request| Reply::blob(request, &content(SIZE))).await;
    let blob = blob_on(&server);
    assert_eq!(read_many(&blob, from_ref(&(5..10))).await.unwrap(), Some(slices(from_ref(&(5..10)))));
    assert_eq!(server.requests()[0].header("range"), "bytes=5-9");
}

#[tokio::test]
async fn ranges_that_were_joined_are_passed_on() {
    let server = Server::start(|request| match several(request) {
        true => Reply::parts(&[(10, 50_000), (999_990, SIZE)], &content(SIZE)),
        false => Reply::blob(request, &content(SIZE)),
    })
    .await;
    let joined = slices(&[10..50_000, 999_990..1_000_000]);
    assert_eq!(read_many(&blob_on(&server), &RANGES).await.unwrap(), Some(joined));
    let server = Server::start(|_| Reply::part(10, SIZE, SIZE, &content(SIZE)[10..])).await;
    assert_eq!(
        read_many(&blob_on(&server), &RANGES).await.unwrap(),
        Some(slices(from_ref(&(10..1_000_000))))
    );
}

#[tokio::test]
async fn hosts_that_refuse_are_asked_once() {
    type Row = (&'static str, fn() -> Reply);
    let rows: [Row; 7] = [
        ("400", || Reply::new(400, "")),
        ("416", || Reply::new(416, "")),
        ("501", || Reply::new(501, "")),
        ("200 of a large blob", || Reply::new(200, content(SIZE))),
        ("200 of unknown size", || Reply::new(200, content(SIZE)).chunked()),
        ("the first range only", || Reply::part(10, 20, SIZE, &content(SIZE)[10..20])),
        ("no boundary", || Reply::new(206, "x").header("Content-Type", "multipart/byteranges")),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |request| match several(request) {
            true => reply(),
            false => Reply::blob(request, &content(SIZE)),
        })
        .await;
        let client = client();
        assert!(unsupported(&blob_with(&client, &server)).await, "{name}");
        assert_eq!(server.count(), 1, "{name}");
        let blob = blob_with(&client, &server);
        assert!(unsupported(&blob).await);
        assert_eq!(server.count(), 1, "{name}: remembered for the host");
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    }
}

#[tokio::test]
async fn a_small_blob_may_come_whole() {
    let server = Server::start(|_| Reply::new(200, content(2000))).await;
    let MultiRange::Pieces(mut pieces) = blob_on(&server).read_many(&[0..1, 100..200]).await.unwrap() else {
        panic!("a small blob is taken as it comes")
    };
    assert!(pieces.whole());
    assert_eq!(pieces.next().await.unwrap().unwrap().bytes, content(2000));
}

#[tokio::test]
async fn wrong_parts_are_errors_and_the_end_of_it() {
    type Parts = &'static [(usize, usize)];
    let rows: [(&str, Parts); 6] = [
        ("missing", &[(10, 20), (999_990, SIZE)]),
        ("missing at the end", &[(10, 20), (1000, 50_000)]),
        ("unordered", &[(1000, 50_000), (10, 20), (999_990, SIZE)]),
        ("twice", &[(10, 20), (10, 20), (1000, 50_000), (999_990, SIZE)]),
        ("not asked for", &[(10, 20), (30, 40), (1000, 50_000), (999_990, SIZE)]),
        ("overlapping", &[(10, 20), (15, 50_000), (999_990, SIZE)]),
    ];
    for (name, parts) in rows {
        let server = Server::start(move |_| Reply::parts(parts, &content(SIZE))).await;
        let blob = blob_on(&server);
        let error = read_many(&blob, &RANGES).await.expect_err(name);
        assert_eq!(error.kind(), Kind::Protocol, "{name}: {error}");
        assert!(unsupported(&blob).await, "{name}");
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn parts_that_break_off_are_no_fault_of_the_host() {
    let whole = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&whole);
    let server = Server::start(move |request| {
        let reply = Reply::blob_by_parts(request, &content(SIZE));
        if flag.load(Ordering::Relaxed) { reply } else { reply.cut(20_000) }
    })
    .await;
    let blob = blob_on(&server);
    let error = read_many(&blob, &RANGES).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ShortBody | Kind::Network), "{error:?}");
    whole.store(true, Ordering::Relaxed);
    assert_eq!(read_many(&blob, &RANGES).await.unwrap(), Some(slices(&RANGES)));
}

#[tokio::test]
async fn the_store_behind_a_redirect_is_the_one_that_counts() {
    let store = Server::start(|request| match several(request) {
        true => Reply::new(200, content(SIZE)),
        false => Reply::blob(request, &content(SIZE)),
    })
    .await;
    let target = store.host_as("localhost");
    let server =
        Server::start(move |_| Reply::redirect(307, format!("http://{target}/blob?signature"))).await;
    let client = client();
    let blob = blob_with(&client, &server);
    assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    assert!(unsupported(&blob).await);
    assert!(unsupported(&blob).await && unsupported(&blob_with(&client, &server)).await);
    assert_eq!((server.count(), store.count()), (1, 2));
    let mirrored = Server::start(|request| Reply::blob_by_parts(request, &content(SIZE))).await;
    assert!(!unsupported(&blob_with(&client, &mirrored)).await, "other hosts are other hosts");
}

#[tokio::test]
async fn options_and_arguments_are_obeyed() {
    let server = Server::start(|request| Reply::blob_by_parts(request, &content(SIZE))).await;
    let single = Client::new(Options { force_single_range: true, ..fast() }, Vec::new()).unwrap();
    assert!(unsupported(&blob_with(&single, &server)).await);
    let blob = blob_on(&server);
    let many: Vec<_> = (0..Blob::MAX_RANGES as u64 + 1).map(|i| i * 10..i * 10 + 5).collect();
    let wrong: [&[Range<u64>]; 5] = [&[], &[5..5, 7..8], &[10..20, 0..5], &[0..10, 10..20], &many];
    for ranges in wrong {
        assert_eq!(blob.read_many(ranges).await.unwrap_err().kind(), Kind::RangeNotSatisfiable);
    }
    assert_eq!(server.count(), 0);
    assert!(read_many(&blob, &many[1..]).await.unwrap().unwrap().len() == Blob::MAX_RANGES);
    let behind = [SIZE as u64..SIZE as u64 + 1, SIZE as u64 + 5..SIZE as u64 + 6];
    let refusing = Server::start(|_| Reply::new(416, "").header("Content-Range", "bytes */1000000")).await;
    let error = blob_on(&refusing).read_many(&behind).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RangeNotSatisfiable, "{error}");
}
