//! The client against servers on the loopback: scripted ones that misbehave, and a real registry.

mod auth;
mod docker_registry;
mod faults;
mod images;
mod ranges;
mod redirects;
mod server;

use std::time::Duration;

use registry::{Blob, Client, Error, Options, Reference, Retry};

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
    send(&async { blob.read(0..1).await.unwrap().next().await });
    send(&blob);
}
