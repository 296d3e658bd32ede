//! The on-disk structures, byte for byte as `fs/erofs/erofs_fs.h` lays them out, and the limits that follow.
//!
//! Changing anything in this file changes the format.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a block: the unit of every block address, and the page size of the machines the images are for.
pub const BLOCK_SIZE: u32 = 4096;

/// Block size as a length in memory.
pub(crate) const BLOCK: usize = BLOCK_SIZE as usize;

/// Block size as a shift, as the superblock states it.
pub(crate) const BLOCK_BITS: u8 = 12;
const _: () = assert!(1 << BLOCK_BITS == BLOCK_SIZE);

/// Longest image in bytes, both areas together.
///
/// A block address is 32 bits wide and `u32::MAX` means "no block", so that many blocks can be addressed.
pub const MAX_IMAGE_LEN: u64 = u32::MAX as u64 * BLOCK_SIZE as u64;

/// Longest name of a directory entry in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Longest symlink target in bytes: the kernel hands out one page less the terminating NUL.
pub const MAX_SYMLINK_LEN: usize = 4095;

/// Longest value of one xattr in bytes: its length field is 16 bits wide, one short of Linux's own 64 KiB limit.
pub const MAX_XATTR_VALUE_LEN: usize = u16::MAX as usize;

/// Longest encoded form of all xattrs of one inode in bytes (a 12-byte header, then for each xattr 4 bytes, the
/// name without its namespace and the value, rounded up to 4 bytes): the inode counts it in 16 bits.
pub const MAX_XATTR_BODY_LEN: usize = size_of::<XattrBodyHeader>() + (u16::MAX as usize - 1) * XATTR_ALIGN;

/// Xattr entries and the inode's count of xattr bytes go in steps of this.
pub(crate) const XATTR_ALIGN: usize = 4;

/// Where the superblock starts, leaving room for boot code.
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;

/// First four bytes of a superblock.
pub(crate) const SUPERBLOCK_MAGIC: u32 = 0xe0f5_e1e2;

/// The superblock carries a CRC32C over the rest of its block.
pub(crate) const COMPAT_CHECKSUM: u32 = 0x1;
/// Inode timestamps are modification times.
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// The superblock points at a table of extra devices.
pub(crate) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// A nid counts these units from the start of the metadata area.
pub(crate) const INODE_SLOT: u64 = 32;

/// `i_format` of an extended inode whose content lies in blocks alone.
pub(crate) const FORMAT_PLAIN: u16 = 0x1;
/// `i_format` of an extended inode whose last partial block follows the inode itself.
pub(crate) const FORMAT_INLINE: u16 = 0x5;

/// The superblock.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub block_bits: u8,
    pub extra_slots: u8,
    pub root_nid: U16,
    pub inodes: U64,
    pub build_time: U64,
    pub build_time_nanos: U32,
    /// Blocks of the primary device: those of extra devices come on top.
    pub blocks: U32,
    pub meta_block: U32,
    pub xattr_block: U32,
    pub uuid: [u8; 16],
    /// NUL-terminated.
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    pub compression: U16,
    pub extra_devices: U16,
    /// Start of the device table in units of one slot.
    pub device_table_slot: U16,
    /// Directory block size as a shift relative to the block size.
    pub directory_block_bits: u8,
    pub xattr_prefixes: u8,
    pub xattr_prefix_start: U32,
    pub packed_nid: U64,
    pub reserved: [u8; 24],
}
const _: () = assert!(size_of::<Superblock>() == 128);
const _: () = assert!(size_of::<Superblock>() + SUPERBLOCK_OFFSET <= BLOCK);

/// One extra device.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    pub tag: [u8; 64],
    pub blocks: U32,
    /// Block address at which the device appears in the image's address space.
    pub mapped_block: U32,
    pub reserved: [u8; 56],
}
const _: () = assert!(size_of::<DeviceSlot>() == 128);

/// The device table sits right behind the superblock.
pub(crate) const DEVICE_TABLE_OFFSET: usize = SUPERBLOCK_OFFSET + size_of::<Superblock>();
const _: () = assert!(DEVICE_TABLE_OFFSET.is_multiple_of(size_of::<DeviceSlot>()));

/// The 64-byte form of an inode, the only one in use.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Inode {
    pub format: U16,
    /// 0: no xattrs; n: the xattr body takes 12 + 4 * (n - 1) bytes.
    pub xattr_count: U16,
    pub mode: U16,
    pub reserved: U16,
    pub size: U64,
    /// First block of the content, or the device number.
    pub target: U32,
    pub number: U32,
    pub uid: U32,
    pub gid: U32,
    pub mtime: U64,
    pub mtime_nanos: U32,
    pub links: U32,
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<Inode>() == 64);

/// Opens the xattr body of an inode.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrBodyHeader {
    pub name_filter: U32,
    pub shared_count: u8,
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<XattrBodyHeader>() == 12);

/// Precedes the name and the value of one xattr.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub name_len: u8,
    pub namespace: u8,
    pub value_len: U16,
}
const _: () = assert!(size_of::<XattrEntry>() == XATTR_ALIGN);

/// One entry of a directory block; the names follow the last of them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub nid: U64,
    /// Offset of the name in its block. The first one, divided by the size of an entry, is the number of entries.
    pub name_offset: U16,
    pub file_type: u8,
    pub reserved: u8,
}
const _: () = assert!(size_of::<Dirent>() == 12);

/// File type bits of a mode, as `stat(2)` has them.
pub(crate) mod mode {
    pub const TYPE_MASK: u16 = 0o170_000;
    pub const FIFO: u16 = 0o010_000;
    pub const CHAR_DEVICE: u16 = 0o020_000;
    pub const DIRECTORY: u16 = 0o040_000;
    pub const BLOCK_DEVICE: u16 = 0o060_000;
    pub const FILE: u16 = 0o100_000;
    pub const SYMLINK: u16 = 0o120_000;
    pub const SOCKET: u16 = 0o140_000;
}

/// The type that a directory entry states (the kernel's `FT_*` numbers); 0 for bits that are no file type.
pub(crate) const fn file_type(mode: u16) -> u8 {
    match mode & mode::TYPE_MASK {
        mode::FILE => 1,
        mode::DIRECTORY => 2,
        mode::CHAR_DEVICE => 3,
        mode::BLOCK_DEVICE => 4,
        mode::FIFO => 5,
        mode::SOCKET => 6,
        mode::SYMLINK => 7,
        _ => 0,
    }
}

/// Device numbers as Linux stores them on disk (`new_encode_dev`): 12 bits of major, 20 bits of minor.
pub(crate) mod device {
    pub const MAX_MAJOR: u32 = (1 << 12) - 1;
    pub const MAX_MINOR: u32 = (1 << 20) - 1;

    pub const fn encode(major: u32, minor: u32) -> u32 {
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    pub const fn decode(number: u32) -> (u32, u32) {
        ((number >> 8) & MAX_MAJOR, (number & 0xff) | ((number >> 12) & !0xff))
    }
}

/// The checksum that a superblock should carry: CRC32C, without the final inversion, over its block from the magic
/// on, with the checksum field as zero. `block` is block 0.
pub(crate) fn superblock_checksum(block: &[u8; BLOCK]) -> u32 {
    let (magic, rest) = block[SUPERBLOCK_OFFSET..].split_at(4);
    let crc = crc32c::crc32c(magic);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    !crc32c::crc32c_append(crc, &rest[4..])
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn device_numbers_survive_encoding() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (device::MAX_MAJOR, device::MAX_MINOR)] {
            assert_eq!(device::decode(device::encode(major, minor)), (major, minor));
        }
        assert_eq!(device::encode(1, 3), 0x103, "small numbers keep the historical form");
        assert_eq!(device::encode(259, 70_000), 0x1111_0370);
    }
}
