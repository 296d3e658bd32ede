//! TOC entries as stargz-snapshotter writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::Mtime;
use crate::tarball::{Member, Type};
use crate::tree::Time;
use format::Digest;

/// The order of keys in an entry. Unknown ones follow.
const KEYS: [&str; 20] = [
    "name",
    "type",
    "size",
    "modtime",
    "linkName",
    "mode",
    "uid",
    "gid",
    "userName",
    "groupName",
    "offset",
    "innerOffset",
    "devMajor",
    "devMinor",
    "xattrs",
    "digest",
    "chunkOffset",
    "chunkSize",
    "chunkDigest",
    "NumLink",
];

/// The entry for a member: all but chunks and names of owners. What is zero or empty is left out.
pub(crate) fn entry(member: &Member, mtime: Mtime) -> Map<String, Value> {
    let kind = match member.kind {
        Type::File => "reg",
        Type::Hardlink => "hardlink",
        Type::Symlink => "symlink",
        Type::Char => "char",
        Type::Block => "block",
        Type::Dir => "dir",
        Type::Fifo => "fifo",
    };
    let mut entry = Map::new();
    entry.insert("name".into(), String::from_utf8_lossy(&member.name).into());
    entry.insert("type".into(), kind.into());
    put_unless_zero(&mut entry, "size", member.content.len() as u64);
    if let Some(time) = rfc3339(member.mtime, mtime) {
        entry.insert("modtime".into(), time.into());
    }
    if !member.link.is_empty() {
        entry.insert("linkName".into(), String::from_utf8_lossy(&member.link).into());
    }
    put_unless_zero(&mut entry, "mode", member.mode.into());
    put_unless_zero(&mut entry, "uid", member.uid.into());
    put_unless_zero(&mut entry, "gid", member.gid.into());
    put_unless_zero(&mut entry, "devMajor", member.device.major.into());
    put_unless_zero(&mut entry, "devMinor", member.device.minor.into());
    if !member.xattrs.is_empty() {
        let xattrs = member
            .xattrs
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into(), STANDARD.encode(value).into()));
        entry.insert("xattrs".into(), Map::from_iter(xattrs).into());
    }
    if member.kind == Type::File {
        entry.insert("digest".into(), Digest::of(&member.content).to_string().into());
    }
    entry
}

pub(crate) fn put_unless_zero(entry: &mut Map<String, Value>, key: &str, value: u64) {
    if value != 0 {
        entry.insert(key.into(), value.into());
    }
}

/// The order of keys in an entry that Podman writes.
const PODMAN_KEYS: [&str; 20] = [
    "type",
    "name",
    "linkName",
    "mode",
    "size",
    "uid",
    "gid",
    "modtime",
    "accesstime",
    "changetime",
    "devMajor",
    "devMinor",
    "xattrs",
    "digest",
    "offset",
    "endOffset",
    "chunkSize",
    "chunkOffset",
    "chunkDigest",
    "chunkType",
];

/// The TOC as JSON, indented by tabs, keys in the order of [`KEYS`].
pub(crate) fn json(toc: &Value) -> String {
    let mut out = String::new();
    Form { keys: &KEYS, indented: true }.push(&mut out, toc, 0);
    out
}

/// The TOC as JSON without white space, keys in the order of [`PODMAN_KEYS`].
pub(crate) fn compact_json(toc: &Value) -> String {
    let mut out = String::new();
    Form { keys: &PODMAN_KEYS, indented: false }.push(&mut out, toc, 0);
    out
}

/// How a TOC is written.
struct Form {
    keys: &'static [&'static str],
    indented: bool,
}

impl Form {
    fn push(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let rank = |key: &str| match key {
                    "version" => 0,
                    key => self.keys.iter().position(|known| *known == key).unwrap_or(self.keys.len()),
                };
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by(|a, b| (rank(a.0), a.0).cmp(&(rank(b.0), b.0)));
                self.push_items(out, ['{', '}'], depth, fields, |out, (key, value)| {
                    push_text(out, key);
                    out.push_str(if self.indented { ": " } else { ":" });
                    self.push(out, value, depth + 1);
                });
            }
            Value::Array(list) if !list.is_empty() => {
                self.push_items(out, ['[', ']'], depth, list, |out, value| self.push(out, value, depth + 1));
            }
            Value::String(text) => push_text(out, text),
            scalar => out.push_str(&scalar.to_string()),
        }
    }

    fn push_items<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        depth: usize,
        items: impl IntoIterator<Item = T>,
        mut push_one: impl FnMut(&mut String, T),
    ) {
        out.push(open);
        for (number, item) in items.into_iter().enumerate() {
            out.push_str(if number == 0 { "" } else { "," });
            self.break_line(out, depth + 1);
            push_one(out, item);
        }
        self.break_line(out, depth);
        out.push(close);
    }

    fn break_line(&self, out: &mut String, depth: usize) {
        if self.indented {
            out.push('\n');
            out.extend(std::iter::repeat_n('\t', depth));
        }
    }
}

/// A string with the escapes of Go's encoder, which also escapes what is special in HTML and JavaScript.
fn push_text(out: &mut String, text: &str) {
    for char in Value::from(text).to_string().chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
}

/// `2006-01-02T15:04:05Z` or with a fraction; `None` for the epoch, which a TOC does not tell.
fn rfc3339(time: Time, mtime: Mtime) -> Option<String> {
    let Time { secs, nanos } = match mtime {
        Mtime::Exact => time,
        Mtime::Rounded if time.nanos >= 500_000_000 => Time { secs: time.secs + 1, nanos: 0 },
        Mtime::Rounded => Time { nanos: 0, ..time },
    };
    if (secs, nanos) == (0, 0) {
        return None;
    }
    let (year, month, day) = date(secs.div_euclid(86400));
    let second = secs.rem_euclid(86400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// The Gregorian date of a day counted from 1970-01-01. Years start in March here, which puts the leap day last.
fn date(day: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let day = day + 719_468; // days from 0000-03-01 to the epoch
    let (era, day) = (day.div_euclid(DAYS_IN_400_YEARS), day.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_rfc_3339() {
        let exact = |secs, nanos| rfc3339(Time { secs, nanos }, Mtime::Exact);
        let rounded = |secs, nanos| rfc3339(Time { secs, nanos }, Mtime::Rounded);
        assert_eq!(exact(1_709_210_096, 120_000_000).as_deref(), Some("2024-02-29T12:34:56.12Z"));
        assert_eq!(exact(951_868_799, 0).as_deref(), Some("2000-02-29T23:59:59Z"));
        assert_eq!(exact(-1, 0).as_deref(), Some("1969-12-31T23:59:59Z"));
        assert_eq!(exact(-2_147_483_648, 1).as_deref(), Some("1901-12-13T20:45:52.000000001Z"));
        assert_eq!(exact(15_000_000_000, 0).as_deref(), Some("2445-05-01T02:40:00Z"));
        assert_eq!(rounded(1_709_210_095, 500_000_000).as_deref(), Some("2024-02-29T12:34:56Z"));
        assert_eq!(rounded(-1, 700_000_000), None);
        assert_eq!(exact(0, 0), None);
    }
}
