//! The tree of a layer, read from the metadata area of its image.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use erofs::reader::{Facts, Image, Inode, ReadError};
use memmap2::Mmap;
use rustix::io::Errno;

use super::{Entries, Found, Lifetime};
use crate::dirents::{Listed, kind};
use crate::error::Error;
use crate::files::NAME_MAX;
use crate::source::Source;
use crate::wire::{Attr, StatfsOut};

/// The tree of a layer: an EROFS image as the `erofs` crate writes it, and where the contents of its files come from.
///
/// Whatever its number of files, it costs a few words of heap: every answer is read from the mapped metadata.
#[derive(Debug)]
pub struct LayerTree {
    metadata: Mmap,
    facts: Facts,
    /// Byte 0 is the start of the image's data area.
    pub(super) source: Arc<dyn Source>,
}

impl LayerTree {
    /// Opens the image file at `image`, of which only the metadata area is looked at. Byte 0 of `source` is the start of
    /// the image's data area.
    ///
    /// The metadata area must not change while the tree is in use, nor the file become shorter than that: the file is
    /// mapped, so that other bytes give wrong answers and a shorter file kills the process (`SIGBUS`).
    ///
    /// # Errors
    /// When the file cannot be mapped, is no such image, or the source is shorter than the data area.
    pub fn open(image: &Path, source: Arc<dyn Source>) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { action, path: image.to_path_buf(), source };
        let invalid = |reason: ReadError| Error::Image { path: image.to_path_buf(), reason };
        let file = File::open(image).map_err(failed("open"))?;
        let all = map(&file, None).map_err(failed("map"))?;
        let facts = Image::open(&all).map_err(invalid)?.facts();
        let opened = facts.image(&all).map_err(invalid)?;
        if source.size() < opened.data_len() {
            return Err(invalid(ReadError::OutOfBounds("data area")));
        }
        if opened.data_start() / 32 > u64::from(u32::MAX) {
            return Err(invalid(ReadError::Unsupported("more than 128 GiB of metadata")));
        }
        // The data area is written to while we serve, so it is not mapped for longer than it takes to find its start.
        let metadata = map(&file, usize::try_from(opened.data_start()).ok()).map_err(failed("map"))?;
        Ok(Self { metadata, facts, source })
    }

    fn image(&self) -> Result<Image<'_>, Errno> {
        self.facts.image(&self.metadata).map_err(errno_of)
    }

    fn inode(&self, inner: u32) -> Result<(Image<'_>, Inode), Errno> {
        let image = self.image()?;
        // A number that leads nowhere comes from a file handle of another time.
        let inode = image.inode(inner.into()).map_err(|_| Errno::STALE)?;
        Ok((image, inode))
    }

    pub(super) fn root(&self) -> u32 {
        // As 16 bits in the superblock.
        self.image().map_or(0, |image| image.root() as u32)
    }

    pub(super) fn attributes(&self, inner: u32) -> Result<Attr, Errno> {
        self.inode(inner).map(|(_, inode)| attr(&inode))
    }

    pub(super) fn lookup(&self, directory: u32, name: &[u8]) -> Result<Option<Found>, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let (image, directory) = self.inode(directory)?;
        let Some(nid) = image.lookup(&directory, name).map_err(errno_of)? else { return Ok(None) };
        found(&image, nid).map(Some)
    }

    pub(super) fn list(&self, directory: u32, position: u64, entries: &mut Entries<'_>) -> Result<(), Errno> {
        let (image, inode) = self.inode(directory)?;
        for entry in image.read_dir(&inode, position).map_err(errno_of)? {
            let entry = entry.map_err(errno_of)?;
            let inner = inner_of(entry.nid)?;
            let listed = Listed {
                ino: u64::from(inner),
                next: entry.next,
                kind: kind_of(entry.file_type),
                name: entry.name,
            };
            // A defect of one inode must not hide its directory: it shows when the entry is looked up.
            if !entries.push(listed, || found(&image, entry.nid).ok()) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn read_link(&self, inner: u32) -> Result<&[u8], Errno> {
        let (image, inode) = self.inode(inner)?;
        image.read_link(&inode).map_err(errno_of)
    }

    /// The range of the source that holds `size` bytes of a file from `offset` on, or what there is of them.
    pub(super) fn locate(&self, inner: u32, offset: u64, size: u32) -> Result<(u64, usize), Errno> {
        let (image, inode) = self.inode(inner)?;
        let extent = image.extent(&inode).map_err(errno_of)?;
        let len = u64::from(size).min(extent.len.saturating_sub(offset));
        // The extent ends within the data area, and the sum within the extent unless `len` is 0.
        Ok((extent.offset.saturating_add(offset), usize::try_from(len).map_err(|_| Errno::INVAL)?))
    }

    pub(super) fn xattr(&self, inner: u32, name: &[u8]) -> Result<Option<&[u8]>, Errno> {
        let (image, inode) = self.inode(inner)?;
        image.xattr(&inode, name).map_err(errno_of)
    }

    /// Calls `each` with the parts of each xattr's name.
    pub(super) fn xattr_names(&self, inner: u32, mut each: impl FnMut([&[u8]; 2])) -> Result<(), Errno> {
        let (image, inode) = self.inode(inner)?;
        for xattr in image.xattrs(&inode).map_err(errno_of)? {
            let xattr = xattr.map_err(errno_of)?;
            each([xattr.prefix, xattr.suffix]);
        }
        Ok(())
    }

    /// As the kernel's EROFS has it: all blocks in use, none free.
    pub(super) fn statfs(&self) -> StatfsOut {
        let (blocks, files) = self.image().map_or((0, 0), |image| {
            ((image.data_start().saturating_add(image.data_len())) / BLOCK, image.inodes())
        });
        StatfsOut { blocks, files, ..StatfsOut::default() }
    }
}

const BLOCK: u64 = erofs::BLOCK_SIZE as u64;

/// Maps the first `len` bytes of a file, or all of it.
#[allow(unsafe_code)]
fn map(file: &File, len: Option<usize>) -> io::Result<Mmap> {
    let mut options = memmap2::MmapOptions::new();
    if let Some(len) = len {
        options.len(len);
    }
    // SAFETY: the mapped bytes must not change while they are borrowed. The metadata area of an image is written before
    // the image gets its name and never again (the demand of `LayerTree::open`). The map of all of the file, whose data
    // area may change, is only looked at in its metadata area. Unlinking the file leaves the map valid.
    unsafe { options.map(file) }
}

fn found(image: &Image<'_>, nid: u64) -> Result<Found, Errno> {
    let inode = image.inode(nid).map_err(errno_of)?;
    Ok(Found { inner: inner_of(nid)?, attr: attr(&inode), lifetime: Lifetime::Forever })
}

fn inner_of(nid: u64) -> Result<u32, Errno> {
    u32::try_from(nid).map_err(|_| Errno::IO)
}

/// `ino` is left open.
fn attr(inode: &Inode) -> Attr {
    let (major, minor) = inode.device().unwrap_or_default();
    Attr {
        ino: 0,
        size: inode.size,
        blocks: inode.size.div_ceil(BLOCK).saturating_mul(BLOCK / 512),
        times: [inode.mtime.cast_unsigned(); 3],
        times_nsec: [inode.mtime_nanos; 3],
        mode: inode.mode.into(),
        nlink: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        // The kernel's `new_encode_dev`.
        rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
        blksize: erofs::BLOCK_SIZE,
        flags: 0,
    }
}

/// From the type numbers of EROFS to those of `readdir(3)`.
fn kind_of(file_type: u8) -> u32 {
    match file_type {
        1 => kind::REGULAR,
        2 => kind::DIRECTORY,
        3 => kind::CHAR_DEVICE,
        4 => kind::BLOCK_DEVICE,
        5 => kind::FIFO,
        6 => kind::SOCKET,
        7 => kind::SYMLINK,
        _ => kind::UNKNOWN,
    }
}

fn errno_of(error: ReadError) -> Errno {
    match error {
        ReadError::NotADirectory => Errno::NOTDIR,
        ReadError::NotAFile | ReadError::NotASymlink => Errno::INVAL,
        defect => {
            tracing::warn!(%defect, "an image is damaged");
            Errno::IO
        }
    }
}

#[cfg(test)]
mod tests;
