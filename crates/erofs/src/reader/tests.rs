use super::*;
use crate::layout::SUPERBLOCK_OFFSET;
use crate::tree::{Attributes, Content};
use crate::writer::{ImageWriter, Options};

/// An image with a directory `d`, a file `f` and a symlink `s`, and a data area of one block.
fn sample() -> Vec<u8> {
    let mut writer = ImageWriter::new(Options::default());
    let xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
    let attributes = Attributes { mode: 0o644, xattrs, ..Attributes::default() };
    let file = Content::File { size: 10, data_offset: 0 };
    for (name, content) in
        [("d", Content::Directory), ("f", file), ("s", Content::Symlink(b"target".to_vec()))]
    {
        writer.add(writer.root(), name.as_bytes(), attributes.clone(), content).unwrap();
    }
    let mut image = Vec::new();
    writer.write(4096, &mut image).unwrap();
    image
}

/// Replaces bytes and makes the checksum right again.
fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = sample();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    let checksum = layout::superblock_checksum(image.first_chunk().unwrap());
    image[SUPERBLOCK_OFFSET + 4..][..4].copy_from_slice(&checksum.to_le_bytes());
    image
}

/// Position in the sample of the inode of `name`.
fn position(name: &[u8]) -> usize {
    let bytes = sample();
    let image = Image::open(&bytes).unwrap();
    let root = image.inode(image.root()).unwrap();
    image.lookup(&root, name).unwrap().unwrap() as usize * 32
}

#[test]
fn a_superblock_that_says_something_else_is_refused() {
    let field =
        |offset: usize, bytes: &[u8]| Image::open(&patched(SUPERBLOCK_OFFSET + offset, bytes)).map(drop);
    assert_eq!(field(0, &[0xe2]), Ok(()));
    assert_eq!(field(0, &[0]), Err(ReadError::NotAnImage));
    assert_eq!(field(8, &[0]), Err(ReadError::Unsupported("no checksum")));
    assert!(matches!(field(12, &[9]), Err(ReadError::Unsupported(_))));
    assert!(matches!(field(80, &[0x0c]), Err(ReadError::Unsupported(_))));
    assert!(matches!(field(86, &[2]), Err(ReadError::Unsupported(_))));
    assert!(matches!(field(90, &[1]), Err(ReadError::Unsupported(_))));
    assert_eq!(field(36, &[200]), Err(ReadError::OutOfBounds("metadata area")));
    assert_eq!(field(88, &[0xff, 0xff]), Err(ReadError::OutOfBounds("device table")));
    assert!(matches!(field(128 + 68, &[9]), Err(ReadError::Unsupported(_))));
}

#[test]
fn damage_shows_in_the_checksum() {
    let mut image = sample();
    image[4000] = 1;
    assert!(matches!(Image::open(&image), Err(ReadError::Checksum { .. })));
}

#[test]
fn a_short_image_is_refused_and_a_long_one_is_cut() {
    let mut image = sample();
    for len in [0, 1, 1024, 1152, 4095] {
        assert_eq!(Image::open(&image[..len]).map(drop), Err(ReadError::NotAnImage), "{len} bytes");
    }
    assert_eq!(Image::open(&image[..8191]).map(drop), Err(ReadError::OutOfBounds("metadata area")));
    image.resize(20_000, 0xff);
    let image = Image::open(&image).unwrap();
    assert_eq!((image.data_start(), image.data_len()), (8192, 4096));
    assert_eq!(image.inode(8192 / 32), Err(ReadError::OutOfBounds("inode")));
    assert_eq!(image.inode(u64::MAX), Err(ReadError::OutOfBounds("inode")));
}

#[test]
fn an_image_is_opened_again_by_its_facts() {
    let bytes = sample();
    let facts = Image::open(&bytes).unwrap().facts();
    let again = facts.image(&bytes).unwrap();
    assert_eq!((again.facts(), again.data_start(), again.data_len()), (facts, 8192, 4096));
    assert_eq!(facts.image(&bytes[..8191]).map(drop), Err(ReadError::OutOfBounds("metadata area")));
}

#[test]
fn an_inode_that_points_elsewhere_is_refused() {
    let content = |name: &[u8], offset: usize, bytes: &[u8]| {
        let patched = patched(position(name) + offset, bytes);
        let image = Image::open(&patched).unwrap();
        image.content(&image.inode(position(name) as u64 / 32)?)
    };
    assert_eq!(content(b"f", 16, &[2]), Ok(Content::File { size: 10, data_offset: 0 }));
    assert!(matches!(content(b"f", 16, &[1]), Err(ReadError::Damaged(_))), "in the metadata area");
    assert!(matches!(content(b"f", 16, &[3]), Err(ReadError::Damaged(_))), "behind the data area");
    assert!(matches!(content(b"f", 8, &[0xff; 8]), Err(ReadError::Damaged(_))), "size");
    assert!(matches!(content(b"f", 0, &[5]), Err(ReadError::Unsupported(_))), "inline");
    assert!(matches!(content(b"f", 0, &[9]), Err(ReadError::Unsupported(_))), "chunked");
    assert!(matches!(content(b"f", 4, &[0, 0]), Err(ReadError::Damaged(_))), "no type");
    assert!(matches!(content(b"f", 40, &[0xff; 4]), Err(ReadError::Damaged(_))), "nanoseconds");
    assert_eq!(content(b"s", 8, &[3]), Ok(Content::Symlink(b"tar".to_vec())));
    assert!(matches!(content(b"s", 8, &[0]), Err(ReadError::Damaged(_))), "empty target");
    assert!(matches!(content(b"s", 9, &[0x10]), Err(ReadError::Damaged(_))), "target of 4102 bytes");
}

#[test]
fn each_call_wants_its_own_kind_of_node() {
    let bytes = sample();
    let image = Image::open(&bytes).unwrap();
    let inode = |name| image.inode(position(name) as u64 / 32).unwrap();
    assert_eq!(image.read_link(&inode(b"f")), Err(ReadError::NotASymlink));
    assert_eq!(image.read_dir(&inode(b"f"), 0).map(drop), Err(ReadError::NotADirectory));
    assert_eq!(image.lookup(&inode(b"s"), b"x"), Err(ReadError::NotADirectory));
    assert_eq!(image.extent(&inode(b"d")), Err(ReadError::NotAFile));
    assert_eq!(image.extent(&inode(b"f")), Ok(Extent { offset: 0, len: 10 }));
    assert_eq!(inode(b"f").device(), None);
}

#[test]
fn damaged_xattrs_end_the_listing() {
    let xattrs = |offset: usize, bytes: &[u8]| {
        let at = position(b"f");
        let patched = patched(at + offset, bytes);
        let image = Image::open(&patched).unwrap();
        let inode = image.inode(at as u64 / 32).unwrap();
        image.xattrs(&inode)?.map(|xattr| xattr.map(|xattr| (xattr.name(), xattr.value.to_vec()))).collect()
    };
    let sound: Result<Vec<_>, _> = Ok(vec![(b"user.k".to_vec(), b"v".to_vec())]);
    assert_eq!(xattrs(76, &[1]), sound);
    assert!(matches!(xattrs(68, &[1]), Err(ReadError::Unsupported(_))), "shared xattrs");
    assert!(matches!(xattrs(76, &[9]), Err(ReadError::Damaged(_))), "name length");
    assert!(matches!(xattrs(77, &[9]), Err(ReadError::Unsupported(_))), "namespace");
    assert!(matches!(xattrs(78, &[9]), Err(ReadError::Damaged(_))), "value length");
    assert!(matches!(xattrs(2, &[0xff, 0xff]), Err(ReadError::OutOfBounds(_))), "length of all");
    assert_eq!(xattrs(2, &[1]), Ok(Vec::new()), "a header alone");
}

#[test]
fn a_damaged_directory_ends_the_listing() {
    // The root has no xattrs: its entries follow its 64 bytes.
    let listing = |offset: usize, bytes: &[u8]| {
        let patched = patched(4096 + 64 + offset, bytes);
        let image = Image::open(&patched).unwrap();
        let root = image.inode(image.root()).unwrap();
        image
            .read_dir(&root, 0)
            .unwrap()
            .map(|entry| entry.map(|entry| entry.name.to_vec()))
            .collect::<Vec<_>>()
    };
    let names = |names: &[&str]| names.iter().map(|name| Ok(name.as_bytes().to_vec())).collect::<Vec<_>>();
    assert_eq!(listing(8, &[60]), names(&[".", "..", "d", "f", "s"]));
    let then_damage = |listing: Vec<Result<_, _>>, sound: &[&str]| {
        let (last, before) = listing.split_last().unwrap();
        assert_eq!(before, names(sound));
        assert!(matches!(last, Err(ReadError::Damaged(_))), "{last:?}");
    };
    then_damage(listing(8, &[0]), &[]);
    then_damage(listing(8, &[61]), &[]);
    then_damage(listing(8, &[0xfc, 0xff]), &[]);
    then_damage(listing(32, &[0xff, 0xff]), &["."]);
    then_damage(listing(56, &[0]), &[".", "..", "d"]);
    then_damage(listing(63, b"/"), &[".", ".."]);
}
