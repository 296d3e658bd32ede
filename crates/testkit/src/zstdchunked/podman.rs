//! The blob that Podman and Buildah (containers/storage) write.
//!
//! The archive is kept byte by byte, its zero blocks too. Headers and padding are frames of their own; a file is one frame
//! for each chunk, and a chunk ends where a rolling checksum over the last 64 bytes says, or where a hole of at least 1 KiB
//! of zeros begins or ends. Holes are in the blob like any chunk, and marked `"chunkType":"zeros"`. Only a file of several
//! chunks has digests of its chunks; a file of one has its `digest` alone, and an empty one none.

use std::ops::Range;

use format::Digest;
use serde_json::{Map, Value, json};

use super::tarsplit::Lines;
use super::{Blob, Draft, Writer, Zstd};
use crate::estargz::{Mtime, sha256, toc};
use crate::tarball::{self, Member, Type};
use crate::tree::Time;

/// How to build a blob.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A chunk has about two to the power of this many bytes; Podman takes 16.
    pub chunk_bits: u32,
    /// The frames.
    pub zstd: Zstd,
    /// Whether to write as Podman 4 did, see [`Writer::OldPodman`].
    pub old: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { chunk_bits: 16, zstd: Zstd::default(), old: false }
    }
}

/// Runs of zeros from this length on are holes.
pub const HOLE: usize = 1 << 10;

/// The blob for an archive.
///
/// # Panics
/// When `tar` is not an archive of supported types.
pub fn build(tar: &[u8], options: &Options) -> Blob {
    draft(tar, options).seal()
}

/// The payload and TOC for an archive; see [`build`].
pub fn draft(tar: &[u8], options: &Options) -> Draft {
    let mut out = Out { options, payload: Vec::new(), entries: Vec::new() };
    let mut lines = Lines::default();
    let (mut raw, mut done) = (Vec::new(), 0);
    for parsed in tarball::parse(tar) {
        let segment = &tar[done..parsed.content.start];
        lines.segment(segment);
        lines.file(&parsed.member.name, &tar[parsed.content.clone()]);
        raw.extend_from_slice(segment);
        done = parsed.content.end;
        out.append(&parsed.member, &mut raw);
    }
    lines.segment(&tar[done..]);
    raw.extend_from_slice(&tar[done..]);
    out.frame(&raw);

    let mut toc = json!({ "version": 1, "entries": out.entries });
    let tar_split = (!options.old).then(|| {
        let lines = lines.into_bytes();
        (options.zstd.frame(&lines), lines.len() as u64)
    });
    if let Some((data, _)) = &tar_split {
        toc["tarSplitDigest"] = Digest::of(data).to_string().into();
    }
    let mut uncompressed = sha256();
    uncompressed.update(tar);
    Draft {
        writer: if options.old { Writer::OldPodman } else { Writer::Podman },
        payload: out.payload,
        toc,
        tar_split,
        zstd: options.zstd,
        uncompressed,
        uncompressed_size: tar.len() as u64,
    }
}

struct Out<'a> {
    options: &'a Options,
    payload: Vec<u8>,
    entries: Vec<Value>,
}

impl Out<'_> {
    /// Appends a frame and returns where it starts.
    fn frame(&mut self, bytes: &[u8]) -> usize {
        let start = self.payload.len();
        self.payload.extend(self.options.zstd.frame(bytes));
        start
    }

    /// Appends the content of a member, if it has any, and what has come before it since the last content.
    fn append(&mut self, member: &Member, raw: &mut Vec<u8>) {
        let mut first = entry(member, self.options.old);
        let content = &member.content;
        if member.kind != Type::File || content.is_empty() {
            self.entries.push(first.into());
            return;
        }
        self.frame(&std::mem::take(raw));
        let chunks = chunks(content, self.options.chunk_bits);
        let starts: Vec<usize> =
            chunks.iter().map(|chunk| self.frame(&content[chunk.range.clone()])).collect();
        first.insert("digest".into(), Digest::of(content).to_string().into());
        first.insert("offset".into(), starts[0].into());
        first.insert("endOffset".into(), self.payload.len().into());
        if chunks.len() == 1 {
            self.entries.push(first.into());
            return;
        }
        let mut entry = first;
        for (chunk, start) in chunks.iter().zip(starts) {
            entry.insert("offset".into(), start.into());
            entry.insert("chunkSize".into(), chunk.range.len().into());
            toc::put_unless_zero(&mut entry, "chunkOffset", chunk.range.start as u64);
            let digest = Digest::of(&content[chunk.range.clone()]);
            entry.insert("chunkDigest".into(), digest.to_string().into());
            if chunk.hole {
                entry.insert("chunkType".into(), "zeros".into());
            }
            let next = [("name".to_owned(), entry["name"].clone()), ("type".to_owned(), "chunk".into())];
            self.entries.push(std::mem::replace(&mut entry, Map::from_iter(next)).into());
        }
    }
}

/// A member as Podman tells it: as eStargz does, but for times and empty files.
fn entry(member: &Member, old: bool) -> Map<String, Value> {
    let mut entry = toc::entry(member, Mtime::Exact);
    entry.remove("digest");
    if member.mtime == Time::default() {
        entry.insert("modtime".into(), "1970-01-01T00:00:00Z".into());
    }
    if old {
        for key in ["accesstime", "changetime"] {
            entry.insert(key.into(), "0001-01-01T00:00:00Z".into());
        }
    }
    entry
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    range: Range<usize>,
    hole: bool,
}

/// Cuts a content.
fn chunks(content: &[u8], bits: u32) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut sum = RollingSum::new(bits);
    let (mut start, mut at) = (0, 0);
    let mut push = |range: Range<usize>, hole| {
        if !range.is_empty() {
            chunks.push(Chunk { range, hole });
        }
    };
    while at < content.len() {
        // Where a run of zeros begins, its length decides; within a run too short for a hole it is only counted once.
        let begins = content[at] == 0 && (at == start || content[at - 1] != 0);
        let zeros = if begins { content[at..].iter().take_while(|byte| **byte == 0).count() } else { 0 };
        if zeros >= HOLE {
            push(start..at, false);
            push(at..at + zeros, true);
            for _ in 0..zeros {
                sum.roll(0);
            }
            at += zeros;
            start = at;
            continue;
        }
        let ends = sum.roll(content[at]);
        at += 1;
        if ends {
            push(start..at, false);
            start = at;
        }
    }
    push(start..content.len(), false);
    chunks
}

/// The rolling checksum of bup and rsync over the last 64 bytes.
struct RollingSum {
    mask: u32,
    a: u32,
    b: u32,
    window: [u8; RollingSum::WINDOW as usize],
    at: usize,
}

impl RollingSum {
    const WINDOW: u32 = 64;
    /// Added to each byte, so that zeros count.
    const OFFSET: u32 = 31;

    fn new(bits: u32) -> RollingSum {
        RollingSum {
            mask: (1 << bits) - 1,
            a: Self::WINDOW * Self::OFFSET,
            b: Self::WINDOW * (Self::WINDOW - 1) * Self::OFFSET,
            window: [0; Self::WINDOW as usize],
            at: 0,
        }
    }

    /// Takes a byte in, and says whether a chunk ends behind it.
    fn roll(&mut self, byte: u8) -> bool {
        let gone = u32::from(std::mem::replace(&mut self.window[self.at], byte));
        self.at = (self.at + 1) % self.window.len();
        self.a = self.a.wrapping_add(u32::from(byte)).wrapping_sub(gone);
        self.b = self.b.wrapping_add(self.a).wrapping_sub(Self::WINDOW * (gone + Self::OFFSET));
        self.b & self.mask == self.mask
    }
}
