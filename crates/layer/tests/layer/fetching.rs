//! What is asked of the blob store, and what a reader gets when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use layer::Kind;
use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::{Fault, MemorySource};
use crate::{layers, read_file, resolve};

/// A file of many chunks, incompressible, and small ones around it.
fn blob(options: &Options) -> (Tree, Blob) {
    let mut tree = Tree::new();
    for number in 0..40u64 {
        tree = tree.with(format!("small/{number:02}"), Entry::file(content(number, 3000)));
    }
    tree = tree.with("large", Entry::file(content(99, 3 << 20)));
    let blob = estargz::build(&tarball::write(&tree), options);
    (tree, blob)
}

fn chunked() -> Options {
    Options { chunk_size: 64 << 10, ..Options::default() }
}

fn expected(tree: &Tree, path: &str) -> Vec<u8> {
    tree.get(path.as_bytes()).unwrap().content().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_reads_as_it_was_packed() {
    let shared_members = Options { min_chunk_size: 100 << 10, ..chunked() };
    for options in [chunked(), Options::default(), shared_members] {
        let root = tempfile::tempdir().unwrap();
        let (tree, blob) = blob(&options);
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let layer = resolve(&layers(root.path()), &blob, source).await.unwrap();
        for path in ["large", "small/39", "small/00", "large"] {
            assert_eq!(read_file(&layer, path).await.unwrap(), expected(&tree, path), "{path} {options:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_filled_is_not_asked_for_again() {
    let root = tempfile::tempdir().unwrap();
    let (_, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    read_file(&layer, "large").await.unwrap();
    assert!(!source.take_reads().is_empty());
    read_file(&layer, "large").await.unwrap();
    assert_eq!(source.take_reads(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_file_cost_what_one_costs() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&Options::default());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    let readers: Vec<_> = (0..32)
        .map(|_| {
            let layer = layer.clone();
            tokio::spawn(async move { read_file(&layer, "small/07").await.unwrap() })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), expected(&tree, "small/07"));
    }
    assert_eq!(source.take_reads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_come_along_with_a_miss() {
    let root = tempfile::tempdir().unwrap();
    let (_, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    // Sorted as in the tar archive: small/00 … small/39 are far smaller together than the first window.
    for number in 0..40 {
        read_file(&layer, &format!("small/{number:02}")).await.unwrap();
    }
    assert!(source.take_reads().len() <= 3, "a request for each file would be 40");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_continued() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.fault(Fault::Break(300_000));
    source.fault(Fault::Break(0));
    assert_eq!(read_file(&layer, "large").await.unwrap(), expected(&tree, "large"));
    let reads = source.take_reads();
    assert!(
        reads
            .iter()
            .any(|range| reads.iter().any(|other| other.start > range.start && other.end == range.end)),
        "{reads:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_broken_on_the_way_are_asked_for_once_more() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    source.fault(Fault::Flip(1000));
    assert_eq!(read_file(&layer, "small/00").await.unwrap(), expected(&tree, "small/00"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_fails_the_read_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    read_file(&layer, "small/00").await.unwrap();
    source.down.store(true, Ordering::Relaxed);
    assert_eq!(read_file(&layer, "large").await.unwrap_err().kind(), Kind::Timeout);
    assert_eq!(read_file(&layer, "small/00").await.unwrap(), expected(&tree, "small/00"));
    source.down.store(false, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(read_file(&layer, "large").await.unwrap(), expected(&tree, "large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_ranges_is_read_once() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    source.ignores_ranges.store(true, Ordering::Relaxed);
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    assert_eq!(read_file(&layer, "small/20").await.unwrap(), expected(&tree, "small/20"));
    assert_eq!(read_file(&layer, "large").await.unwrap(), expected(&tree, "large"));
    // What nobody waited for arrives with the same answer.
    let complete = async {
        while !layer.complete() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), complete).await.unwrap();
    assert_eq!(source.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_answers_fails_the_read_in_time() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let mut options = layer::LayersOptions::new(root.path());
    options.read_timeout = std::time::Duration::from_millis(200);
    let layers = layer::Layers::open(options).unwrap();
    let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
    source.fault(Fault::Hang);
    assert_eq!(read_file(&layer, "small/05").await.unwrap_err().kind(), Kind::Timeout);
    // Others are not held up by it.
    assert_eq!(read_file(&layer, "large").await.unwrap().len(), expected(&tree, "large").len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_does_not_take_the_fetch_along() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) = blob(&chunked());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    let first = tokio::spawn({
        let layer = layer.clone();
        async move { read_file(&layer, "large").await }
    });
    while source.reads.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert_eq!(read_file(&layer, "large").await.unwrap(), expected(&tree, "large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prefetch_ends_at_the_landmark() {
    let root = tempfile::tempdir().unwrap();
    let (tree, blob) =
        blob(&Options { prioritized: vec![b"small/11".to_vec(), b"small/33".to_vec()], ..chunked() });
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    layer.prefetch(layer.prefetch_end(u64::MAX)).await.unwrap();
    assert_eq!(source.take_reads().len(), 1);
    for path in ["small/11", "small/33"] {
        assert_eq!(read_file(&layer, path).await.unwrap(), expected(&tree, path));
    }
    assert_eq!(source.take_reads(), []);
    assert!(!layer.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_whose_store_hangs_does_not_hold_up_another() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let (tree, good) = blob(&chunked());
    let (_, bad) = blob(&Options::default());
    let hanging = Arc::new(MemorySource::new(bad.bytes.clone()));
    let stuck = resolve(&layers, &bad, hanging.clone()).await.unwrap();
    let layer = resolve(&layers, &good, Arc::new(MemorySource::new(good.bytes.clone()))).await.unwrap();
    for _ in 0..100 {
        hanging.fault(Fault::Hang);
    }
    let readers: Vec<_> = (0..40)
        .map(|number| {
            let stuck = stuck.clone();
            tokio::spawn(async move { read_file(&stuck, &format!("small/{number:02}")).await })
        })
        .collect();
    while hanging.reads.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(read_file(&layer, "large").await.unwrap(), expected(&tree, "large"));
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toc_that_is_larger_than_the_first_look_costs_one_more_request() {
    let (tree, blob) = blob(&chunked());
    for (tail, more) in
        [(format::FOOTER_SIZE_MAX as u64, 1), (200, 1), (blob.bytes.len() as u64, 0), (1 << 30, 0)]
    {
        for ignores_ranges in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let mut options = layer::LayersOptions::new(root.path());
            options.tail = tail;
            let layers = layer::Layers::open(options).unwrap();
            let source = Arc::new(MemorySource::new(blob.bytes.clone()));
            source.ignores_ranges.store(ignores_ranges, Ordering::Relaxed);
            let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
            assert_eq!(source.take_reads().len(), more, "tail of {tail}");
            assert_eq!(read_file(&layer, "small/01").await.unwrap(), expected(&tree, "small/01"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_does_not_fit_into_memory_is_verified_all_the_same() {
    const SIZE: usize = 17 << 20;
    let tree = Tree::new()
        .with("before.x", Entry::file(content(2, 5000)))
        .with("huge.y", Entry::file(content(4, SIZE)))
        .with("after.z", Entry::file(content(6, 5000)));
    let whole = Options { chunk_size: 32 << 20, ..Options::default() };
    let blob = estargz::build(&tarball::write(&tree), &whole);
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers(root.path()), &blob, source.clone()).await.unwrap();
    // Wrong twice, which is once too often; then right.
    source.fault(Fault::Flip(9 << 20));
    source.fault(Fault::Flip(9 << 20));
    assert_eq!(read_file(&layer, "huge.y").await.unwrap_err().kind(), Kind::Integrity);
    assert_eq!(read_file(&layer, "huge.y").await.unwrap(), content(4, SIZE));
    for (path, seed) in [("before.x", 2), ("after.z", 6)] {
        assert_eq!(read_file(&layer, path).await.unwrap(), content(seed, 5000), "{path}");
    }
    assert!(layer.complete());
}
