//! Members of gzip in memory.

use std::cell::RefCell;
use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use libdeflater::Decompressor;

use super::{DecodeError, SLACK, SLACK_MAX, set_len};

/// DEFLATE expands a byte to at most this many: 258 bytes for each pair of one-bit codes.
pub(super) const EXPANSION_MAX: u64 = 1032;

/// Leaves at least the first `needed` bytes in `out`.
pub(super) fn decode(input: &[u8], needed: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if inflate_member(input, needed, out) { Ok(()) } else { inflate_stream(input, needed, out) }
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
