//! The archive cut into pieces that are compressed on their own, many of them to a batch of work.
//!
//! Where the cuts are depends on the archive and the options only, never on the number of threads.

use std::ops::Range;
use std::sync::Arc;

use format::{Digest, FileRanges};

use crate::compress::Estimator;
use crate::error::BuildError;
use crate::tar::Member;

/// Batches of small files are about this large.
const BATCH: usize = 1 << 20;
/// A piece that holds no content is cut here: the headers of a million symlinks are not to be one.
const FILLER_MAX: usize = 1 << 20;
/// Headers become about this much smaller.
const HEADER_RATIO: u64 = 6;
/// Pieces that share contents do not grow beyond this (one chunk may be larger), as readers hold a whole one.
const SHARED_MAX: usize = 8 << 20;

/// What a TOC has to say at one place of the archive.
#[derive(Debug)]
pub(crate) enum Item {
    /// A member without content.
    Plain(Box<Member>),
    /// A file with content, whose chunks follow, and what is wanted of it.
    File(Box<Member>, FileRanges),
    /// Content of the last file.
    Chunk {
        /// Which piece of the batch it is in.
        piece: usize,
        /// Where in the batch.
        range: Range<usize>,
        /// Where in the piece.
        inner_offset: u64,
        /// Where in the file.
        file_offset: u64,
        /// `None` when it is not the last of its file. Of a file of several chunks, the digest of all of it.
        last: Option<Option<Digest>>,
    },
}

/// A part of the archive.
#[derive(Debug)]
pub(crate) struct Batch {
    pub data: Arc<Vec<u8>>,
    /// Where its pieces end in `data`. None is empty.
    pub pieces: Vec<usize>,
    pub items: Vec<Item>,
}

/// Content that is to be appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub file_offset: u64,
    pub size: usize,
    /// Whether it gets a piece of its own in any case.
    pub alone: bool,
}

/// Collects the archive, and hands it on in batches.
pub(crate) struct Packer<F> {
    emit: F,
    data: Vec<u8>,
    pieces: Vec<usize>,
    items: Vec<Item>,
    /// Where the open piece starts in `data`.
    start: usize,
    /// Whether the open piece has content, and where the last of it ends.
    shared: bool,
    content_end: usize,
    /// About how many bytes the open piece will have.
    estimate: u64,
    min_chunk_size: u64,
    estimator: Estimator,
}

impl<F: FnMut(Batch) -> Result<(), BuildError>> Packer<F> {
    pub fn new(min_chunk_size: u64, emit: F) -> Packer<F> {
        Packer {
            emit,
            data: Vec::new(),
            pieces: Vec::new(),
            items: Vec::new(),
            start: 0,
            shared: false,
            content_end: 0,
            estimate: 0,
            min_chunk_size,
            estimator: Estimator::new(),
        }
    }

    /// Bytes that no TOC entry points to: headers and padding.
    pub fn filler(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        for part in bytes.chunks(FILLER_MAX) {
            if self.data.len() - self.content_end + part.len() > FILLER_MAX {
                self.cut()?;
            }
            self.data.extend_from_slice(part);
            self.estimate += part.len() as u64 / HEADER_RATIO;
        }
        Ok(())
    }

    /// An entry at this place.
    pub fn item(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Appends content, which `fill` puts into its place. `last` is asked for when it is there.
    pub fn payload(
        &mut self,
        payload: Payload,
        fill: impl FnOnce(&mut [u8]) -> Result<Option<Option<Digest>>, BuildError>,
    ) -> Result<(), BuildError> {
        let Payload { file_offset, size, alone } = payload;
        let full = self.estimate >= self.min_chunk_size || self.data.len() - self.start + size > SHARED_MAX;
        if alone || !self.shared || full {
            self.cut()?;
        }
        let at = self.data.len();
        self.data.reserve_exact(if size >= BATCH { size + BATCH / 16 } else { 0 });
        self.data.resize(at + size, 0);
        let last = fill(&mut self.data[at..])?;
        (self.shared, self.content_end) = (true, self.data.len());
        if self.min_chunk_size > 0 {
            self.estimate += self.estimator.compressed_size(&self.data[at..]);
        }
        let inner_offset = (at - self.start) as u64;
        let piece = self.pieces.len();
        self.items.push(Item::Chunk { piece, range: at..at + size, inner_offset, file_offset, last });
        Ok(())
    }

    /// Hands on what is left.
    pub fn finish(mut self) -> Result<(), BuildError> {
        self.cut()?;
        self.flush()
    }

    /// Ends the open piece.
    fn cut(&mut self) -> Result<(), BuildError> {
        if self.data.len() > self.start {
            self.pieces.push(self.data.len());
        }
        (self.start, self.shared, self.estimate) = (self.data.len(), false, 0);
        self.content_end = self.start;
        if self.data.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), BuildError> {
        if self.pieces.is_empty() && self.items.is_empty() {
            return Ok(());
        }
        let data = Arc::new(std::mem::take(&mut self.data));
        let (pieces, items) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.items));
        (self.start, self.content_end) = (0, 0);
        (self.emit)(Batch { data, pieces, items })
    }
}
