//! Content of IPFS, against a small double of a node's API.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use registry::{Client, IpfsBlob, Kind, Options};

use crate::server::{Reply, Request, Server};
use crate::{content, fast};

const CID: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";

/// A node that has one file.
fn node(request: &Request, data: &[u8]) -> Reply {
    let url = url::Url::parse(&format!("http://node{}", request.target)).unwrap();
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    if request.method != "POST" {
        return Reply::new(405, "");
    }
    if query["arg"] != format!("/ipfs/{CID}") {
        return Reply::new(500, r#"{"Message":"merkledag: not found","Code":0,"Type":"error"}"#);
    }
    match url.path() {
        "/api/v0/files/stat" => {
            Reply::new(200, format!(r#"{{"Hash":"{CID}","Size":{},"Blocks":1,"Type":"file"}}"#, data.len()))
        }
        "/api/v0/cat" => {
            let number = |name: &str| query[name].parse::<usize>().unwrap();
            Reply::new(200, &data[number("offset")..][..number("length")]).chunked()
        }
        _ => Reply::new(404, ""),
    }
}

fn announce(dir: &Path, server: &Server) {
    let (host, port) = server.host().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    std::fs::write(dir.join("api"), format!("/ip4/{host}/tcp/{port}\n")).unwrap();
}

fn client(dir: &Path) -> Client {
    Client::new(Options { ipfs_path: Some(dir.to_owned()), ..fast() }, Vec::new()).unwrap()
}

async fn read(blob: &IpfsBlob, range: std::ops::Range<u64>) -> Result<Vec<u8>, registry::Error> {
    let mut body = blob.read(range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[tokio::test]
async fn ranges_and_tails_come_from_the_node() {
    let server = Server::start(|request| node(request, &content(5000))).await;
    let dir = tempfile::tempdir().unwrap();
    announce(dir.path(), &server);
    let blob = client(dir.path()).ipfs_blob(&format!("ipfs://{CID}")).unwrap();
    let tail = blob.tail(51).await.unwrap();
    assert_eq!((tail.blob_size, &tail.bytes[..]), (5000, &content(5000)[4949..]));
    assert_eq!(read(&blob, 100..200).await.unwrap(), content(5000)[100..200]);
    assert_eq!(read(&blob.clone(), 4990..6000).await.unwrap(), content(5000)[4990..]);
    assert_eq!(server.count(), 4, "the size is asked for once: {:?}", server.summary());
    blob.check().await.unwrap();
    assert_eq!(read(&blob, 5000..5001).await.unwrap_err().kind(), Kind::RangeNotSatisfiable);
    assert_eq!(read(&blob, 7..7).await.unwrap_err().kind(), Kind::RangeNotSatisfiable);
}

#[tokio::test]
async fn a_node_that_moves_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let blob = client(dir.path()).ipfs_blob(CID).unwrap();
    let error = read(&blob, 0..1).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("is one running?"), "{error}");
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    let first = Server::start(move |request| match flag.load(Ordering::Relaxed) {
        true => Reply::hangup(),
        false => node(request, &content(100)),
    })
    .await;
    announce(dir.path(), &first);
    assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    stopped.store(true, Ordering::Relaxed);
    let second = Server::start(|request| node(request, &content(100))).await;
    announce(dir.path(), &second);
    assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    assert_eq!(second.count(), 1);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request| node(request, b"x")).await;
    announce(dir.path(), &server);
    let error = client(dir.path()).ipfs_blob("ipfs://other").unwrap().tail(1).await.unwrap_err();
    assert!(
        error.kind() == Kind::Unavailable && error.to_string().contains("merkledag: not found"),
        "{error}"
    );
    let directory = Server::start(|_| Reply::new(200, r#"{"Size":0,"Type":"directory"}"#)).await;
    announce(dir.path(), &directory);
    let error = client(dir.path()).ipfs_blob(CID).unwrap().tail(1).await.unwrap_err();
    assert!(error.kind() == Kind::Protocol && error.to_string().contains("not a file"), "{error}");
    let short = Server::start(|request| match request.target.contains("/cat") {
        true => Reply::new(200, "abc").chunked(),
        false => node(request, &content(100)),
    })
    .await;
    announce(dir.path(), &short);
    let error = read(&client(dir.path()).ipfs_blob(CID).unwrap(), 0..50).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ShortBody);
    std::fs::write(dir.path().join("api"), "garbage").unwrap();
    let error = client(dir.path()).ipfs_blob(CID).unwrap().tail(1).await.unwrap_err();
    assert!(error.to_string().contains("does not hold the address"), "{error}");
    for wrong in ["ipfs://", "ipfs://a/b", "https://a.test/x", "ipfs://a?b", &"a".repeat(200)] {
        let error = client(dir.path()).ipfs_blob(wrong).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidReference, "{wrong}");
    }
    assert_eq!(crate::client().ipfs_blob(CID).unwrap_err().kind(), Kind::InvalidOptions);
}
