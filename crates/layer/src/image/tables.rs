//! The chunk and span tables of a layer, built once and then mapped.
//!
//! ```text
//! header   64 bytes
//! chunks   64 bytes each, ascending by place in the data area
//! spans    24 bytes each, ascending by place in the blob
//! members   4 bytes each: chunk numbers grouped by span, ascending by place in the decompressed span
//! ```
//!
//! All numbers are little-endian. A layer of 20,000 files costs 1.4 MiB of page cache that the kernel can take back,
//! and no heap.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Kind};

const MAGIC: [u8; 8] = *b"STZCHNK1";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    chunks: U64,
    spans: U64,
    data_len: U64,
    reserved: [u8; 32],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct ChunkRecord {
    data_offset: U64,
    size: U64,
    inner_offset: U64,
    span: U32,
    reserved: U32,
    digest: [u8; 32],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct SpanRecord {
    blob_offset: U64,
    blob_len: U64,
    first: U32,
    count: U32,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<ChunkRecord>() == 64);
const _: () = assert!(size_of::<SpanRecord>() == 24);

/// A slice of one file's content, decompressed and verified on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it lies in the data area, bytes.
    pub data: u64,
    /// Its length, bytes.
    pub size: u64,
    /// Number of the span that holds it.
    pub span: u32,
    /// Where it begins in the decompressed span, bytes.
    pub inner_offset: u64,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

impl Chunk {
    /// The bytes of the data area that it fills.
    pub fn data_range(&self) -> Range<u64> {
        self.data..self.data + self.size
    }
}

/// The smallest piece of the blob that decompresses on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its bytes in the blob.
    pub blob: Range<u64>,
    members: Range<usize>,
}

/// Collects the tables of a layer.
#[derive(Debug, Default)]
pub struct TablesBuilder {
    /// Ascending by `data`, not overlapping.
    pub chunks: Vec<Chunk>,
    /// Ascending by start, not overlapping.
    pub spans: Vec<Range<u64>>,
    /// Length of the used data area, bytes.
    pub data_len: u64,
}

impl TablesBuilder {
    pub(super) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut members: Vec<u32> = (0..self.chunks.len() as u32).collect();
        members.sort_by_key(|&chunk| {
            let chunk = &self.chunks[chunk as usize];
            (chunk.span, chunk.inner_offset)
        });
        let header = Header {
            magic: MAGIC,
            chunks: (self.chunks.len() as u64).into(),
            spans: (self.spans.len() as u64).into(),
            data_len: self.data_len.into(),
            reserved: [0; 32],
        };
        let mut out = header.as_bytes().to_vec();
        out.reserve(self.chunks.len() * 68 + self.spans.len() * 24);
        for chunk in &self.chunks {
            let record = ChunkRecord {
                data_offset: chunk.data.into(),
                size: chunk.size.into(),
                inner_offset: chunk.inner_offset.into(),
                span: chunk.span.into(),
                reserved: 0.into(),
                digest: chunk.digest,
            };
            out.extend_from_slice(record.as_bytes());
        }
        let mut first = 0;
        for (number, span) in self.spans.iter().enumerate() {
            let rest = &members[first..];
            let count = rest.partition_point(|&chunk| self.chunks[chunk as usize].span as usize <= number);
            let record = SpanRecord {
                blob_offset: span.start.into(),
                blob_len: (span.end - span.start).into(),
                first: (first as u32).into(),
                count: (count as u32).into(),
            };
            out.extend_from_slice(record.as_bytes());
            first += count;
        }
        for chunk in members {
            out.extend_from_slice(&chunk.to_le_bytes());
        }
        out
    }
}

/// The mapped tables. Immutable, shared without locks.
#[derive(Debug)]
pub struct Tables {
    map: Mmap,
    chunks: usize,
    spans: usize,
    data_len: u64,
}

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Tables, Error> {
        let io = |error| Error::disk(format!("map {}", path.display()), error);
        let file = File::open(path).map_err(io)?;
        #[allow(unsafe_code)]
        // SAFETY: a map of a file is sound as long as nobody truncates or changes the file. This one is published by
        // a rename after its last write, is never written again by this program, and lies in a directory that nobody
        // but root can enter (`Layers::open` sees to it). Removing the layer unlinks it, which leaves the map valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let broken = || Error::new(Kind::Format, format!("{} is not a chunk table", path.display()));
        let (header, rest) = Header::ref_from_prefix(&map).map_err(|_| broken())?;
        let chunks = usize::try_from(header.chunks.get()).map_err(|_| broken())?;
        let spans = usize::try_from(header.spans.get()).map_err(|_| broken())?;
        let size = chunks.checked_mul(68).zip(spans.checked_mul(24)).and_then(|(a, b)| a.checked_add(b));
        if header.magic != MAGIC || size != Some(rest.len()) {
            return Err(broken());
        }
        let data_len = header.data_len.get();
        let tables = Tables { map, chunks, spans, data_len };
        if tables.consistent() { Ok(tables) } else { Err(broken()) }
    }

    /// Checks once what the accessors rely on. Costs a pass over the file, about 1 ms for 20,000 chunks.
    fn consistent(&self) -> bool {
        let mut end = 0;
        let chunks = self.chunk_records().iter().all(|record| {
            let ascending = record.data_offset.get() >= end && (record.span.get() as usize) < self.spans;
            match record.data_offset.get().checked_add(record.size.get()) {
                Some(next) => end = next,
                None => return false,
            }
            ascending && record.inner_offset.get().checked_add(record.size.get()).is_some()
        });
        let spans = self.span_records().iter().all(|record| {
            record.first.get().checked_add(record.count.get()).is_some_and(|end| end as usize <= self.chunks)
                && record.blob_offset.get().checked_add(record.blob_len.get()).is_some()
        });
        chunks
            && spans
            && end <= self.data_len
            && self.members().iter().all(|m| (m.get() as usize) < self.chunks)
    }

    fn chunk_records(&self) -> &[ChunkRecord] {
        self.part(size_of::<Header>(), self.chunks)
    }

    fn span_records(&self) -> &[SpanRecord] {
        self.part(size_of::<Header>() + self.chunks * size_of::<ChunkRecord>(), self.spans)
    }

    fn members(&self) -> &[U32] {
        let before = self.chunks * size_of::<ChunkRecord>() + self.spans * size_of::<SpanRecord>();
        self.part(size_of::<Header>() + before, self.chunks)
    }

    fn part<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, start: usize, count: usize) -> &[T] {
        // The lengths were compared with the file's in `open`; an empty slice is what a bug here would read.
        self.map
            .get(start..)
            .and_then(|bytes| <[T]>::ref_from_prefix_with_elems(bytes, count).ok())
            .map_or(&[], |(records, _)| records)
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunks
    }

    /// Number of spans.
    pub fn span_count(&self) -> usize {
        self.spans
    }

    /// Length of the used data area, bytes.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Chunk number `index`, or `None` behind the last one.
    pub fn chunk(&self, index: usize) -> Option<Chunk> {
        let record = self.chunk_records().get(index)?;
        Some(Chunk {
            data: record.data_offset.get(),
            size: record.size.get(),
            span: record.span.get(),
            inner_offset: record.inner_offset.get(),
            digest: record.digest,
        })
    }

    /// Span number `index`, or `None` behind the last one.
    pub fn span(&self, index: usize) -> Option<Span> {
        let record = self.span_records().get(index)?;
        let (start, first) = (record.blob_offset.get(), record.first.get() as usize);
        Some(Span {
            blob: start..start + record.blob_len.get(),
            members: first..first + record.count.get() as usize,
        })
    }

    /// Numbers of the chunks in a span, ascending by their place in the decompressed span.
    pub fn chunks_of<'a>(&'a self, span: &Span) -> impl Iterator<Item = usize> + 'a {
        self.members().get(span.members.clone()).unwrap_or(&[]).iter().map(|member| member.get() as usize)
    }

    /// Numbers of the chunks that have a byte in this range of the data area.
    pub fn chunks_in(&self, data: Range<u64>) -> Range<usize> {
        let records = self.chunk_records();
        let first = records.partition_point(|r| r.data_offset.get() + r.size.get() <= data.start);
        let after = records.get(first..).unwrap_or(&[]).partition_point(|r| r.data_offset.get() < data.end);
        first..first + after
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one span is a list of one range")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built(builder: &TablesBuilder) -> Tables {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunks");
        std::fs::write(&path, builder.encode()).unwrap();
        Tables::open(&path).unwrap()
    }

    fn chunk(data: u64, size: u64, span: u32, inner_offset: u64) -> Chunk {
        Chunk { data, size, span, inner_offset, digest: [span as u8; 32] }
    }

    #[test]
    fn spans_list_their_chunks_in_the_order_of_decompression() {
        let chunks = vec![chunk(0, 10, 1, 50), chunk(4096, 10, 0, 0), chunk(8192, 10, 1, 0)];
        let tables = built(&TablesBuilder { chunks, spans: vec![0..100, 100..200], data_len: 12288 });
        let of = |span| tables.chunks_of(&tables.span(span).unwrap()).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![1], vec![2, 0]));
        assert_eq!(tables.span(1).unwrap().blob, 100..200);
        assert_eq!(tables.chunk(0).unwrap(), chunk(0, 10, 1, 50));
        assert_eq!((tables.chunk(3), tables.span(2)), (None, None));
    }

    #[test]
    fn a_range_in_the_padding_has_no_chunk() {
        let chunks = vec![chunk(0, 10, 0, 0), chunk(4096, 4096, 0, 10)];
        let tables = built(&TablesBuilder { chunks, spans: vec![0..100], data_len: 8192 });
        assert_eq!(tables.chunks_in(10..4096), 1..1);
        assert_eq!(tables.chunks_in(9..4097), 0..2);
        assert_eq!(tables.chunks_in(8192..9000), 2..2);
    }

    #[test]
    fn torn_and_lying_files_are_refused() {
        let chunks = vec![chunk(0, 10, 0, 0)];
        let good = TablesBuilder { chunks, spans: vec![0..100], data_len: 4096 }.encode();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunks");
        let mut cases = vec![good[..good.len() - 1].to_vec(), Vec::new(), vec![0; 64]];
        for (at, value) in [(0, 0), (8, 200), (64 + 24, 9), (64 + 15, 0xff), (152 - 8, 2)] {
            let mut bad = good.clone();
            bad[at] = value;
            cases.push(bad);
        }
        for (number, bad) in cases.iter().enumerate() {
            std::fs::write(&path, bad).unwrap();
            assert!(Tables::open(&path).is_err(), "case {number}");
        }
    }

    proptest! {
        #[test]
        fn range_lookup_equals_a_scan(sizes in prop::collection::vec(1u64..9000, 0..40), start in 0u64..400_000, len in 0u64..40_000) {
            let mut data = 0;
            let chunks: Vec<Chunk> = sizes.iter().map(|&size| {
                let next = chunk(data, size, 0, data);
                data = (data + size).next_multiple_of(4096);
                next
            }).collect();
            let expected: Vec<usize> = (0..chunks.len())
                .filter(|&i| chunks[i].data < start + len && start < chunks[i].data + chunks[i].size && len > 0)
                .collect();
            let tables = built(&TablesBuilder { chunks, spans: vec![0..100], data_len: data });
            let found: Vec<usize> = if len == 0 { vec![] } else { tables.chunks_in(start..start + len).collect() };
            prop_assert_eq!(found, expected);
        }
    }
}
