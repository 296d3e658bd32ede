//! From the compressed TOC to entries: gzip and tar, or zstd, then JSON, in one pass that never holds the text.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::build::Builder;
use super::entry::Entry;
use super::{Limits, UnverifiedToc};
use crate::decompress::StreamDecoder;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{FormatError, excerpt};
use crate::footer::{Footer, TocKind};

/// Reads the TOC that `footer` locates from `compressed`, which yields the bytes of the blob in [`Footer::toc`], or for
/// [`TocKind::ExternalToc`] the whole blob that has the TOC.
///
/// Reads no further than the end of the JSON; a TOC of zstd:chunked is read to the end of its place, for its digest.
/// Memory grows with the number of entries, not with the size of the text.
///
/// # Errors
/// [`FormatError::Source`] when `compressed` fails, otherwise what is wrong with the TOC. Structural errors are found
/// before the digest can be known, so a TOC that somebody damaged may be reported as either.
pub fn read_toc(
    footer: &Footer,
    compressed: impl Read,
    limits: &Limits,
) -> Result<UnverifiedToc, FormatError> {
    let compression = footer.kind.compression();
    match footer.kind {
        TocKind::Estargz | TocKind::LegacyStargz | TocKind::ExternalToc => {
            let mut tar = StreamDecoder::new(compression, Source(compressed));
            let size = read_tar_header(&mut tar)?;
            let (builder, digest) = read_json(&mut tar, size, footer, limits)?;
            builder.finish(digest, None)
        }
        TocKind::ZstdChunked { json_size } => {
            let size = footer.toc.as_ref().map_or(0, |toc| toc.end.saturating_sub(toc.start));
            let source =
                Hashed { source: Source(compressed.take(size)), hasher: Hasher::new(Algorithm::Sha256) };
            let mut text = StreamDecoder::new(compression, source);
            let (builder, digest) = read_json(&mut text, json_size, footer, limits)?;
            if text.read(&mut [0]).map_err(lift_io)? > 0 {
                return Err(FormatError::TocTooLong { size: json_size });
            }
            let source = text.source_mut();
            io::copy(source, &mut io::sink()).map_err(lift_io)?;
            let compressed_digest = source.get_mut().hasher.clone().finish();
            // Its window may be as large as what follows takes.
            drop(text);
            builder.finish(digest, Some(compressed_digest))
        }
    }
}

/// Reads `size` bytes of JSON, and returns them parsed and their digest.
fn read_json(
    text: &mut impl Read,
    size: u64,
    footer: &Footer,
    limits: &Limits,
) -> Result<(Builder, Digest), FormatError> {
    // Positions within the text, and thus within the names, are kept in 32 bits.
    let limit = limits.json_bytes.min(u64::from(u32::MAX));
    if size > limit {
        return Err(FormatError::TocTooLarge { what: "bytes of JSON", limit });
    }
    let since_entry = Cell::new(0);
    let mut json = Json {
        text,
        size,
        got: 0,
        hasher: Hasher::new(Algorithm::Sha256),
        since_entry: &since_entry,
        entry_bytes: limits.entry_bytes,
    };
    let mut entries =
        Entries { builder: Builder::new(limits, footer), since_entry: &since_entry, failure: None };
    let parsed = parse(&mut json, &mut entries);
    match (entries.failure, parsed) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(lift_json(error)),
        (None, Ok(())) => Ok((entries.builder, json.hasher.finish())),
    }
}

/// Size of the buffers in front of the decompressor and the parser.
const BUFFER: usize = 64 << 10;

fn parse(json: &mut Json<'_, impl Read>, entries: &mut Entries<'_>) -> Result<(), serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER, json));
    parser.deserialize_map(TocVisitor(entries))?;
    // Reads, and thereby hashes, everything to the end.
    parser.end()
}

/// Name of the tar entry that is the TOC.
const TOC_NAME: &[u8] = b"stargz.index.json";

/// Reads the tar header (POSIX ustar or GNU) in front of the JSON and returns the size of the JSON.
fn read_tar_header(tar: &mut impl Read) -> Result<u64, FormatError> {
    let mut header = [0; 512];
    tar.read_exact(&mut header).map_err(lift_io)?;
    let error = |reason: String| FormatError::TocTar { reason };
    let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    if name != TOC_NAME {
        return Err(error(format!("the entry's name is {:?}", excerpt(name))));
    }
    if !matches!(header[156], b'0' | 0) {
        return Err(error(format!("its type is {:?}", char::from(header[156]))));
    }
    // The checksum counts its own field as spaces.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let expected = sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..]);
    if octal(&header[148..156]) != Some(expected) {
        return Err(error("the checksum of its header is wrong".to_owned()));
    }
    octal(&header[124..136]).ok_or_else(|| error("its size is not an octal number".to_owned()))
}

/// A number as tar pads it: octal digits between spaces or NULs.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let text = std::str::from_utf8(&digits[..end]).ok()?;
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| u64::from_str_radix(text, 8).ok())?
}

/// Marks errors of the caller's reader, to tell them from those of the decompressor above it.
struct Source<R>(R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| io::Error::new(error.kind(), FormatError::Source(Arc::new(error))))
    }
}

/// Hashes what is read.
struct Hashed<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buf)?;
        self.hasher.update(buf.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Exactly the bytes of the JSON, hashed on the way.
struct Json<'a, R> {
    text: R,
    size: u64,
    got: u64,
    hasher: Hasher,
    /// Bytes that were read since the parser finished an entry, shared with [`Entries`].
    since_entry: &'a Cell<u64>,
    entry_bytes: u64,
}

impl<R: Read> Read for Json<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // What the parser holds is at most this and one buffer.
        if self.since_entry.get() > self.entry_bytes {
            let limit = self.entry_bytes;
            return Err(io::Error::other(FormatError::TocTooLarge {
                what: "bytes of JSON in one entry",
                limit,
            }));
        }
        let left = self.size - self.got;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..wanted).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let count = self.text.read(buf)?;
        if count == 0 {
            return Err(io::Error::other(FormatError::TocTruncated { got: self.got, size: self.size }));
        }
        self.got += count as u64;
        self.since_entry.set(self.since_entry.get() + count as u64);
        self.hasher.update(&buf[..count]);
        Ok(count)
    }
}

/// Takes entries out of the parser one by one.
struct Entries<'a> {
    builder: Builder,
    since_entry: &'a Cell<u64>,
    /// Why the builder refused an entry: the parser's own error type has no room for it.
    failure: Option<FormatError>,
}

/// The object around everything: `{"version": …, "entries": […]}`.
struct TocVisitor<'e, 'a>(&'e mut Entries<'a>);

impl<'de> Visitor<'de> for TocVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != "entries" {
                map.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut seen, true) {
                return Err(de::Error::duplicate_field("entries"));
            } else {
                map.next_value_seed(&mut *self.0)?;
            }
        }
        if seen { Ok(()) } else { Err(de::Error::missing_field("entries")) }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries")
    }

    /// `null` is how Go writes an array without elements.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Entry>()? {
            self.since_entry.set(0);
            if let Err(error) = self.builder.add(entry) {
                self.failure = Some(error);
                return Err(de::Error::custom("entry refused"));
            }
        }
        Ok(())
    }
}

fn lift_json(error: serde_json::Error) -> FormatError {
    if error.is_io() { lift_io(error.into()) } else { FormatError::TocJson { message: error.to_string() } }
}

/// Errors of the decompressor come as they are; ours travel inside of the error.
fn lift_io(error: io::Error) -> FormatError {
    match error.downcast::<FormatError>() {
        Ok(ours) => ours,
        Err(error) => FormatError::TocCompression(Arc::new(error)),
    }
}
