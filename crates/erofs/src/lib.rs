//! EROFS images whose file contents arrive after the image is mounted.
//!
//! [`ImageWriter`] takes a tree (names, attributes, where each content will lie) and streams out the *metadata
//! area* of an image: superblock, inodes, directories, xattrs, symlink targets. The *data area* follows it at
//! [`Layout::data_start`]; this crate never writes there. [`reader::Image`] reads a metadata area back, for
//! programs that serve the tree without the kernel.
//!
//! An image with a data area describes that area twice over the same block addresses: as the blocks behind the
//! metadata, and as the extra device number one of its device table. The kernel therefore mounts it
//! - from one file that holds both areas, without options, or
//! - from a file that holds (at least) the metadata area, with `device=` naming a file that holds the data area alone.
//!
//! Everything here is bytes: no files, no mounts, no clock. The same tree always gives the same bytes.
//!
//! The format is the kernel's, documented in `Documentation/filesystems/erofs.rst` and defined by
//! `fs/erofs/erofs_fs.h`. The subset in use: 4096-byte blocks, 64-byte inodes, flat (uncompressed, unchunked)
//! layouts, inline xattrs.

#![forbid(unsafe_code)]

mod directory;
mod error;
mod layout;
mod output;
mod plan;
pub mod reader;
mod tree;
mod writer;
mod xattr;

pub use error::{Error, InvalidName, InvalidTarget, InvalidXattr};
pub use layout::{
    BLOCK_SIZE, MAX_IMAGE_LEN, MAX_NAME_LEN, MAX_SYMLINK_LEN, MAX_XATTR_BODY_LEN, MAX_XATTR_VALUE_LEN,
};
pub use tree::{Attributes, Content, NodeId};
pub use writer::{ImageWriter, Layout, Options};
pub use xattr::check as check_xattr;
