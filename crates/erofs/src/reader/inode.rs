//! Inodes, and the content that they keep in the metadata area.

use super::{Image, ReadError};
use crate::layout::{self, BLOCK_SIZE, INODE_SLOT, MAX_SYMLINK_LEN, XATTR_ALIGN, XattrBodyHeader, mode};
use crate::tree::Content;

/// What an image says about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number, by which directories refer to it; at least 1.
    pub nid: u64,
    /// File type and permissions, as `st_mode` has them.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Directory entries that lead to it, plus for a directory itself and its subdirectories.
    pub links: u32,
    /// Bytes of content; for a directory, of its entries.
    pub size: u64,
    /// Modification time in seconds since the epoch.
    pub mtime: i64,
    /// Nanoseconds on top of `mtime`, below 1,000,000,000.
    pub mtime_nanos: u32,
    /// Position of the inode in the image, in bytes.
    offset: u64,
    /// First block of the content, or the device number.
    target: u32,
    inline: bool,
    /// Bytes of the xattr body.
    pub(super) xattr_len: u32,
}

/// Where the content of a regular file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte, in bytes from the start of the data area; 0 if there is none.
    pub offset: u64,
    /// Its length in bytes. The extent ends within the data area.
    pub len: u64,
}

impl Inode {
    /// Major and minor number of a device; `None` for all other kinds of nodes.
    pub fn device(&self) -> Option<(u32, u32)> {
        let is_device = matches!(self.mode & mode::TYPE_MASK, mode::CHAR_DEVICE | mode::BLOCK_DEVICE);
        is_device.then(|| layout::device::decode(self.target))
    }

    /// Position of the xattr body in the image.
    pub(super) fn xattr_start(&self) -> u64 {
        self.offset + size_of::<layout::Inode>() as u64
    }

    /// Position of what follows the inode and its xattrs.
    fn tail_start(&self) -> u64 {
        self.xattr_start() + u64::from(self.xattr_len)
    }
}

impl<'a> Image<'a> {
    /// Reads the inode of number `nid`.
    ///
    /// # Errors
    /// The number leads nowhere, or not to an inode of the kind that the writer makes.
    pub fn inode(&self, nid: u64) -> Result<Inode, ReadError> {
        let offset = nid.checked_mul(INODE_SLOT).ok_or(ReadError::OutOfBounds("inode"))?;
        let raw: layout::Inode = self.structure(offset, "inode")?;
        let inline = match raw.format.get() {
            layout::FORMAT_PLAIN => false,
            layout::FORMAT_INLINE => true,
            _ => return Err(ReadError::Unsupported("another inode layout than extended and flat")),
        };
        if layout::file_type(raw.mode.get()) == 0 {
            return Err(ReadError::Damaged("an inode of unknown file type"));
        }
        if raw.mtime_nanos.get() >= 1_000_000_000 {
            return Err(ReadError::Damaged("a timestamp with more nanoseconds than a second has"));
        }
        Ok(Inode {
            nid,
            offset,
            mode: raw.mode.get(),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            links: raw.links.get(),
            size: raw.size.get(),
            mtime: raw.mtime.get().cast_signed(),
            mtime_nanos: raw.mtime_nanos.get(),
            target: raw.target.get(),
            inline,
            xattr_len: xattr_len(raw.xattr_count.get()),
        })
    }

    /// What kind of node it is and where its content lies, in the words of the writer.
    ///
    /// # Errors
    /// The content lies where none can.
    pub fn content(&self, inode: &Inode) -> Result<Content, ReadError> {
        Ok(match inode.mode & mode::TYPE_MASK {
            mode::DIRECTORY => Content::Directory,
            mode::FILE => Content::File { size: inode.size, data_offset: self.extent(inode)?.offset },
            mode::SYMLINK => Content::Symlink(self.read_link(inode)?.to_vec()),
            mode::FIFO => Content::Fifo,
            mode::SOCKET => Content::Socket,
            kind => {
                let (major, minor) = layout::device::decode(inode.target);
                match kind {
                    mode::CHAR_DEVICE => Content::CharDevice { major, minor },
                    _ => Content::BlockDevice { major, minor },
                }
            }
        })
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// Not a symlink, or one without a sound target.
    pub fn read_link(&self, inode: &Inode) -> Result<&'a [u8], ReadError> {
        if inode.mode & mode::TYPE_MASK != mode::SYMLINK {
            return Err(ReadError::NotASymlink);
        }
        if inode.size == 0 || inode.size > MAX_SYMLINK_LEN as u64 {
            return Err(ReadError::Damaged("a symlink target of impossible length"));
        }
        // Shorter than a block, so it is all in one of the two.
        let (blocks, tail) = self.local_content(inode)?;
        let target = if blocks.is_empty() { tail } else { blocks };
        if target.contains(&0) {
            return Err(ReadError::Damaged("a symlink target with a NUL byte"));
        }
        Ok(target)
    }

    /// The content of a directory or symlink: what lies in blocks, and what follows the inode.
    pub(super) fn local_content(&self, inode: &Inode) -> Result<(&'a [u8], &'a [u8]), ReadError> {
        let block = u64::from(BLOCK_SIZE);
        let tail_len = if inode.inline { inode.size % block } else { 0 };
        let tail = self.slice(inode.tail_start(), tail_len, "inline content")?;
        let start = u64::from(inode.target) * block;
        let blocks = match inode.size - tail_len {
            0 => &[],
            len => self.slice(start, len, "content blocks")?,
        };
        Ok((blocks, tail))
    }

    /// Where the content of a regular file lies.
    ///
    /// # Errors
    /// Not a regular file, or one whose content lies where none can.
    pub fn extent(&self, inode: &Inode) -> Result<Extent, ReadError> {
        if inode.mode & mode::TYPE_MASK != mode::FILE {
            return Err(ReadError::NotAFile);
        }
        if inode.size == 0 {
            return Ok(Extent { offset: 0, len: 0 });
        }
        if inode.inline {
            return Err(ReadError::Unsupported("a file content outside of the data area"));
        }
        let start = u64::from(inode.target) * u64::from(BLOCK_SIZE);
        let offset = start.checked_sub(self.data_start());
        let end = offset.and_then(|offset| offset.checked_add(inode.size));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.data_len() => Ok(Extent { offset, len: inode.size }),
            _ => Err(ReadError::Damaged("a file content outside of the data area")),
        }
    }
}

/// Bytes of an xattr body, from the inode's measure of it.
fn xattr_len(count: u16) -> u32 {
    match count {
        0 => 0,
        _ => (size_of::<XattrBodyHeader>() + (usize::from(count) - 1) * XATTR_ALIGN) as u32,
    }
}
