//! pax extended headers: `LENGTH KEY=VALUE\n`, again and again.

use std::collections::BTreeMap;
use std::io::Write as _;

use format::Timestamp;

use super::error::TarProblem;

/// Keys and values of pax records, one value for each key, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.remove(key)
    }

    pub(crate) fn insert(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.insert(key.to_vec(), value);
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// The records of a later header over those of an earlier one. An empty value takes a key away, except for
    /// extended attributes, whose values may be empty.
    pub(super) fn apply(&mut self, header: Parsed) {
        for (key, value) in header.0 {
            if value.is_empty() && !key.starts_with(super::XATTR) {
                self.0.remove(&key);
            } else {
                self.0.insert(key, value);
            }
        }
    }

    /// How much memory the texts take.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// The records of one header in the order in which they are stored, in which sparse maps may repeat a key.
#[derive(Debug, Default)]
pub(super) struct Parsed(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Parsed {
    pub fn new(mut data: &[u8]) -> Result<Parsed, TarProblem> {
        let mut records = Vec::new();
        // Some writers fill the rest of the block into the size.
        while data.iter().any(|byte| *byte != 0) {
            let space = data.iter().take(20).position(|byte| *byte == b' ');
            let space = space.ok_or(TarProblem::Pax("a record does not start with its length"))?;
            let length = decimal(&data[..space]).and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or(TarProblem::Pax("the length of a record is not a number"))?;
            let cut = || TarProblem::Pax("a record is longer than its header");
            let (record, rest) = data.split_at_checked(length).ok_or_else(cut)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or(TarProblem::Pax("a record does not end in a newline"))?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(TarProblem::Pax("a record has no `=`"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.contains(&0) {
                return Err(TarProblem::Pax("the key of a record is empty or contains a NUL byte"));
            }
            if value.contains(&0) && matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") {
                return Err(TarProblem::Pax("a name contains a NUL byte"));
            }
            records.push((key.to_vec(), value.to_vec()));
            data = rest;
        }
        Ok(Parsed(records))
    }
}

/// A number without sign, all digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

pub(super) fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(decimal(digits)?),
        None => decimal(text)?.try_into().ok(),
    }
}

/// A decimal number of seconds since the epoch. `-0.25` is a quarter second before it. Digits beyond nanoseconds are cut.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos: 0 },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Appends one record. Its length counts its own digits.
pub(super) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let _ = write!(out, "{length} "); // writing to a Vec cannot fail
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
