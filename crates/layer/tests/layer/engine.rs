//! Who is served first, what is fetched without being asked for, and what happens when there is no room.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use layer::{Background, BlobDigest, Filled, Layer};
use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::{Fault, MemorySource};
use crate::{layers, read_file, resolve};

/// Files of a class each, so that none comes along with another.
fn strangers(count: u64, size: usize) -> Blob {
    let mut tree = Tree::new();
    for number in 0..count {
        tree = tree.with(format!("f{number:03}.c{number}"), Entry::file(content(number, size)));
    }
    estargz::build(&tarball::write(&tree), &Options { chunk_size: 64 << 10, ..Options::default() })
}

fn name(number: u64) -> String {
    format!("f{number:03}.c{number}")
}

async fn until_complete(layer: &Layer, limit: Duration) {
    let begun = Instant::now();
    while !layer.complete() {
        assert!(begun.elapsed() < limit, "{:?}", layer.progress());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_background_completes_a_layer_over_a_network_that_comes_and_goes() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(50, 100_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.down.store(true, Ordering::Relaxed);
    Background::new(2).fill(&layer);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!layer.complete());
    source.down.store(false, Ordering::Relaxed);
    until_complete(&layer, Duration::from_secs(20)).await;
    source.down.store(true, Ordering::Relaxed);
    assert_eq!(read_file(&layer, &name(49)).await.unwrap(), content(49, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_background_goes_on_where_it_stopped() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(50, 100_000);
    let half = blob.bytes.len() as u64 / 2;
    let first = layers(root.path());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&first, &blob, source).await.unwrap();
    layer.prefetch(half).await.unwrap();
    first.close().await;
    drop((first, layer));

    let again = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, again.clone()).await.unwrap();
    Background::new(1).fill(&layer);
    until_complete(&layer, Duration::from_secs(20)).await;
    let first_byte = again.take_reads().iter().map(|range| range.start).min().unwrap();
    assert!(first_byte > half - 200_000, "{first_byte} of {half}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_layer_is_not_filled_on() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(20, 100_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layers = layers(root.path());
    let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
    // The background keeps still at first, with nothing under way that a removal could end.
    layers.starting();
    let background = Background::new(1);
    background.fill(&layer);
    background.fill(&layer);
    tokio::time::sleep(Duration::from_millis(100)).await;
    layers.remove(&blob.digest).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(source.requests.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&layer), 1, "nobody holds on to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_background_keeps_still_while_somebody_waits() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(20, 100_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.fault(Fault::Hang);
    let blocked = {
        let layer = layer.clone();
        tokio::spawn(async move { read_file(&layer, &name(3)).await })
    };
    while source.requests.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    Background::new(2).fill(&layer);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(source.requests.load(Ordering::Relaxed), 1, "only what is demanded");
    blocked.abort();
    let _ = blocked.await;
    until_complete(&layer, Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demand_does_not_wait_for_a_long_answer_that_has_its_bytes_at_the_end() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(100, 200_000);
    let mut source = MemorySource::new(blob.bytes.clone());
    source.pause = Some((20_000, Duration::from_millis(5)));
    let layer = resolve(&layers(root.path()), &blob, Arc::new(source)).await.unwrap();
    let all = blob.bytes.len() as u64;
    let prefetch = {
        let layer = layer.clone();
        tokio::spawn(async move { layer.prefetch(all).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_eq!(read_file(&layer, &name(95)).await.unwrap(), content(95, 200_000));
    let (own, everything) = (begun.elapsed(), prefetch);
    everything.await.unwrap().unwrap();
    assert!(own * 4 < begun.elapsed(), "{own:?} of {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_layer_has_is_not_fetched() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let one = strangers(10, 100_000);
    let tree = Tree::new().with("elsewhere/x", Entry::file(content(3, 100_000)));
    let two = estargz::build(&tarball::write(&tree), &Options { chunk_size: 64 << 10, ..Options::default() });
    let source = Arc::new(MemorySource::new(one.bytes.clone()));
    let first = resolve(&layers, &one, source).await.unwrap();
    read_file(&first, &name(3)).await.unwrap();
    let source = Arc::new(MemorySource::new(two.bytes.clone()));
    let second = resolve(&layers, &two, source.clone()).await.unwrap();
    assert_eq!(read_file(&second, "elsewhere/x").await.unwrap(), content(3, 100_000));
    assert_eq!(source.requests.load(Ordering::Relaxed), 0);
    assert!(second.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_much_of_a_layer_gets_the_rest_as_a_stream() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(100, 100_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    // In an order that nobody can foresee.
    for number in (0..45).map(|step| step * 37 % 100) {
        read_file(&layer, &name(number)).await.unwrap();
    }
    until_complete(&layer, Duration::from_secs(20)).await;
    assert!(source.requests.load(Ordering::Relaxed) < 60);
    assert_eq!(layer.progress().touched, 45 * 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_left() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(3, 1_000_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.fault(Fault::Silence(300_000));
    let begun = Instant::now();
    assert_eq!(read_file(&layer, &name(2)).await.unwrap(), content(2, 1_000_000));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(source.requests.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_single_ranges_is_asked_for_single_ranges() {
    let root = tempfile::tempdir().unwrap();
    let blob = strangers(40, 100_000);
    let mut source = MemorySource::new(blob.bytes.clone());
    source.many = false;
    let layer = resolve(&layers(root.path()), &blob, Arc::new(source)).await.unwrap();
    for number in [30, 2, 17, 31, 3] {
        assert_eq!(read_file(&layer, &name(number)).await.unwrap(), content(number, 100_000));
    }
    layer.fill_all().await.unwrap();
    assert!(layer.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_comes_in_one_piece_is_compared_with_its_digest() {
    for spoil in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let blob = strangers(4, 100_000);
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        source.ignores_ranges.store(true, Ordering::Relaxed);
        let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
        assert_eq!(layer.blob_digest(), BlobDigest::Unseen);
        if spoil {
            // In the footer, where no content is.
            source.fault(Fault::Flip(blob.bytes.len() - 3));
        }
        read_file(&layer, &name(0)).await.unwrap();
        until_complete(&layer, Duration::from_secs(20)).await;
        let begun = Instant::now();
        while layer.blob_digest() == BlobDigest::Unseen && begun.elapsed() < Duration::from_secs(10) {
            tokio::task::yield_now().await;
        }
        let expected = if spoil { BlobDigest::Wrong } else { BlobDigest::Right };
        assert_eq!(layer.blob_digest(), expected);
    }
}

/// A small file system of its own.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "small"]).arg(dir.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: mounting needs root");
        }
        mounted.then_some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_served_from_memory_and_not_for_ever() {
    let Some(small) = Small::new("3m") else { return };
    let blob = strangers(100, 100_000);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let root = small.0.path().join("layers");
    let layers = layers(&root);
    let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
    let place = |number: u64| {
        let image = std::fs::read(layer.image_path()).unwrap();
        let image = erofs::reader::Image::open(&image).unwrap();
        let root = image.inode(image.root()).unwrap();
        let nid = image.lookup(&root, name(number).as_bytes()).unwrap().unwrap();
        match image.content(&image.inode(nid).unwrap()).unwrap() {
            erofs::Content::File { data_offset, .. } => data_offset,
            other => panic!("{other:?}"),
        }
    };
    let mut unkept = 0;
    for number in 0..100 {
        let offset = place(number);
        match layer.fill(offset, 100_000).await.unwrap() {
            Filled::Unkept(bytes) => {
                unkept += 1;
                assert_eq!(bytes, content(number, 100_000), "{number}");
            }
            Filled::Stored => {
                let mut bytes = vec![0; 100_000];
                assert!(layer.read_local(offset, &mut bytes).unwrap());
                assert_eq!(bytes, content(number, 100_000), "{number}");
            }
        }
    }
    assert!(unkept > 50, "{unkept}");
    // A chunk that was not kept a moment ago is not fetched for every page of it.
    let before = source.requests.load(Ordering::Relaxed);
    let offset = place(99);
    for page in 0..10 {
        let Filled::Unkept(bytes) = layer.fill(offset + page * 4096, 4096).await.unwrap() else {
            panic!("there is still no room");
        };
        let at = page as usize * 4096;
        assert_eq!(bytes, content(99, 100_000)[at..at + 4096]);
    }
    assert_eq!(source.requests.load(Ordering::Relaxed), before);
    layers.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_file_only_the_parts_that_its_author_named_are_prefetched() {
    let (root, chunk) = (tempfile::tempdir().unwrap(), 64_u64 << 10);
    let tree = Tree::new()
        .with("early", Entry::file(content(1, 1000)))
        .with("large", Entry::file(content(2, 100 * chunk as usize)));
    let mut options = Options { chunk_size: chunk as usize, ..Options::default() };
    options.prioritized.push(b"early".to_vec());
    let mut draft = estargz::Draft::new(&tarball::write(&tree), &options);
    let named = format!("{}+1,{}+{},{}+999999999", 10 * chunk + 5, 50 * chunk - 1, chunk, 99 * chunk);
    draft.entry("large")["prefetchRanges"] = named.into();
    let blob = draft.seal();
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.take_reads();
    layer.prefetch(layer.prefetch_end(0)).await.unwrap();
    let fetched: u64 = source.take_reads().iter().map(|range| range.end - range.start).sum();
    // Chunks 10, 49, 50 and 99 of content that does not compress.
    assert!((4 * chunk..4 * chunk + 20_000).contains(&fetched), "{fetched}");
    let large = layer.data_len() - 100 * chunk;
    let mut bytes = vec![0; chunk as usize];
    let there: Vec<u64> =
        (0..100).filter(|number| layer.read_local(large + number * chunk, &mut bytes).unwrap()).collect();
    assert_eq!(there, [10, 49, 50, 99]);
}
