//! What outlives the process.

mod killed;
mod power;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::MemorySource;
use crate::{layers, read_file, resolve};

fn blob() -> Blob {
    // Far apart and of different kinds, so that one is not fetched along with the other.
    let tree = Tree::new()
        .with("a", Entry::file(content(1, 5000)))
        .with("b", Entry::file(content(2, 4 << 20)))
        .with("c.far", Entry::file(content(3, 5000)));
    estargz::build(&tarball::write(&tree), &Options { chunk_size: 256 << 10, ..Options::default() })
}

fn down(blob: &Blob) -> Arc<MemorySource> {
    let source = MemorySource::new(blob.bytes.clone());
    source.down.store(true, Ordering::Relaxed);
    Arc::new(source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_needs_no_blob_store_for_what_was_filled() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob();
    let first = layers(root.path());
    let layer = resolve(&first, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    read_file(&layer, "a").await.unwrap();
    first.close().await;
    drop((first, layer));

    let second = layers(root.path());
    let layer = resolve(&second, &blob, down(&blob)).await.unwrap();
    assert_eq!(read_file(&layer, "a").await.unwrap(), content(1, 5000));
    assert!(read_file(&layer, "c.far").await.is_err());
    layer.set_source(Arc::new(MemorySource::new(blob.bytes.clone())));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(read_file(&layer, "c.far").await.unwrap(), content(3, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_a_flush_costs_a_download_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob();
    let first = layers(root.path());
    let layer = resolve(&first, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    read_file(&layer, "a").await.unwrap();
    // What a power cut leaves: the bits of before, and any bytes in the data area.
    let copy = tempfile::tempdir().unwrap();
    let dir = root.path().join("sha256").join(blob.digest.hex());
    let to = copy.path().join("sha256").join(blob.digest.hex());
    std::fs::create_dir_all(&to).unwrap();
    for name in ["image.erofs", "chunks", "filled", "meta.json"] {
        std::fs::copy(dir.join(name), to.join(name)).unwrap();
    }
    use std::os::unix::fs::FileExt as _;
    let image = std::fs::OpenOptions::new().write(true).open(to.join("image.erofs")).unwrap();
    let len = image.metadata().unwrap().len();
    image.write_all_at(&[0xee; 4096], len - 4096).unwrap();

    let second = layers(copy.path());
    let layer = resolve(&second, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    assert!(!layer.complete());
    for (path, expected) in [("a", content(1, 5000)), ("c.far", content(3, 5000))] {
        assert_eq!(read_file(&layer, path).await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_file_means_that_the_layer_is_built_again() {
    for name in ["chunks", "meta.json", "image.erofs", "filled"] {
        let root = tempfile::tempdir().unwrap();
        let blob = blob();
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let first = layers(root.path());
        resolve(&first, &blob, source.clone()).await.unwrap();
        first.close().await;
        drop(first);
        let path = root.path().join("sha256").join(blob.digest.hex()).join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let second = layers(root.path());
        let layer = resolve(&second, &blob, source).await.unwrap();
        assert_eq!(read_file(&layer, "a").await.unwrap(), content(1, 5000), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_root_has_one_owner() {
    let root = tempfile::tempdir().unwrap();
    let first = layers(root.path());
    let error = layer::Layers::open(layer::LayersOptions::new(root.path())).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(first);
    layers(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_layer_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let blob = blob();
    let all = layers(root.path());
    let layer = resolve(&all, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
    read_file(&layer, "a").await.unwrap();
    assert_eq!(all.on_disk().unwrap(), [blob.digest]);
    all.remove(&blob.digest).await.unwrap();
    assert_eq!(all.on_disk().unwrap(), []);
    assert!(all.all().is_empty());
}
