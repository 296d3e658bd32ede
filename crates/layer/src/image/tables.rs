//! The chunk and span tables of a layer, built once and then mapped.
//!
//! ```text
//! header     64 bytes
//! chunks     64 bytes each, ascending by place in the data area
//! spans      32 bytes each, ascending by place in the blob
//! members     4 bytes for each chunk: chunk numbers by span, ascending by place in the decompressed span
//! by digest   4 bytes for each chunk: chunk numbers, ascending by digest
//! kin         4 bytes for each span: span numbers by class, directory and place in the blob
//! dirs        8 bytes for each directory, in the order of a walk that enters a directory before its children
//! ```
//!
//! All numbers are little-endian. A layer of 20,000 files costs 2 MiB of page cache that the kernel can take back, and
//! no heap.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use format::Digest;
use memmap2::Mmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Kind};

mod encode;

pub(crate) use encode::Dir;
pub use encode::{SpanEntry, TablesBuilder};

const MAGIC: [u8; 8] = *b"STZCHNK2";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    chunks: U64,
    spans: U64,
    dirs: U64,
    data_len: U64,
    reserved: [u8; 24],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct ChunkRecord {
    data_offset: U64,
    size: U64,
    inner_offset: U64,
    span: U32,
    /// 1: the content has no digest, its field is zero.
    undigested: U32,
    digest: [u8; 32],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct SpanRecord {
    blob_offset: U64,
    blob_len: U64,
    first: U32,
    count: U32,
    class: U32,
    dir: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct DirRecord {
    parent: U32,
    end: U32,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<ChunkRecord>() == 64);
const _: () = assert!(size_of::<SpanRecord>() == 32);
const _: () = assert!(size_of::<DirRecord>() == 8);

impl ChunkRecord {
    fn digest(&self) -> Option<[u8; 32]> {
        (self.undigested.get() == 0).then_some(self.digest)
    }
}

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
    /// SHA-256 of its bytes; none where the operator waived verification and the TOC has none.
    pub digest: Option<[u8; 32]>,
}

impl Chunk {
    /// Whether these are its bytes. True of any if it has no digest.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.size
            && self.digest.is_none_or(|digest| Digest::from_sha256(digest).matches(bytes))
    }

    /// The same, when the bytes went through a hasher.
    pub fn has(&self, digest: &Digest) -> bool {
        self.digest.is_none_or(|own| Digest::from_sha256(own) == *digest)
    }

    /// The bytes of the data area that it fills.
    pub fn data_range(&self) -> Range<u64> {
        self.data..self.data + self.size
    }
}

/// A span whose files' directory is not known.
pub(crate) const NO_DIR: u32 = u32::MAX;

/// The smallest piece of the blob that decompresses on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its bytes in the blob.
    pub blob: Range<u64>,
    members: Range<usize>,
}

/// The mapped tables. Immutable, shared without locks.
#[derive(Debug)]
pub struct Tables {
    map: Mmap,
    chunks: usize,
    spans: usize,
    dirs: usize,
    data_len: u64,
}

/// Bytes in the file for each chunk and for each span, all sections together.
const CHUNK_COST: usize = size_of::<ChunkRecord>() + 2 * size_of::<U32>();
const SPAN_COST: usize = size_of::<SpanRecord>() + size_of::<U32>();

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
        let dirs = usize::try_from(header.dirs.get()).map_err(|_| broken())?;
        let sizes = [(chunks, CHUNK_COST), (spans, SPAN_COST), (dirs, size_of::<DirRecord>())];
        let size =
            sizes.iter().try_fold(0_usize, |sum, (count, cost)| sum.checked_add(count.checked_mul(*cost)?));
        if header.magic != MAGIC || size != Some(rest.len()) {
            return Err(broken());
        }
        let data_len = header.data_len.get();
        let tables = Tables { map, chunks, spans, dirs, data_len };
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
        let dir_known = |dir: U32| dir.get() == NO_DIR || (dir.get() as usize) < self.dirs;
        let spans = self.span_records().iter().all(|record| {
            record.first.get().checked_add(record.count.get()).is_some_and(|end| end as usize <= self.chunks)
                && record.blob_offset.get().checked_add(record.blob_len.get()).is_some()
                && dir_known(record.dir)
        });
        let in_range = |numbers: &[U32], count: usize| numbers.iter().all(|n| (n.get() as usize) < count);
        chunks
            && spans
            && end <= self.data_len
            && in_range(self.members(), self.chunks)
            && in_range(self.by_digest(), self.chunks)
            && in_range(self.kin_order(), self.spans)
            && self.dir_records().iter().enumerate().all(|(number, dir)| {
                // Parents come first, which is what makes every walk to the root end.
                (dir.parent.get() == NO_DIR || (dir.parent.get() as usize) < number)
                    && dir.end.get() as usize <= self.dirs
            })
    }

    fn chunk_records(&self) -> &[ChunkRecord] {
        self.part(size_of::<Header>(), self.chunks)
    }

    fn span_records(&self) -> &[SpanRecord] {
        self.part(size_of::<Header>() + self.chunks * size_of::<ChunkRecord>(), self.spans)
    }

    /// Where the sections of plain numbers begin.
    fn numbers_start(&self) -> usize {
        size_of::<Header>() + self.chunks * size_of::<ChunkRecord>() + self.spans * size_of::<SpanRecord>()
    }

    fn members(&self) -> &[U32] {
        self.part(self.numbers_start(), self.chunks)
    }

    fn by_digest(&self) -> &[U32] {
        self.part(self.numbers_start() + self.chunks * size_of::<U32>(), self.chunks)
    }

    fn kin_order(&self) -> &[U32] {
        self.part(self.numbers_start() + 2 * self.chunks * size_of::<U32>(), self.spans)
    }

    fn dir_records(&self) -> &[DirRecord] {
        let before = (2 * self.chunks + self.spans) * size_of::<U32>();
        self.part(self.numbers_start() + before, self.dirs)
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
            digest: record.digest(),
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

    /// A chunk with this digest, if there is one.
    pub fn find(&self, digest: &[u8; 32]) -> Option<usize> {
        let (chunks, order) = (self.chunk_records(), self.by_digest());
        let of = |number: &U32| chunks.get(number.get() as usize).and_then(ChunkRecord::digest);
        // Those without a digest come first.
        let first = order.partition_point(|number| of(number).is_none_or(|found| found < *digest));
        let found = order.get(first)?;
        (of(found) == Some(*digest)).then_some(found.get() as usize)
    }

    /// The spans whose contents are of the same class as those of `span` and lie in the directory that is `up` levels
    /// above its own, or anywhere below that: places in the order of kin, for [`kin_at`](Tables::kin_at). There they
    /// ascend by directory, then by place in the blob. The range of each level holds that of the one below, and all
    /// hold `span`. `None` when there is no such directory, or when nothing is known of the span's files.
    pub fn kin(&self, span: usize, up: usize) -> Option<Range<usize>> {
        let (spans, dirs) = (self.span_records(), self.dir_records());
        let record = spans.get(span)?;
        let mut dir = record.dir.get();
        for _ in 0..up {
            dir = dirs.get(dir as usize)?.parent.get();
        }
        let end = dirs.get(dir as usize)?.end.get();
        let class = record.class.get();
        let before = |dir: u32| {
            self.kin_order().partition_point(|number| {
                let span = spans.get(number.get() as usize);
                span.is_some_and(|span| (span.class.get(), span.dir.get()) < (class, dir))
            })
        };
        Some(before(dir)..before(end))
    }

    /// The span at a place in the order of kin.
    pub fn kin_at(&self, place: usize) -> Option<usize> {
        self.kin_order().get(place).map(|number| number.get() as usize)
    }

    /// Number of the class of the files in a span; 0 behind the last span.
    pub fn class(&self, span: usize) -> u32 {
        self.span_records().get(span).map_or(0, |record| record.class.get())
    }
}

/// The tables as they come back from a file, for tests.
#[cfg(test)]
pub(crate) fn open_tables(builder: &TablesBuilder) -> (tempfile::TempDir, Tables) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("chunks");
    std::fs::write(&path, builder.encode()).expect("a file in it");
    let tables = Tables::open(&path).expect("tables that hold together");
    (dir, tables)
}

#[cfg(test)]
mod tests;
