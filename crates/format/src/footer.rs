//! The footer of an eStargz blob: where the TOC is.
//!
//! The footer is an empty gzip member of fixed length whose "extra" header field (RFC 1952, section 2.3.1.1) carries
//! the offset of the TOC in hex. eStargz wraps it in a subfield `SG`; the older stargz format puts it there bare.

use std::ops::Range;

use crate::error::FormatError;

/// How a lazily pullable blob carries its TOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TocKind {
    /// eStargz: a gzip member with a tar entry, footer of 51 bytes.
    Estargz,
    /// stargz, the predecessor: the same TOC, footer of 47 bytes.
    LegacyStargz,
}

/// No footer is longer than this. Passing this many last bytes to [`Footer::find`] is always enough.
pub const FOOTER_SIZE_MAX: usize = ESTARGZ.size;

/// A footer whose offsets lie inside of its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How the TOC is stored.
    pub kind: TocKind,
    /// Where the compressed TOC is in the blob. Never empty.
    pub toc: Range<u64>,
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
    /// or longer than the blob, `FooterOffset…` when there is a footer that cannot be right.
    pub fn find(tail: &[u8], blob_size: u64) -> Result<Footer, FormatError> {
        let needed = usize::try_from(blob_size).unwrap_or(usize::MAX).min(FOOTER_SIZE_MAX);
        if tail.len() < needed || tail.len() as u64 > blob_size {
            return Err(FormatError::TailSize { given: tail.len(), needed, blob_size });
        }
        for layout in [ESTARGZ, LEGACY] {
            if let Some(hex) = layout.offset_field(tail) {
                return layout.locate(hex, blob_size);
            }
        }
        Err(FormatError::NotLazy)
    }
}

const ESTARGZ: Layout = Layout { kind: TocKind::Estargz, size: 51, extra: b"\x1a\0SG\x16\0" };
const LEGACY: Layout = Layout { kind: TocKind::LegacyStargz, size: 47, extra: b"\x16\0" };

/// A gzip header of which only the parts count that every gzip writer sets alike: magic, method, and "there is an
/// extra field and nothing else". Time, level and operating system (bytes 4 to 9) depend on the writer.
const GZIP_HEADER: &[u8] = b"\x1f\x8b\x08\x04";
const GZIP_HEADER_SIZE: usize = 10;
const HEX_DIGITS: usize = 16;
const MAGIC: &[u8] = b"STARGZ";

/// The fixed parts of one kind of footer.
struct Layout {
    kind: TocKind,
    /// Length of the whole gzip member.
    size: usize,
    /// Length of the extra field, and the head of its subfield if there is one.
    extra: &'static [u8],
}

impl Layout {
    /// The offset's digits, if `tail` ends in a footer of this kind.
    fn offset_field<'a>(&self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let footer = tail.get(tail.len().checked_sub(self.size)?..)?;
        let (header, rest) = footer.split_at_checked(GZIP_HEADER_SIZE)?;
        let (hex, rest) = rest.strip_prefix(self.extra)?.split_at_checked(HEX_DIGITS)?;
        (header.starts_with(GZIP_HEADER) && rest.starts_with(MAGIC)).then_some(hex)
    }

    fn locate(&self, hex: &[u8], blob_size: u64) -> Result<Footer, FormatError> {
        let syntax = || FormatError::FooterOffsetSyntax { text: String::from_utf8_lossy(hex).into_owned() };
        // The number parser would take a sign, too.
        if !hex.iter().all(u8::is_ascii_hexdigit) {
            return Err(syntax());
        }
        let text = std::str::from_utf8(hex).map_err(|_| syntax())?;
        let offset = u64::from_str_radix(text, 16).map_err(|_| syntax())?;
        let end = blob_size.saturating_sub(self.size as u64);
        if offset >= end {
            return Err(FormatError::FooterOffsetRange { offset, end });
        }
        Ok(Footer { kind: self.kind, toc: offset..end, payload_end: offset })
    }
}

#[cfg(test)]
mod tests;
