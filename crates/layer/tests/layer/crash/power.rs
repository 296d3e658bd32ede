//! The power goes: what was not synced is lost.
//!
//! A file system on a loop device is shut down as if its disk had vanished (`EXT4_IOC_SHUTDOWN`), which throws away
//! everything that is only in memory, its journal included. Two more tests put together by hand what a power cut can
//! leave; they need no device.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use layer::image::ImageFiles;
use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::MemorySource;
use crate::{layers, resolve};

fn blob() -> Blob {
    let tree =
        Tree::new().with("a", Entry::file(content(1, 2 << 20))).with("b", Entry::file(content(2, 2 << 20)));
    estargz::build(&tarball::write(&tree), &Options { chunk_size: 64 << 10, ..Options::default() })
}

fn dir_of(root: &Path, blob: &Blob) -> PathBuf {
    root.join("sha256").join(blob.digest.hex())
}

/// What is filled by the bits is right. Returns how many chunks are.
fn verified(dir: &Path) -> u64 {
    let found = layer::cache::verify(&ImageFiles::open_to_read(dir).unwrap()).unwrap();
    assert!(found.bad.is_empty(), "{found:?}");
    found.chunks
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_from_before_a_fill_and_the_image_from_after_it_hold_together() {
    let (root, after, blob) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), blob());
    let all = layers(root.path());
    let layer = resolve(&all, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    layer.fill(0, 300_000).await.unwrap();
    all.flush().await;
    copy(&dir_of(root.path(), &blob), after.path(), &["filled"]);
    layer.fill_all().await.unwrap();
    copy(&dir_of(root.path(), &blob), after.path(), &["image.erofs", "chunks", "meta.json"]);
    let chunks = verified(after.path());
    assert!(chunks > 0 && chunks < 64, "{chunks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_from_before_an_eviction_and_bits_from_after_it_hold_together() {
    let (root, after, blob) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), blob());
    let first = layers(root.path());
    let layer = resolve(&first, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    layer.fill(0, 2 << 20).await.unwrap();
    first.close().await;
    drop((first, layer));
    let all = layers(root.path());
    let layer = resolve(&all, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    let dir = dir_of(root.path(), &blob);
    let before = verified(&dir);
    copy(&dir, after.path(), &["image.erofs", "chunks", "meta.json"]);
    assert!(all.make_room(500_000).await >= 500_000);
    copy(&dir, after.path(), &["filled"]);
    let (left, here) = (verified(after.path()), verified(&dir));
    assert!(left == here && left < before, "{left} {here} {before}");
    drop(layer);
}

/// A file system of its own, which is taken away with the value.
struct Disk {
    image: tempfile::NamedTempFile,
    at: tempfile::TempDir,
}

impl Disk {
    /// `None`, said aloud, where that cannot be had.
    fn new() -> Option<Disk> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(image.path()).status();
        let disk = Disk { image, at: tempfile::tempdir().unwrap() };
        if made.is_ok_and(|status| status.success()) && disk.mount() {
            return Some(disk);
        }
        // Past libtest, which hides what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs root, mkfs.ext4 and a loop device");
        None
    }

    fn mount(&self) -> bool {
        let mounted =
            Command::new("mount").args(["-o", "loop"]).arg(self.image.path()).arg(self.at.path()).status();
        mounted.is_ok_and(|status| status.success())
    }

    fn unmount(&self) {
        // What had files open there may take a moment to let go.
        for _ in 0..50 {
            if Command::new("umount").arg(self.at.path()).output().is_ok_and(|done| done.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).output();
    }

    /// Throws away what is only in memory, and stops the file system.
    fn cut_power(&self) {
        /// `_IOR('X', 125, __u32)`
        const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const NO_LOG_FLUSH: u32 = 2;
        let dir = std::fs::File::open(self.at.path()).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: the operation reads a u32 through the pointer that it is given, which is what this setter passes,
        // and the descriptor is one of the file system that is meant.
        unsafe {
            let shutdown = rustix::ioctl::Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&dir, shutdown).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[test]
fn a_power_cut_leaves_no_bit_without_its_data() {
    let Some(disk) = Disk::new() else { return };
    let (blob, root) = (blob(), disk.at.path().join("root"));
    let mut kept = Vec::new();
    for round in 0..12_u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let all = layers(&root);
            let layer = resolve(&all, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
            // What an earlier life left is not in use yet, so there is something to evict.
            all.make_room(200_000 * (round % 3)).await;
            layer.fill((round * 350_000) % 3_500_000, 300_000).await.unwrap();
            if round % 4 != 3 {
                all.flush().await;
            }
            all.make_room(100_000).await;
            layer.fill((round * 650_000) % 3_500_000, 200_000).await.unwrap();
            if round % 2 == 0 {
                // Any sync of any file takes along what was changed in the tree, holes among it.
                let other = std::fs::File::create(disk.at.path().join("other")).unwrap();
                other.sync_all().unwrap();
            }
            disk.cut_power();
        });
        drop(runtime);
        disk.unmount();
        assert!(disk.mount());
        let dir = dir_of(&root, &blob);
        kept.push(if dir.exists() { verified(&dir) } else { 0 });
    }
    assert!(kept.iter().any(|&chunks| chunks > 0), "nothing that was flushed is there: {kept:?}");
}
