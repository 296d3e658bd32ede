//! Footers of zstd:chunked: a skippable frame (RFC 8878, section 3.1.2) of little-endian 64-bit numbers and a magic.
//!
//! ```text
//! frames of the payload | skippable: TOC | from 2023 on, skippable: tar-split | skippable: footer
//! ```
//!
//! All footers start alike: offset and size of the compressed TOC, size of the JSON, type of the TOC. The first layout has
//! the magic behind that. containers/storage 1.47 to 1.49 made it 56 bytes long without writing more into it, and 1.50 went
//! on to 64 bytes, with the place of the tar-split data in between and another magic at the end.

use super::{ChunkedPosition, Footer, TocKind};
use crate::error::FormatError;

/// Head of a skippable frame: magic and length, 4 bytes each.
const FRAME_HEADER_SIZE: usize = 8;
/// The first of the 16 magic numbers that a skippable frame may have; every writer takes it.
const FRAME_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// The only type of TOC: JSON as in eStargz.
const TOC_TYPE_JSON: u64 = 1;

/// One kind of footer.
struct Layout {
    /// Size of the footer, without the frame around it.
    size: usize,
    magic: &'static [u8; 8],
    magic_at: usize,
    /// Whether the place of the tar-split data stands in front of the magic.
    tar_split: bool,
}

const LAYOUTS: [Layout; 3] = [
    Layout { size: 64, magic: b"GNUlInUx", magic_at: 56, tar_split: true },
    Layout { size: 40, magic: b"GnUlInUx", magic_at: 32, tar_split: false },
    Layout { size: 56, magic: b"GnUlInUx", magic_at: 32, tar_split: false },
];

/// Sizes of the longest and the shortest footer with the frame around it.
pub(super) const FRAME_SIZE_MAX: usize = FRAME_HEADER_SIZE + LAYOUTS[0].size;
pub(super) const FRAME_SIZE_MIN: usize = FRAME_HEADER_SIZE + LAYOUTS[1].size;

/// The footer at the end of `tail`, if there is one of this family.
pub(super) fn find(tail: &[u8], blob_size: u64) -> Result<Option<Footer>, FormatError> {
    for layout in &LAYOUTS {
        if let Some(footer) = layout.content(tail) {
            let frame = blob_size.saturating_sub((FRAME_HEADER_SIZE + layout.size) as u64);
            return layout.locate(footer, frame).map(Some);
        }
    }
    Ok(None)
}

impl Layout {
    /// The footer without its frame, if `tail` ends in one of this kind.
    fn content<'a>(&self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let (rest, footer) = tail.split_at_checked(tail.len().checked_sub(self.size)?)?;
        let header = rest.last_chunk::<FRAME_HEADER_SIZE>()?;
        let is_frame =
            header.starts_with(&FRAME_MAGIC) && header.ends_with(&(self.size as u32).to_le_bytes());
        (is_frame && footer.get(self.magic_at..)?.starts_with(self.magic)).then_some(footer)
    }

    /// `end` is where the footer's frame starts, thus where everything else ends.
    fn locate(&self, footer: &[u8], end: u64) -> Result<Footer, FormatError> {
        let number = |index: usize| {
            let bytes = footer.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        let toc =
            ChunkedPosition { offset: number(0), size: number(1), json_size: number(2), toc_type: number(3) };
        let footer = locate(&toc, end)?;
        if self.tar_split {
            check_tar_split(number(4), number(5), &footer, end)?;
        }
        Ok(footer)
    }
}

/// The footer that says this of the TOC, when everything but the footer lies before `end`.
pub(super) fn locate(toc: &ChunkedPosition, end: u64) -> Result<Footer, FormatError> {
    let ChunkedPosition { offset, size, json_size, toc_type } = *toc;
    if toc_type != TOC_TYPE_JSON {
        return Err(FormatError::TocType { found: toc_type });
    }
    let wrong = |what| FormatError::FooterRange { what, offset, size, end };
    // The TOC lies in a frame of its own, behind the payload.
    let payload_end = offset.checked_sub(FRAME_HEADER_SIZE as u64).ok_or_else(|| wrong("the TOC"))?;
    let toc_end =
        offset.checked_add(size).filter(|toc_end| *toc_end <= end).ok_or_else(|| wrong("the TOC"))?;
    if size == 0 || json_size == 0 {
        return Err(wrong("an empty TOC"));
    }
    Ok(Footer { kind: TocKind::ZstdChunked { json_size }, toc: Some(offset..toc_end), payload_end })
}

/// Nobody here reads the tar-split data (the archive without the contents of its files), but a footer that is wrong about
/// it is not to be believed about the TOC either.
fn check_tar_split(offset: u64, size: u64, footer: &Footer, end: u64) -> Result<(), FormatError> {
    let toc = footer.toc.clone().unwrap_or_default();
    match offset.checked_add(size) {
        _ if offset == 0 && size == 0 => Ok(()),
        Some(split_end) if split_end <= end && (offset >= toc.end || split_end <= toc.start) => Ok(()),
        _ => Err(FormatError::FooterRange { what: "the tar-split data", offset, size, end }),
    }
}
