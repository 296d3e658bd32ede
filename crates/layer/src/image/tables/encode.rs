//! Writing the tables.

use std::ops::Range;

use zerocopy::IntoBytes as _;

use super::{Chunk, ChunkRecord, DirRecord, Header, MAGIC, SpanRecord};

/// A span, and what kind of files it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanEntry {
    /// Its bytes in the blob.
    pub blob: Range<u64>,
    /// Number of the class of its files: those with the same number are used together.
    pub class: u32,
    /// Number of the directory of its files, or [`NO_DIR`](super::NO_DIR).
    pub dir: u32,
}

/// A directory, numbered so that everything below it has the numbers up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dir {
    /// The directory that holds it; [`NO_DIR`](super::NO_DIR) for the root.
    pub parent: u32,
    /// One behind the number of the last directory below it.
    pub end: u32,
}

/// Collects the tables of a layer.
#[derive(Debug, Default)]
pub struct TablesBuilder {
    /// Ascending by `data`, not overlapping.
    pub chunks: Vec<Chunk>,
    /// Ascending by start, not overlapping.
    pub spans: Vec<SpanEntry>,
    /// Parents before their children.
    pub dirs: Vec<Dir>,
    /// Length of the used data area, bytes.
    pub data_len: u64,
}

impl TablesBuilder {
    pub(in crate::image) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub(in crate::image) fn encode(&self) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            chunks: (self.chunks.len() as u64).into(),
            spans: (self.spans.len() as u64).into(),
            dirs: (self.dirs.len() as u64).into(),
            data_len: self.data_len.into(),
            reserved: [0; 24],
        };
        let mut out = header.as_bytes().to_vec();
        out.reserve(self.chunks.len() * super::CHUNK_COST + self.spans.len() * super::SPAN_COST);
        for chunk in &self.chunks {
            let record = ChunkRecord {
                data_offset: chunk.data.into(),
                size: chunk.size.into(),
                inner_offset: chunk.inner_offset.into(),
                span: chunk.span.into(),
                undigested: u32::from(chunk.digest.is_none()).into(),
                digest: chunk.digest.unwrap_or_default(),
            };
            out.extend_from_slice(record.as_bytes());
        }
        let members = self.sorted(self.chunks.len(), |chunk| {
            let chunk = &self.chunks[chunk];
            (chunk.span, chunk.inner_offset)
        });
        let mut first = 0;
        for (number, span) in self.spans.iter().enumerate() {
            let rest = &members[first..];
            let count = rest.partition_point(|&chunk| self.chunks[chunk as usize].span as usize <= number);
            let record = SpanRecord {
                blob_offset: span.blob.start.into(),
                blob_len: (span.blob.end - span.blob.start).into(),
                first: (first as u32).into(),
                count: (count as u32).into(),
                class: span.class.into(),
                dir: span.dir.into(),
            };
            out.extend_from_slice(record.as_bytes());
            first += count;
        }
        let by_digest = self.sorted(self.chunks.len(), |chunk| self.chunks[chunk].digest);
        let kin = self.sorted(self.spans.len(), |span| (self.spans[span].class, self.spans[span].dir));
        for number in members.into_iter().chain(by_digest).chain(kin) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for dir in &self.dirs {
            let record = DirRecord { parent: dir.parent.into(), end: dir.end.into() };
            out.extend_from_slice(record.as_bytes());
        }
        out
    }

    /// The numbers below `count` in the order of a key; those with the same key ascend.
    fn sorted<K: Ord>(&self, count: usize, key: impl Fn(usize) -> K) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count as u32).collect();
        numbers.sort_by_key(|&number| key(number as usize));
        numbers
    }
}
