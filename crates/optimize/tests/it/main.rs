//! Workloads under a real containerd. Needs root and Debian's packages containerd, runc and busybox-static; skipped, and
//! said so, without.

#[path = "../../../containerd/tests/it/server.rs"]
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use containerd::{Client, Descriptor, ErrorKind, Labels};
use format::Digest;
use optimize::{Error, Image, Names, Options, Until, Watched, Workload};
use serde_json::json;
use server::Server;
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};
use tokio::sync::watch;

const MIB: usize = 1 << 20;

async fn put(client: &Client, data: &[u8], media_type: &str) -> Descriptor {
    let digest = Digest::of(data).to_string();
    let size = data.len() as u64;
    let mut ingest = client.content().write(&digest, Some(size), Some(&digest)).await.unwrap();
    for piece in data.chunks(MIB) {
        ingest.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    // Nothing else holds on to it.
    let labels = Labels::from([("containerd.io/gc.root".to_owned(), "test".to_owned())]);
    ingest.commit(Some(&digest), &labels).await.unwrap();
    Descriptor { media_type: media_type.to_owned(), digest, size: size as i64, ..Descriptor::default() }
}

/// Two layers: a shell, and what it may touch. `None` without the shell.
async fn image(client: &Client) -> Option<Image> {
    let Ok(busybox) = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox")) else {
        eprintln!("skipped: needs busybox-static");
        return None;
    };
    let executable = Entry { mode: 0o755, ..Entry::file(busybox) };
    let base = Tree::new()
        .with("bin/busybox", executable)
        .with("data/low", Entry::file("low"))
        .with("data/both", Entry::file("old"));
    let top = Tree::new()
        .with("data/both", Entry::file("new"))
        .with("data/untouched", Entry::file("x"))
        .with("data/large", Entry::file(content(1, 32 * MIB)));
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for tree in [base, top] {
        let tar = tarball::write(&tree);
        diff_ids.push(Digest::of(&tar).to_string());
        layers.push(put(client, &tar, "application/vnd.oci.image.layer.v1.tar").await);
    }
    let config = json!({
        "config": { "Entrypoint": ["/bin/busybox", "sh", "-c"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    Some(Image { manifest: Digest::of(b"manifest"), config, layers })
}

fn options(script: &str, period: u64) -> Options {
    let workload =
        Workload { args: Some(vec![script.to_owned()]), host_network: true, ..Workload::default() };
    Options {
        snapshotter: "overlayfs".to_owned(),
        runtime: "io.containerd.runc.v2".to_owned(),
        workload,
        names: Names::default(),
        until: Until { period: Some(Duration::from_secs(period)), line: None },
        echo: false,
    }
}

fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

fn paths(watched: &Watched) -> Vec<&str> {
    watched.entries.iter().map(|entry| entry.path.as_str()).collect()
}

/// That nothing is left of a workload but what was there before.
async fn assert_clean(client: &Client) {
    assert!(client.containers().list(&[]).await.unwrap().is_empty());
    assert!(client.leases().list(&[]).await.unwrap().is_empty());
    assert!(client.snapshots("overlayfs").list(&[]).await.unwrap().is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("stargz-optimize-"), "{mounts}");
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().contains("stargz-optimize-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_are_recorded_however_they_end_and_nothing_is_left_of_them() {
    let Some(server) = Server::start().await else { return };
    if !Path::new("/usr/sbin/runc").exists() && !Path::new("/usr/bin/runc").exists() {
        eprintln!("skipped: needs runc");
        return;
    }
    let client = server.client("optimize").await;
    let Some(image) = image(&client).await else { return };

    // One that ends by itself, long before the period.
    let script = "/bin/busybox cat /data/both /data/low /data/both; /bin/busybox dd if=/data/large of=/dev/null bs=4k \
                  skip=4096 count=1; echo x >/data/new; exit 7";
    let begun = Instant::now();
    let watched = optimize::watch(&client, &image, &options(script, 600), never()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(300));
    assert_eq!(paths(&watched), ["bin/busybox", "data/both", "data/low", "data/large"]);
    let layers: Vec<_> = watched.entries.iter().map(|entry| entry.layer_index.unwrap()).collect();
    assert_eq!((layers, watched.exit, watched.overflows), (vec![0, 1, 0, 1], Some(7), 0));
    let ranges = watched.entries[3].ranges.clone().unwrap();
    assert!(ranges.as_slice().iter().any(|range| range.contains(&(16 << 20))), "{ranges}");
    assert!(ranges.bytes() < 16 << 20, "{ranges}");
    assert_clean(&client).await;

    // One that never ends: until the period is over, until it says something, until somebody has seen enough.
    let script = "/bin/busybox cat /data/low; echo server ready; while :; do /bin/busybox sleep 1; done";
    let watched = optimize::watch(&client, &image, &options(script, 2), never()).await.unwrap();
    assert_eq!((paths(&watched), watched.exit), (vec!["bin/busybox", "data/low"], None));
    let mut until_ready = options(script, 600);
    until_ready.until.line = Some("ready".to_owned());
    let watched = optimize::watch(&client, &image, &until_ready, never()).await.unwrap();
    assert_eq!(paths(&watched), ["bin/busybox", "data/low"]);
    let mut until_told = options(script, 0);
    until_told.until.period = None;
    let (enough, stop) = watch::channel(false);
    let told = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        enough.send_replace(true);
        std::future::pending::<()>().await;
    };
    let watched = tokio::select! {
        watched = optimize::watch(&client, &image, &until_told, stop) => watched,
        () = told => unreachable!(),
    };
    // Whether it was running by then or not: it ends, and nothing is left.
    assert!(matches!(watched, Ok(_) | Err(Error::Interrupted)), "{watched:?}");
    assert_clean(&client).await;

    // Interrupted, and not able to start.
    let (stop, told) = watch::channel(false);
    stop.send_replace(true);
    let error = optimize::watch(&client, &image, &options(script, 600), told).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    let mut missing = options(script, 600);
    missing.workload.entrypoint = Some(vec!["/nowhere".to_owned()]);
    let error = optimize::watch(&client, &image, &missing, never()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    assert_clean(&client).await;

    // A list, for which nothing is run.
    let all = optimize::files(&client, &image, &options("", 0), never()).await.unwrap();
    let all: Vec<_> = all.iter().map(|entry| (entry.path.as_str(), entry.layer_index.unwrap())).collect();
    let expected =
        [("bin/busybox", 0), ("data/both", 1), ("data/large", 1), ("data/low", 0), ("data/untouched", 1)];
    assert_eq!(all, expected);
    assert_clean(&client).await;

    // A layer that is not what the configuration says.
    let mut wrong = image.clone();
    wrong.config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"another").to_string());
    let error = optimize::watch(&client, &wrong, &options(script, 1), never()).await.unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error}");
    assert_clean(&client).await;

    // containerd gone.
    let before = client.clone();
    server.stop().await;
    let error = optimize::watch(&before, &image, &options(script, 1), never()).await.unwrap_err();
    assert!(matches!(&error, Error::Containerd(error) if error.kind() == ErrorKind::Disconnected), "{error}");
}
