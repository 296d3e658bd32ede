//! Writes TOCs, and shows what was read as text.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::toc::{Limits, NodeId, NodeKind, Toc, UnverifiedToc, read_toc};
use crate::{EntryError, Footer, FormatError, TocKind};

/// Where the payload of the blobs of these tests ends.
pub const PAYLOAD_END: u64 = 1 << 20;

pub fn footer() -> Footer {
    Footer { kind: TocKind::Estargz, toc: Some(PAYLOAD_END..PAYLOAD_END + 1000), payload_end: PAYLOAD_END }
}

/// A tar entry of this name with its padding and the end of the archive.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000444");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = content.len().next_multiple_of(512) - content.len();
    [&header, content, &vec![0; padding + 1024]].concat()
}

/// The footer of a zstd:chunked blob whose TOC has this size, compressed and not.
pub fn chunked_footer(size: usize, json_size: usize) -> Footer {
    let (toc, json_size) = (PAYLOAD_END + 8..PAYLOAD_END + 8 + size as u64, json_size as u64);
    Footer { kind: TocKind::ZstdChunked { json_size }, toc: Some(toc), payload_end: PAYLOAD_END }
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    ::zstd::bulk::compress(data, 3).unwrap()
}

/// Reads entries as those of a zstd:chunked blob.
pub fn read_chunked(entries: Value) -> Result<Toc, FormatError> {
    let json = json!({ "version": 1, "entries": entries, "tarSplitDigest": digest(9) }).to_string();
    let compressed = zstd(json.as_bytes());
    let footer = chunked_footer(compressed.len(), json.len());
    verified(read_toc(&footer, &compressed[..], &Limits::default())?)
}

/// By its own digest.
fn verified(toc: UnverifiedToc) -> Result<Toc, FormatError> {
    let digest = toc.digest();
    toc.verify(&digest)
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The compressed TOC with this JSON.
pub fn compressed(json: &[u8]) -> Vec<u8> {
    gzip(&tar("stargz.index.json", json))
}

pub fn read_json(json: &[u8]) -> Result<UnverifiedToc, FormatError> {
    read_toc(&footer(), &compressed(json)[..], &Limits::default())
}

/// The TOC with these entries, or why it is refused.
pub fn read(entries: Value) -> Result<Toc, FormatError> {
    let json = json!({ "version": 1, "entries": entries });
    verified(read_json(json.to_string().as_bytes())?)
}

/// Reads entries that are right.
#[track_caller]
pub fn toc(entries: Value) -> Toc {
    read(entries).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads entries of which one is wrong, and returns which one and why.
#[track_caller]
pub fn refused(entries: Value) -> (String, EntryError) {
    match read(entries) {
        Err(FormatError::Entry { path, problem }) => (path, problem),
        other => panic!("expected a refused entry, got {other:?}"),
    }
}

/// A digest of 32 equal bytes.
pub fn digest(byte: u8) -> String {
    format!("sha256:{}", format!("{byte:02x}").repeat(32))
}

/// An empty file.
pub fn empty(name: &str) -> Value {
    json!({ "name": name, "type": "reg" })
}

/// A file of one byte at this offset of the blob.
pub fn file(name: &str, offset: u64) -> Value {
    json!({ "name": name, "type": "reg", "size": 1, "offset": offset, "chunkDigest": digest(1) })
}

pub fn dir(name: &str) -> Value {
    json!({ "name": name, "type": "dir", "mode": 0o755 })
}

pub fn hardlink(name: &str, target: &str) -> Value {
    json!({ "name": name, "type": "hardlink", "linkName": target })
}

/// The whole tree, a line for a name: `path kind nlink`. Nodes with several names also show their number.
pub fn tree(toc: &Toc) -> String {
    let mut text = String::new();
    let mut todo = vec![(NodeId::ROOT, String::from("/"))];
    while let Some((id, path)) = todo.pop() {
        let node = &toc.nodes()[id.index()];
        let kind = match &node.kind {
            NodeKind::Directory { opaque: false } => "dir".to_owned(),
            NodeKind::Directory { opaque: true } => "opaque".to_owned(),
            NodeKind::File { size, .. } => format!("file:{size}"),
            NodeKind::Symlink { target } => format!("symlink:{}", String::from_utf8_lossy(target)),
            NodeKind::CharDevice { major, minor } => format!("char:{major}:{minor}"),
            NodeKind::BlockDevice { major, minor } => format!("block:{major}:{minor}"),
            NodeKind::Fifo => "fifo".to_owned(),
            NodeKind::Whiteout => "whiteout".to_owned(),
        };
        writeln!(text, "{path} {kind} {}", node.nlink).unwrap();
        let children: Vec<_> = toc.children(id).collect();
        for (name, child) in children.into_iter().rev() {
            let name = String::from_utf8_lossy(name);
            todo.push((child, format!("{}/{name}", path.trim_end_matches('/'))));
        }
    }
    text
}
