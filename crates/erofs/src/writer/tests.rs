use super::*;
use crate::layout::{DEVICE_TABLE_OFFSET, SUPERBLOCK_OFFSET};

fn attributes(mode: u16) -> Attributes {
    Attributes { mode, ..Attributes::default() }
}

/// The image of one file of 5000 bytes, and its data area of two blocks.
fn one_file(options: Options) -> (Vec<u8>, Layout) {
    let mut writer = ImageWriter::new(options);
    let attributes = Attributes {
        uid: 1,
        gid: 2,
        mtime: -1,
        mtime_nanos: 3,
        xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())],
        ..attributes(0o640)
    };
    let content = Content::File { size: 5000, data_offset: 4096 };
    writer.add(writer.root(), b"file", attributes, content).unwrap();
    let mut image = Vec::new();
    let layout = writer.write(3 * 4096 - 1, &mut image).unwrap();
    (image, layout)
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn the_superblock_describes_both_areas() {
    let options =
        Options { uuid: [7; 16], build_time: 0x0102_0304_0506, volume_name: Some(b"volume".to_vec()) };
    let (image, layout) = one_file(options);
    assert_eq!(layout, Layout { metadata_len: 8192, data_start: 8192, data_len: 12_288, inodes: 2 });
    let superblock = &image[SUPERBLOCK_OFFSET..];
    assert_eq!(superblock[..4], [0xe2, 0xe1, 0xf5, 0xe0]);
    assert_eq!(u32_at(superblock, 8), 0x3, "compatible features: checksum, mtime");
    assert_eq!(superblock[12], 12, "block size bits");
    assert_eq!(u16_at(superblock, 14), 128, "root nid");
    assert_eq!(u64_at(superblock, 16), 2, "inodes");
    assert_eq!(u64_at(superblock, 24), 0x0102_0304_0506, "build time");
    assert_eq!(u32_at(superblock, 36), 2, "blocks of the metadata area");
    assert_eq!(u32_at(superblock, 40), 0, "metadata starts at block 0");
    assert_eq!(superblock[48..64], [7; 16]);
    assert_eq!(&superblock[64..80], b"volume\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(u32_at(superblock, 80), 0x8, "incompatible features: device table");
    assert_eq!(u16_at(superblock, 86), 1, "extra devices");
    assert_eq!(usize::from(u16_at(superblock, 88)) * 128, DEVICE_TABLE_OFFSET);
    assert_eq!(u32_at(&image, DEVICE_TABLE_OFFSET + 64), 3, "blocks of the data area");
    assert_eq!(u32_at(&image, DEVICE_TABLE_OFFSET + 68), 2, "its first block");
}

#[test]
fn an_inode_states_everything_about_its_file() {
    let (image, _) = one_file(Options::default());
    // Behind the root: 64 bytes, and the entries of `.`, `..` and `file`, rounded up to 32.
    let inode = &image[4096 + 64 + 64..];
    assert_eq!(u16_at(inode, 0), 0x1, "extended, plain");
    assert_eq!(u16_at(inode, 2), 3, "12 bytes of xattr header and 2 times 4 of entries");
    assert_eq!(u16_at(inode, 4), 0o100_640);
    assert_eq!(u64_at(inode, 8), 5000);
    assert_eq!(u32_at(inode, 16), 3, "block: two of metadata, one of data");
    assert_eq!((u32_at(inode, 24), u32_at(inode, 28)), (1, 2));
    assert_eq!((u64_at(inode, 32).cast_signed(), u32_at(inode, 40)), (-1, 3));
    assert_eq!(u32_at(inode, 44), 1);
    assert_eq!(inode[76..84], [1, 1, 1, 0, b'k', b'v', 0, 0]);
}

#[test]
fn the_checksum_covers_all_but_itself() {
    let (mut image, _) = one_file(Options::default());
    let stated = u32_at(&image, SUPERBLOCK_OFFSET + 4);
    image[SUPERBLOCK_OFFSET + 4..][..4].fill(0);
    // The definition, bit by bit.
    let mut crc = u32::MAX;
    for byte in &image[SUPERBLOCK_OFFSET..4096] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 });
        }
    }
    assert_eq!(stated, crc);
}

#[test]
fn a_file_must_end_within_the_data_area() {
    let write = |data_len| {
        let mut writer = ImageWriter::new(Options::default());
        let content = Content::File { size: 4097, data_offset: 4096 };
        writer.add(writer.root(), b"file", attributes(0o644), content).unwrap();
        writer.write(data_len, io::sink())
    };
    assert!(matches!(write(8192), Err(Error::DataOutsideArea { needed: 8193, data_len: 8192 })));
    assert_eq!(write(8193).unwrap().data_len, 12_288);
}

#[test]
fn an_image_ends_where_block_addresses_end() {
    let write = |data_len| {
        let mut writer = ImageWriter::new(Options::default());
        let content = Content::File { size: 4096, data_offset: data_len - 4096 };
        writer.add(writer.root(), b"last", attributes(0o644), content)?;
        writer.write(data_len, io::sink())
    };
    let most = MAX_IMAGE_LEN - 8192;
    assert_eq!(write(most).unwrap().data_len, most);
    assert!(matches!(write(most + 4096), Err(Error::ImageTooLarge { len }) if len == MAX_IMAGE_LEN + 4096));
    assert!(matches!(
        ImageWriter::new(Options::default()).write(u64::MAX, io::sink()),
        Err(Error::ImageTooLarge { len: u64::MAX })
    ));
}

#[test]
fn a_volume_name_has_up_to_15_bytes() {
    let write = |name: &[u8]| {
        let options = Options { volume_name: Some(name.to_vec()), ..Options::default() };
        ImageWriter::new(options).write(0, io::sink())
    };
    assert!(write(b"").is_ok());
    assert!(write(b"fifteen bytes..").is_ok());
    for name in [&b"sixteen bytes..."[..], b"a\0b"] {
        assert!(matches!(write(name), Err(Error::InvalidVolumeName { .. })));
    }
}

#[test]
fn a_failing_sink_is_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = ImageWriter::new(Options::default()).write(0, Full).unwrap_err();
    assert!(matches!(error, Error::Write(error) if error.kind() == io::ErrorKind::StorageFull));
}
