//! Whether a blob can still be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use registry::{Client, Kind, Options};

use crate::server::{Reply, Server};
use crate::{blob_on, blob_with, content, fast, read};

#[tokio::test]
async fn a_check_is_one_byte_and_believes_recent_success() {
    let server = Server::start(|request| Reply::blob(request, &content(1000))).await;
    let blob = blob_on(&server);
    blob.check().await.unwrap();
    assert_eq!(server.requests()[0].header("range"), "bytes=0-0");
    blob.check().await.unwrap();
    assert_eq!(server.count(), 1);
    let other = blob_on(&server);
    read(&other, 0..10).await.unwrap();
    other.check().await.unwrap();
    assert_eq!(server.count(), 2, "a read is proof as well");
}

#[tokio::test]
async fn a_check_asks_again_after_the_interval() {
    let status = Arc::new(AtomicU16::new(0));
    let current = Arc::clone(&status);
    let server = Server::start(move |request| match current.load(Ordering::Relaxed) {
        0 => Reply::blob(request, &content(1000)),
        status => Reply::new(status, ""),
    })
    .await;
    let always = Options { valid_interval: Duration::ZERO, ..fast() };
    let blob = blob_with(&Client::new(always, Vec::new()).unwrap(), &server);
    let lasting = blob_on(&server);
    for blob in [&blob, &lasting] {
        read(blob, 0..10).await.unwrap();
        blob.check().await.unwrap();
    }
    assert_eq!(server.count(), 3);
    for (code, kind) in [(404, Kind::NotFound), (403, Kind::Forbidden), (416, Kind::RangeNotSatisfiable)] {
        status.store(code, Ordering::Relaxed);
        assert_eq!(blob.check().await.unwrap_err().kind(), kind);
        lasting.check().await.unwrap();
    }
    status.store(0, Ordering::Relaxed);
    blob.check().await.unwrap();
}

#[tokio::test]
async fn a_check_finds_an_empty_blob_and_one_that_changed() {
    let always = Options { valid_interval: Duration::ZERO, ..fast() };
    let client = Client::new(always, Vec::new()).unwrap();
    let empty = Server::start(|request| Reply::blob(request, b"")).await;
    blob_with(&client, &empty).check().await.unwrap();
    let changing = Server::start(|request| Reply::blob(request, &content(100 + request.number))).await;
    let blob = blob_with(&client, &changing);
    blob.check().await.unwrap();
    assert_eq!(blob.check().await.unwrap_err().kind(), Kind::Digest);
}
