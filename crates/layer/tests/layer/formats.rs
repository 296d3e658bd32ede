//! Every format that is pulled lazily, by every writer there is: each through real mounts, equal to `tar -x`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use format::Digest;
use layer::{Kind, Pin};
use testkit::estargz::{self, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};
use testkit::zstdchunked::{self, Zstd, podman};

use crate::layers;
use crate::mounted::{root_only, shown, untarred};
use crate::source::MemorySource;

/// Small, large, sparse, empty, twice the same, with links and attributes.
fn tree() -> Tree {
    let mut sparse = vec![0; 1 << 20];
    sparse[300_000..400_000].copy_from_slice(&content(7, 100_000));
    Tree::new()
        .with("bin/tool", Entry::file(content(1, 200_000)).mode(0o4755))
        .with("bin/same", Entry::file(content(1, 200_000)))
        .with("etc/empty", Entry::file(Vec::new()))
        .with("etc/small", Entry::file(content(2, 100)).xattr("user.note", b"here"))
        .with("var/sparse", Entry::file(sparse))
        .with("var/zeros", Entry::file(vec![0; 300_000]))
        .with("var/large", Entry::file(content(3, 2 << 20)))
        .with("bin/link", Entry::symlink("tool"))
}

fn expected(tar: &[u8]) -> Tree {
    untarred(tar, tempfile::tempdir().unwrap().path())
}

#[test]
fn zstd_chunked_by_the_image_converter() {
    if !root_only() {
        return;
    }
    let tar = tarball::write(&tree());
    let small = Options { chunk_size: 64 << 10, ..Options::default() };
    let shared = Options { min_chunk_size: 100 << 10, ..small.clone() };
    for options in [Options::default(), small, shared] {
        let blob = zstdchunked::build(&tar, &options, Zstd::default());
        for pin in [Pin::Toc(blob.toc_digest), Pin::CompressedToc(blob.toc_checksum)] {
            shown(MemorySource::new(blob.bytes.clone()), blob.digest, pin, &expected(&tar), true);
        }
    }
}

#[test]
fn zstd_chunked_by_podman_old_and_new() {
    if !root_only() {
        return;
    }
    let tar = tarball::write(&tree());
    for old in [false, true] {
        let options = podman::Options { old, ..podman::Options::default() };
        let blob = podman::build(&tar, &options);
        let pin = Pin::CompressedToc(blob.toc_checksum);
        shown(MemorySource::new(blob.bytes.clone()), blob.digest, pin, &expected(&tar), true);
    }
}

#[test]
fn estargz_with_its_toc_in_another_image() {
    if !root_only() {
        return;
    }
    let tar = tarball::write(&tree());
    let blob = estargz::build(&tar, &Options::external());
    let toc = testkit::image::toc_image(&[&blob]);
    let mut source = MemorySource::new(blob.bytes.clone());
    source.external_toc = Some(toc.layers[0].content.to_bytes());
    shown(source, blob.digest, Pin::Toc(blob.toc_digest), &expected(&tar), true);
}

/// Before eStargz there was no digest for a part of a file.
#[test]
fn legacy_stargz_where_verification_is_waived() {
    if !root_only() {
        return;
    }
    let tar = tarball::write(&tree());
    let blob = estargz::build(&tar, &Options { chunk_size: 64 << 10, ..Options::legacy() });
    shown(MemorySource::new(blob.bytes.clone()), blob.digest, None, &expected(&tar), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_without_digest_are_refused_whatever_the_digest_of_the_toc() {
    let root = tempfile::tempdir().unwrap();
    let tar = tarball::write(&tree());
    let blob = estargz::build(&tar, &Options { chunk_size: 64 << 10, ..Options::legacy() });
    let (layers, pin) = (layers(root.path()), Pin::Toc(blob.toc_digest));
    let source = || Arc::new(MemorySource::new(blob.bytes.clone()));
    let error = layers.resolve(blob.digest, Some(pin), source()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Format, "{error}");
    // As well when somebody whose images need no verification had it before.
    let resolved = layers.resolve(blob.digest, None, source()).await.unwrap();
    let error = resolved.verify(&pin).unwrap_err();
    assert_eq!(error.kind(), Kind::Format, "{error}");
    assert!(layers.resolve(blob.digest, None, source()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toc_image_that_is_not_there_leaves_the_layer_to_an_ordinary_pull() {
    let root = tempfile::tempdir().unwrap();
    let blob = estargz::build(&tarball::write(&tree()), &Options::external());
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let error = layers(root.path()).resolve(blob.digest, None, source).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotLazy);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pin_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let blob = podman::build(&tarball::write(&tree()), &podman::Options::default());
    let layers = layers(root.path());
    let other = Digest::of(b"another");
    for pin in [Pin::Toc(other), Pin::CompressedToc(other)] {
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let error = layers.resolve(blob.digest, Some(pin), source).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
    }
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let resolved = layers.resolve(blob.digest, None, source).await.unwrap();
    assert_eq!(resolved.verify(&Pin::CompressedToc(other)).unwrap_err().kind(), Kind::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_layers_are_known_after_one_small_request() {
    let tar = tarball::write(&tree());
    let gzip = testkit::image::Layer::gzip(&tar).content.to_bytes();
    let zstd = testkit::image::Layer::zstd(&tar).content.to_bytes();
    for blob in [gzip, zstd, tar.clone().into(), zstdchunked::hostile::decoy(&tar).into()] {
        let root = tempfile::tempdir().unwrap();
        let source = Arc::new(MemorySource::new(blob.clone()));
        let error = layers(root.path()).resolve(Digest::of(&blob), None, source.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotLazy, "{error}");
        assert_eq!(source.requests.load(Ordering::Relaxed), 0, "its end was enough");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_of_zstd_chunked_never_show_a_wrong_byte() {
    for (writer, lie) in zstdchunked::hostile::Lie::all() {
        let root = tempfile::tempdir().unwrap();
        let blob = lie.blob(writer);
        let layers = layers(root.path());
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let pin = Pin::CompressedToc(blob.toc_checksum);
        let Ok(resolved) = layers.resolve(blob.digest, Some(pin), source).await else { continue };
        let layer = resolved.verify(&pin).unwrap();
        // Some chunks are refused, the others are what they should be: each was compared with its digest.
        let mut at = 0;
        while at < layer.data_len() {
            let len = (layer.data_len() - at).min(1 << 20) as usize;
            let _ = layer.fill(at, len).await;
            at += len as u64;
        }
        let dir = layer.image_path().parent().unwrap().to_owned();
        let files = layer::image::ImageFiles::open_to_read(&dir).unwrap();
        assert!(layer::cache::verify(&files).unwrap().bad.is_empty(), "{lie:?}");
        layers.close().await;
    }
}
