//! The client against a real containerd. Needs root and Debian's package `containerd`; skipped, and said so, without.

mod server;

use std::time::Duration;

use bytes::Bytes;
use containerd::{Client, ConnectOptions, Descriptor, ErrorKind, Image, Labels, Resource};
use server::Server;

const HELLO: &[u8] = b"hello";
const HELLO_DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const LIFETIME: Duration = Duration::from_secs(600);

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

async fn write(client: &Client, reference: &str, data: &[u8]) -> String {
    let mut ingest = client.content().write(reference, None, None).await.unwrap();
    ingest.write(Bytes::copy_from_slice(data)).await.unwrap();
    ingest.commit(None, &labels(&[("a", "b")])).await.unwrap()
}

#[tokio::test]
async fn blobs_are_written_in_pieces_under_a_lease_and_go_with_it() {
    let Some(server) = Server::start().await else { return };
    let client = server.client("one").await;
    assert!(client.system().version().await.unwrap().version.contains('.'));
    client.leases().create("l", LIFETIME, &labels(&[("x", "y")])).await.unwrap();
    let under = client.under("l").unwrap();

    let mut ingest = under.content().write("piece", Some(5), Some(HELLO_DIGEST)).await.unwrap();
    ingest.write(Bytes::from_static(&HELLO[..2])).await.unwrap();
    drop(ingest);
    // The other side hears of it when it does.
    let mut ingest = loop {
        match under.content().write("piece", Some(5), Some(HELLO_DIGEST)).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(ingest.offset(), 2);
    assert_eq!(under.content().status("piece").await.unwrap().offset, 2);
    ingest.write(Bytes::from_static(&HELLO[2..])).await.unwrap();
    let digest = ingest.commit(Some(HELLO_DIGEST), &labels(&[("a", "b")])).await.unwrap();
    assert_eq!(digest, HELLO_DIGEST);

    let info = client.content().info(HELLO_DIGEST).await.unwrap();
    assert_eq!((info.size, info.labels["a"].as_str()), (5, "b"));
    let info = client.content().set_labels(HELLO_DIGEST, &labels(&[("a", ""), ("c", "d")])).await.unwrap();
    assert_eq!(info.labels, labels(&[("c", "d")]));
    let mut range = client.content().read(HELLO_DIGEST, 1, 3).await.unwrap();
    assert_eq!(range.next().await.unwrap().unwrap(), &HELLO[1..4]);
    assert!(range.next().await.unwrap().is_none());
    let again = client.content().write("again", Some(5), Some(HELLO_DIGEST)).await.unwrap_err();
    assert!(again.is_already_exists(), "{again}");

    let large = vec![7; 3 * containerd::CHUNK + 1];
    let digest = write(&under, "large", &large).await;
    assert_eq!(client.content().read_all(&digest, 1 << 30).await.unwrap(), large);
    assert!(client.content().read_all(&digest, 9).await.is_err());

    let resource = |id: &str| Resource { id: id.to_owned(), r#type: "content".to_owned() };
    let resources = client.leases().resources("l").await.unwrap();
    assert!(resources.contains(&resource(HELLO_DIGEST)) && resources.contains(&resource(&digest)));
    let mut ingest = under.content().write("left", None, None).await.unwrap();
    ingest.write(Bytes::from_static(HELLO)).await.unwrap();
    drop(ingest);
    client.leases().delete("l", true).await.unwrap();
    assert!(client.content().info(&digest).await.unwrap_err().is_not_found());
    assert!(client.content().list(&[]).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn images_and_snapshots_are_named_and_looked_up() {
    let Some(server) = Server::start().await else { return };
    let client = server.client("two").await;
    let missing = client.images().get("nowhere/no:1").await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().starts_with("looking up the image nowhere/no:1: "));
    let digest = write(&client, "b", HELLO).await;
    let image = |media_type: &str, labels: Labels| Image {
        name: "example.com/x:1".to_owned(),
        labels,
        target: Some(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size: 5,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    client.images().put(image("a/a", labels(&[("one", "1")]))).await.unwrap();
    client.images().put(image("b/b", labels(&[("two", "2")]))).await.unwrap();
    let got = client.images().get("example.com/x:1").await.unwrap();
    assert_eq!(got.target.unwrap().media_type, "b/b");
    assert_eq!(got.labels, labels(&[("one", "1"), ("two", "2")]));
    client.images().delete("example.com/x:1", true).await.unwrap();
    assert!(client.images().list(&[]).await.unwrap().is_empty());

    client.leases().create("l", LIFETIME, &Labels::new()).await.unwrap();
    let under = client.under("l").unwrap();
    let snapshots = under.snapshots("native");
    assert_eq!(snapshots.prepare("active", "", &Labels::new()).await.unwrap().len(), 1);
    assert!(snapshots.prepare("active", "", &Labels::new()).await.unwrap_err().is_already_exists());
    snapshots.commit("layer", "active", &labels(&[("a", "b")])).await.unwrap();
    assert_eq!(snapshots.stat("layer").await.unwrap().labels["a"], "b");
    assert_eq!(snapshots.view("view", "layer", &Labels::new()).await.unwrap().len(), 1);
    let busy = snapshots.remove("layer").await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::FailedPrecondition, "{busy}");
    assert_eq!(snapshots.list(&[]).await.unwrap().len(), 2);
    client.leases().delete("l", true).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_containerd_that_goes_away_is_told_from_one_that_refuses() {
    let Some(server) = Server::start().await else { return };
    let client = server.client("three").await;
    let refused = client.tasks().kill("nothing", 9, true).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
    assert!(client.system().plugins(&[]).await.unwrap().iter().any(|plugin| plugin.id == "native"));
    let mut ingest = client.content().write("x", None, None).await.unwrap();
    let socket = server.stop().await;
    let gone = ingest.write(Bytes::from_static(HELLO)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Disconnected, "{gone}");
    let gone = Client::connect(socket, "three", ConnectOptions::default()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Disconnected);
    assert!(gone.to_string().contains("is it running"), "{gone}");
}
