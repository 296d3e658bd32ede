//! Reading tar archives of every dialect that layers are found in.
//!
//! [`Scanner`] turns a stream into [`Member`]s: POSIX ustar, pax (POSIX.1-2024, "pax Interchange Format") with local and
//! global records, GNU tar (long names, sparse files in all four encodings, base-256 numbers), star, and the format of
//! Version 7. It knows where in the archive each member's headers and content are, so that whoever has the archive can
//! come back to them. Names and link targets are bytes, as stored: what they may be is not decided here.
//!
//! Where dialects leave room, it reads as Go's `archive/tar` does, because that is what unpacks layers everywhere:
//! sizes of links, directories and devices are not followed, GNU long names win over pax ones, and an archive may end
//! without its two zero blocks.

mod error;
mod header;
mod pax;
mod scan;
mod sparse;
#[cfg(test)]
mod tests;
mod write;

use format::Timestamp;

pub use error::{ScanError, TarProblem};
pub use pax::Records;
pub use scan::Scanner;
pub use sparse::Region;
pub(crate) use write::{encode, padding};
pub use write::{file_header, padding_after};

/// Headers are of this size, and contents are padded to multiples of it.
pub(crate) const BLOCK: usize = 512;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier member.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its first header, extended ones included, starts in the archive.
    pub header_at: u64,
    /// Where its stored content starts in the archive.
    pub content_at: u64,
    /// How many bytes of content are stored. Less than `size` for sparse files; 0 for all but regular files.
    pub stored: u64,
    /// The size of the file. 0 for all but regular files.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
    /// The target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// Permission, setuid, setgid and sticky bits, and whatever else the header holds.
    pub mode: u32,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Name of the owner, often empty.
    pub user: Vec<u8>,
    /// Name of the group, often empty.
    pub group: Vec<u8>,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Major number of a device.
    pub major: u32,
    /// Minor number of a device.
    pub minor: u32,
    /// The pax records that are not said by the fields above: extended attributes (`SCHILY.xattr.NAME`), other times,
    /// vendors' own.
    pub records: Records,
    /// For a sparse file, where its stored content belongs; zeros are in between.
    pub sparse: Option<Vec<Region>>,
}

/// What pax records of extended attributes start with.
const XATTR: &[u8] = b"SCHILY.xattr.";

impl Member {
    /// A member with this name, everything else empty.
    pub(crate) fn new(kind: Kind, name: &[u8]) -> Member {
        Member {
            header_at: 0,
            content_at: 0,
            stored: 0,
            size: 0,
            kind,
            name: name.to_vec(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime: Timestamp::default(),
            major: 0,
            minor: 0,
            records: Records::default(),
            sparse: None,
        }
    }

    /// Names and values of the extended attributes, in the order of the names.
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value)))
    }
}
