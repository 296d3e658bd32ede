//! Expanding parts of a blob, bounded by what the caller needs and never by what the input claims.
//!
//! Nothing here says whether the bytes are the right ones; only their digest does.

mod gzip;
mod zstd;

use std::io::{self, BufReader, Read};

/// How the contents of a blob are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// A sequence of gzip members (RFC 1952).
    Gzip,
    /// A sequence of Zstandard frames (RFC 8878), skippable ones among them.
    Zstd,
}

impl Compression {
    /// The most that one byte of input can expand to.
    pub(crate) fn expansion_max(self) -> u64 {
        match self {
            Compression::Gzip => gzip::EXPANSION_MAX,
            Compression::Zstd => zstd::EXPANSION_MAX,
        }
    }
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

/// A span usually holds a chunk and then the tar padding and headers up to the next chunk, so a stream is a little
/// longer than what is needed of it. Offered as room for that when nothing better is known.
const SLACK: usize = 64 << 10;
/// The most that is offered when the stream itself asks for it: many small entries after a chunk.
const SLACK_MAX: usize = 256 << 10;

/// Expands `input`, which starts at the start of a span, and leaves exactly the first `needed` bytes in `out`.
///
/// Goes on into following gzip members or zstd frames when the first is shorter than needed. The input may end anywhere
/// after the needed bytes. Makes `out` no longer than `needed` and 256 KiB, and allocates that only when `out` has not the
/// capacity yet: pass the same vector again and again. What was in `out` is lost, also in case of an error.
///
/// A zstd frame that is not all there, or is much longer than needed, takes a buffer of its window in addition, which is
/// given back afterwards when it is large, and of which only the start is touched when little is needed. Frames whose
/// window is larger than 128 MiB, the most that `zstd` itself expands without being told to, are refused then.
///
/// # Errors
/// [`DecodeError`], and `out` is empty then.
pub fn decode(
    compression: Compression,
    input: &[u8],
    needed: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    if needed as u64 > (input.len() as u64).saturating_mul(compression.expansion_max()) {
        out.clear();
        return Err(DecodeError::Truncated { got: 0, needed });
    }
    let result = match compression {
        Compression::Gzip => gzip::decode(input, needed, out),
        Compression::Zstd => zstd::decode(input, needed, out),
    };
    match result {
        Ok(()) => out.truncate(needed),
        Err(_) => out.clear(),
    }
    result
}

/// Makes `out` this long, of any content, without clearing what it has and without room for more.
fn set_len(out: &mut Vec<u8>, len: usize) {
    out.reserve_exact(len.saturating_sub(out.len()));
    out.resize(len, 0);
}

/// Expands a blob, or a part that starts at the start of a span, as a stream: for what is too large for memory.
///
/// Reads all compression streams one after the other. Errors of the source come through as they are; damaged data is
/// an error of kind `InvalidInput`, `InvalidData` or, if it ends early, `UnexpectedEof`. Takes at most 128 MiB and a little
/// for the window of a zstd frame, and refuses frames that want more.
#[derive(Debug)]
pub struct StreamDecoder<R: Read>(Stream<BufReader<R>>);

#[derive(Debug)]
enum Stream<R> {
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(zstd::Frames<R>),
}

impl<R: Read> StreamDecoder<R> {
    /// Expands what `source` yields.
    pub fn new(compression: Compression, source: R) -> StreamDecoder<R> {
        let source = BufReader::with_capacity(SLACK, source);
        StreamDecoder(match compression {
            Compression::Gzip => Stream::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => Stream::Zstd(zstd::Frames::new(source)),
        })
    }

    /// What the decoder reads from. Its next byte is not necessarily the one after the last that was expanded.
    pub(crate) fn source_mut(&mut self) -> &mut BufReader<R> {
        match &mut self.0 {
            Stream::Gzip(members) => members.get_mut(),
            Stream::Zstd(frames) => frames.get_mut(),
        }
    }
}

impl<R: Read> Read for StreamDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Stream::Gzip(members) => members.read(buf),
            Stream::Zstd(frames) => frames.read(buf),
        }
    }
}

/// How many compressed bytes are enough for `needed` expanded ones, whatever their content and whichever compressor a
/// layer's author may have used.
///
/// Bounds a request for data whose end is only known from a TOC. A compressor falls back to stored blocks (in gzip 5 bytes
/// for up to 65,535, in zstd 3 for up to 131,072) or to fixed Huffman codes (9 bits a byte); one eighth covers both, and
/// streams that are flushed after every tar header. The constant is for the headers and trailers of streams; the one of
/// gzip may have an extra field of 64 KiB. Input that was made to take more (thousands of empty blocks) is cut off, and
/// fails to decode.
pub fn compressed_bound(needed: u64) -> u64 {
    needed.saturating_add(needed / 8).saturating_add(128 << 10)
}

#[cfg(test)]
mod tests;
