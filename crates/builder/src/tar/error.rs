//! What can be wrong with an archive.

use std::io;

/// Why the next member of an archive cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Reading failed before the format mattered.
    #[error("reading the tar archive")]
    Io(#[from] io::Error),
    /// The archive is damaged, cut short, or of an unknown dialect.
    #[error("the tar archive is not valid at byte {offset}: {problem}")]
    Tar {
        /// Where in the (uncompressed) archive.
        offset: u64,
        /// What is wrong there.
        problem: TarProblem,
    },
}

/// What is wrong at one place of an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarProblem {
    /// The archive ends too early.
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    /// A header's checksum is not that of its bytes.
    #[error("the checksum of the header is wrong; this is not a tar archive, or it is damaged")]
    Checksum,
    /// A number is not octal or base 256, or out of range.
    #[error("the field {0} of the header holds no number")]
    Number(&'static str),
    /// A member of a type that layers do not have.
    #[error("members of type {:?} are not supported", char::from(*.0))]
    Type(u8),
    /// A pax record that breaks the rules of its format.
    #[error("pax header: {0}")]
    Pax(&'static str),
    /// An extended header that is larger than anything honest.
    #[error("an extended header has {size} bytes, more than the {limit} that are supported")]
    HeaderSize {
        /// The size that the header claims.
        size: u64,
        /// The largest that is supported.
        limit: u64,
    },
    /// The map of a sparse file contradicts itself or the file's size.
    #[error("sparse file: {0}")]
    Sparse(&'static str),
    /// One block of zeros, where two end an archive, and then more data.
    #[error("data follows a single block of zeros, where two end an archive")]
    LoneZeroBlock,
    /// An extended header with no member to extend.
    #[error("the archive ends after an extended header")]
    DanglingHeader,
}
