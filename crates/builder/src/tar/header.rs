//! The 512 bytes of one header.

use std::ops::Range;

use super::BLOCK;
use super::error::TarProblem;

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const USER: Range<usize> = 265..297;
pub(super) const GROUP: Range<usize> = 297..329;
pub(super) const MAJOR: Range<usize> = 329..337;
pub(super) const MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
/// star has a shorter prefix, and times behind it.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

/// How a header is laid out behind the link name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Nothing there.
    V7,
    /// Names, device numbers and a prefix of the name.
    Ustar,
    /// As ustar with a shorter prefix.
    Star,
    /// Names and device numbers; then times and the map of a sparse file.
    Gnu,
}

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub fn new(block: &'a [u8; BLOCK]) -> Result<Header<'a>, TarProblem> {
        let header = Header(block);
        let stored = octal(&block[CHECKSUM]).ok_or(TarProblem::Checksum)?;
        // Some old writers summed signed bytes.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (position, byte) in block.iter().enumerate() {
            let byte = if CHECKSUM.contains(&position) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if i64::try_from(stored).is_ok_and(|sum| sum == unsigned || sum == signed) {
            Ok(header)
        } else {
            Err(TarProblem::Checksum)
        }
    }

    pub fn dialect(self) -> Dialect {
        match &self.0[MAGIC] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => match &self.0[STAR_TRAILER] {
                b"tar\0" => Dialect::Star,
                _ => Dialect::Ustar,
            },
            _ => Dialect::V7,
        }
    }

    pub fn flag(self) -> u8 {
        self.0[TYPE]
    }

    /// The name, with its prefix where the dialect has one.
    pub fn name(self) -> Vec<u8> {
        let name = until_nul(&self.0[NAME]);
        let prefix = match self.dialect() {
            Dialect::Ustar => until_nul(&self.0[PREFIX]),
            Dialect::Star => until_nul(&self.0[STAR_PREFIX]),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub fn link(self) -> Vec<u8> {
        until_nul(&self.0[LINK]).to_vec()
    }

    /// A text that Version 7 does not have.
    pub fn text(self, field: Range<usize>) -> Vec<u8> {
        match self.dialect() {
            Dialect::V7 => Vec::new(),
            _ => until_nul(&self.0[field]).to_vec(),
        }
    }

    pub fn number(self, field: Range<usize>, name: &'static str) -> Result<i64, TarProblem> {
        number(&self.0[field]).ok_or(TarProblem::Number(name))
    }

    /// How many bytes follow the header, unless its type says that none do.
    pub fn size(self) -> Result<u64, TarProblem> {
        let size = self.number(SIZE, "size")?;
        u64::try_from(size).map_err(|_| TarProblem::Number("size"))
    }

    /// A number of a device, which Version 7 does not have.
    pub fn device(self, field: Range<usize>, name: &'static str) -> Result<u32, TarProblem> {
        if self.dialect() == Dialect::V7 {
            return Ok(0);
        }
        self.number(field, name)?.try_into().map_err(|_| TarProblem::Number(name))
    }
}

/// Octal text, or base 256 in two's complement when the top bit is set (GNU, star).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field)?.try_into().ok();
    }
    // The second bit is the sign; the first says only that this is base 256.
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { i128::from(first) - 256 } else { i128::from(first & 0x3f) };
    for byte in &field[1..] {
        value = value << 8 | i128::from(*byte);
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    value.try_into().ok()
}

/// Octal digits between any spaces and NULs. An empty field is 0, as writers leave out what they do not know.
fn octal(field: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
