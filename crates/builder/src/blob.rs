//! The new layer as it is written: its bytes, its digest, and the TOC that grows beside it.

use std::io::Write;

use format::digest::{Algorithm, Hasher};
use format::{Digest, FileRanges};

use crate::error::BuildError;
use crate::pack::Item;
use crate::pipeline::Packed;
use crate::tar::Member;
use crate::toc::{Chunk, TocWriter};

/// Counts and hashes what goes out.
pub(crate) struct Blob<W> {
    out: W,
    hasher: Hasher,
    pub size: u64,
}

impl<W: Write> Blob<W> {
    pub fn new(out: W) -> Blob<W> {
        Blob { out, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(BuildError::Output)
    }

    pub fn finish(mut self) -> Result<(Digest, u64), BuildError> {
        self.out.flush().map_err(BuildError::Output)?;
        Ok((self.hasher.finish(), self.size))
    }
}

/// Turns what the packer said about places in the archive into places in the blob.
pub(crate) struct Tables {
    pub toc: TocWriter,
    /// A file whose last chunk was not there yet, and those that were.
    open: Option<(Box<Member>, FileRanges)>,
    chunks: Vec<Chunk>,
}

impl Tables {
    pub fn new(toc: TocWriter) -> Tables {
        Tables { toc, open: None, chunks: Vec::new() }
    }

    /// Enters the items of a batch whose first byte is byte `base` of the blob.
    pub fn add(&mut self, packed: Packed, base: u64) -> Result<(), BuildError> {
        let Packed { batch, ends, digests, taken, .. } = packed;
        let mut digests = digests.into_iter();
        for item in batch.items {
            match item {
                Item::Plain(member) => self.toc.member(&member, &[], Digest::of(b""), &FileRanges::NONE)?,
                Item::File(member, ranges) => self.open = Some((member, ranges)),
                Item::Chunk { piece, range, inner_offset, file_offset, last } => {
                    let start = piece.checked_sub(1).map_or(0, |before| ends[before]);
                    let digest = digests.next().expect("each chunk of a batch has a digest");
                    let size = range.len() as u32; // the chunk size is 1 GiB at most
                    let offset = base + start as u64;
                    self.chunks.push(Chunk { offset, inner_offset, file_offset, size, digest });
                    if let Some(digest) = last {
                        self.close(digest)?;
                    }
                }
            }
        }
        drop((batch.data, taken));
        Ok(())
    }

    fn close(&mut self, digest: Option<Digest>) -> Result<(), BuildError> {
        let (member, ranges) = self.open.take().expect("chunks follow their file");
        let digest = digest.unwrap_or_else(|| Digest::from_sha256(self.chunks[0].digest));
        self.toc.member(&member, &self.chunks, digest, &ranges)?;
        self.chunks.clear();
        Ok(())
    }
}
