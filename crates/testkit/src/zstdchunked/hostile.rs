//! zstd:chunked blobs that lie, each in one way. All digests around the lie are right unless the lie is a digest, so that a
//! reader finds the lie itself and not its traces. What a TOC can say of names and links is told by
//! [`crate::estargz::hostile`]; here are the lies of frames, of footers, and of Podman's fields.

use serde_json::Value;

use super::podman::{self, HOLE};
use super::{Blob, Draft, Writer, append_skippable, footer};
use crate::estargz::sha256;
use crate::tarball;
use crate::tree::{Entry, Tree, content};
use format::Digest;

/// What the bombs expand to, in bytes.
pub const BOMB_SIZE: u64 = 1 << 30;
/// Length of the hole in `victim`, in bytes.
pub const VICTIM_HOLE: usize = 8 * HOLE;
/// Largest block of a zstd frame, in bytes.
const BLOCK: usize = 128 << 10;

/// A way to lie, told in a blob of [`honest_tree`] by either writer. A reader may refuse the blob, or the entry, or fail
/// reads of it. It must not panic, allocate what the lie claims, or hand out other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lie {
    /// The second half of the blob is missing.
    Truncated,
    /// Zeros in place of the footer.
    NoFooter,
    /// Footer and annotation point past the end of the blob.
    TocOutside,
    /// Footer and annotation claim a compressed TOC of 2⁶⁴-1 bytes.
    TocEndless,
    /// Footer and annotation claim an uncompressed TOC of a petabyte.
    TocClaimsMuch,
    /// Footer and annotation claim one byte less of uncompressed TOC than there is.
    TocClaimsLess,
    /// The annotation, not the footer, points elsewhere.
    PositionsDiffer,
    /// The digests of the annotations are of another TOC.
    TocDigest,
    /// The TOC is not zstd.
    TocNotZstd,
    /// The TOC is not JSON.
    TocNotJson,
    /// A small compressed TOC expands to [`BOMB_SIZE`], and so it is claimed.
    TocBomb,
    /// The first chunk of `victim` has the digest of other bytes.
    ChunkDigest,
    /// The compressed bytes of the first chunk of `victim` are damaged.
    ChunkBytes,
    /// The first chunk of `victim` has no digest at all, nor has the file.
    NoDigest,
    /// The first chunk of `victim` lies past the end of the blob.
    OffsetOutside,
    /// The first chunk of `victim` lies in the skippable frame of the TOC.
    OffsetInToc,
    /// The frame of the first chunk of `victim` wants a window of 2 TiB.
    Window,
    /// The frame of the first chunk of `victim` claims a petabyte of content.
    ContentSize,
    /// The frame of the first chunk of `victim` expands to [`BOMB_SIZE`].
    ChunkBomb,
    /// The frame of the first chunk of `victim` expands to less than the chunk.
    ShortFrame,
    /// `victim` claims a petabyte, all in its last chunk.
    SizeTooLarge,
    /// Two chunks of `victim` cover the same bytes of the file.
    ChunksOverlap,
    /// A chunk is missing in the middle of `victim`.
    ChunkGap,
    /// Podman: the hole of `victim` claims a petabyte.
    HoleTooLarge,
    /// Podman: the first chunk of `victim`, which has data, claims to be a hole.
    HoleWithData,
    /// Podman: a chunk of `victim` is of a type that nobody knows.
    ChunkType,
    /// Podman: `victim` ends before it starts.
    EndBeforeStart,
}

impl Lie {
    /// Every lie that both writers can tell.
    pub const COMMON: [Lie; 23] = [
        Lie::Truncated,
        Lie::NoFooter,
        Lie::TocOutside,
        Lie::TocEndless,
        Lie::TocClaimsMuch,
        Lie::TocClaimsLess,
        Lie::PositionsDiffer,
        Lie::TocDigest,
        Lie::TocNotZstd,
        Lie::TocNotJson,
        Lie::TocBomb,
        Lie::ChunkDigest,
        Lie::ChunkBytes,
        Lie::NoDigest,
        Lie::OffsetOutside,
        Lie::OffsetInToc,
        Lie::Window,
        Lie::ContentSize,
        Lie::ChunkBomb,
        Lie::ShortFrame,
        Lie::SizeTooLarge,
        Lie::ChunksOverlap,
        Lie::ChunkGap,
    ];

    /// Every lie that only Podman's blobs can tell.
    pub const PODMAN: [Lie; 4] = [Lie::HoleTooLarge, Lie::HoleWithData, Lie::ChunkType, Lie::EndBeforeStart];

    /// Every lie with each writer that can tell it.
    pub fn all() -> impl Iterator<Item = (Writer, Lie)> {
        let both = [Writer::CtrRemote, Writer::Podman].into_iter();
        both.flat_map(|writer| Lie::COMMON.map(|lie| (writer, lie)))
            .chain(Lie::PODMAN.map(|lie| (Writer::Podman, lie)))
    }

    /// The blob of this writer that lies so.
    pub fn blob(self, writer: Writer) -> Blob {
        const PETABYTE: u64 = 1 << 50;
        let mut draft = draft(writer);
        let payload_len = draft.payload.len() as u64;
        match self {
            Lie::Truncated => {
                let blob = draft.seal();
                let half = blob.bytes.slice(..blob.bytes.len() / 2);
                return blob.with_bytes(half);
            }
            Lie::NoFooter => {
                let blob = draft.seal();
                let mut bytes = blob.bytes.to_vec();
                let start = bytes.len() - footer(writer, blob.toc, blob.tar_split).len();
                bytes[start..].fill(0);
                return blob.with_bytes(bytes);
            }
            Lie::TocOutside => {
                return point(draft.seal(), |blob| blob.toc.offset = blob.bytes.len() as u64 + 1);
            }
            Lie::TocEndless => return point(draft.seal(), |blob| blob.toc.compressed = u64::MAX),
            Lie::TocClaimsMuch => return point(draft.seal(), |blob| blob.toc.uncompressed = PETABYTE),
            Lie::TocClaimsLess => return point(draft.seal(), |blob| blob.toc.uncompressed -= 1),
            Lie::PositionsDiffer => {
                let mut blob = draft.seal();
                blob.toc.offset = 0;
                return blob;
            }
            Lie::TocDigest => {
                let other = Digest::of(b"another");
                return Blob { toc_digest: other, toc_checksum: other, ..draft.seal() };
            }
            Lie::TocNotZstd => return draft.seal_compressed(b"{}", b"neither zstd nor anything else"),
            Lie::TocNotJson => return draft.seal_json(b"{\"version\":1,\"entries\":["),
            Lie::TocBomb => {
                let blob = draft.seal_compressed(b"", &repeated(b' ', BOMB_SIZE));
                let blob = Blob { toc_digest: digest_of_spaces(), ..blob };
                return point(blob, |blob| blob.toc.uncompressed = BOMB_SIZE);
            }
            Lie::ChunkDigest => set_digest(&mut draft, &Digest::of(b"other bytes").to_string().into()),
            Lie::NoDigest => set_digest(&mut draft, &Value::Null),
            Lie::ChunkBytes => {
                let offset = first_offset(&mut draft);
                draft.payload[offset + 100] ^= 0xff;
            }
            Lie::OffsetOutside => draft.entry("victim")["offset"] = (1u64 << 40).into(),
            Lie::OffsetInToc => draft.entry("victim")["offset"] = payload_len.into(),
            Lie::Window => move_first(&mut draft, frame(0xf8, None, &honest_first(writer))),
            Lie::ContentSize => move_first(&mut draft, frame(0, Some(PETABYTE), &honest_first(writer))),
            Lie::ChunkBomb => move_first(&mut draft, repeated(0, BOMB_SIZE)),
            Lie::ShortFrame => move_first(&mut draft, frame(0x50, None, &honest_first(writer)[..100])),
            Lie::SizeTooLarge => draft.entry("victim")["size"] = PETABYTE.into(),
            Lie::ChunksOverlap => {
                let chunk = later_chunk(&mut draft);
                chunk["chunkOffset"] = (chunk["chunkOffset"].as_u64().expect("a later chunk") - 1).into();
            }
            Lie::ChunkGap => {
                let second = draft.entries().iter().position(|entry| entry["type"] == "chunk");
                draft.entries().remove(second.expect("victim has several chunks"));
            }
            Lie::HoleTooLarge => hole(&mut draft)["chunkSize"] = PETABYTE.into(),
            Lie::HoleWithData => draft.entry("victim")["chunkType"] = "zeros".into(),
            Lie::ChunkType => draft.entry("victim")["chunkType"] = "ones".into(),
            Lie::EndBeforeStart => draft.entry("victim")["endOffset"] = 1.into(),
        }
        draft.seal()
    }
}

/// What the lying blobs hold but for the lie: `dir/file`, `small` and, with data on both sides of a hole, `victim`.
pub fn honest_tree() -> Tree {
    let victim = [&content(2, 20_000)[..], &[0; VICTIM_HOLE], b"end"].concat();
    Tree::new()
        .with("dir/file", Entry::file(content(3, 5000)))
        .with("small", Entry::file("small"))
        .with("victim", Entry::file(victim))
}

/// The draft that lies start from.
pub fn draft(writer: Writer) -> Draft {
    let tar = tarball::write(&honest_tree());
    let podman = |old| podman::draft(&tar, &podman::Options { old, ..Default::default() });
    match writer {
        Writer::CtrRemote => {
            let options = crate::estargz::Options { chunk_size: 8 << 10, ..Default::default() };
            Draft::new(&tar, &options, Default::default())
        }
        Writer::Podman => podman(false),
        Writer::OldPodman => podman(true),
    }
}

/// Changes what a blob says of its TOC, and writes that into its footer.
fn point(mut blob: Blob, change: impl FnOnce(&mut Blob)) -> Blob {
    change(&mut blob);
    let footer = footer(blob.writer, blob.toc, blob.tar_split);
    let mut bytes = blob.bytes.to_vec();
    let start = bytes.len() - footer.len();
    bytes[start..].copy_from_slice(&footer);
    blob.with_bytes(bytes)
}

/// The bytes of the first chunk of `victim`.
fn honest_first(writer: Writer) -> Vec<u8> {
    let mut draft = draft(writer);
    let entry = draft.entry("victim");
    let size = entry["chunkSize"].as_u64().expect("victim has several chunks");
    let victim = honest_tree();
    let all = victim.get(b"victim").and_then(Entry::content).expect("victim is a file");
    all[..size as usize].to_vec()
}

fn first_offset(draft: &mut Draft) -> usize {
    draft.entry("victim")["offset"].as_u64().expect("victim has an offset") as usize
}

/// Puts the first chunk of `victim` into another frame, behind all others.
fn move_first(draft: &mut Draft, frame: Vec<u8>) {
    let offset = draft.payload.len();
    draft.payload.extend(frame);
    draft.entry("victim")["offset"] = offset.into();
}

/// Sets or removes the digests of `victim` and its first chunk.
fn set_digest(draft: &mut Draft, digest: &Value) {
    let entry = draft.entry("victim").as_object_mut().expect("entries are objects");
    for key in ["digest", "chunkDigest"] {
        match digest {
            Value::Null => drop(entry.remove(key)),
            digest => drop(entry.insert(key.to_owned(), digest.clone())),
        }
    }
}

fn later_chunk(draft: &mut Draft) -> &mut Value {
    draft.entries().iter_mut().find(|entry| entry["type"] == "chunk").expect("victim has several chunks")
}

fn hole(draft: &mut Draft) -> &mut Value {
    draft.entries().iter_mut().find(|entry| entry["chunkType"] == "zeros").expect("victim has a hole")
}

/// A zstd frame of uncompressed blocks (RFC 8878, section 3.1.1) with any window descriptor, and any claim of its size.
fn frame(window: u8, content_size: Option<u64>, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(window, content_size);
    let mut blocks = bytes.chunks(1 << 10).peekable();
    while let Some(block) = blocks.next() {
        frame.extend(block_head(blocks.peek().is_none(), 0, block.len()));
        frame.extend_from_slice(block);
    }
    frame
}

/// A frame of `len` times the same byte: four bytes of blob for each [`BLOCK`].
fn repeated(byte: u8, len: u64) -> Vec<u8> {
    let mut frame = frame_head(0x50, None); // a window of 1 MiB
    let blocks = len / BLOCK as u64;
    for number in 1..=blocks {
        frame.extend(block_head(number == blocks, 1, BLOCK));
        frame.push(byte);
    }
    frame
}

fn frame_head(window: u8, content_size: Option<u64>) -> Vec<u8> {
    let mut head = vec![0x28, 0xb5, 0x2f, 0xfd];
    head.push(if content_size.is_some() { 0xc0 } else { 0 });
    head.push(window);
    head.extend(content_size.map(u64::to_le_bytes).into_iter().flatten());
    head
}

fn block_head(last: bool, kind: u32, len: usize) -> [u8; 3] {
    let [a, b, c, _] = (u32::from(last) | kind << 1 | (len as u32) << 3).to_le_bytes();
    [a, b, c]
}

fn digest_of_spaces() -> Digest {
    let spaces = vec![b' '; 1 << 20];
    let mut hasher = sha256();
    (0..BOMB_SIZE >> 20).for_each(|_| hasher.update(&spaces));
    hasher.finish()
}

/// A blob that is zstd and nothing else, with a skippable frame at its end as any encoder may write: not lazily pullable.
pub fn decoy(tar: &[u8]) -> Vec<u8> {
    let mut bytes = super::Zstd::default().frame(tar);
    append_skippable(&mut bytes, &[0; 64], 0);
    bytes
}
