//! What can be wrong with a layer's format, in a form that a caller can match on.

use std::io;
use std::sync::Arc;

use crate::Digest;

/// Why a blob cannot be used as a lazily pullable layer.
///
/// Only [`FormatError::NotLazy`] says that the blob is of another kind; only [`FormatError::Source`] is worth a retry.
/// All others mean that the blob claims to be lazily pullable and is wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// No known footer: an ordinary layer, which can only be pulled in full.
    #[error(
        "the blob has no footer of a lazily pullable format; it is an ordinary layer that has to be pulled in full"
    )]
    NotLazy,
    /// The caller passed fewer or more last bytes than the blob has.
    #[error(
        "{given} last bytes of a blob of {blob_size} bytes were given, {needed} are needed to find its footer"
    )]
    TailSize {
        /// Length of the tail that was passed.
        given: usize,
        /// Length that was needed at least (and the size of the blob at most).
        needed: usize,
        /// Size of the whole blob.
        blob_size: u64,
    },
    /// The footer's offset is not a number.
    #[error("the eStargz footer gives {text:?} as the offset of the TOC, expected 16 hex digits")]
    FooterOffsetSyntax {
        /// What is there instead, with unprintable bytes replaced.
        text: String,
    },
    /// The footer points outside of the blob, or at itself.
    #[error(
        "the eStargz footer says that the TOC starts at byte {offset}, past the end of the data at byte {end}"
    )]
    FooterOffsetRange {
        /// The offset in the footer.
        offset: u64,
        /// Where the footer starts, thus where the TOC has to end.
        end: u64,
    },
    /// A zstd:chunked footer, or a manifest, has something outside of the blob or in a wrong place.
    #[error(
        "the zstd:chunked footer or manifest has {what} in the {size} bytes from byte {offset} on, but the blob's data \
         ends at byte {end}"
    )]
    FooterRange {
        /// What is wrongly placed.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// Its size.
        size: u64,
        /// Where the footer starts, thus where everything else has to end.
        end: u64,
    },
    /// A zstd:chunked footer, or a manifest, announces a TOC of another type than JSON.
    #[error("the TOC is of type {found}, only type 1 is known")]
    TocType {
        /// The type in the footer.
        found: u64,
    },
    /// An annotation in a manifest does not have the form that its name promises.
    #[error("the annotation {key} is {value:?}, expected {expected}")]
    Annotation {
        /// Its name.
        key: String,
        /// Its value, cut when absurdly long.
        value: String,
        /// What its value has to be.
        expected: &'static str,
    },
    /// Reading the compressed TOC failed before its format mattered.
    #[error("reading the compressed TOC")]
    Source(#[source] Arc<io::Error>),
    /// The compressed TOC is not compressed like this, is damaged or ends early.
    #[error("decompressing the TOC")]
    TocCompression(#[source] Arc<io::Error>),
    /// The TOC's gzip member does not hold a tar entry `stargz.index.json`.
    #[error("the place that the footer names holds no tar entry stargz.index.json: {reason}")]
    TocTar {
        /// What was found instead.
        reason: String,
    },
    /// The TOC ends before the size that its tar header or the footer gives.
    #[error("the TOC ends after {got} of {size} bytes")]
    TocTruncated {
        /// Bytes of JSON that are there.
        got: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// The TOC goes on after the size that the footer gives.
    #[error("the TOC goes on after the {size} bytes that it should have")]
    TocTooLong {
        /// Bytes that were announced.
        size: u64,
    },
    /// The TOC exceeds one of the [`Limits`](crate::Limits).
    #[error("the TOC exceeds the limit of {limit} {what}")]
    TocTooLarge {
        /// What is limited, as a plural noun.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The TOC is not JSON, or not of the expected shape.
    #[error("the TOC is not valid: {message}")]
    TocJson {
        /// The parser's message, with line and column.
        message: String,
    },
    /// The TOC is not the one that the manifest names.
    #[error("the TOC has digest {actual}, but the image's manifest requires {expected}")]
    TocDigest {
        /// The digest that the caller trusts.
        expected: Box<Digest>,
        /// The digest of the TOC at hand.
        actual: Box<Digest>,
    },
    /// The TOC was to be checked by its compressed bytes, which this kind of TOC has no digest of.
    #[error("the TOC has no digest of its compressed bytes; only zstd:chunked has")]
    NoCompressedDigest,
    /// One entry of the TOC is wrong.
    #[error("TOC entry {path:?}: {problem}")]
    Entry {
        /// The entry's name as the TOC gives it, cut when absurdly long.
        path: String,
        /// What is wrong with it.
        problem: EntryError,
    },
}

impl FormatError {
    pub(crate) fn entry(name: &[u8], problem: EntryError) -> FormatError {
        FormatError::Entry { path: excerpt(name), problem }
    }
}

/// What is wrong with one entry of a TOC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The name starts with `/`.
    #[error("the name is absolute; names in a layer are relative to its root")]
    AbsoluteName,
    /// The name has a `..` component.
    #[error("the name has a `..` component")]
    ParentComponent,
    /// The name contains a NUL byte.
    #[error("the name contains a NUL byte")]
    NulInName,
    /// A component of the name is longer than the 255 bytes that Linux allows.
    #[error("a component of the name is longer than 255 bytes")]
    ComponentTooLong,
    /// The name is longer than 4096 bytes.
    #[error("the name is longer than 4096 bytes")]
    PathTooLong,
    /// The entry names the root of the layer, but is not a directory.
    #[error("the root of the layer is not a directory")]
    RootNotDirectory,
    /// A parent of this entry is something else than a directory.
    #[error("its parent is not a directory")]
    BelowNonDirectory,
    /// Other entries lie below this one, but it is not a directory.
    #[error("other entries lie below it, but it is not a directory")]
    NotADirectory,
    /// Another entry has the same name.
    #[error("another entry has the same name")]
    Duplicate,
    /// The type is not one of the known ones.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// A number is outside of what its field can hold.
    #[error("{field} is {value}, out of range")]
    OutOfRange {
        /// The field's name in the TOC.
        field: &'static str,
        /// The value in the TOC.
        value: i64,
    },
    /// The modification time is not RFC 3339.
    #[error("modtime {0:?} is not an RFC 3339 time of the years 0 to 9999")]
    BadTime(String),
    /// An extended attribute that Linux could not store.
    #[error("extended attribute {name:?}: {reason}")]
    BadXattr {
        /// The attribute's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The target of a symbolic link is empty, too long or contains a NUL byte.
    #[error("the symlink's target is empty, longer than 4095 bytes or contains a NUL byte")]
    BadSymlinkTarget,
    /// The name of a hard link's target is refused by the same rules as an entry's name.
    #[error("hard link to {target:?}: {problem}")]
    BadLinkTarget {
        /// The target as the TOC gives it.
        target: String,
        /// Which rule it breaks.
        problem: Box<EntryError>,
    },
    /// The target of a hard link is not in the TOC.
    #[error("hard link to {0:?}, which does not exist")]
    LinkTargetMissing(String),
    /// The target of a hard link is a directory.
    #[error("hard link to the directory {0:?}")]
    LinkToDirectory(String),
    /// A hard link leads back to itself.
    #[error("hard link to {0:?}, which leads back to itself")]
    LinkCycle(String),
    /// A digest is not of the form `sha256:<64 hex digits>`.
    #[error("{0:?} is not a SHA-256 digest")]
    BadDigest(String),
    /// A chunk without digest: its content could not be verified. Fine only where verification was waived.
    #[error("the chunk at byte {0} of the file has no digest")]
    MissingDigest(u64),
    /// A chunk of a type that nobody knows, so its content could be anything.
    #[error("unknown chunk type {0:?}")]
    UnknownChunkType(String),
    /// A chunk entry that follows no regular file.
    #[error("a chunk that belongs to no regular file")]
    OrphanChunk,
    /// A chunk does not start where the one before ends.
    #[error("a chunk starts at byte {got} of the file, expected {expected}")]
    ChunkGap {
        /// Where the chunk before it ends.
        expected: u64,
        /// Where it starts.
        got: u64,
    },
    /// A chunk reaches past the end of its file, or has no bytes.
    #[error("the chunk at byte {offset} of the file has {chunk_size} bytes, the file {file_size}")]
    ChunkSize {
        /// Start of the chunk in the file.
        offset: u64,
        /// Size of the chunk.
        chunk_size: u64,
        /// Size of the file.
        file_size: u64,
    },
    /// The chunks of a file do not add up to its size.
    #[error("the chunks cover {covered} bytes of a file of {file_size}")]
    ChunksMissing {
        /// Bytes from the start of the file that are covered.
        covered: u64,
        /// Size of the file.
        file_size: u64,
    },
    /// A chunk starts outside of the blob's payload.
    #[error("a chunk starts at byte {offset} of the blob, past the end of the payload at byte {payload_end}")]
    ChunkOutsidePayload {
        /// Start of the chunk's span in the blob.
        offset: u64,
        /// End of the payload in the blob.
        payload_end: u64,
    },
    /// A chunk has more bytes than the rest of the payload could possibly expand to.
    #[error("a chunk at byte {offset} of the blob has more bytes than the payload can expand to")]
    ChunkTooLarge {
        /// Start of the chunk's span in the blob.
        offset: u64,
    },
    /// A whiteout that removes nothing that could exist.
    #[error("a whiteout has to name the file that it removes")]
    BadWhiteout,
    /// The prefetch landmark is not a file with content, so it marks no place in the blob.
    #[error("the landmark is not a regular file with content")]
    BadLandmark,
}

/// A name for an error message: readable, and short even when the input is not.
pub(crate) fn excerpt(name: &[u8]) -> String {
    const MAX: usize = 256;
    match name.get(..MAX) {
        Some(start) if name.len() > MAX => format!("{}...", String::from_utf8_lossy(start)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}
