//! Blocks of another layer's image taken over by reference, where the file system can (XFS, Btrfs): the content is on the
//! disk once, whatever the number of layers that have it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::ioctl::{Setter, ioctl, opcode};

use super::{Chunk, ImageFiles};

const BLOCK: u64 = erofs::BLOCK_SIZE as u64;

/// `struct file_clone_range` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct CloneRange {
    from_fd: i64,
    from_offset: u64,
    len: u64,
    to_offset: u64,
}

impl ImageFiles {
    /// Takes over the blocks of a filled chunk of `other` for chunk `to` of this layer. The caller holds
    /// [`filling`](ImageFiles::filling), and has compared the bytes with their digest. Blocks on the disk.
    ///
    /// False if the chunk shares a block with another one, or was taken out of the other image meanwhile.
    ///
    /// # Errors
    /// The file system can't, or the disk fails. Nothing, or all, was taken over.
    pub(crate) fn share(&self, to: usize, other: &ImageFiles, from: usize) -> io::Result<bool> {
        let (Some(target), Some(source)) = (self.tables.chunk(to), other.tables.chunk(from)) else {
            return Ok(false);
        };
        let len = source.size.next_multiple_of(BLOCK);
        if source.size != target.size
            || !other.has_blocks(from, &source, len)
            || !self.has_blocks(to, &target, len)
        {
            return Ok(false);
        }
        let range = CloneRange {
            from_fd: i64::from(other.image.as_raw_fd()),
            from_offset: other.meta.data_start + source.data,
            len,
            to_offset: self.meta.data_start + target.data,
        };
        other.read_by(from..from + 1, || clone_range(&self.image, range))
    }

    /// Whether the chunk begins with a block, and nothing else has bytes in the `len` that it takes.
    fn has_blocks(&self, number: usize, chunk: &Chunk, len: u64) -> bool {
        let next = self.tables.chunk(number + 1).map_or(self.meta.data_len, |next| next.data);
        chunk.data.is_multiple_of(BLOCK) && chunk.data + len <= next
    }
}

/// `ioctl_ficlonerange(2)`.
fn clone_range(to: &File, range: CloneRange) -> io::Result<()> {
    const FICLONERANGE: rustix::ioctl::Opcode = opcode::write::<CloneRange>(0x94, 13);
    #[allow(unsafe_code)]
    // SAFETY: FICLONERANGE reads one `struct file_clone_range`, whose layout `CloneRange` has; it writes no memory of
    // this process. The descriptor in it is open for as long as `read_by` borrows the other layer's files.
    unsafe { ioctl(to, Setter::<FICLONERANGE, CloneRange>::new(range)) }.map_err(io::Error::from)
}
