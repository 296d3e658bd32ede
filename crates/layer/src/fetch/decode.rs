//! From the compressed bytes of a span to verified chunks in the image file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use format::digest::{Algorithm, Hasher};
use format::{Digest, StreamDecoder};

use super::memo::Memo;
use crate::error::{Error, Kind};
use crate::image::{Chunk, ImageFiles};

/// Up to this much of a decompressed span is held in memory; larger ones go through in pieces.
pub const IN_MEMORY_MAX: u64 = 16 << 20;
const PIECE: usize = 256 << 10;

/// The compressed bytes of one span, from its first byte up to at least what its chunks need.
#[derive(Debug)]
pub enum Compressed {
    /// In memory.
    Memory(Bytes),
    /// In an unlinked file, at its start.
    Spooled(File),
}

/// Decompresses, verifies, writes and marks every chunk of the span that is not filled. A bad chunk does not keep its
/// neighbours from being filled; the first error is returned at the end. What the disk has no room for goes to `memo`.
pub fn fill_span(files: &ImageFiles, span: usize, compressed: Compressed, memo: &Memo) -> Result<(), Error> {
    let Some(found) = files.tables.span(span) else {
        return Err(Error::new(Kind::Format, format!("there is no span {span}")));
    };
    let mut chunks: Vec<(usize, Chunk)> = Vec::new();
    for number in files.tables.chunks_of(&found) {
        if let (false, Some(chunk)) = (files.filled.get(number), files.tables.chunk(number)) {
            chunks.push((number, chunk));
        }
    }
    let Some(needed) = chunks.iter().map(|(_, chunk)| chunk.inner_offset + chunk.size).max() else {
        return Ok(());
    };
    match compressed {
        Compressed::Memory(bytes) if needed <= IN_MEMORY_MAX => {
            in_memory(files, span, &bytes, needed as usize, &chunks, memo)
        }
        Compressed::Memory(bytes) => in_pieces(files, span, io::Cursor::new(bytes), &chunks),
        Compressed::Spooled(mut file) => {
            file.rewind().map_err(|error| Error::disk("read spooled span", error))?;
            in_pieces(files, span, io::BufReader::with_capacity(PIECE, file), &chunks)
        }
    }
}

fn in_memory(
    files: &ImageFiles,
    span: usize,
    bytes: &[u8],
    needed: usize,
    chunks: &[(usize, Chunk)],
    memo: &Memo,
) -> Result<(), Error> {
    let mut out = Vec::new();
    format::decode(files.meta.compression.into(), bytes, needed, &mut out)
        .map_err(|error| Error::with_source(Kind::Integrity, format!("decompress span {span}"), error))?;
    let mut result = Ok(());
    for (number, chunk) in chunks {
        let start = chunk.inner_offset as usize;
        let filled = match out.get(start..start + chunk.size as usize) {
            Some(content) if chunk.holds(content) => {
                let filling = files.filling();
                let written = write(files, content, chunk.data);
                match &written {
                    Ok(()) => files.mark_filled(*number, &filling),
                    Err(error) if error.kind() == Kind::DiskFull => {
                        memo.keep(files.meta.digest, *number, Bytes::copy_from_slice(content));
                    }
                    Err(_) => {}
                }
                written
            }
            _ => Err(mismatch(*number, chunk)),
        };
        result = result.and(filled);
    }
    result
}

/// Goes through the span twice: what is too large for memory is verified before the first byte of it is written. A
/// second fetch of the same span may be at work meanwhile, or have set the chunk's bit already.
fn in_pieces(
    files: &ImageFiles,
    span: usize,
    mut input: impl Read + Seek,
    chunks: &[(usize, Chunk)],
) -> Result<(), Error> {
    let (mut apart, mut end, mut result) = (Vec::with_capacity(chunks.len()), 0, Ok(()));
    for &(number, chunk) in chunks {
        if chunk.inner_offset < end {
            let what = format!("chunk {number} overlaps another one in its span");
            result = result.and(Err(Error::new(Kind::Format, what)));
            continue;
        }
        end = chunk.inner_offset + chunk.size;
        apart.push((number, chunk));
    }
    let mut good = Vec::with_capacity(apart.len());
    let mut bad = None;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let walked = each_piece(files, span, &mut input, &apart, |number, chunk, done, piece| {
        hasher.update(piece);
        if done + piece.len() as u64 == chunk.size {
            let found = std::mem::replace(&mut hasher, Hasher::new(Algorithm::Sha256)).finish();
            if chunk.has(&found) {
                good.push((number, *chunk));
            } else {
                bad.get_or_insert_with(|| mismatch(number, chunk));
            }
        }
        Ok(())
    });
    result = result.and(bad.map_or(Ok(()), Err)).and(walked);
    // What comes before a damaged place is good all the same.
    input.rewind().map_err(|error| Error::disk("read spooled span", error))?;
    let mut filling = None;
    each_piece(files, span, &mut input, &good, |number, chunk, done, piece| {
        let guard = filling.get_or_insert_with(|| files.filling());
        write(files, piece, chunk.data + done)?;
        if done + piece.len() as u64 == chunk.size {
            files.mark_filled(number, guard);
            filling = None;
        }
        Ok(())
    })?;
    result
}

/// Decompresses the span and hands out each chunk (ascending, apart, not empty) piece by piece: its number, itself, how much
/// of it came before, the bytes.
fn each_piece(
    files: &ImageFiles,
    span: usize,
    input: impl Read,
    chunks: &[(usize, Chunk)],
    mut take: impl FnMut(usize, &Chunk, u64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let broken = |error| Error::with_source(Kind::Integrity, format!("decompress span {span}"), error);
    let mut decoder = StreamDecoder::new(files.meta.compression.into(), input);
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    for (number, chunk) in chunks {
        let skip = chunk.inner_offset.saturating_sub(position);
        let skipped = io::copy(&mut decoder.by_ref().take(skip), &mut io::sink()).map_err(broken)?;
        if skipped != skip {
            return Err(mismatch(*number, chunk));
        }
        let mut done = 0;
        while done < chunk.size {
            let want = (chunk.size - done).min(PIECE as u64) as usize;
            let got = decoder.read(&mut piece[..want]).map_err(broken)?;
            if got == 0 {
                return Err(mismatch(*number, chunk));
            }
            take(*number, chunk, done, &piece[..got])?;
            done += got as u64;
        }
        position = chunk.inner_offset + chunk.size;
    }
    Ok(())
}

/// Writes verified bytes to their place.
pub(super) fn write(files: &ImageFiles, content: &[u8], data: u64) -> Result<(), Error> {
    files.image.write_all_at(content, files.meta.data_start + data).map_err(|error| {
        Error::disk(format!("write {} bytes to the image of {}", content.len(), files.meta.digest), error)
    })
}

fn mismatch(number: usize, chunk: &Chunk) -> Error {
    let what = match chunk.digest.map(Digest::from_sha256) {
        Some(digest) => format!("chunk {number} ({} bytes) does not have its digest {digest}", chunk.size),
        None => format!("chunk {number} does not have its {} bytes", chunk.size),
    };
    Error::new(Kind::Integrity, what)
}
