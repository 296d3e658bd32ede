//! From the compressed bytes of a span to verified chunks in the image file.

use std::fs::File;
use std::io::{self, Read, Seek as _};
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
            Some(content) if Digest::from_sha256(chunk.digest).matches(content) => {
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

/// Bytes are written before they are verified here, which is safe because nobody reads a chunk whose bit is not set, and
/// nobody else can set it: spans of this size are never fetched twice at a time (`Engine::fetch_spans`).
fn in_pieces(
    files: &ImageFiles,
    span: usize,
    input: impl Read,
    chunks: &[(usize, Chunk)],
) -> Result<(), Error> {
    let broken = |error| Error::with_source(Kind::Integrity, format!("decompress span {span}"), error);
    let mut decoder = StreamDecoder::new(files.meta.compression.into(), input);
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    let mut result = Ok(());
    for (number, chunk) in chunks {
        let Some(skip) = chunk.inner_offset.checked_sub(position) else {
            result = result.and(Err(Error::new(
                Kind::Format,
                format!("chunk {number} overlaps another one in its span"),
            )));
            continue;
        };
        let skipped = io::copy(&mut decoder.by_ref().take(skip), &mut io::sink()).map_err(broken)?;
        if skipped != skip {
            return Err(mismatch(*number, chunk));
        }
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut done = 0;
        let filling = files.filling();
        while done < chunk.size {
            let want = (chunk.size - done).min(PIECE as u64) as usize;
            let got = decoder.read(&mut piece[..want]).map_err(broken)?;
            if got == 0 {
                return Err(mismatch(*number, chunk));
            }
            hasher.update(&piece[..got]);
            write(files, &piece[..got], chunk.data + done)?;
            done += got as u64;
        }
        position = chunk.inner_offset + chunk.size;
        if hasher.finish() == Digest::from_sha256(chunk.digest) {
            files.mark_filled(*number, &filling);
        } else {
            result = result.and(Err(mismatch(*number, chunk)));
        }
    }
    result
}

/// Writes verified bytes, or bytes whose chunk nobody else can have filled, to their place.
pub(super) fn write(files: &ImageFiles, content: &[u8], data: u64) -> Result<(), Error> {
    files.image.write_all_at(content, files.meta.data_start + data).map_err(|error| {
        Error::disk(format!("write {} bytes to the image of {}", content.len(), files.meta.digest), error)
    })
}

fn mismatch(number: usize, chunk: &Chunk) -> Error {
    let digest = Digest::from_sha256(chunk.digest);
    Error::new(
        Kind::Integrity,
        format!("chunk {number} ({} bytes) does not have its digest {digest}", chunk.size),
    )
}
