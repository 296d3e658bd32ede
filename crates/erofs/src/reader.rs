//! Reads the metadata area of an image that [`ImageWriter`](crate::ImageWriter) wrote.
//!
//! The bytes may be anything: whatever they are, a call returns, without panicking, after work and memory that are
//! bounded by the length of the metadata area. What is wrong with them shows when it is met, as a [`ReadError`].
//! Links between directories are not followed here, so a walk over untrusted bytes must bound itself.

mod directory;
mod inode;
mod xattr;

use zerocopy::FromBytes;

use crate::layout::{self, BLOCK, BLOCK_SIZE, DeviceSlot, Superblock};

pub use directory::{DirEntry, ReadDir};
pub use inode::{Extent, Inode};
pub use xattr::{Xattr, Xattrs};

/// Why something could not be read from an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No superblock of this format.
    #[error("the bytes are no EROFS image")]
    NotAnImage,
    /// The superblock does not have the checksum that it states.
    #[error("the superblock states checksum {stated:#010x} and has {actual:#010x}: the image is damaged")]
    Checksum {
        /// From the superblock.
        stated: u32,
        /// Of its bytes.
        actual: u32,
    },
    /// Sound EROFS perhaps, but nothing that the writer of this crate makes.
    #[error("the image uses {0}, which this reader does not know")]
    Unsupported(&'static str),
    /// The image refers to bytes behind the end of its metadata area.
    #[error("the image refers to bytes outside of its metadata area ({0})")]
    OutOfBounds(&'static str),
    /// The image contradicts itself.
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    /// A directory was expected.
    #[error("not a directory")]
    NotADirectory,
    /// A regular file was expected.
    #[error("not a regular file")]
    NotAFile,
    /// A symlink was expected.
    #[error("not a symlink")]
    NotASymlink,
}

/// The metadata area of an image.
///
/// Small and cheap to copy. Nothing that it hands out is a copy of bytes of the image, so a call costs no heap unless
/// it returns an owned type.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The metadata area and nothing else.
    bytes: &'a [u8],
    superblock: Facts,
}

/// What an image's superblock says, checked, without the bytes of the image: for whoever owns the bytes and opens the
/// image for each question anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    root: u64,
    inodes: u64,
    uuid: [u8; 16],
    data_start: u64,
    data_len: u64,
}

impl Facts {
    /// The image of these facts, without checking the superblock again. `bytes` are those of [`Image::open`]. Others are
    /// survived like all bytes are, and make no sense.
    ///
    /// # Errors
    /// `bytes` are shorter than the metadata area.
    pub fn image<'a>(&self, bytes: &'a [u8]) -> Result<Image<'a>, ReadError> {
        let bytes = usize::try_from(self.data_start).ok().and_then(|len| bytes.get(..len));
        Ok(Image { bytes: bytes.ok_or(ReadError::OutOfBounds("metadata area"))?, superblock: *self })
    }
}

impl<'a> Image<'a> {
    /// Opens an image. `bytes` starts with its metadata area and may go on behind it.
    ///
    /// # Errors
    /// What is wrong with the superblock or the device table.
    pub fn open(bytes: &'a [u8]) -> Result<Image<'a>, ReadError> {
        let block = bytes.first_chunk::<BLOCK>().ok_or(ReadError::NotAnImage)?;
        let superblock: Superblock =
            read_at(block, layout::SUPERBLOCK_OFFSET).ok_or(ReadError::NotAnImage)?;
        if superblock.magic != layout::SUPERBLOCK_MAGIC {
            return Err(ReadError::NotAnImage);
        }
        check_features(&superblock)?;
        let (stated, actual) = (superblock.checksum.get(), layout::superblock_checksum(block));
        if stated != actual {
            return Err(ReadError::Checksum { stated, actual });
        }
        let data_start = u64::from(superblock.blocks.get()) * u64::from(BLOCK_SIZE);
        if (bytes.len() as u64) < data_start {
            return Err(ReadError::OutOfBounds("metadata area"));
        }
        let facts = Facts {
            root: superblock.root_nid.get().into(),
            inodes: superblock.inodes.get(),
            uuid: superblock.uuid,
            data_start,
            data_len: data_len(block, &superblock)?,
        };
        facts.image(bytes)
    }

    /// What the superblock said, to open the image again without checking it again.
    pub fn facts(&self) -> Facts {
        self.superblock
    }

    /// Number of the root directory's inode.
    pub fn root(&self) -> u64 {
        self.superblock.root
    }

    /// How many inodes the image says it has.
    pub fn inodes(&self) -> u64 {
        self.superblock.inodes
    }

    /// Identity of the volume.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Where the data area starts in the image, in bytes.
    pub fn data_start(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Length of the data area in bytes.
    pub fn data_len(&self) -> u64 {
        self.superblock.data_len
    }

    /// The bytes from `offset` on, `len` of them.
    fn slice(&self, offset: u64, len: u64, what: &'static str) -> Result<&'a [u8], ReadError> {
        let range = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            self.bytes.get(start..end)
        };
        range().ok_or(ReadError::OutOfBounds(what))
    }

    /// The structure at `offset`.
    fn structure<T: FromBytes>(&self, offset: u64, what: &'static str) -> Result<T, ReadError> {
        let bytes = self.slice(offset, size_of::<T>() as u64, what)?;
        T::read_from_bytes(bytes).map_err(|_| ReadError::OutOfBounds(what))
    }
}

/// The structure at `offset` of a piece of the image.
fn read_at<T: FromBytes>(bytes: &[u8], offset: usize) -> Option<T> {
    let (value, _) = T::read_from_prefix(bytes.get(offset..)?).ok()?;
    Some(value)
}

fn check_features(superblock: &Superblock) -> Result<(), ReadError> {
    let rows = [
        (superblock.feature_compat.get() & layout::COMPAT_CHECKSUM == 0, "no checksum"),
        (superblock.block_bits != layout::BLOCK_BITS, "blocks of another size than 4096"),
        (superblock.directory_block_bits != 0, "directory blocks of another size than 4096"),
        (
            superblock.feature_incompat.get() & !layout::INCOMPAT_DEVICE_TABLE != 0,
            "features besides a device table",
        ),
        (superblock.meta_block != 0, "a metadata area that does not start at block 0"),
        (superblock.extra_devices.get() > 1, "several extra devices"),
    ];
    match rows.into_iter().find(|(unsupported, _)| *unsupported) {
        Some((_, what)) => Err(ReadError::Unsupported(what)),
        None => Ok(()),
    }
}

/// Length of the data area, which must directly follow the metadata area.
fn data_len(block: &[u8; BLOCK], superblock: &Superblock) -> Result<u64, ReadError> {
    if superblock.feature_incompat.get() & layout::INCOMPAT_DEVICE_TABLE == 0 || superblock.extra_devices == 0
    {
        return Ok(0);
    }
    let offset = usize::from(superblock.device_table_slot.get()) * size_of::<DeviceSlot>();
    let slot: DeviceSlot = read_at(block, offset).ok_or(ReadError::OutOfBounds("device table"))?;
    if slot.mapped_block != superblock.blocks {
        return Err(ReadError::Unsupported("a data area that does not follow the metadata area"));
    }
    Ok(u64::from(slot.blocks.get()) * u64::from(BLOCK_SIZE))
}

#[cfg(test)]
mod tests;
