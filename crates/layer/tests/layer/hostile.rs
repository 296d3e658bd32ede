//! Blobs that lie: each ends in a specific error, and never in a byte that was not verified.

use std::sync::Arc;

use layer::Kind;
use testkit::estargz::hostile::{self, Lie};
use testkit::tree::content;

use crate::source::MemorySource;
use crate::{layers, read_file, resolve};

/// How far a lie gets.
enum Ends {
    /// The layer is refused, with this kind and this in its text.
    Refused(Kind, &'static str),
    /// The layer mounts; reading `victim` fails, the other files are fine.
    Unreadable(Kind, &'static str),
}
use Ends::{Refused, Unreadable};

fn end_of(lie: Lie) -> Ends {
    match lie {
        Lie::Truncated | Lie::NoFooter => Refused(Kind::NotLazy, "footer"),
        Lie::FooterOutside | Lie::FooterAtItself => Refused(Kind::Format, "past the end"),
        Lie::TocDigest => Refused(Kind::Integrity, "digest"),
        Lie::TocNotJson | Lie::TocShape => Refused(Kind::Format, "not valid"),
        Lie::ChunkDigest => Unreadable(Kind::Integrity, "does not have its digest"),
        Lie::ChunkBytes => Unreadable(Kind::Integrity, ""),
        Lie::ClimbingName | Lie::DottedName => Refused(Kind::Format, "`..`"),
        Lie::AbsoluteName => Refused(Kind::Format, "absolute"),
        Lie::LongName => Refused(Kind::Format, "255"),
        Lie::NulName => Refused(Kind::Format, "NUL"),
        Lie::Duplicates => Refused(Kind::Format, "small"),
        Lie::HardlinkCycle => Refused(Kind::Format, "TOC entry \"x\""),
        Lie::HardlinkMissing => Refused(Kind::Format, "nothing"),
        Lie::HardlinkToDirectory => Refused(Kind::Format, "directory"),
        Lie::FileAsParent => Refused(Kind::Format, "small"),
        Lie::SizeTooSmall | Lie::SizeTooLarge | Lie::ChunksOverlap | Lie::ChunkGap | Lie::ChunkTooLarge => {
            Refused(Kind::Format, "victim")
        }
        Lie::SizeNegative => Refused(Kind::Format, ""),
        Lie::OffsetOutside | Lie::InnerOffsetOutside => Refused(Kind::Format, "victim"),
        Lie::StrayChunk => Refused(Kind::Format, "chunk"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_ends_in_its_own_error() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    for lie in Lie::ALL {
        let blob = lie.blob();
        let source = Arc::new(MemorySource::new(blob.bytes.clone()));
        let resolved = resolve(&layers, &blob, source).await;
        let (kind, said, error) = match end_of(lie) {
            Refused(kind, said) => {
                (kind, said, resolved.map(|_| lie).expect_err("the layer should be refused"))
            }
            Unreadable(kind, said) => {
                let layer = resolved.unwrap_or_else(|error| panic!("{lie:?}: {error}"));
                let error = read_file(&layer, "victim").await.expect_err("the file should not be readable");
                assert_eq!(read_file(&layer, "small").await.unwrap(), b"small", "{lie:?}");
                assert_eq!(read_file(&layer, "dir/file").await.unwrap(), content(3, 5000), "{lie:?}");
                (kind, said, error)
            }
        };
        assert_eq!(error.kind(), kind, "{lie:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(said) && text.contains(&blob.digest.to_string()), "{lie:?}: {text}");
        layers.remove(&blob.digest).await.unwrap();
    }
    let left: Vec<_> =
        std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "lock" || name == "sha256"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_of_one_layer_leaves_the_others_alone() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let honest = hostile::draft().seal();
    let good = resolve(&layers, &honest, Arc::new(MemorySource::new(honest.bytes.clone()))).await.unwrap();
    let lie = Lie::ChunkDigest.blob();
    let bad = resolve(&layers, &lie, Arc::new(MemorySource::new(lie.bytes.clone()))).await.unwrap();
    assert!(read_file(&bad, "victim").await.is_err());
    assert_eq!(read_file(&good, "victim").await.unwrap(), content(2, hostile::CHUNK_SIZE * 7 / 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_blob_with_another_toc_digest_is_refused_although_it_is_live() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let blob = hostile::draft().seal();
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    resolve(&layers, &blob, source.clone()).await.unwrap();
    let other = layer::Pin::Toc(format::Digest::of(b"another"));
    let error = layers.resolve(blob.digest, Some(other), source).await.unwrap().verify(&other).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
}

/// A gibibyte of zeros in a mebibyte, of which the TOC claims 4 KiB: read, with no more than that decompressed.
#[tokio::test(flavor = "multi_thread")]
async fn a_zero_bomb_costs_what_the_toc_claims() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let blob = hostile::zero_bomb(hostile::CLAIMED_4_KIB);
    let source = Arc::new(MemorySource::new(blob.bytes.clone()));
    let layer = resolve(&layers, &blob, source.clone()).await.unwrap();
    assert_eq!(read_file(&layer, "bomb").await.unwrap(), vec![0; 4096]);
    let asked: u64 = source.take_reads().iter().map(|range| range.end - range.start).sum();
    assert!(asked < 256 << 10, "{asked} bytes for 4 KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toc_bomb_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let layers = layers(root.path());
    let blob = hostile::toc_bomb();
    let error = resolve(&layers, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Format);
}
