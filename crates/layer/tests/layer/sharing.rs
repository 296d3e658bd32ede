//! Contents that two layers have, on file systems that can share blocks.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use testkit::estargz::{self, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::disk::loop_disk;
use crate::source::MemorySource;
use crate::{layers, read_file, resolve};

#[test]
fn what_another_layer_has_is_on_the_disk_once_where_files_can_share_blocks() {
    for make in [&["mkfs.xfs", "-q"][..], &["mkfs.btrfs", "-q"]] {
        let Some(disk) = loop_disk(make, 400 << 20) else { continue };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(copied_on(disk.path()));
    }
}

/// One layer is filled, then another one with the same contents.
async fn copied_on(disk: &Path) {
    let layers = layers(&disk.join("root"));
    // The last block is not full, and the small one is not worth sharing.
    let files = |dir: &str| {
        Tree::new()
            .with(format!("{dir}/large"), Entry::file(content(2, (24 << 20) + 100)))
            .with(format!("{dir}/small"), Entry::file(content(4, 5000)))
    };
    let used = || {
        Command::new("sync").arg("-f").arg(disk).status().unwrap();
        let stat = rustix::fs::statvfs(disk).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    let mut cost = Vec::new();
    for dir in ["one", "two"] {
        let blob = estargz::build(&tarball::write(&files(dir)), &Options::default());
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
        let before = used();
        for (name, expected) in [("large", content(2, (24 << 20) + 100)), ("small", content(4, 5000))] {
            assert!(read_file(&layer, &format!("{dir}/{name}")).await.unwrap() == expected, "{dir}/{name}");
        }
        cost.push(used().saturating_sub(before));
        assert_eq!(source.requests.load(Ordering::Relaxed) == 0, dir == "two");
    }
    assert!(cost[1] < cost[0] / 2, "{cost:?} bytes of disk");
    layers.close().await;
}
