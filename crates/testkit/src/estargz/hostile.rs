//! Blobs that lie, each in one way. All digests around the lie are right unless the lie is a digest, so that a reader
//! finds the lie itself and not its traces.

use serde_json::json;

use super::{Blob, Draft, Footer, NO_PREFETCH_LANDMARK, Options, footer};
use crate::tarball;
use crate::tree::{Entry, Tree, content};

mod bomb;

pub use bomb::{CLAIMED_4_KIB, CLAIMED_ALL, SIZE as BOMB_SIZE, toc_bomb, zero_bomb};

/// The chunk size of these blobs, in bytes.
pub const CHUNK_SIZE: usize = 8 << 10;

/// A way to lie. Each is told in a blob of [`honest_tree`]. A reader may refuse the blob, refuse the entry, or fail reads of
/// it; names it may also clean. It must not panic, allocate what the lie claims, hand out other bytes, or leave the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lie {
    /// The second half of the blob is missing.
    Truncated,
    /// The footer points past the end of the blob.
    FooterOutside,
    /// The footer points into itself.
    FooterAtItself,
    /// No footer at all: zeros.
    NoFooter,
    /// The annotation has the digest of another TOC.
    TocDigest,
    /// The TOC is not JSON.
    TocNotJson,
    /// The TOC is JSON of another shape.
    TocShape,
    /// A file's chunk has the digest of other bytes; the file is `victim`, its first chunk.
    ChunkDigest,
    /// The compressed bytes of `victim` are damaged.
    ChunkBytes,
    /// An entry called `../../etc/passwd`.
    ClimbingName,
    /// An entry called `/etc/passwd`.
    AbsoluteName,
    /// An entry called `a/../b`.
    DottedName,
    /// An entry whose name is longer than 255 bytes.
    LongName,
    /// An entry with a NUL in its name.
    NulName,
    /// Two entries of one name, a file and a directory.
    Duplicates,
    /// Two hard links that link to each other.
    HardlinkCycle,
    /// A hard link to nothing.
    HardlinkMissing,
    /// A hard link to a directory.
    HardlinkToDirectory,
    /// A file below a file.
    FileAsParent,
    /// `victim` claims fewer bytes than its chunks cover.
    SizeTooSmall,
    /// `victim` claims a petabyte.
    SizeTooLarge,
    /// `victim` claims a negative size.
    SizeNegative,
    /// A chunk of `victim` lies past the end of the blob.
    OffsetOutside,
    /// An inner offset past the end of the gzip member.
    InnerOffsetOutside,
    /// Two chunks of `victim` cover the same bytes of the file.
    ChunksOverlap,
    /// A chunk is missing in the middle of `victim`.
    ChunkGap,
    /// A chunk of `victim` claims to be larger than the rest of the file.
    ChunkTooLarge,
    /// A chunk entry before any file.
    StrayChunk,
}

impl Lie {
    /// Every lie.
    pub const ALL: [Lie; 28] = [
        Lie::Truncated,
        Lie::FooterOutside,
        Lie::FooterAtItself,
        Lie::NoFooter,
        Lie::TocDigest,
        Lie::TocNotJson,
        Lie::TocShape,
        Lie::ChunkDigest,
        Lie::ChunkBytes,
        Lie::ClimbingName,
        Lie::AbsoluteName,
        Lie::DottedName,
        Lie::LongName,
        Lie::NulName,
        Lie::Duplicates,
        Lie::HardlinkCycle,
        Lie::HardlinkMissing,
        Lie::HardlinkToDirectory,
        Lie::FileAsParent,
        Lie::SizeTooSmall,
        Lie::SizeTooLarge,
        Lie::SizeNegative,
        Lie::OffsetOutside,
        Lie::InnerOffsetOutside,
        Lie::ChunksOverlap,
        Lie::ChunkGap,
        Lie::ChunkTooLarge,
        Lie::StrayChunk,
    ];

    /// The blob that lies so.
    pub fn blob(self) -> Blob {
        let mut draft = draft();
        match self {
            Lie::Truncated => {
                let blob = draft.seal();
                let half = blob.bytes.slice(..blob.bytes.len() / 2);
                return blob.with_bytes(half);
            }
            Lie::FooterOutside => return with_footer(draft.seal(), |len| footer(Footer::Estargz, len + 1)),
            Lie::FooterAtItself => return with_footer(draft.seal(), |len| footer(Footer::Estargz, len - 51)),
            Lie::NoFooter => return with_footer(draft.seal(), |_| vec![0; 51]),
            Lie::TocDigest => return Blob { toc_digest: format::Digest::of(b"another"), ..draft.seal() },
            Lie::TocNotJson => return draft.seal_json(b"{\"version\":1,\"entries\":["),
            Lie::TocShape => return draft.seal_json(b"{\"version\":1,\"entries\":{\"name\":7}}"),
            Lie::ChunkDigest => {
                draft.entry("victim")["chunkDigest"] = format::Digest::of(b"other bytes").to_string().into();
            }
            Lie::ChunkBytes => {
                let offset = number(&draft.entry("victim")["offset"]) as usize;
                draft.payload[offset + 100] ^= 0xff;
            }
            Lie::ClimbingName => rename(&mut draft, "../../etc/passwd"),
            Lie::AbsoluteName => rename(&mut draft, "/etc/passwd"),
            Lie::DottedName => rename(&mut draft, "a/../b"),
            Lie::LongName => rename(&mut draft, &"n".repeat(256)),
            Lie::NulName => rename(&mut draft, "a\0b"),
            Lie::Duplicates => draft.entries().push(json!({"name": "small", "type": "dir", "mode": 0o755})),
            Lie::HardlinkCycle => {
                draft.entries().push(json!({"name": "x", "type": "hardlink", "linkName": "y"}));
                draft.entries().push(json!({"name": "y", "type": "hardlink", "linkName": "x"}));
            }
            Lie::HardlinkMissing => {
                draft.entries().push(json!({"name": "x", "type": "hardlink", "linkName": "nothing"}));
            }
            Lie::HardlinkToDirectory => {
                draft.entries().push(json!({"name": "x", "type": "hardlink", "linkName": "dir"}));
            }
            Lie::FileAsParent => {
                draft.entries().push(json!({"name": "small/below", "type": "symlink", "linkName": "t"}));
            }
            Lie::SizeTooSmall => draft.entry("victim")["size"] = (CHUNK_SIZE + 1).into(),
            Lie::SizeTooLarge => draft.entry("victim")["size"] = (1u64 << 50).into(),
            Lie::SizeNegative => draft.entry("victim")["size"] = (-1).into(),
            Lie::OffsetOutside => draft.entry("victim")["offset"] = (1u64 << 40).into(),
            Lie::InnerOffsetOutside => draft.entry("victim")["innerOffset"] = (1u64 << 30).into(),
            Lie::ChunksOverlap => chunk(&mut draft)["chunkOffset"] = (CHUNK_SIZE - 1).into(),
            Lie::ChunkGap => {
                let second =
                    draft.entries().iter().position(|entry| entry["type"] == "chunk").expect("chunks");
                draft.entries().remove(second);
            }
            Lie::ChunkTooLarge => chunk(&mut draft)["chunkSize"] = (1u64 << 40).into(),
            Lie::StrayChunk => {
                let stray = chunk(&mut draft).clone();
                draft.entries().insert(0, stray);
            }
        }
        draft.seal()
    }
}

/// What the lying blobs hold but for the lie: `dir/`, `dir/file`, `small` and, of three and a half chunks, `victim`.
pub fn honest_tree() -> Tree {
    Tree::new()
        .with("dir/file", Entry::file(content(3, 5000)))
        .with("small", Entry::file("small"))
        .with("victim", Entry::file(content(2, CHUNK_SIZE * 7 / 2)))
}

/// The draft that lies start from.
pub fn draft() -> Draft {
    let options = Options { chunk_size: CHUNK_SIZE, ..Options::default() };
    Draft::new(&tarball::write(&honest_tree()), &options)
}

/// Gives `small` another name.
fn rename(draft: &mut Draft, name: &str) {
    draft.entry("small")["name"] = name.into();
}

/// The second chunk of `victim`.
fn chunk(draft: &mut Draft) -> &mut serde_json::Value {
    draft.entries().iter_mut().find(|entry| entry["type"] == "chunk").expect("victim has several chunks")
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().expect("a number")
}

fn with_footer(blob: Blob, footer: impl FnOnce(u64) -> Vec<u8>) -> Blob {
    let len = blob.bytes.len();
    let mut bytes = blob.bytes[..len - 51].to_vec();
    bytes.extend(footer(len as u64));
    blob.with_bytes(bytes)
}

/// Whether a TOC entry is a landmark: handy for tests that count entries.
pub fn is_landmark(entry: &serde_json::Value) -> bool {
    entry["name"] == NO_PREFETCH_LANDMARK || entry["name"] == super::PREFETCH_LANDMARK
}
