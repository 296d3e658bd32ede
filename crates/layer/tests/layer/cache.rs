//! Budgets: what goes, what stays, and that reads stay right meanwhile.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use layer::cache::{Prune, Taken};
use layer::{CacheBudget, Filled, Layer, Layers, LayersOptions};
use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::MemorySource;
use crate::{read_file, resolve};

const SIZE: usize = 3 << 20;

fn blob(seed: u64) -> Blob {
    let tree = Tree::new().with("file", Entry::file(content(seed, SIZE)));
    estargz::build(&tarball::write(&tree), &Options { chunk_size: 64 << 10, ..Options::default() })
}

fn with_budget(root: &Path, max_bytes: Option<u64>) -> Arc<Layers> {
    let mut options = LayersOptions::new(root);
    options.read_timeout = Duration::from_secs(20);
    options.cache = CacheBudget { max_bytes, min_free: 0, ..CacheBudget::default() };
    Layers::open(options).unwrap()
}

async fn filled(layers: &Arc<Layers>, blob: &Blob) -> Arc<Layer> {
    let layer = resolve(layers, blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    layer.fill(0, layer.data_len() as usize).await.unwrap();
    assert!(layer.complete());
    layer
}

/// The time of last use has whole seconds.
async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1050)).await;
}

fn digests(layers: &Layers) -> Vec<String> {
    layers.usage().layers.iter().map(|layer| layer.digest.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_layers_go_first_and_the_least_recently_used_before_others() {
    let root = tempfile::tempdir().unwrap();
    let blobs = [blob(1), blob(2), blob(3)];
    let layers = with_budget(root.path(), Some(1 << 30));
    let held = filled(&layers, &blobs[0]).await;
    for blob in &blobs[1..] {
        next_second().await;
        drop(filled(&layers, blob).await);
    }
    next_second().await;
    layers.release(&blobs[1].digest).await;
    layers.flush().await;
    let order = [0, 2, 1].map(|number: usize| blobs[number].digest.to_string());
    assert_eq!(digests(&layers), order);
    // A restart knows the order as well.
    layers.close().await;
    drop((layers, held));
    let layers = with_budget(root.path(), Some(1 << 30));
    assert_eq!(digests(&layers), order);
    next_second().await;
    let held =
        resolve(&layers, &blobs[0], Arc::new(MemorySource::new(blobs[0].bytes.clone()))).await.unwrap();

    let freed = layers.make_room(1000).await;
    assert!(freed >= SIZE as u64, "{freed}");
    assert_eq!(digests(&layers), [1, 0].map(|number: usize| blobs[number].digest.to_string()));
    assert!(!root.path().join("sha256").join(blobs[2].digest.hex()).exists());
    let usage = layers.usage();
    assert_eq!(usage.layers.iter().map(|layer| layer.held).collect::<Vec<_>>(), [false, true]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_nobody_used_for_a_while_needs_no_request() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob(1);
    let layers = with_budget(root.path(), Some(1 << 30));
    drop(filled(&layers, &blob).await);
    layers.release(&blob.digest).await;
    layers.close().await;
    drop(layers);
    let layers = with_budget(root.path(), Some(1 << 30));
    let down = MemorySource::new(blob.bytes.clone());
    down.down.store(true, Ordering::Relaxed);
    let layer = resolve(&layers, &blob, Arc::new(down)).await.unwrap();
    assert!(layer.complete());
    assert_eq!(read_file(&layer, "file").await.unwrap(), content(1, SIZE));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_reads_alone_stays_whatever_the_budget() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob(1);
    let layers = with_budget(root.path(), Some(1));
    let layer = filled(&layers, &blob).await;
    assert!(layer.give_alone().unwrap());
    tokio::time::sleep(Duration::from_secs(3)).await;
    layers.make_room(u64::MAX).await;
    assert!(layer.complete());
    assert_eq!(layers.make_room(u64::MAX).await, 0);
}

/// One reader of everything after the other, under a budget of a third of the layer: right bytes and a small disk.
#[tokio::test(flavor = "multi_thread")]
async fn reads_stay_right_under_a_tiny_budget_and_the_budget_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob(7);
    let layers = with_budget(root.path(), Some(1 << 20));
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers, &blob, source).await.unwrap();
    let expected = content(7, SIZE);
    let begun = Instant::now();
    let mut evicted = false;
    while begun.elapsed() < Duration::from_secs(6) {
        for offset in (0..SIZE).step_by(100_000) {
            let len = 100_000.min(SIZE - offset);
            let mut bytes = vec![0; len];
            while !layer.read_local(offset as u64, &mut bytes).unwrap() {
                assert_eq!(layer.fill(offset as u64, len).await.unwrap(), Filled::Stored);
            }
            assert!(bytes == expected[offset..offset + len], "{len} bytes at {offset}");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        evicted |= layer.usage().unwrap().bytes < SIZE as u64 / 2;
    }
    // When nobody reads any more, what is left fits.
    let mut left = u64::MAX;
    for _ in 0..60 {
        left = layer.usage().unwrap().bytes;
        if left <= 1 << 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(left <= 1 << 20, "{left} bytes are left");
    assert!(evicted || !layer.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_directories_take() {
    let root = tempfile::tempdir().unwrap();
    let layers = with_budget(root.path(), None);
    let one = filled(&layers, &blob(1)).await;
    let two = resolve(&layers, &blob(2), Arc::new(MemorySource::new(blob(2).bytes.clone()))).await.unwrap();
    layers.flush().await;
    let usage = layers.usage();
    let by_hand = [&one, &two].map(|layer| Taken::of(layer.image_path().parent().unwrap()).unwrap());
    assert_eq!(usage.total.bytes, by_hand[0].bytes + by_hand[1].bytes);
    assert_eq!(usage.total.inodes, 10);
    assert_eq!(one.usage().unwrap(), by_hand[0]);
    assert!(one.usage().unwrap().bytes > SIZE as u64 && two.usage().unwrap().bytes < 200_000);
    // A layer that is removed takes nothing.
    let digest = one.digest();
    drop(one);
    layers.remove(&digest).await.unwrap();
    assert_eq!(layers.usage().total, by_hand[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_low_before_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let layers = with_budget(root.path(), Some(SIZE as u64 * 2));
    assert!(!layers.room().low && layers.room().free > SIZE as u64);
    let one = filled(&layers, &blob(1)).await;
    layers.flush().await;
    assert!(layers.usage().total.bytes > SIZE as u64 && !layers.room().low);
    let two = resolve(&layers, &blob(2), Arc::new(MemorySource::new(blob(2).bytes.clone()))).await.unwrap();
    two.fill(0, SIZE * 3 / 4).await.unwrap();
    layers.usage();
    assert!(layers.room().low, "{:?}", layers.room());
    drop((one, two));
}

/// The background would push out what somebody reads, which is fetched again, and so on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_background_fills_no_more_than_fits() {
    let root = tempfile::tempdir().unwrap();
    let layers = with_budget(root.path(), Some(SIZE as u64 * 2));
    let one = filled(&layers, &blob(1)).await;
    let big = Tree::new().with("file", Entry::file(content(2, 16 << 20)));
    let big = estargz::build(&tarball::write(&big), &Options { chunk_size: 64 << 10, ..Options::default() });
    let source = Arc::new(MemorySource::new(big.bytes.clone()));
    let two = resolve(&layers, &big, source.clone()).await.unwrap();
    layers.usage();
    let mut ended = two.fill_all().await.unwrap_err();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Err(error) = two.fill_all().await {
            ended = error;
        }
    }
    assert_eq!(ended.kind(), layer::Kind::DiskFull);
    let asked: u64 = source.take_reads().iter().map(|range| range.end - range.start).sum();
    assert!(asked < 14 << 20, "{asked} bytes");
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_keeps_what_is_held_and_as_much_as_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let layers = with_budget(root.path(), Some(1 << 30));
    let held = filled(&layers, &blob(1)).await;
    drop(filled(&layers, &blob(2)).await);
    drop(filled(&layers, &blob(3)).await);
    // Fetches that ended a moment ago hold nothing.
    let all = layers.usage().total.bytes;
    let dry = layers.prune(Prune { dry_run: true, ..Prune::default() }).await;
    assert_eq!((dry.layers, layers.usage().layers.len()), (2, 3));
    let one = layers.prune(Prune { keep: all - 1, ..Prune::default() }).await;
    assert_eq!((one.layers, layers.usage().layers.len()), (1, 2));
    let rest = layers.prune(Prune::default()).await;
    assert_eq!((rest.layers, layers.usage().layers.len()), (1, 1));
    assert_eq!(dry.bytes, one.bytes + rest.bytes);
    assert!(held.complete());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let contents = Prune { contents: true, ..Prune::default() };
    layers.prune(contents.clone()).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    layers.prune(contents.clone()).await;
    assert!(layers.prune(contents).await.bytes + held.progress().missing > 0, "old contents go");
    assert_eq!(read_file(&held, "file").await.unwrap(), content(1, SIZE));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_rot_are_found_and_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let layers = with_budget(root.path(), Some(1 << 30));
    let layer = filled(&layers, &blob(1)).await;
    layers.flush().await;
    let rot = || {
        use std::os::unix::fs::FileExt as _;
        let image = std::fs::OpenOptions::new().write(true).open(layer.image_path()).unwrap();
        let len = image.metadata().unwrap().len();
        image.write_all_at(&[0xee; 100], len - 10_000).unwrap();
    };
    let seen = || {
        let dir = layer.image_path().parent().unwrap().to_owned();
        layer::cache::verify(&layer::image::ImageFiles::open_to_read(&dir).unwrap()).unwrap()
    };
    assert!(seen().bad.is_empty());
    rot();
    let bad = seen().bad;
    assert_eq!((bad.len(), seen().bytes), (1, SIZE as u64));
    // In use: at once.
    assert_eq!(layers.repair(&layer.digest(), vec![0, bad[0]]).await.unwrap(), 1);
    assert!(layer.complete());
    assert!(seen().bad.is_empty());
    // Not loaded: when it is read next.
    rot();
    let dir = layer.image_path();
    layers.close().await;
    let digest = layer.digest();
    drop(layers);
    let layers = with_budget(root.path(), Some(1 << 30));
    assert_eq!(layers.repair(&digest, bad).await.unwrap(), 1);
    assert!(layers.repair(&digest, vec![1 << 40]).await.is_err());
    let blob = blob(1);
    let again = resolve(&layers, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    assert_eq!((again.progress().missing, again.image_path()), (1, dir));
    assert_eq!(read_file(&again, "file").await.unwrap(), content(1, SIZE));
}

/// A small file system, which is taken away with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn new(bytes: u64) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "layers"]).arg(dir.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Small(dir));
        }
        // Past libtest, which hides what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: mounting needs root");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn read_through(layer: &Layer, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    loop {
        if layer.read_local(offset as u64, &mut bytes).unwrap() {
            return bytes;
        }
        if let Filled::Unkept(bytes) = layer.fill(offset as u64, len).await.unwrap() {
            return bytes.to_vec();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_room_in_the_cache_and_no_read() {
    let Some(disk) = Small::new(SIZE as u64 * 2) else { return };
    let layers = with_budget(disk.0.path(), None);
    let old = filled(&layers, &blob(1)).await;
    drop(old);
    let blob = blob(2);
    let layer = resolve(&layers, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    let ballast = SIZE * 2 - layers.usage().total.bytes as usize - SIZE / 4;
    std::fs::write(disk.0.path().join("ballast"), vec![1; ballast]).unwrap();
    let expected = content(2, SIZE);
    for _ in 0..2 {
        for offset in (0..SIZE).step_by(64 << 10) {
            let len = (64 << 10).min(SIZE - offset);
            let bytes = read_through(&layer, offset, len).await;
            assert!(bytes == expected[offset..offset + len], "{offset}");
        }
    }
    // The layer that nobody used made room for the one that somebody reads.
    let made = async {
        while digests(&layers).len() > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), made).await.unwrap();
    assert_eq!(layers.usage().layers[0].digest, layer.digest());
}

/// One gone blob is another's room: nothing is punched out of a layer that nobody can fetch again in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_is_undone_by_the_next_read() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob(4);
    let first = with_budget(root.path(), Some(1 << 30));
    let layer = resolve(&first, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    layer.fill(0, SIZE - (200 << 10)).await.unwrap();
    first.close().await;
    drop((first, layer));
    let layers = with_budget(root.path(), Some(1 << 30));
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
    let before = layer.progress().missing;
    let freed = layers.make_room(1 << 20).await;
    assert!((1 << 20..2 << 20).contains(&freed), "{freed}");
    assert!(layer.progress().missing >= before + 16);
    source.take_reads();
    assert_eq!(read_file(&layer, "file").await.unwrap(), content(4, SIZE));
    assert!(!source.take_reads().is_empty());
}
