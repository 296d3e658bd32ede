//! Footers of the gzip family: an empty gzip member whose "extra" header field (RFC 1952, section 2.3.1.1) says where the
//! TOC is. eStargz wraps the offset in a subfield `SG`, the older stargz format puts it there bare, and a blob with an
//! external TOC has a mark in its place.

use super::{Footer, TocKind};
use crate::error::FormatError;

/// A gzip header of which only the parts count that every gzip writer sets alike: magic, method, and "there is an
/// extra field and nothing else". Time, level and operating system (bytes 4 to 9) depend on the writer.
const HEADER: &[u8] = b"\x1f\x8b\x08\x04";
const HEADER_SIZE: usize = 10;

/// Lengths of the whole gzip member.
const ESTARGZ_SIZE: usize = 51;
const LEGACY_SIZE: usize = 47;
const EXTERNAL_SIZE: usize = 46;

/// Length of the extra field, and the head of its subfield if there is one.
const ESTARGZ_EXTRA: &[u8] = b"\x1a\0SG\x16\0";
const LEGACY_EXTRA: &[u8] = b"\x16\0";
const EXTERNAL_EXTRA: &[u8] = b"\x15\0SG\x11\0";

const HEX_DIGITS: usize = 16;
const MAGIC: &[u8] = b"STARGZ";
const EXTERNAL_MAGIC: &[u8] = b"STARGZEXTERNALTOC";

/// The footer at the end of `tail`, if there is one of this family.
pub(super) fn find(tail: &[u8], blob_size: u64) -> Result<Option<Footer>, FormatError> {
    for (kind, size, extra) in
        [(TocKind::Estargz, ESTARGZ_SIZE, ESTARGZ_EXTRA), (TocKind::LegacyStargz, LEGACY_SIZE, LEGACY_EXTRA)]
    {
        let field = extra_field(tail, size, extra).and_then(|field| field.split_at_checked(HEX_DIGITS));
        if let Some((hex, rest)) = field
            && rest.starts_with(MAGIC)
        {
            return locate(kind, hex, blob_size.saturating_sub(size as u64)).map(Some);
        }
    }
    let external = extra_field(tail, EXTERNAL_SIZE, EXTERNAL_EXTRA);
    Ok(external.filter(|field| field.starts_with(EXTERNAL_MAGIC)).map(|_| Footer {
        kind: TocKind::ExternalToc,
        toc: None,
        payload_end: blob_size.saturating_sub(EXTERNAL_SIZE as u64),
    }))
}

/// What follows the head of the extra field, if `tail` ends in a gzip member of this size with such a field.
fn extra_field<'a>(tail: &'a [u8], size: usize, extra: &[u8]) -> Option<&'a [u8]> {
    let footer = tail.get(tail.len().checked_sub(size)?..)?;
    let (header, rest) = footer.split_at_checked(HEADER_SIZE)?;
    header.starts_with(HEADER).then(|| rest.strip_prefix(extra))?
}

/// `end` is where the footer starts, thus where the TOC ends.
fn locate(kind: TocKind, hex: &[u8], end: u64) -> Result<Footer, FormatError> {
    let syntax = || FormatError::FooterOffsetSyntax { text: String::from_utf8_lossy(hex).into_owned() };
    // The number parser would take a sign, too.
    if !hex.iter().all(u8::is_ascii_hexdigit) {
        return Err(syntax());
    }
    let text = std::str::from_utf8(hex).map_err(|_| syntax())?;
    let offset = u64::from_str_radix(text, 16).map_err(|_| syntax())?;
    if offset >= end {
        return Err(FormatError::FooterOffsetRange { offset, end });
    }
    Ok(Footer { kind, toc: Some(offset..end), payload_end: offset })
}
