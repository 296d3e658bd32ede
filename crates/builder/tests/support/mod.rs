//! Builds in memory, and reads back with the reader that lazy pulls use.
#![allow(dead_code, missing_docs)] // each test takes what it needs

use std::collections::HashMap;
use std::io::Read as _;

use builder::{BuildError, Builder, Built, Format, Gzip, Options, Zstd};
use bytes::Bytes;
use format::{
    Digest, FOOTER_SIZE_MAX, Footer, Limits, NodeId, NodeKind, Toc, decode, read_toc, span_index, spans,
};
use testkit::compare::{Ignore, assert_same};
use testkit::tree::{Device, Entry, Kind, Time, Tree, join};

pub const ESTARGZ: Format = Format::Estargz(Gzip { level: 6, min_chunk_size: 0 });
pub const SHARED: Format = Format::Estargz(Gzip { level: 1, min_chunk_size: 3000 });
pub const EXTERNAL: Format =
    Format::ExternalToc { gzip: Gzip { level: 9, min_chunk_size: 0 }, lossless: false };
pub const LOSSLESS: Format =
    Format::ExternalToc { gzip: Gzip { level: 5, min_chunk_size: 0 }, lossless: true };
pub const ZSTD: Format = Format::ZstdChunked(Zstd { level: 3, podman: false });

pub fn options(format: Format) -> Options {
    Options { chunk_size: 16 << 10, threads: 2, ..Options::new(format) }
}

pub fn build(options: Options, source: &[u8]) -> (Built, Vec<u8>) {
    try_build(options, source).unwrap_or_else(|error| panic!("{error:?}"))
}

pub fn try_build(options: Options, source: &[u8]) -> Result<(Built, Vec<u8>), BuildError> {
    let mut blob = Vec::new();
    let built = Builder::new(options).build(source, &mut blob)?;
    assert_eq!(built.blob_digest, Digest::of(&blob));
    assert_eq!(built.blob_size, blob.len() as u64);
    Ok((built, blob))
}

/// The archive in a blob, checked against what the builder says about it.
pub fn archive(built: &Built, blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    if blob.starts_with(b"\x1f\x8b") {
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
    } else {
        zstd::Decoder::new(blob).unwrap().read_to_end(&mut tar).unwrap();
    }
    assert_eq!(built.diff_id, Digest::of(&tar));
    assert_eq!(built.uncompressed_size, tar.len() as u64);
    tar
}

pub const EXTERNAL_FOOTER: &[u8] =
    b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";

/// Where the TOC is, compressed.
pub fn toc_bytes<'a>(built: &'a Built, blob: &'a [u8]) -> (Footer, &'a [u8]) {
    let tail = &blob[blob.len().saturating_sub(FOOTER_SIZE_MAX)..];
    let footer = Footer::find(tail, blob.len() as u64).unwrap();
    let bytes = match (&footer.toc, &built.toc) {
        (Some(toc), None) => &blob[toc.start as usize..toc.end as usize],
        (None, Some(toc)) => {
            assert_eq!(toc.digest, Digest::of(&toc.bytes));
            &toc.bytes
        }
        other => panic!("{other:?}"),
    };
    (footer, bytes)
}

/// The TOC, verified.
pub fn toc(built: &Built, blob: &[u8]) -> (Footer, Toc) {
    let (footer, compressed) = toc_bytes(built, blob);
    let toc = read_toc(&footer, compressed, &Limits::default()).unwrap();
    (footer, toc.verify(&built.toc_digest).unwrap())
}

/// The tree that a lazy pull shows, every chunk expanded from its span and verified.
pub fn lazy_tree(built: &Built, blob: &[u8]) -> Tree {
    let (footer, toc) = toc(built, blob);
    let spans = spans(toc.chunks(), footer.payload_end);
    let content = |chunks: std::ops::Range<u32>| {
        let (mut content, mut out) = (Vec::new(), Vec::new());
        for chunk in &toc.chunks()[chunks.start as usize..chunks.end as usize] {
            let span = &spans[span_index(&spans, chunk).unwrap()];
            let compressed = &blob[span.blob.start as usize..span.blob.end as usize];
            decode(footer.compression(), compressed, span.needed as usize, &mut out).unwrap();
            let bytes = &out[chunk.inner_offset as usize..chunk.inner_end() as usize];
            assert!(Digest::from_sha256(chunk.digest.unwrap()).matches(bytes));
            content.extend_from_slice(bytes);
        }
        Bytes::from(content)
    };
    let mut tree = Tree::new();
    let mut seen: HashMap<NodeId, Vec<u8>> = HashMap::new();
    let mut todo = vec![(Vec::new(), NodeId::ROOT)];
    while let Some((path, id)) = todo.pop() {
        if let Some(first) = seen.get(&id) {
            tree.link(&path, first);
            continue;
        }
        seen.insert(id, path.clone());
        let node = &toc.nodes()[id.index()];
        let kind = match &node.kind {
            NodeKind::Directory { opaque } => Kind::Dir { opaque: *opaque },
            NodeKind::File { chunks, .. } => Kind::File(content(chunks.clone())),
            NodeKind::Symlink { target } => Kind::Symlink(target.clone()),
            NodeKind::CharDevice { major, minor } => Kind::Char(Device { major: *major, minor: *minor }),
            NodeKind::BlockDevice { major, minor } => Kind::Block(Device { major: *major, minor: *minor }),
            NodeKind::Fifo => Kind::Fifo,
            NodeKind::Whiteout => Kind::Whiteout,
        };
        let entry = Entry {
            mode: node.mode.into(),
            uid: node.uid,
            gid: node.gid,
            mtime: Time { secs: node.mtime.secs, nanos: node.mtime.nanos },
            xattrs: node.xattrs.iter().cloned().collect(),
            ..Entry::new(kind)
        };
        tree.insert(&path, entry);
        todo.extend(toc.children(id).map(|(name, child)| (join(&path, name), child)));
    }
    tree
}

/// A tree without what steers the format.
pub fn without_steering(mut tree: Tree) -> Tree {
    for name in [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"] {
        tree.remove(name.as_bytes());
    }
    tree
}

/// Whether both ways to pull a layer give the tree: unpacking its archive, and the TOC.
pub fn assert_shows(expected: &Tree, built: &Built, blob: &[u8]) {
    assert_shows_but(expected, built, blob, Ignore::default());
}

pub fn assert_shows_but(expected: &Tree, built: &Built, blob: &[u8], ignore: Ignore) {
    let tar = archive(built, blob);
    assert_same(expected, &without_steering(testkit::tarball::tree(&tar)), &ignore);
    // A TOC has whole seconds.
    let ignore = Ignore { nanoseconds: true, ..ignore };
    assert_same(expected, &lazy_tree(built, blob), &ignore);
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzEncoder::new(data, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
    out
}
