//! Expanding parts of a blob, bounded by what the caller needs and never by what the input claims.
//!
//! Nothing here says whether the bytes are the right ones; only their digest does.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use libdeflater::Decompressor;

/// How the contents of a blob are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// A sequence of gzip members (RFC 1952).
    Gzip,
}

/// Why a part of a blob does not expand to the bytes that it should hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends, in or after a compression stream, before the needed bytes are there.
    #[error("the compressed data ends after {got} of {needed} needed bytes")]
    Truncated {
        /// Bytes that were expanded.
        got: usize,
        /// Bytes that were needed.
        needed: usize,
    },
    /// The input is not compressed like this, or damaged.
    #[error("the compressed data is damaged after {got} expanded bytes: {reason}")]
    Corrupt {
        /// Bytes that were expanded before that.
        got: usize,
        /// What the decompressor says.
        reason: String,
    },
}

/// DEFLATE expands a byte to at most this many: 258 bytes for each pair of one-bit codes.
pub(crate) const EXPANSION_MAX: u64 = 1032;

/// A span usually holds a chunk and then the tar padding and headers up to the next chunk, so a stream is a little
/// longer than what is needed of it. Offered as room for that when nothing better is known.
const SLACK: usize = 64 << 10;
/// The most that is offered when the stream's own trailer asks for it: many small entries after a chunk.
const SLACK_MAX: usize = 256 << 10;

/// Expands `input`, which starts at the start of a span, and leaves exactly the first `needed` bytes in `out`.
///
/// Goes on into following gzip members when the first is shorter than needed. The input may end anywhere after the
/// needed bytes. Allocates no more than `needed` and 256 KiB, and that also only when `out` has not the capacity yet:
/// pass the same
/// vector again and again. What was in `out` is lost, also in case of an error.
///
/// # Errors
/// [`DecodeError`], and `out` is empty then.
pub fn decode(
    compression: Compression,
    input: &[u8],
    needed: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let Compression::Gzip = compression;
    if needed as u64 > (input.len() as u64).saturating_mul(EXPANSION_MAX) {
        out.clear();
        return Err(DecodeError::Truncated { got: 0, needed });
    }
    if inflate_member(input, needed, out) {
        out.truncate(needed);
        return Ok(());
    }
    inflate_stream(input, needed, out).inspect_err(|_| out.clear())
}

thread_local! {
    /// Its tables take some 10 KiB and are worth keeping.
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// The fast way: one whole member at once. Works when the member is complete and ends soon after the needed bytes;
/// `false` says nothing about the input otherwise.
fn inflate_member(input: &[u8], needed: usize, out: &mut Vec<u8>) -> bool {
    let Some(room) = room(input, needed) else {
        return false;
    };
    set_len(out, room);
    let size = DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.gzip_decompress(input, out));
    size.is_ok_and(|size| size >= needed)
}

/// How much room to offer to [`inflate_member`], from what a member that ends where the input ends says of its size
/// (RFC 1952, ISIZE). That may be a lie, or not even be ISIZE; it only decides which way is tried first.
fn room(input: &[u8], needed: usize) -> Option<usize> {
    let size = u32::from_le_bytes(*input.last_chunk()?) as usize;
    if (needed..=needed.saturating_add(SLACK_MAX)).contains(&size) {
        return Some(size);
    }
    needed.checked_add(SLACK)
}

/// The general way: as many members as it takes, byte by byte as far as needed.
fn inflate_stream(input: &[u8], needed: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    set_len(out, needed);
    let mut decoder = MultiGzDecoder::new(input);
    let mut got = 0;
    while got < needed {
        match decoder.read(&mut out[got..]) {
            Ok(0) => return Err(DecodeError::Truncated { got, needed }),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(DecodeError::Truncated { got, needed });
            }
            Err(error) => return Err(DecodeError::Corrupt { got, reason: error.to_string() }),
        }
    }
    Ok(())
}

/// Makes `out` this long, of any content, without clearing what it has and without room for more.
fn set_len(out: &mut Vec<u8>, len: usize) {
    out.reserve_exact(len.saturating_sub(out.len()));
    out.resize(len, 0);
}

/// Expands a blob, or a part that starts at the start of a span, as a stream: for what is too large for memory.
///
/// Reads all compression streams one after the other. Errors of the source come through as they are; damaged data is
/// an error of kind `InvalidInput`, `InvalidData` or, if it ends early, `UnexpectedEof`.
#[derive(Debug)]
pub struct StreamDecoder<R: Read>(MultiGzDecoder<BufReader<R>>);

impl<R: Read> StreamDecoder<R> {
    /// Expands what `source` yields.
    pub fn new(compression: Compression, source: R) -> StreamDecoder<R> {
        let Compression::Gzip = compression;
        StreamDecoder(MultiGzDecoder::new(BufReader::with_capacity(SLACK, source)))
    }
}

impl<R: Read> Read for StreamDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

/// How many compressed bytes are enough for `needed` expanded ones, whatever their content and whichever compressor a
/// layer's author may have used.
///
/// Bounds a request for data whose end is only known from a TOC. A compressor falls back to stored blocks (5 bytes for
/// up to 65,535) or to fixed Huffman codes (9 bits a byte); one eighth covers both, and streams that are flushed after
/// every tar header. The constant is for gzip headers, which may have an extra field of 64 KiB, and trailers. Input
/// that was made to take more (thousands of empty blocks) is cut off, and fails to decode.
pub fn compressed_bound(needed: u64) -> u64 {
    needed.saturating_add(needed / 8).saturating_add(128 << 10)
}

#[cfg(test)]
mod tests;
