//! The table of contents: JSON, an object for each member and for each further chunk of a file.
//!
//! Fields, their order and when they are left out are those of stargz-snapshotter's `estargz` package, whose readers
//! are the ones that exist; they skip the field that is ours, `prefetchRanges`. What is hashed are these bytes, so any
//! change here changes the digest of every TOC.

use std::collections::HashMap;
use std::collections::hash_map;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use format::digest::{Algorithm, Hasher};
use format::{Digest, FileRanges, Timestamp};
use tempfile::SpooledTempFile;

use crate::error::BuildError;
use crate::spool::temporary;
use crate::tar::{Kind, Member};

/// A larger TOC goes to a file while it is written: that is about 10,000 entries.
const IN_MEMORY: usize = 4 << 20;

/// Where a chunk is in the blob, and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    /// Where the member or frame that holds it starts in the blob.
    pub offset: u64,
    /// Bytes in front of it in there, decompressed.
    pub inner_offset: u64,
    /// Where in the file it starts.
    pub file_offset: u64,
    /// Its size.
    pub size: u32,
    /// SHA-256 of it.
    pub digest: [u8; 32],
}

/// Writes a TOC entry by entry.
pub(crate) struct TocWriter {
    out: BufWriter<SpooledTempFile>,
    hasher: Hasher,
    size: u64,
    /// The text of one entry.
    text: String,
    first: bool,
    chunk_size: u32,
    users: HashMap<i64, Vec<u8>>,
    groups: HashMap<i64, Vec<u8>>,
    directory: PathBuf,
}

/// A TOC that is complete.
pub(crate) struct Toc {
    pub json: SpooledTempFile,
    pub size: u64,
    pub digest: Digest,
    directory: PathBuf,
}

impl TocWriter {
    pub fn new(chunk_size: u32, directory: Option<&Path>) -> Result<TocWriter, BuildError> {
        let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut toc = TocWriter {
            out: BufWriter::with_capacity(64 << 10, tempfile::spooled_tempfile_in(IN_MEMORY, &directory)),
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
            text: String::new(),
            first: true,
            chunk_size,
            users: HashMap::new(),
            groups: HashMap::new(),
            directory,
        };
        toc.write("{\n\t\"version\": 1,\n\t\"entries\": [")?;
        Ok(toc)
    }

    /// Adds a member, with the chunks of its content in their order and the digest of the whole, if it has content.
    pub fn member(
        &mut self,
        member: &Member,
        chunks: &[Chunk],
        digest: Digest,
        ranges: &FileRanges,
    ) -> Result<(), BuildError> {
        self.text.clear();
        self.attributes(member);
        if let Some(chunk) = chunks.first() {
            place(&mut self.text, chunk);
        }
        number(&mut self.text, "devMajor", member.major.into());
        number(&mut self.text, "devMinor", member.minor.into());
        xattrs(&mut self.text, member);
        if member.kind == Kind::File {
            string(&mut self.text, "digest", &digest.to_string());
        }
        if let Some(chunk) = chunks.first() {
            chunk_fields(&mut self.text, chunk, self.chunk_size);
        }
        if !ranges.is_empty() {
            string(&mut self.text, "prefetchRanges", &ranges.to_string());
        }
        self.end_entry()?;
        for chunk in chunks.iter().skip(1) {
            self.text.clear();
            string(&mut self.text, "name", &lossy(&member.name));
            string(&mut self.text, "type", "chunk");
            place(&mut self.text, chunk);
            chunk_fields(&mut self.text, chunk, self.chunk_size);
            self.end_entry()?;
        }
        Ok(())
    }

    /// The end of the document.
    pub fn finish(mut self) -> Result<Toc, BuildError> {
        self.write(if self.first { "]\n}" } else { "\n\t]\n}" })?;
        let fail = |error| temporary(&self.directory, error);
        let mut json = self.out.into_inner().map_err(|error| fail(error.into_error()))?;
        json.rewind().map_err(fail)?;
        Ok(Toc { json, size: self.size, digest: self.hasher.finish(), directory: self.directory })
    }

    /// Everything in front of `offset`.
    fn attributes(&mut self, member: &Member) {
        let kind = match member.kind {
            Kind::File => "reg",
            Kind::Hardlink => "hardlink",
            Kind::Symlink => "symlink",
            Kind::Char => "char",
            Kind::Block => "block",
            Kind::Dir => "dir",
            Kind::Fifo => "fifo",
        };
        let text = &mut self.text;
        string(text, "name", &lossy(&member.name));
        string(text, "type", kind);
        number(text, "size", i128::from(member.size));
        if let Some(time) = rfc3339(member.mtime) {
            string(text, "modtime", &time);
        }
        optional_string(text, "linkName", &member.link);
        number(text, "mode", member.mode.into());
        number(text, "uid", member.uid.into());
        number(text, "gid", member.gid.into());
        optional_string(text, "userName", changed(&mut self.users, member.uid, &member.user));
        optional_string(text, "groupName", changed(&mut self.groups, member.gid, &member.group));
    }

    fn end_entry(&mut self) -> Result<(), BuildError> {
        let start = if self.first { "\n\t\t{" } else { ",\n\t\t{" };
        self.first = false;
        self.write(start)?;
        let text = std::mem::take(&mut self.text);
        // Each field ends in a comma.
        self.write(text.strip_suffix(',').unwrap_or(&text))?;
        self.text = text;
        self.write("\n\t\t}")
    }

    fn write(&mut self, text: &str) -> Result<(), BuildError> {
        self.hasher.update(text.as_bytes());
        self.size += text.len() as u64;
        self.out.write_all(text.as_bytes()).map_err(|error| temporary(&self.directory, error))
    }
}

impl Toc {
    /// The JSON in pieces of at most this size.
    pub fn for_each_piece(
        &mut self,
        size: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let fail = |error: io::Error| temporary(&self.directory, error);
        self.json.rewind().map_err(fail)?;
        let mut piece = Vec::new();
        loop {
            piece.clear();
            (&mut self.json as &mut dyn Read).take(size as u64).read_to_end(&mut piece).map_err(fail)?;
            if piece.is_empty() {
                return Ok(());
            }
            each(&piece)?;
        }
    }
}

/// A name that differs from the one that the number had last; otherwise nothing.
fn changed<'a>(names: &mut HashMap<i64, Vec<u8>>, id: i64, name: &'a [u8]) -> &'a [u8] {
    match names.entry(id) {
        hash_map::Entry::Occupied(known) if known.get() == name => &[],
        hash_map::Entry::Vacant(_) if name.is_empty() => &[],
        entry => {
            entry.insert_entry(name.to_vec());
            name
        }
    }
}

fn place(text: &mut String, chunk: &Chunk) {
    number(text, "offset", chunk.offset.into());
    number(text, "innerOffset", chunk.inner_offset.into());
}

fn chunk_fields(text: &mut String, chunk: &Chunk, chunk_size: u32) {
    number(text, "chunkOffset", chunk.file_offset.into());
    // The last chunk of a file is known to go to its end, unless it is a full one.
    if chunk.size == chunk_size {
        number(text, "chunkSize", chunk.size.into());
    }
    string(text, "chunkDigest", &Digest::from_sha256(chunk.digest).to_string());
}

/// Of all names only those of users and groups may be something else than UTF-8, and those are for people.
fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// Writing to a String cannot fail, so the results here and below are dropped.
fn number(text: &mut String, key: &str, value: i128) {
    if value != 0 {
        let _ = write!(text, "\n\t\t\t\"{key}\": {value},");
    }
}

fn optional_string(text: &mut String, key: &str, value: &[u8]) {
    if !value.is_empty() {
        string(text, key, &lossy(value));
    }
}

fn string(text: &mut String, key: &str, value: &str) {
    let _ = write!(text, "\n\t\t\t\"{key}\": {},", serde_json::Value::from(value));
}

fn xattrs(text: &mut String, member: &Member) {
    let mut any = false;
    for (name, value) in member.xattrs() {
        text.push_str(if any { "," } else { "\n\t\t\t\"xattrs\": {" });
        any = true;
        let (name, value) = (serde_json::Value::from(lossy(name)), BASE64_STANDARD.encode(value));
        let _ = write!(text, "\n\t\t\t\t{name}: \"{value}\"");
    }
    if any {
        text.push_str("\n\t\t\t},");
    }
}

/// The years that RFC 3339 can write, in seconds: 0000-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
const YEAR_0: i64 = -62_167_219_200;
const YEAR_9999_END: i64 = 253_402_300_799;

/// The time in UTC, rounded to seconds, and to the years that can be written. `None` for the epoch, which is how no time
/// is written.
pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    if time.secs == 0 {
        return None;
    }
    let secs = time.secs.saturating_add(i64::from(time.nanos >= 500_000_000)).clamp(YEAR_0, YEAR_9999_END);
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Days since 1970-01-01 as a day of the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01 in eras of 400 years, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
