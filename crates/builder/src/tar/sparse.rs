//! Maps of sparse files: GNU tar's own header and its three encodings in pax.

use std::io::Read;

use super::BLOCK;
use super::error::{ScanError, TarProblem};
use super::header::number;
use super::pax::{Parsed, decimal};

/// A stored part of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub size: u64,
}

/// More regions than any file has that was worth storing as sparse; they are held in memory.
const REGIONS_MAX: usize = 1 << 20;

/// A sparse file as the headers describe it.
#[derive(Debug)]
pub(super) struct Map {
    pub regions: Vec<Region>,
    /// The file's size with its holes.
    pub size: u64,
}

impl Map {
    /// Checks the map against how many bytes are stored.
    pub fn check(self, stored: u64) -> Result<Map, TarProblem> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for region in &self.regions {
            if region.offset < end {
                return Err(TarProblem::Sparse("its regions overlap or are not in order"));
            }
            end = region.offset.saturating_add(region.size);
            sum = sum.saturating_add(region.size);
        }
        if end > self.size {
            return Err(TarProblem::Sparse("a region lies behind the end of the file"));
        }
        if sum != stored {
            return Err(TarProblem::Sparse("its regions are not as large as what is stored"));
        }
        Ok(self)
    }
}

/// What the pax records of a member say about sparseness.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    regions: Vec<Region>,
    offset: Option<u64>,
    major: Option<u64>,
    size: Option<u64>,
    pub name: Option<Vec<u8>>,
    seen: bool,
}

/// How a pax member stores its map.
#[derive(Debug)]
pub(super) enum Encoding {
    /// In the records (0.0, 0.1).
    Header(Map),
    /// In front of the content (1.0). The size of the file is known.
    Content(u64),
}

impl PaxSparse {
    /// Reads the records `GNU.sparse.*`.
    pub fn new(records: &Parsed) -> Result<PaxSparse, TarProblem> {
        let mut sparse = PaxSparse::default();
        for (key, value) in &records.0 {
            let Some(key) = key.strip_prefix(b"GNU.sparse.") else { continue };
            sparse.seen = true;
            let number = || decimal(value).ok_or(TarProblem::Sparse("a record holds no number"));
            match key {
                b"name" => sparse.name = Some(value.clone()),
                b"major" => sparse.major = Some(number()?),
                b"size" | b"realsize" => sparse.size = Some(number()?),
                b"offset" => sparse.offset = Some(number()?),
                b"numbytes" => {
                    let offset = sparse.offset.take();
                    let offset = offset.ok_or(TarProblem::Sparse("a region without an offset"))?;
                    push(&mut sparse.regions, Region { offset, size: number()? })?;
                }
                b"map" => sparse.regions = inline(value)?,
                _ => {} // "minor" is 0 or 1 and known by the other records; "numblocks" repeats the count
            }
        }
        Ok(sparse)
    }

    /// `None` for a member that is not sparse.
    pub fn encoding(self) -> Result<Option<Encoding>, TarProblem> {
        if !self.seen {
            return Ok(None);
        }
        let size = self.size.ok_or(TarProblem::Sparse("the size of the file is missing"))?;
        Ok(Some(match self.major {
            Some(1) => Encoding::Content(size),
            Some(0) | None => Encoding::Header(Map { regions: self.regions, size }),
            Some(_) => return Err(TarProblem::Sparse("its encoding is newer than 1.0")),
        }))
    }
}

/// `OFFSET,SIZE,OFFSET,SIZE,…`
fn inline(value: &[u8]) -> Result<Vec<Region>, TarProblem> {
    let mut regions = Vec::new();
    let mut numbers = value.split(|byte| *byte == b',').map(decimal);
    while let Some(offset) = numbers.next() {
        match (offset, numbers.next().flatten()) {
            (Some(offset), Some(size)) => push(&mut regions, Region { offset, size })?,
            _ => return Err(TarProblem::Sparse("the map is not a list of pairs of numbers")),
        }
    }
    Ok(regions)
}

fn push(regions: &mut Vec<Region>, region: Region) -> Result<(), TarProblem> {
    if regions.len() == REGIONS_MAX {
        return Err(TarProblem::Sparse("it has more than 1048576 regions"));
    }
    regions.push(region);
    Ok(())
}

/// Where GNU tar's header has the map, the flag that says that it goes on, and the size.
const OLD_MAP: std::ops::Range<usize> = 386..482;
const OLD_EXTENDED: usize = 482;
const OLD_SIZE: std::ops::Range<usize> = 483..495;
/// The same in the blocks that follow.
const NEXT_MAP: std::ops::Range<usize> = 0..504;
const NEXT_EXTENDED: usize = 504;
/// Two numbers of twelve bytes.
const PAIR: usize = 24;

/// The map in a header of type `S` and the blocks behind it, which `next` reads.
pub(super) fn old_gnu(
    header: &[u8; BLOCK],
    mut next: impl FnMut() -> Result<[u8; BLOCK], ScanError>,
    at: impl Fn(TarProblem) -> ScanError,
) -> Result<Map, ScanError> {
    let size = number(&header[OLD_SIZE]).and_then(|size| u64::try_from(size).ok());
    let size = size.ok_or_else(|| at(TarProblem::Number("realsize")))?;
    let mut regions = Vec::new();
    pairs(&header[OLD_MAP], &mut regions).map_err(&at)?;
    let mut extended = header[OLD_EXTENDED] != 0;
    while extended {
        let block = next()?;
        pairs(&block[NEXT_MAP], &mut regions).map_err(&at)?;
        extended = block[NEXT_EXTENDED] != 0;
    }
    Ok(Map { regions, size })
}

fn pairs(map: &[u8], regions: &mut Vec<Region>) -> Result<(), TarProblem> {
    for pair in map.chunks_exact(PAIR) {
        let (offset, size) = pair.split_at(PAIR / 2);
        // Unused pairs are empty.
        if offset[0] == 0 || size[0] == 0 {
            continue;
        }
        let parse = |field| number(field).and_then(|number| u64::try_from(number).ok());
        match (parse(offset), parse(size)) {
            (Some(offset), Some(size)) => push(regions, Region { offset, size })?,
            _ => return Err(TarProblem::Number("sparse map")),
        }
    }
    Ok(())
}

/// The map in front of the content: decimal lines, the count first, padded to whole blocks. Returns it and its size
/// in the archive.
pub(super) fn in_content(
    source: &mut impl Read,
    stored: u64,
    at: impl Fn(TarProblem) -> ScanError,
) -> Result<(Vec<Region>, u64), ScanError> {
    let mut blocks = Lines { source, left: stored, used: 0, block: [0; BLOCK], next: BLOCK };
    let count = blocks.number(&at)?;
    if count > REGIONS_MAX as u64 {
        return Err(at(TarProblem::Sparse("it has more than 1048576 regions")));
    }
    let mut regions = Vec::new();
    for _ in 0..count {
        let (offset, size) = (blocks.number(&at)?, blocks.number(&at)?);
        regions.push(Region { offset, size });
    }
    Ok((regions, blocks.used))
}

struct Lines<'a, R> {
    source: &'a mut R,
    left: u64,
    used: u64,
    block: [u8; BLOCK],
    next: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self, at: &impl Fn(TarProblem) -> ScanError) -> Result<u64, ScanError> {
        let bad = || at(TarProblem::Sparse("the map in front of the content holds no numbers"));
        let mut value = None;
        loop {
            if self.next == BLOCK {
                if self.left < BLOCK as u64 {
                    return Err(at(TarProblem::Sparse("the map does not end before the content does")));
                }
                super::scan::read_block(self.source, &mut self.block, "a sparse map", at)?;
                (self.left, self.used, self.next) = (self.left - BLOCK as u64, self.used + BLOCK as u64, 0);
            }
            let byte = self.block[self.next];
            self.next += 1;
            match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', _) => {
                    let shifted = value.unwrap_or(0_u64).checked_mul(10);
                    let next = shifted.and_then(|value| value.checked_add(u64::from(byte - b'0')));
                    value = Some(next.ok_or_else(bad)?);
                }
                _ => return Err(bad()),
            }
        }
    }
}
