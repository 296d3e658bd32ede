//! The table of contents of a layer, as a tree that upholds what its users rely on.
//!
//! A [`Toc`] is made by [`read_toc`] only, and what it holds is then true:
//!
//! * Node 0 is the root; every node is reachable from it; a directory's [`NodeId`] is greater than its parent's.
//! * No name is empty, `.` or `..`, longer than 255 bytes, or has a `/` or NUL; names within a directory differ.
//! * The chunks of a file are in ascending order, disjoint, inside of the file, and start inside of the payload. What no
//!   chunk covers is a hole that the TOC declares: it reads as zeros and has no bytes in the blob.
//! * Nothing that only steers the format is shown: the landmarks and `stargz.index.json` in the root, names that
//!   start with `.wh.` (they became [`NodeKind::Whiteout`] or [`NodeKind::Directory::opaque`]), and extended attributes
//!   `trusted.overlay.*`: how layers stack is for whiteouts to say, and content could lead overlayfs astray with them.

mod attributes;
mod build;
mod entry;
mod finish;
mod names;
mod read;

use crate::digest::Digest;
use crate::error::FormatError;
use crate::ranges::FileRanges;
use crate::timestamp::Timestamp;
pub use read::read_toc;

/// Bounds for what [`read_toc`] takes from outside.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size of the uncompressed JSON, in bytes. 4 GiB at most, whatever is set.
    pub json_bytes: u64,
    /// Size of one entry in the JSON, in bytes. Bounds what the parser itself holds at a time.
    pub entry_bytes: u64,
    /// Number of entries, and also of names, which include directories that are only implied by the names of others.
    pub entries: u32,
}

impl Default for Limits {
    /// 512 MiB of JSON, 1 MiB an entry, 2,000,000 entries. An entry usually takes 300 to 400 bytes, so this is for
    /// layers of more than a million files; a TOC at its limits takes up to about 500 MB of memory, and while it is read
    /// up to 128 MiB for the window of its zstd frame.
    fn default() -> Limits {
        Limits { json_bytes: 512 << 20, entry_bytes: 1 << 20, entries: 2_000_000 }
    }
}

/// A TOC that was read, but could be anyone's.
#[derive(Debug)]
pub struct UnverifiedToc {
    toc: Toc,
    /// Why it can't be verified down to the last byte, if so.
    undigested: Option<FormatError>,
}

impl UnverifiedToc {
    /// The SHA-256 digest of the TOC's JSON.
    pub fn digest(&self) -> Digest {
        self.toc.digest
    }

    /// The SHA-256 digest of the compressed TOC. Known for zstd:chunked only.
    pub fn compressed_digest(&self) -> Option<Digest> {
        self.toc.compressed_digest
    }

    /// The TOC, if it is the one with this digest: the one that a verified manifest has in its annotation
    /// `containerd.io/snapshot/stargz/toc.digest`.
    ///
    /// # Errors
    /// [`FormatError::TocDigest`]. Only SHA-256 digests can match; converters write no others. [`FormatError::Entry`] with
    /// [`EntryError::MissingDigest`](crate::EntryError::MissingDigest) if contents would stay unverified all the same.
    pub fn verify(self, expected: &Digest) -> Result<Toc, FormatError> {
        let actual = self.toc.digest;
        self.compare(expected, actual)
    }

    /// The TOC, if it is the one whose *compressed* bytes have this digest: the one that a verified manifest has in its
    /// annotation `manifest-checksum` (see [`ChunkedAnnotations::checksum`](crate::ChunkedAnnotations)).
    ///
    /// # Errors
    /// As [`verify`](UnverifiedToc::verify), or [`FormatError::NoCompressedDigest`] for a TOC of another kind than zstd:chunked.
    pub fn verify_compressed(self, expected: &Digest) -> Result<Toc, FormatError> {
        let actual = self.toc.compressed_digest.ok_or(FormatError::NoCompressedDigest)?;
        self.compare(expected, actual)
    }

    fn compare(self, expected: &Digest, actual: Digest) -> Result<Toc, FormatError> {
        if actual != *expected {
            return Err(FormatError::TocDigest { expected: Box::new(*expected), actual: Box::new(actual) });
        }
        self.undigested.map_or(Ok(self.toc), Err)
    }

    /// The TOC without a check, for an operator who allowed that. `reason` is kept in
    /// [`Toc::trusted_because`] for whoever reports it. Chunks may be without a digest, as in stargz before eStargz.
    pub fn trust_unverified(self, reason: &str) -> Toc {
        Toc { trusted_because: Some(reason.to_owned()), ..self.toc }
    }
}

/// The tree of files of a layer, and where in the blob their contents are.
#[derive(Debug)]
pub struct Toc {
    digest: Digest,
    compressed_digest: Option<Digest>,
    trusted_because: Option<String>,
    nodes: Vec<Node>,
    chunks: Vec<Chunk>,
    /// Sorted by directory, then name.
    dirents: Vec<Dirent>,
    /// The bytes of all names.
    names: Vec<u8>,
    landmark: Landmark,
    ranges: Vec<(NodeId, FileRanges)>,
}

impl Toc {
    /// The SHA-256 digest of the TOC's JSON.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The SHA-256 digest of the compressed TOC. Known for zstd:chunked only.
    pub fn compressed_digest(&self) -> Option<Digest> {
        self.compressed_digest
    }

    /// Why this TOC was taken without verification, if it was.
    pub fn trusted_because(&self) -> Option<&str> {
        self.trusted_because.as_deref()
    }

    /// All nodes; [`NodeId`] is the index. In the order in which the TOC names them first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All chunks, those of one file together, in the order of [`Toc::nodes`].
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// What is in a directory, in bytewise order of the names. Nothing for a node of another kind.
    pub fn children(&self, directory: NodeId) -> impl ExactSizeIterator<Item = (&[u8], NodeId)> {
        let start = self.dirents.partition_point(|dirent| dirent.parent < directory);
        let tail = self.dirents.get(start..).unwrap_or_default();
        let count = tail.partition_point(|dirent| dirent.parent == directory);
        tail.iter().take(count).map(|dirent| (dirent.name(&self.names), dirent.node))
    }

    /// A path of a node, relative to the root, for messages. Empty for the root. Looks through the whole tree.
    pub fn path(&self, node: NodeId) -> Vec<u8> {
        let mut components = Vec::new();
        let mut at = node;
        // They are sorted by directory, and a directory's number is greater than its parent's.
        for dirent in self.dirents.iter().rev() {
            if dirent.node == at {
                components.push(dirent.name(&self.names));
                at = dirent.parent;
            }
        }
        components.reverse();
        components.join(&b'/')
    }

    /// What is to be fetched ahead of the first read.
    pub fn landmark(&self) -> Landmark {
        self.landmark
    }

    /// What is to be fetched ahead of the first read although it lies behind the landmark: parts of files, within their
    /// sizes, in the order of the nodes. At most 65,536 ranges together.
    pub fn prefetch_ranges(&self) -> &[(NodeId, FileRanges)] {
        &self.ranges
    }
}

/// Names a node of a [`Toc`]: its index in [`Toc::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// As an index of a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
struct Dirent {
    parent: NodeId,
    node: NodeId,
    /// Start in the bytes of all names.
    name_start: u32,
    name_len: u8,
}

impl Dirent {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.name_start as usize..][..usize::from(self.name_len)]
    }
}

/// A file of any kind. Hard links are several names of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits: 0 to 0o7777.
    pub mode: u16,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Number of names; for a directory 2 and the number of its subdirectories.
    pub nlink: u32,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

/// Name (1 to 255 bytes without NUL) and value (up to 64 KiB) of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory {
        /// Hides what lower layers have at this place.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its chunks, in [`Toc::chunks`]; none for a file that is empty or one hole.
        chunks: std::ops::Range<u32>,
    },
    /// A symbolic link.
    Symlink {
        /// 1 to 4095 bytes without NUL.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Below 2^12.
        major: u32,
        /// Below 2^20.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Below 2^12.
        major: u32,
        /// Below 2^20.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Removes what lower layers have under its name. Belongs to root, mode 0.
    Whiteout,
}

/// A part of one file that has its own digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it starts in the file.
    pub file_offset: u64,
    /// Its size, at least 1.
    pub size: u64,
    /// Where the compression stream that holds it starts in the blob.
    pub blob_offset: u64,
    /// How many bytes of that stream, decompressed, come before it.
    pub inner_offset: u64,
    /// SHA-256 of its content. In a verified TOC every chunk has one.
    pub digest: Option<[u8; 32]>,
}

impl Chunk {
    /// How many bytes of its stream, decompressed, are needed to have all of it.
    pub fn inner_end(&self) -> u64 {
        self.inner_offset.saturating_add(self.size)
    }
}

/// What the image's author says about prefetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landmark {
    /// Nothing.
    None,
    /// Everything in front of the landmark is wanted at once.
    Prefetch {
        /// Where in the blob the landmark starts.
        end: u64,
    },
    /// Nothing is wanted before it is read.
    NoPrefetch,
}

#[cfg(test)]
mod tests;
