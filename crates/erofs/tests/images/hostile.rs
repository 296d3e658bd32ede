//! Whatever the bytes are, the reader answers: it neither panics nor runs on.

use std::sync::LazyLock;

use erofs::reader::Image;
use erofs::{Attributes, Content};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::model::{Tree, attributes};

const SUPERBLOCK: usize = 1024;

/// An image with a bit of everything.
static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut tree = Tree::new();
    let xattrs = vec![
        (b"user.a".to_vec(), b"value".to_vec()),
        (b"trusted.b".to_vec(), vec![7; 3000]),
        (b"security.c".to_vec(), Vec::new()),
    ];
    let rich = Attributes { xattrs, ..attributes(0o755) };
    let directory = tree.add(None, b"directory", rich.clone(), Content::Directory);
    for i in 0..600 {
        tree.add_file(Some(directory), format!("file {i}").as_bytes(), attributes(0o644), i * 10);
    }
    let inner = tree.add(Some(directory), b"inner", attributes(0o755), Content::Directory);
    tree.add(Some(inner), b"short", rich.clone(), Content::Symlink(b"target".to_vec()));
    tree.add(Some(inner), b"long", rich, Content::Symlink(vec![b't'; 4095]));
    tree.add(Some(inner), b"device", attributes(0o600), Content::BlockDevice { major: 8, minor: 1 });
    tree.image().0
});

/// Reads all that can be read, from every place where an inode could be.
fn read_everything(bytes: &[u8]) {
    let Ok(image) = Image::open(bytes) else { return };
    for nid in 0..=bytes.len() as u64 / 32 {
        let Ok(inode) = image.inode(nid) else { continue };
        let _ = image.content(&inode);
        let _ = image.read_link(&inode);
        let _ = image.xattr(&inode, b"user.a");
        if let Ok(xattrs) = image.xattrs(&inode) {
            assert!(xattrs.count() <= bytes.len());
        }
        for name in [&b"."[..], b"file 300", b"zzz"] {
            let _ = image.lookup(&inode, name);
        }
        for position in [0, 1, 5 << 32, u64::MAX] {
            if let Ok(entries) = image.read_dir(&inode, position) {
                assert!(entries.count() <= bytes.len());
            }
        }
    }
}

fn fix_checksum(image: &mut [u8]) {
    if let Some(block) = image.get_mut(SUPERBLOCK..4096) {
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Changes that hit headers more often than a random place would: a step of 4 bytes, a byte in it, a value.
fn changes() -> impl Strategy<Value = Vec<(Index, usize, u8)>> {
    let value = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(1)];
    vec((any::<Index>(), 0..4usize, value), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_are_survived(changes in changes(), cut in prop::option::weighted(0.1, any::<Index>())) {
        let mut image = SAMPLE.clone();
        for (step, byte, value) in changes {
            let steps = (image.len() - SUPERBLOCK) / 4;
            image[SUPERBLOCK + step.index(steps) * 4 + byte] = value;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        fix_checksum(&mut image);
        read_everything(&image);
    }

    #[test]
    fn a_changed_superblock_is_survived(changes in vec((0..256usize, any::<u8>()), 1..4)) {
        let mut image = SAMPLE.clone();
        for (at, value) in changes {
            image[SUPERBLOCK + at] = value;
        }
        fix_checksum(&mut image);
        read_everything(&image);
    }

    #[test]
    fn noise_behind_a_superblock_is_survived(noise in vec(any::<u8>(), 8192)) {
        let mut image = SAMPLE.clone();
        image[4096..4096 + noise.len()].copy_from_slice(&noise);
        read_everything(&image);
    }
}
