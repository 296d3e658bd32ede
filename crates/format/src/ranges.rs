//! Parts of one file that are wanted before they are read: what a recorded run touched of a large file.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Disjoint, ascending ranges of bytes of a file, none of them empty or touching the next, at most [`FileRanges::MAX`].
///
/// As text, `OFFSET+LENGTH` for each, in decimal, with commas between: `0+4096,8192+100`. It is the value of the field
/// `prefetchRanges` of a TOC entry of type `reg`, which readers that do not know it skip; the whole file lies behind the
/// landmark then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileRanges(Vec<Range<u64>>);

/// A text does not list ranges of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of ranges, OFFSET+LENGTH with commas between")]
pub struct ParseFileRangesError;

impl FileRanges {
    /// The most ranges that are kept for one file. Where there are more, those with the least between them become one.
    pub const MAX: usize = 256;

    /// No ranges.
    pub const NONE: FileRanges = FileRanges(Vec::new());

    /// These ranges in order, empty ones left out, overlapping and touching ones joined.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> FileRanges {
        let mut sorted: Vec<Range<u64>> =
            ranges.into_iter().filter(|range| range.start < range.end).collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut ranges = FileRanges(join(&sorted, 0));
        ranges.bound();
        ranges
    }

    /// The part of them that is in front of byte `size`.
    pub fn within(&self, size: u64) -> FileRanges {
        let cut = self.0.iter().map(|range| range.start..range.end.min(size));
        FileRanges(cut.filter(|range| range.start < range.end).collect())
    }

    /// Those of both.
    pub fn union(&self, other: &FileRanges) -> FileRanges {
        FileRanges::new(self.0.iter().chain(&other.0).cloned())
    }

    /// The ranges, ascending.
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they have together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Joins the ranges that are nearest to each other until there are no more than may be.
    fn bound(&mut self) {
        let Some(too_many) = self.0.len().checked_sub(FileRanges::MAX).filter(|count| *count > 0) else {
            return;
        };
        let mut gaps: Vec<u64> = self.0.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
        gaps.sort_unstable();
        self.0 = join(&self.0, gaps[too_many - 1]);
    }
}

/// Joins sorted ranges that have no more than `gap` bytes between them.
fn join(sorted: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => joined.push(range.clone()),
        }
    }
    joined
}

impl fmt::Display for FileRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}+{}", range.start, range.end - range.start)?;
        }
        Ok(())
    }
}

impl FromStr for FileRanges {
    type Err = ParseFileRangesError;

    fn from_str(text: &str) -> Result<FileRanges, ParseFileRangesError> {
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<u64>().map_err(|_| ParseFileRangesError),
            false => Err(ParseFileRangesError),
        };
        let range = |part: &str| {
            let (offset, length) = part.split_once('+').ok_or(ParseFileRangesError)?;
            let start = number(offset)?;
            Ok(start..start.checked_add(number(length)?).ok_or(ParseFileRangesError)?)
        };
        Ok(FileRanges::new(text.split(',').map(range).collect::<Result<Vec<_>, _>>()?))
    }
}

impl Serialize for FileRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileRanges, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is a list of one range")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_put_in_order_and_joined() {
        let rows: &[(&[Range<u64>], &str)] = &[
            (&[], ""),
            (&[5..5], ""),
            (&[8..9, 0..4], "0+4,8+1"),
            (&[0..4, 4..6, 5..7, 1..2], "0+7"),
            (&[0..u64::MAX, 3..4], "0+18446744073709551615"),
        ];
        for (ranges, text) in rows {
            assert_eq!(FileRanges::new(ranges.iter().cloned()).to_string(), *text);
        }
        let (ranges, more): (FileRanges, FileRanges) =
            ("10+10,30+5".parse().unwrap(), "20+10".parse().unwrap());
        assert_eq!(ranges.within(32).to_string(), "10+10,30+2");
        assert_eq!(ranges.within(10).to_string(), "");
        assert_eq!(ranges.bytes(), 15);
        assert_eq!(ranges.union(&more).to_string(), "10+25");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", ",", "1", "1+", "+1", "1+2,", "-1+2", "1++2", "1 +2", "18446744073709551615+1", "0x1+2"]
        {
            assert_eq!(text.parse::<FileRanges>(), Err(ParseFileRangesError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_covers_what_was_given_and_stays_small(
            given in proptest::collection::vec((0..5_000_u64, 0..40_u64), 0..600),
        ) {
            let ranges = FileRanges::new(given.iter().map(|(start, len)| *start..start + len));
            prop_assert!(ranges.as_slice().len() <= FileRanges::MAX);
            prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start));
            for (start, len) in given.iter().filter(|(_, len)| *len > 0) {
                prop_assert!(ranges.as_slice().iter().any(|r| r.start <= *start && start + len <= r.end));
            }
            if !ranges.is_empty() {
                prop_assert_eq!(&ranges.to_string().parse::<FileRanges>().unwrap(), &ranges);
            }
        }
    }
}
