//! What [`ImageWriter`](crate::ImageWriter) refuses.

use std::io;

use crate::layout::{
    MAX_IMAGE_LEN, MAX_NAME_LEN, MAX_SYMLINK_LEN, MAX_XATTR_BODY_LEN, MAX_XATTR_VALUE_LEN, device,
};

/// Why a tree cannot become an image. Except for [`Error::Write`], the tree is at fault and trying again is useless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry name that no directory can hold.
    #[error("cannot use \"{}\" as an entry name: it {reason}", name.escape_ascii())]
    InvalidName {
        /// The name as given.
        name: Vec<u8>,
        /// The rule it breaks.
        reason: InvalidName,
    },
    /// A second entry of the same name in one directory.
    #[error("the directory already has an entry named \"{}\"", name.escape_ascii())]
    DuplicateName {
        /// The name as given.
        name: Vec<u8>,
    },
    /// The parent of an entry is not a directory.
    #[error("cannot add \"{}\": its parent is not a directory", name.escape_ascii())]
    NotADirectory {
        /// The name that was to be added.
        name: Vec<u8>,
    },
    /// A hard link to a directory.
    #[error("cannot add \"{}\": a directory cannot be hard linked", name.escape_ascii())]
    LinkToDirectory {
        /// The name that was to be added.
        name: Vec<u8>,
    },
    /// A node id that this writer did not hand out.
    #[error("cannot add \"{}\": the node id belongs to another image", name.escape_ascii())]
    UnknownNode {
        /// The name that was to be added.
        name: Vec<u8>,
    },
    /// A mode with bits outside of `0o7777`.
    #[error("mode {mode:#o} has bits besides permissions, set-id and sticky (0o7777)")]
    InvalidMode {
        /// The mode as given.
        mode: u16,
    },
    /// Nanoseconds of a timestamp that make a second or more.
    #[error("a timestamp has {nanos} nanoseconds, at most 999999999 are possible")]
    InvalidNanoseconds {
        /// The nanoseconds as given.
        nanos: u32,
    },
    /// A symlink target that Linux could not follow.
    #[error("cannot store a symlink target of {len} bytes: it {reason}")]
    InvalidTarget {
        /// Bytes in the target.
        len: usize,
        /// The rule it breaks.
        reason: InvalidTarget,
    },
    /// A device number that the inode cannot hold.
    #[error(
        "device number {major}:{minor} does not fit: at most {}:{} is possible",
        device::MAX_MAJOR,
        device::MAX_MINOR
    )]
    InvalidDevice {
        /// Major number as given.
        major: u32,
        /// Minor number as given.
        minor: u32,
    },
    /// An xattr that the format has no form for. See [`check_xattr`](crate::check_xattr).
    #[error("cannot store xattr \"{}\": {reason}", name.escape_ascii())]
    InvalidXattr {
        /// The full name as given.
        name: Vec<u8>,
        /// The rule it breaks.
        reason: InvalidXattr,
    },
    /// The xattrs of one node take too much room together.
    #[error("the xattrs of one inode take {len} bytes, at most {MAX_XATTR_BODY_LEN} are possible")]
    XattrsTooLong {
        /// Bytes of their encoded form.
        len: usize,
    },
    /// A file content that does not start on a block.
    #[error("a file content starts at byte {data_offset} of the data area, which is not a multiple of 4096")]
    UnalignedData {
        /// Offset in the data area as given.
        data_offset: u64,
    },
    /// A file content that ends behind the data area.
    #[error("file contents reach up to byte {needed} of a data area of {data_len} bytes")]
    DataOutsideArea {
        /// Bytes that the data area would need.
        needed: u64,
        /// Bytes that it has, rounded up to blocks.
        data_len: u64,
    },
    /// The image would pass what 32-bit block addresses reach.
    #[error("the image would take {len} bytes, at most {MAX_IMAGE_LEN} (16 TiB) can be addressed")]
    ImageTooLarge {
        /// Bytes it would take, `u64::MAX` if they cannot be counted.
        len: u64,
    },
    /// More inodes, entries or bytes of names than 32 bits count.
    #[error("the tree has more than {} {what}", u32::MAX)]
    TreeTooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// The volume name is longer than 15 bytes or has a NUL byte.
    #[error("the volume name \"{}\" is longer than 15 bytes or has a NUL byte", name.escape_ascii())]
    InvalidVolumeName {
        /// The name as given.
        name: Vec<u8>,
    },
    /// The sink failed; the tree is innocent.
    #[error("cannot write the image")]
    Write(#[from] io::Error),
}

/// The rule that an entry name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// `.` or `..`, which every directory has already.
    #[error("is reserved")]
    Reserved,
    /// A slash or a NUL byte.
    #[error("has a slash or a NUL byte")]
    Byte,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("is longer than {MAX_NAME_LEN} bytes")]
    TooLong,
}

/// The rule that a symlink target breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// A NUL byte.
    #[error("has a NUL byte")]
    Byte,
    /// More than [`MAX_SYMLINK_LEN`] bytes.
    #[error("is longer than {MAX_SYMLINK_LEN} bytes")]
    TooLong,
}

/// The rule that an xattr breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidXattr {
    /// Not in `user.`, `trusted.` or `security.` and not one of the two POSIX ACLs.
    #[error("EROFS has no form for this namespace")]
    Namespace,
    /// Nothing behind the namespace, or a NUL byte in the name.
    #[error("its name is incomplete or has a NUL byte")]
    Name,
    /// A full name of more than 255 bytes.
    #[error("its name is longer than 255 bytes")]
    NameTooLong,
    /// A value of more than [`MAX_XATTR_VALUE_LEN`] bytes.
    #[error("its value is longer than {MAX_XATTR_VALUE_LEN} bytes")]
    ValueTooLong,
    /// The same name twice on one node.
    #[error("the node has it twice")]
    Duplicate,
}
