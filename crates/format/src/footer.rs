//! The footer of a lazily pullable blob: where the TOC is.
//!
//! Five kinds of blobs end in a footer of their own. Those of the gzip family are an empty gzip member of fixed length
//! (`footer/gzip.rs`), those of zstd:chunked lie in a skippable frame (`footer/zstd.rs`). What a footer says is a claim;
//! a [`Footer`] is one whose places lie inside of the blob, in the right order.

mod gzip;
mod zstd;

use std::ops::Range;

use crate::decompress::Compression;
use crate::error::FormatError;

/// How a lazily pullable blob carries its TOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TocKind {
    /// eStargz: a gzip member with a tar entry, footer of 51 bytes.
    Estargz,
    /// stargz, the predecessor: the same TOC, footer of 47 bytes.
    LegacyStargz,
    /// eStargz whose TOC is in a blob of its own, which is gzip with a tar entry as well; footer of 46 bytes.
    ExternalToc,
    /// zstd:chunked: a zstd frame of plain JSON, hidden in a skippable frame; footer of 40, 56 or 64 bytes.
    ZstdChunked {
        /// Size of the JSON, in bytes, as the footer or the manifest has it.
        json_size: u64,
    },
}

impl TocKind {
    /// How the contents of a blob of this kind are compressed.
    pub fn compression(self) -> Compression {
        match self {
            TocKind::Estargz | TocKind::LegacyStargz | TocKind::ExternalToc => Compression::Gzip,
            TocKind::ZstdChunked { .. } => Compression::Zstd,
        }
    }
}

/// No footer is longer than this. Passing this many last bytes to [`Footer::find`] is always enough.
pub const FOOTER_SIZE_MAX: usize = zstd::FRAME_SIZE_MAX;

/// What is known of a blob from its end, or from its description in a manifest, with all places inside of the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How the TOC is stored.
    pub kind: TocKind,
    /// Where the compressed TOC is in the blob, never empty. `None` for [`TocKind::ExternalToc`]: it is not in this blob.
    pub toc: Option<Range<u64>>,
    /// Where the payload, the compressed file contents, ends in the blob. It starts at 0.
    pub payload_end: u64,
}

impl Footer {
    /// Finds the footer in `tail`, the last bytes of a blob of `blob_size` bytes.
    ///
    /// The tail may be of any length that holds a footer: [`FOOTER_SIZE_MAX`] bytes or more, or the whole blob when
    /// that is smaller.
    ///
    /// # Errors
    /// [`FormatError::NotLazy`] when there is no footer, [`FormatError::TailSize`] when the tail is too short to tell
    /// or longer than the blob, `Footer…` when there is a footer that cannot be right.
    pub fn find(tail: &[u8], blob_size: u64) -> Result<Footer, FormatError> {
        let needed = usize::try_from(blob_size).unwrap_or(usize::MAX).min(FOOTER_SIZE_MAX);
        if tail.len() < needed || tail.len() as u64 > blob_size {
            return Err(FormatError::TailSize { given: tail.len(), needed, blob_size });
        }
        if let Some(footer) = gzip::find(tail, blob_size)? {
            return Ok(footer);
        }
        zstd::find(tail, blob_size)?.ok_or(FormatError::NotLazy)
    }

    /// How the contents of the blob are compressed.
    pub fn compression(&self) -> Compression {
        self.kind.compression()
    }
}

/// Where a zstd:chunked blob has its TOC, as a footer or a manifest says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedPosition {
    /// Start of the compressed TOC in the blob.
    pub offset: u64,
    /// Size of the compressed TOC, in bytes.
    pub size: u64,
    /// Size of the JSON, in bytes.
    pub json_size: u64,
    /// What the TOC is; only 1 is known.
    pub toc_type: u64,
}

impl ChunkedPosition {
    /// The same as a footer of the blob would say, for who has this from a manifest. A blob that is not zstd:chunked is
    /// noticed when its TOC is read.
    ///
    /// # Errors
    /// [`FormatError::FooterRange`] when the place is not inside of a blob of `blob_size` bytes or empty,
    /// [`FormatError::TocType`].
    pub fn locate(&self, blob_size: u64) -> Result<Footer, FormatError> {
        // There is no zstd:chunked blob without a footer, and the shortest is this long.
        zstd::locate(self, blob_size.saturating_sub(zstd::FRAME_SIZE_MIN as u64))
    }
}

#[cfg(test)]
mod tests;
