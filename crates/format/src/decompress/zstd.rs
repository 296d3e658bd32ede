//! Frames of Zstandard, in memory and as a stream.
//!
//! Whole frames are expanded straight into the output, without a window; only what is cut off or much longer than needed
//! goes through the streaming interface, which keeps a window of the size that the frame claims.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, Read};

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::{DecodeError, SLACK_MAX, set_len};

/// A block of up to 128 KiB takes at least 4 bytes: a header of 3, and one that is repeated or two of compressed data.
pub(super) const EXPANSION_MAX: u64 = (128 << 10) / 4;

/// Frames with a window of up to 128 MiB are expanded.
const WINDOW_LOG_MAX: u32 = 27;

/// A context that took more than this for a window is not kept.
const KEPT_MAX: usize = 9 << 20;

/// Leaves at least the first `needed` bytes in `out`.
pub(super) fn decode(input: &[u8], needed: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    CONTEXT.with_borrow_mut(|context| {
        let mut input = input;
        let mut got = 0;
        while got < needed {
            match whole_frame(context, input, got, needed, out) {
                Some((taken, expanded)) => {
                    input = input.get(taken..).unwrap_or_default();
                    got += expanded;
                }
                None => return stream(context, input, got, needed, out),
            }
        }
        Ok(())
    })
}

thread_local! {
    /// Its tables take about 100 KiB and are worth keeping.
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(new_context());
}

fn new_context() -> DCtx<'static> {
    let mut context = DCtx::create();
    // Fails for values outside of 10 to 31 only; and this one is the library's default, too.
    let _ = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
    context
}

/// Expands the frame that `input` starts with behind the `got` bytes that `out` has, and returns how long it is,
/// compressed and expanded. `None` when it is not complete, or too long, or not a frame: that is for [`stream`] to say.
fn whole_frame(
    context: &mut DCtx<'_>,
    input: &[u8],
    got: usize,
    needed: usize,
    out: &mut Vec<u8>,
) -> Option<(usize, usize)> {
    let size = zstd_safe::find_frame_compressed_size(input).ok().filter(|size| *size > 0)?;
    let frame = input.get(..size)?;
    // A skippable frame has the content size 0.
    let room = match zstd_safe::get_frame_content_size(frame).ok()? {
        Some(content) => got.checked_add(usize::try_from(content).ok()?)?,
        // Blocks have at most 128 KiB, so what follows a chunk in its frame rarely exceeds this.
        None => needed.checked_add(SLACK_MAX)?,
    };
    if room > needed.checked_add(SLACK_MAX)? {
        return None;
    }
    if out.len() < room {
        set_len(out, room);
    }
    let expanded = context.decompress(out.get_mut(got..room)?, frame).ok()?;
    Some((size, expanded))
}

/// The general way: as many frames as it takes, as far as needed. `out` has `got` bytes already.
fn stream(
    context: &mut DCtx<'static>,
    input: &[u8],
    got: usize,
    needed: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    set_len(out, needed);
    let corrupt =
        |got, code| DecodeError::Corrupt { got, reason: zstd_safe::get_error_name(code).to_owned() };
    context.reset(ResetDirective::SessionOnly).map_err(|code| corrupt(got, code))?;
    let mut output = OutBuffer::around_pos(out.as_mut_slice(), got);
    let mut input = InBuffer::around(input);
    let mut result = Ok(());
    while output.pos() < needed {
        let before = (input.pos(), output.pos());
        result = match context.decompress_stream(&mut output, &mut input) {
            Err(code) => Err(corrupt(output.pos(), code)),
            // All that the input has is out when there is room left for more.
            Ok(_) if before == (input.pos(), output.pos()) => {
                Err(DecodeError::Truncated { got: output.pos(), needed })
            }
            Ok(_) => continue,
        };
        break;
    }
    if context.sizeof() > KEPT_MAX {
        *context = new_context();
    }
    result
}

/// Expands frames one after the other.
pub(super) struct Frames<R> {
    source: R,
    context: DCtx<'static>,
    /// Whether the source may not end here.
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    pub fn new(source: R) -> Frames<R> {
        Frames { source, context: new_context(), in_frame: false }
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut output = OutBuffer::around(buf);
        while output.pos() < output.capacity() {
            let mut input = InBuffer::around(self.source.fill_buf()?);
            let ends = input.src.is_empty();
            if ends && !self.in_frame {
                break;
            }
            let hint = self.context.decompress_stream(&mut output, &mut input).map_err(|code| {
                io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
            })?;
            let taken = input.pos();
            self.source.consume(taken);
            if output.pos() > 0 || taken > 0 {
                self.in_frame = hint > 0;
            }
            if output.pos() > 0 {
                break;
            }
            if ends {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zstd frame ends early"));
            }
        }
        Ok(output.pos())
    }
}

impl<R: fmt::Debug> fmt::Debug for Frames<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("source", &self.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
