//! Byte ranges as HTTP writes them: inclusive. Everywhere else in this crate and in its callers they are
//! half-open.

use std::fmt::Write as _;
use std::ops::Range;

use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue};

/// The `Range` header for a range that is not empty.
pub(crate) fn range_header(range: &Range<u64>) -> HeaderValue {
    header(format!("bytes={}-{}", range.start, range.end - 1))
}

/// The `Range` header for the last `len` bytes.
pub(crate) fn suffix_header(len: u64) -> HeaderValue {
    header(format!("bytes=-{len}"))
}

/// The `Range` header for several ranges, none of which is empty.
pub(crate) fn ranges_header(ranges: &[Range<u64>]) -> HeaderValue {
    let mut text = String::from("bytes=");
    for (i, range) in ranges.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{}-{}", range.start, range.end - 1);
    }
    header(text)
}

fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and ASCII signs are valid in a header")
}

/// A `Content-Range` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The bytes sent; none in an answer that refuses a range.
    pub range: Option<Range<u64>>,
    /// Size of the whole; not every server knows it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads the header of an answer; none if it is missing or wrong in itself.
    pub fn of(headers: &HeaderMap) -> Option<ContentRange> {
        ContentRange::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
    }

    /// Reads the value of such a header.
    pub fn parse(text: &str) -> Option<ContentRange> {
        let (unit, rest) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let range = if range == "*" {
            None
        } else {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (number(first)?, number(last)?);
            if first > last || total.is_some_and(|total| last >= total) {
                return None;
            }
            Some(first..last.checked_add(1)?)
        };
        Some(ContentRange { range, total })
    }
}

/// Digits only: `parse` alone would allow a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        let parse = |text: &str| ContentRange::parse(text).map(|parsed| (parsed.range, parsed.total));
        assert_eq!(parse("bytes 0-0/1"), Some((Some(0..1), Some(1))));
        assert_eq!(parse("Bytes 5-9/*"), Some((Some(5..10), None)));
        assert_eq!(parse("bytes */7"), Some((None, Some(7))));
        for wrong in [
            "",
            "bytes",
            "bytes 0-1",
            "bytes 1-0/2",
            "bytes 0-2/2",
            "bytes -1/2",
            "bytes +0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "items 0-1/2",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(range_header(&(5..10)), "bytes=5-9");
        assert_eq!(ranges_header(&[0..1, 5..10]), "bytes=0-0,5-9");
        assert_eq!(suffix_header(3), "bytes=-3");
    }
}
