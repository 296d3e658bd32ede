//! The answer to a request for several ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use url::Url;

use crate::answer::Answer;
use crate::body::RangeBody;
use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::multipart::{Event, Multipart};
use crate::quirks::Quirk;
use crate::range::ContentRange;
use crate::retry::Budget;

/// A whole blob in place of its ranges is read if it is at most this large, in bytes, or not larger than what
/// was asked for times [`TOLERABLE`].
const SMALL_BLOB: u64 = 256 << 10;
const TOLERABLE: u64 = 2;

/// What a host makes of a request for several ranges.
#[derive(Debug)]
// One for each request, and taken apart at once.
#[allow(clippy::large_enum_variant)]
pub enum MultiRange {
    /// The bytes, as they arrive.
    Pieces(Pieces),
    /// It serves single ranges only. This is remembered: the next call says so without a request.
    Unsupported,
}

/// Some bytes of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the blob they lie.
    pub offset: u64,
    /// At least one byte.
    pub bytes: Bytes,
}

/// Bytes of several ranges of a blob, as they arrive.
///
/// Their offsets ascend. Bytes that were not asked for may lie between: hosts join ranges that are near each
/// other, or send everything.
#[derive(Debug)]
pub struct Pieces {
    body: RangeBody,
    /// None if the body is one run of bytes.
    parts: Option<Multipart>,
    /// Where the next piece lies.
    offset: u64,
    wanted: Wanted,
    /// Told when the body turns out to be wrong.
    asked: Asked,
    failure: Option<Error>,
}

/// The hosts that a request went through.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub core: Arc<Core>,
    pub urls: [Url; 2],
}

impl Asked {
    /// Notes that they do not serve several ranges.
    pub fn note_refusal(&self) {
        for url in &self.urls {
            self.core.quirks.note(Quirk::NoMultiRange, url);
        }
    }
}

/// What was asked for and has not come: whole ranges, in ascending order.
#[derive(Debug)]
struct Wanted {
    ranges: Vec<Range<u64>>,
    /// Ranges before this one have come, or are coming.
    next: usize,
}

/// Why an answer is not one to several ranges.
#[derive(Debug)]
pub(crate) struct Refusal(pub &'static str);

impl Pieces {
    /// Checks the answer to a request for `ranges`, which are not empty, ascend and do not touch.
    pub(crate) fn begin(
        answer: Answer,
        ranges: &[Range<u64>],
        budget: Budget,
        asked_of: Asked,
    ) -> Result<Pieces, Refusal> {
        let wanted = Wanted { ranges: ranges.to_vec(), next: 0 };
        let asked: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let length = answer.response.content_length();
        match answer.status() {
            StatusCode::OK => {
                let tolerable = asked.saturating_mul(TOLERABLE).max(SMALL_BLOB);
                if length.is_none_or(|length| length > tolerable) {
                    return Err(Refusal("all of a large blob"));
                }
                Ok(Pieces::new(RangeBody::whole(answer, budget), None, wanted, asked_of))
            }
            StatusCode::PARTIAL_CONTENT => {
                let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                if let Some(parts) = content_type.and_then(Multipart::new) {
                    let body = RangeBody::new(answer, 0, None, length, budget);
                    return Ok(Pieces::new(body, Some(parts), wanted, asked_of));
                }
                let sent = ContentRange::of(answer.headers());
                let Some(ContentRange { range: Some(sent), total }) = sent else {
                    return Err(Refusal("206 with neither a usable Content-Range nor a usable boundary"));
                };
                if length.is_some_and(|length| length != sent.end - sent.start) {
                    return Err(Refusal("a Content-Length that does not fit to the Content-Range"));
                }
                // One run for all of them is what a host may send; one for the first alone is not.
                let mut wanted = wanted;
                match wanted.take(&sent, total) {
                    Ok(()) if wanted.is_done(total) => {}
                    _ => return Err(Refusal("only one of the ranges")),
                }
                let body = RangeBody::new(answer, sent.start, total, Some(sent.end - sent.start), budget);
                Ok(Pieces::new(body, None, wanted, asked_of))
            }
            _ => Err(Refusal("a status that refuses it")),
        }
    }

    fn new(body: RangeBody, parts: Option<Multipart>, wanted: Wanted, asked: Asked) -> Pieces {
        Pieces { offset: body.offset, body, parts, wanted, asked, failure: None }
    }

    /// The bytes of a single range.
    pub(crate) fn single(body: RangeBody, asked: Asked) -> Pieces {
        Pieces::new(body, None, Wanted { ranges: Vec::new(), next: 0 }, asked)
    }

    /// Whether the host sends the whole blob.
    pub fn whole(&self) -> bool {
        self.body.whole
    }

    /// Size of the blob, if the host has said so yet.
    pub fn blob_size(&self) -> Option<u64> {
        self.body.blob_size
    }

    /// The next piece; none when all that was asked for has come.
    ///
    /// # Errors
    /// Those of [`RangeBody::next`]; [`Kind::Protocol`] if the host sends what nobody asked for, or sends it
    /// out of order, or leaves something out. Such a host is not asked for several ranges again. After an
    /// error, every further call gives it again.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.advance().await;
        if let Err(error) = &result {
            self.failure = Some(error.clone());
            if error.kind() == Kind::Protocol {
                self.asked.note_refusal();
            }
        }
        result
    }

    async fn advance(&mut self) -> Result<Option<Piece>> {
        let Some(parts) = &mut self.parts else {
            let bytes = self.body.next().await?;
            return Ok(bytes.map(|bytes| piece(&mut self.offset, bytes)));
        };
        loop {
            match parts.next() {
                Ok(Event::More) => match self.body.next().await? {
                    Some(bytes) => parts.push(bytes),
                    None => return Err(self.body.error(Kind::ShortBody, "the parts end early")),
                },
                Ok(Event::Part(ContentRange { range, total })) => {
                    let range = range.unwrap_or_default();
                    if self.body.blob_size.zip(total).is_some_and(|(one, other)| one != other) {
                        return Err(self.body.error(Kind::Protocol, "the parts differ about the size"));
                    }
                    self.body.blob_size = self.body.blob_size.or(total);
                    if let Err(reason) = self.wanted.take(&range, self.body.blob_size) {
                        return Err(self.body.error(Kind::Protocol, &reason));
                    }
                    self.offset = range.start;
                }
                Ok(Event::Data(bytes)) => return Ok(Some(piece(&mut self.offset, bytes))),
                Ok(Event::End) if self.wanted.is_done(self.body.blob_size) => {
                    // Up to its end, so that the connection can be used again: a line end, or nothing.
                    for _ in 0..3 {
                        if !matches!(self.body.next().await, Ok(Some(_))) {
                            break;
                        }
                    }
                    return Ok(None);
                }
                Ok(Event::End) => {
                    let missing = &self.wanted.ranges[self.wanted.next];
                    let text = format!("no part holds bytes {}-{}", missing.start, missing.end - 1);
                    return Err(self.body.error(Kind::Protocol, &text));
                }
                Err(reason) => return Err(self.body.error(Kind::Protocol, reason)),
            }
        }
    }
}

fn piece(offset: &mut u64, bytes: Bytes) -> Piece {
    let at = *offset;
    *offset += bytes.len() as u64;
    Piece { offset: at, bytes }
}

impl Wanted {
    /// Accepts a part for one or several of the next ranges. `size` is that of the blob, if known.
    fn take(&mut self, sent: &Range<u64>, size: Option<u64>) -> Result<(), String> {
        let wrong = || format!("bytes {}-{} are not what comes next", sent.start, sent.end.saturating_sub(1));
        let rest = &self.ranges[self.next..];
        if rest.first().is_none_or(|first| first.start != sent.start) {
            return Err(wrong());
        }
        let ends_here =
            |range: &Range<u64>| range.end == sent.end || (range.end > sent.end && size == Some(sent.end));
        let last = rest.iter().position(ends_here).ok_or_else(wrong)?;
        if rest[last].start >= sent.end {
            return Err(wrong());
        }
        self.next += last + 1;
        Ok(())
    }

    /// Whether all has come. What lies behind the end of the blob cannot.
    fn is_done(&self, size: Option<u64>) -> bool {
        self.ranges.get(self.next).is_none_or(|range| size.is_some_and(|size| range.start >= size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_be_what_was_asked_for_in_order() {
        let ranges = vec![0..10, 20..30, 40..60];
        // The parts as their starts and ends.
        type Row = (&'static [(u64, u64)], Option<u64>, bool);
        let rows: [Row; 15] = [
            (&[(0, 10), (20, 30), (40, 60)], None, true),
            (&[(0, 30), (40, 60)], None, true),
            (&[(0, 60)], Some(100), true),
            (&[(0, 10), (20, 30), (40, 50)], Some(50), true),
            (&[(0, 10), (20, 30)], Some(35), true),
            (&[(0, 10), (20, 30), (40, 50)], Some(51), false),
            (&[(0, 10), (20, 30)], None, false),
            (&[(0, 10)], None, false),
            (&[(20, 30), (0, 10), (40, 60)], None, false),
            (&[(0, 10), (0, 10), (20, 30), (40, 60)], None, false),
            (&[(0, 11), (20, 30), (40, 60)], None, false),
            (&[(0, 10), (40, 60)], None, false),
            (&[(0, 35)], Some(35), false),
            (&[(1, 10), (20, 30), (40, 60)], None, false),
            (&[], None, false),
        ];
        for (parts, size, good) in rows {
            let mut wanted = Wanted { ranges: ranges.clone(), next: 0 };
            let taken = parts.iter().all(|&(start, end)| wanted.take(&(start..end), size).is_ok());
            assert_eq!(taken && wanted.is_done(size), good, "{parts:?} of {size:?}");
        }
    }
}
