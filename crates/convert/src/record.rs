//! What a run of an image touched, as it is kept in a file: JSON objects, one to a line.
//!
//! ```json
//! {"path":"usr/bin/ls","manifestDigest":"sha256:…","layerIndex":0}
//! {"path":"usr/lib/libbig.so","manifestDigest":"sha256:…","layerIndex":1,"size":99999999,"ranges":"0+131072,52428800+8192"}
//! ```
//!
//! The format is stargz-snapshotter's, with two fields more that its reader skips: of a large file, its size, and the
//! parts that were touched, each as OFFSET+LENGTH in bytes.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use format::{Digest, FileRanges};
use serde::{Deserialize, Serialize};

/// The longest record that is read, in bytes: a million paths.
const SIZE_MAX: u64 = 256 << 20;
/// The most entries that are read.
const ENTRIES_MAX: usize = 1_000_000;

/// A file that was touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Relative to the root of the image.
    pub path: String,
    /// The image's manifest, for one platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
    /// The layer that has the file: 0 is the lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_index: Option<u32>,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The parts of it that were touched; all of it where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<FileRanges>,
}

/// A record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file cannot be read.
    #[error("read the record: {0}")]
    Read(#[from] io::Error),
    /// It is not a record.
    #[error("line {line} of the record is not a JSON object with the path of a file: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It is too large to be a record.
    #[error("the record has more than {ENTRIES_MAX} entries or {SIZE_MAX} bytes")]
    TooLarge,
}

/// Reads a record, in its order.
///
/// # Errors
/// [`RecordError`].
pub fn read(source: impl BufRead) -> Result<Vec<Entry>, RecordError> {
    let mut entries = Vec::new();
    let mut source = source.take(SIZE_MAX);
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        if source.read_line(&mut text)? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        // Several objects may share a line: whoever reads it as a stream of objects does not see lines.
        for entry in serde_json::Deserializer::from_str(&text).into_iter::<Entry>() {
            entries.push(entry.map_err(|source| RecordError::Line { line, source })?);
        }
        if entries.len() > ENTRIES_MAX {
            return Err(RecordError::TooLarge);
        }
    }
    if source.limit() == 0 { Err(RecordError::TooLarge) } else { Ok(entries) }
}

/// Writes a record.
///
/// # Errors
/// Those of `out`.
pub fn write(entries: &[Entry], mut out: impl Write) -> io::Result<()> {
    for entry in entries {
        serde_json::to_writer(&mut out, entry)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// What an image's [`Options`](crate::image::Options) want to know of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Files that are wanted whole, the first touched first.
    pub prioritized: Vec<String>,
    /// Large files of which parts are wanted.
    pub ranges: BTreeMap<String, FileRanges>,
}

impl Wanted {
    /// What a record wants of an image whose layers have chunks of `chunk_size` bytes. Only entries of `manifest` count,
    /// if one is named, and those that name none.
    ///
    /// A file is wanted whole if it was, or if most of its chunks were touched: then one stream is faster than its parts.
    pub fn of(entries: &[Entry], manifest: Option<&Digest>, chunk_size: u32) -> Wanted {
        let mut wanted = Wanted::default();
        for entry in entries {
            let other = |digest: &Digest| manifest.is_some_and(|wanted| wanted != digest);
            if entry.manifest_digest.as_ref().is_some_and(other) {
                continue;
            }
            match &entry.ranges {
                Some(ranges) if ranges.is_empty() => {}
                Some(ranges) if sparse(ranges, entry.size, chunk_size.into()) => {
                    let all = wanted.ranges.entry(entry.path.clone()).or_default();
                    *all = all.union(ranges);
                }
                _ => wanted.prioritized.push(entry.path.clone()),
            }
        }
        wanted
    }
}

/// The share of a file that has to be touched for it to be wanted whole.
const MOST: (u64, u64) = (3, 4);

/// Whether enough chunks were left out.
fn sparse(ranges: &FileRanges, size: Option<u64>, chunk: u64) -> bool {
    let chunk = chunk.max(1);
    let chunks = ranges.as_slice().iter().map(|range| range.start / chunk..range.end.div_ceil(chunk));
    let touched = FileRanges::new(chunks).bytes();
    // Of a file of unknown size everything behind the last touched chunk may be missing.
    size.is_none_or(|size| touched.saturating_mul(MOST.1) <= size.div_ceil(chunk).saturating_mul(MOST.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_others_and_our_own_are_read() {
        let text = concat!(
            "{\"path\":\"usr/bin/ls\",\"manifestDigest\":\"",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"layerIndex\":0}\n\n",
            "{\"path\":\"a\",\"new\":[1]} {\"path\":\"b\",\"size\":9,\"ranges\":\"0+4\"}",
        );
        let entries = read(text.as_bytes()).unwrap();
        assert_eq!(
            entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(),
            ["usr/bin/ls", "a", "b"]
        );
        assert_eq!((entries[0].layer_index, entries[0].manifest_digest), (Some(0), Some(Digest::of(b""))));
        let mut again = Vec::new();
        write(&entries, &mut again).unwrap();
        assert_eq!(read(again.as_slice()).unwrap(), entries);
        for wrong in ["x", "{\"path\":1}", "{}", "{\"path\":\"a\",\"ranges\":\"1-2\"}", "{\"path\":\"a\""] {
            let error = read(format!("{{\"path\":\"a\"}}\n{wrong}\n").as_bytes()).unwrap_err();
            assert!(matches!(error, RecordError::Line { line: 2, .. }), "{error}");
        }
    }

    #[test]
    fn large_files_are_wanted_in_part_where_most_of_their_chunks_are_not() {
        let entry = |path: &str, size, ranges: Option<&str>| Entry {
            path: path.to_owned(),
            manifest_digest: None,
            layer_index: None,
            size,
            ranges: ranges.map(|text| text.parse().unwrap()),
        };
        let mut foreign = entry("foreign", None, None);
        foreign.manifest_digest = Some(Digest::of(b"another"));
        let unread = Entry { ranges: Some(FileRanges::NONE), ..entry("unread", Some(999), None) };
        let entries = [
            entry("whole", Some(10), None),
            entry("few", Some(1000), Some("0+1,950+1")),
            entry("most", Some(1000), Some("0+700")),
            entry("more", Some(1000), Some("0+701")),
            entry("unknown", None, Some("0+751")),
            foreign,
            unread,
        ];
        let wanted = Wanted::of(&entries, Some(&Digest::of(b"this")), 100);
        assert_eq!(wanted.prioritized, ["whole", "more"]);
        assert_eq!(wanted.ranges.keys().collect::<Vec<_>>(), ["few", "most", "unknown"]);
        assert_eq!(Wanted::of(&entries, None, 100).prioritized, ["whole", "more", "foreign"]);
    }
}
