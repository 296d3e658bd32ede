//! The client against servers on the loopback: scripted ones that misbehave, and a real registry.

mod auth;
mod candidates;
mod check;
mod docker_registry;
mod faults;
mod hosts;
mod images;
mod ipfs;
mod layers;
mod many;
mod nginx;
mod proxy;
mod push;
mod ranges;
mod redirects;
mod server;
mod signed_tokens;
mod tls;

use std::time::Duration;

use registry::{Blob, Client, Error, MultiRange, Options, Reference, Retry};

use server::Server;

/// Options with which tests of failures end soon.
fn fast() -> Options {
    Options {
        request_timeout: Duration::from_secs(10),
        retry: Retry { max_retries: 2, min_wait: Duration::from_millis(5), max_wait: Duration::from_secs(2) },
        fetch_timeout: Duration::from_secs(30),
        ..Options::default()
    }
}

/// Options with which tests of hosts that stall end soon.
fn impatient() -> Options {
    Options { request_timeout: Duration::from_millis(400), ..fast() }
}

/// Without credentials.
fn client() -> Client {
    Client::new(fast(), Vec::new()).unwrap()
}

/// The image `a/b:1` on a server.
fn image_on(server: &Server) -> Reference {
    Reference::parse(&format!("{}/a/b:1", server.host())).unwrap()
}

/// A blob on a server that has only one.
fn blob_on(server: &Server) -> Blob {
    blob_with(&client(), server)
}

fn blob_with(client: &Client, server: &Server) -> Blob {
    client.blob(&image_on(server), &format::Digest::of(b"any"))
}

/// Reads a range to its end.
async fn read(blob: &Blob, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
    let mut body = blob.read(range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Reads several ranges: the pieces, joined where they touch. None if the host does not serve several ranges.
async fn read_many(blob: &Blob, ranges: &[std::ops::Range<u64>]) -> Result<Option<Runs>, Error> {
    let MultiRange::Pieces(mut pieces) = blob.read_many(ranges).await? else { return Ok(None) };
    let mut runs: Runs = Vec::new();
    while let Some(piece) = pieces.next().await? {
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == piece.offset => {
                run.extend_from_slice(&piece.bytes);
            }
            _ => runs.push((piece.offset, piece.bytes.to_vec())),
        }
    }
    assert!(pieces.next().await.unwrap().is_none());
    Ok(Some(runs))
}

/// Bytes and where they begin.
type Runs = Vec<(u64, Vec<u8>)>;

/// Bytes that differ everywhere.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// What callers spawn must be able to move between threads.
#[test]
fn futures_are_send() {
    fn send<T: Send>(_: &T) {}
    let client = client();
    let reference = Reference::parse("r.test/a").unwrap();
    let blob = client.blob(&reference, &format::Digest::of(b""));
    send(&client.manifest(&reference));
    send(&client.image(&reference, &registry::Platform::host()));
    send(&blob.tail(1));
    send(&async { client.ipfs_blob("x").unwrap().read(0..1).await.unwrap().next().await });
    send(&blob.check());
    send(&client.layer_annotations(&reference, None, &format::Digest::of(b"")));
    send(&client.external_toc(&reference, &format::Digest::of(b"")));
    send(&async {
        if let MultiRange::Pieces(mut pieces) = blob.read_many(&[]).await.unwrap() {
            pieces.next().await.unwrap();
        }
    });
    send(&async { blob.read(0..1).await.unwrap().next().await });
    send(&blob);
}
