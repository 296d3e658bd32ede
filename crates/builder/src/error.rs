//! Why a layer cannot be built.

use std::io;

use format::Digest;

use crate::tar::{ScanError, TarProblem};

/// Why a layer cannot be built. Nothing that was written to the output by then is of use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The options ask for something that does not exist.
    #[error("{0}")]
    Options(&'static str),
    /// Reading the source layer failed.
    #[error("reading the source layer")]
    Input(#[source] io::Error),
    /// The source layer's compression is damaged, or it was cut short.
    #[error("the source layer is damaged: decompressing it ({compression}) fails after {got} bytes")]
    Decompress {
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// Bytes that were decompressed before that.
        got: u64,
        /// What the decompressor says.
        #[source]
        source: io::Error,
    },
    /// The source layer is not a valid tar archive.
    #[error("the source layer's tar archive is not valid at byte {offset}: {problem}")]
    Tar {
        /// Where in the uncompressed archive.
        offset: u64,
        /// What is wrong there.
        problem: TarProblem,
    },
    /// A member of the archive cannot be part of a lazily pullable layer.
    #[error("{name:?} in the source layer: {problem}")]
    Entry {
        /// The member's name, cut when absurdly long.
        name: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The source layer exceeds one of the [`Limits`](crate::Limits).
    #[error("the source layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited, as a plural noun.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Files that were asked to be put first are not in the layer.
    #[error("not in the layer, although they are to be put first: {}", .0.join(", "))]
    PrioritizedMissing(Vec<String>),
    /// A temporary file cannot be made, written or read.
    #[error("a temporary file in {directory}; TMPDIR says where they are kept")]
    Temporary {
        /// Where it was to be.
        directory: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Writing the new layer failed.
    #[error("writing the new layer")]
    Output(#[source] io::Error),
    /// A compressor refused its input.
    #[error("compressing the new layer")]
    Compress(#[source] io::Error),
    /// The temporary file changed while it was used: a disk or a memory that does not keep what it is given.
    #[error("the new layer decompresses to {built}, and not to its source, {expected}")]
    DiffId {
        /// Diff ID of the source.
        expected: Box<Digest>,
        /// Diff ID of what was built.
        built: Box<Digest>,
    },
    /// The caller set the cancellation flag.
    #[error("cancelled")]
    Cancelled,
}

/// What is wrong with one member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// A name or target that is not UTF-8: the TOC is JSON and cannot hold it.
    #[error("{0} is not UTF-8; the table of contents cannot hold it, so this layer has to stay as it is")]
    NotUtf8(&'static str),
    /// A name that Linux cannot have.
    #[error("{0}")]
    Name(&'static str),
    /// A number that Linux cannot have.
    #[error("{field} is {value}, out of range")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// An extended attribute that Linux could not store.
    #[error("extended attribute {name:?}: {reason}")]
    Xattr {
        /// The attribute's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The target of a hard link is not in the archive.
    #[error("hard link to {0:?}, which is not in the layer")]
    LinkTarget(String),
    /// The target of a hard link is a directory.
    #[error("hard link to the directory {0:?}")]
    LinkToDirectory(String),
    /// A parent of the member is something else than a directory.
    #[error("its parent {0:?} is not a directory")]
    BelowNonDirectory(String),
    /// The root of the layer is not a directory.
    #[error("the root of the layer has to be a directory")]
    RootNotDirectory,
    /// A sparse file, whose archived bytes are not its content.
    #[error("it is stored as a sparse file, which a conversion that keeps the diff ID cannot index")]
    LosslessSparse,
    /// The archive has a table of contents already.
    #[error("the layer has a table of contents already, so a conversion cannot keep its diff ID")]
    LosslessToc,
}

impl BuildError {
    pub(crate) fn entry(name: &[u8], problem: EntryProblem) -> BuildError {
        BuildError::Entry { name: excerpt(name), problem }
    }

    /// An error of the archive; `io` says what an error of the stream below it means.
    pub(crate) fn scan(error: ScanError, io: impl FnOnce(io::Error) -> BuildError) -> BuildError {
        match error {
            ScanError::Io(error) => io(error),
            ScanError::Tar { offset, problem } => BuildError::Tar { offset, problem },
        }
    }
}

/// A name for an error message: readable, and short even when the input is not.
pub(crate) fn excerpt(name: &[u8]) -> String {
    const MAX: usize = 256;
    match name.get(..MAX) {
        Some(start) if name.len() > MAX => format!("{}...", String::from_utf8_lossy(start)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}
