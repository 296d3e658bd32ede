//! The structures of the FUSE protocol, as the kernel's `include/uapi/linux/fuse.h` lays them out.
//!
//! Only what read-only servers need. All integers are in host byte order. The size assertions
//! below pin the layouts to protocol 7.31 and later, older protocols use shorter forms and are refused.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The only major version there is.
pub(crate) const MAJOR: u32 = 7;
/// The version whose structures we speak: 7.41 (Linux 6.12) changed none of ours since.
pub(crate) const MINOR: u32 = 41;
/// The oldest version we accept: 7.31 (Linux 5.4) has `max_pages` and every structure in the form below.
pub(crate) const MINOR_OLDEST: u32 = 31;
/// The node of the root directory.
pub(crate) const ROOT_NODE: u64 = 1;
/// The kernel refuses smaller buffers when a request is read (`FUSE_MIN_READ_BUFFER`). As `max_write` is negotiated
/// down to one page, no request is larger.
pub(crate) const REQUEST_BUFFER: usize = 8192;

/// Flags of INIT, both words joined.
pub(crate) mod flag {
    /// Several reads of one file at a time.
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    /// LOOKUP of `.` and `..` works on any node, so that file handles outlive the kernel's memory of their inodes.
    pub(crate) const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Pages of a file are dropped when its size or time changed since they were read.
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS is offered.
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    /// The kernel may choose between READDIR and READDIRPLUS by what the reader does with the entries.
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct reads may complete later, which makes those of an EROFS mount with `directio` parallel.
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    /// ENOSYS to OPEN means: files need no opening, and their pages may be kept.
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// Lookups in one directory may run in parallel.
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// The kernel obeys POSIX ACLs, which it reads as xattrs.
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    /// `max_pages` of the answer is valid: requests larger than 128 KiB.
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    /// Targets of symlinks may be kept.
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    /// ENOSYS to OPENDIR means: directories need no opening, and their entries may be kept.
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// The second word of flags is valid, in both directions.
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// The server knows the resend mark (`RESEND` bit of `unique`), which it echoes.
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
    /// The mount may be shown with other owners.
    pub(crate) const ALLOW_IDMAP: u64 = 1 << 40;
}

/// OPEN answer: reads go past the page cache of the FUSE file.
pub(crate) const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// OPEN answer: what the page cache holds of the file stays.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// OPENDIR answer: entries go to the page cache.
pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;
/// OPEN answer: nothing is sent when a handle is closed. Closing must never wait for a server: a process that copies
/// itself while the server is gone (say, to start the next one) closes handles on the way and would wait for ever.
pub(crate) const FOPEN_NOFLUSH: u32 = 1 << 5;

/// Operation codes.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;
}

/// Notifications: messages that we start. They carry `unique` 0 and the code in place of the error.
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const RESEND: i32 = 7;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InHeader {
    pub(crate) len: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) extensions: u16,
    pub(crate) padding: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OutHeader {
    pub(crate) len: u32,
    pub(crate) error: i32,
    pub(crate) unique: u64,
}

/// The part of INIT that every accepted kernel sends; the second word of flags follows since 7.36.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitOut {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) time_gran: u32,
    pub(crate) max_pages: u16,
    pub(crate) map_alignment: u16,
    pub(crate) flags2: u32,
    pub(crate) unused: [u32; 7],
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) times: [u64; 3],
    pub(crate) times_nsec: [u32; 3],
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) blksize: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct EntryOut {
    pub(crate) node: u64,
    pub(crate) generation: u64,
    pub(crate) entry_valid: u64,
    pub(crate) attr_valid: u64,
    pub(crate) entry_valid_nsec: u32,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) attr: Attr,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct AttrOut {
    pub(crate) attr_valid: u64,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) padding: u32,
    pub(crate) attr: Attr,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OpenOut {
    pub(crate) fh: u64,
    pub(crate) open_flags: u32,
    pub(crate) backing_id: i32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReadIn {
    pub(crate) fh: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) read_flags: u32,
    pub(crate) lock_owner: u64,
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

/// For CREATE, the name follows with a terminating zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CreateIn {
    pub(crate) flags: u32,
    pub(crate) mode: u32,
    pub(crate) umask: u32,
    pub(crate) open_flags: u32,
}

/// For GETXATTR, the name follows with a terminating zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct GetXattrIn {
    /// Room for the answer in bytes; 0 asks for how much is needed.
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

/// Answers GETXATTR and LISTXATTR when they ask for a size.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct GetXattrOut {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StatfsOut {
    pub(crate) blocks: u64,
    pub(crate) bfree: u64,
    pub(crate) bavail: u64,
    pub(crate) files: u64,
    pub(crate) ffree: u64,
    pub(crate) bsize: u32,
    pub(crate) namelen: u32,
    pub(crate) frsize: u32,
    pub(crate) padding: u32,
    pub(crate) spare: [u32; 6],
}

/// The head of a directory entry; the name follows, padded with zeros to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) ino: u64,
    pub(crate) offset: u64,
    pub(crate) namelen: u32,
    pub(crate) kind: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InvalInodeOut {
    pub(crate) node: u64,
    pub(crate) offset: i64,
    pub(crate) len: i64,
}

/// The name follows, with a terminating zero that `namelen` does not count.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InvalEntryOut {
    pub(crate) parent: u64,
    pub(crate) namelen: u32,
    pub(crate) flags: u32,
}

const _: () = {
    assert!(size_of::<InHeader>() == 40);
    assert!(size_of::<OutHeader>() == 16);
    assert!(size_of::<InitIn>() == 16);
    assert!(size_of::<InitOut>() == 64);
    assert!(size_of::<Attr>() == 88);
    assert!(size_of::<EntryOut>() == 128);
    assert!(size_of::<AttrOut>() == 104);
    assert!(size_of::<OpenOut>() == 16);
    assert!(size_of::<ReadIn>() == 40);
    assert!(size_of::<CreateIn>() == 16);
    assert!(size_of::<GetXattrIn>() == 8);
    assert!(size_of::<GetXattrOut>() == 8);
    assert!(size_of::<StatfsOut>() == 80);
    assert!(size_of::<Dirent>() == 24);
    assert!(size_of::<InvalInodeOut>() == 24);
    assert!(size_of::<InvalEntryOut>() == 16);
};
