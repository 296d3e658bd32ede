//! Images that are not what the writer made.

use std::fs;
use std::sync::{Arc, LazyLock};

use erofs::{Attributes, Content, ImageWriter, Options};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::dirents::{Dirents, Form};
use crate::source::{BoxFuture, Fetched};
use crate::tree::Caching;

#[derive(Debug)]
struct Sized(u64);

impl Source for Sized {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_local(&self, _: u64, _: &mut [u8]) -> io::Result<bool> {
        Ok(true)
    }
    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Ok(Fetched::Stored) })
    }
}

const DATA: u64 = 1 << 20;

/// An image with a bit of everything.
static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut writer = ImageWriter::new(Options::default());
    let xattrs = vec![(b"user.a".to_vec(), b"value".to_vec()), (b"trusted.b".to_vec(), vec![7; 300])];
    let rich = Attributes { xattrs, mode: 0o755, ..Attributes::default() };
    let dir = writer.add(writer.root(), b"dir", rich.clone(), Content::Directory).unwrap();
    for i in 0..300_u64 {
        let content = Content::File { size: i * 10, data_offset: i / 2 * 4096 };
        writer.add(dir, format!("file {i}").as_bytes(), Attributes::default(), content).unwrap();
    }
    writer.add(dir, b"link", rich.clone(), Content::Symlink(vec![b't'; 4000])).unwrap();
    writer.add(dir, b"device", rich, Content::BlockDevice { major: 8, minor: 1 }).unwrap();
    let mut image = Vec::new();
    writer.write(DATA, &mut image).unwrap();
    image
});

fn open(bytes: &[u8], size: u64) -> Result<LayerTree, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    LayerTree::open(file.path(), Arc::new(Sized(size)))
}

/// Asks everything about every place where an inode could be.
fn ask_everything(layer: &LayerTree) {
    let mut buf = vec![0; 8192];
    for inner in 0..=layer.metadata.len() as u32 / 32 {
        let _ = layer.attributes(inner);
        let _ = layer.read_link(inner);
        let _ = layer.xattr(inner, b"user.a");
        let _ = layer.xattr_names(inner, |_| ());
        for name in [&b".."[..], b"file 150", b"zzz"] {
            let _ = layer.lookup(inner, name);
        }
        for (offset, size) in [(0, 4096), (100, u32::MAX), (u64::MAX, 1)] {
            if let Ok((offset, len)) = layer.locate(inner, offset, size)
                && len > 0
            {
                assert!(offset + len as u64 <= DATA, "a read behind the data area");
            }
        }
        for position in [0, 1, 1 << 32, u64::MAX] {
            let out = Dirents::new(&mut buf, Form::Plus);
            let mut entries = Entries { out, tree: 1, caching: Caching::Full };
            let _ = layer.list(inner, position, &mut entries);
        }
    }
}

fn fix_checksum(image: &mut [u8]) {
    let block = &mut image[1024..4096];
    block[4..8].fill(0);
    let checksum = !crc32c(block);
    block[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn what_is_no_image_is_refused() {
    let text = |result: Result<LayerTree, Error>| {
        let error = result.unwrap_err();
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    };
    assert!(text(open(&[7; 8192], DATA)).contains("no EROFS image"));
    assert!(text(open(&[], DATA)).starts_with("cannot "));
    assert!(text(open(&SAMPLE[..SAMPLE.len() - 1], DATA)).contains("metadata area"));
    assert!(text(open(&SAMPLE, DATA - 1)).contains("data area"), "a source that is too short");
    assert!(open(&SAMPLE, DATA).is_ok());
    assert!(LayerTree::open(Path::new("/no/such/file"), Arc::new(Sized(0))).is_err());
}

#[test]
fn the_sample_is_read() {
    let layer = open(&SAMPLE, DATA).unwrap();
    let dir = layer.lookup(layer.root(), b"dir").unwrap().unwrap();
    assert_eq!((dir.attr.mode, dir.attr.nlink), (0o040_755, 2));
    let file = layer.lookup(dir.inner, b"file 150").unwrap().unwrap();
    assert_eq!(layer.locate(file.inner, 0, 4096), Ok((75 * 4096, 1500)));
    assert_eq!(layer.locate(file.inner, 1499, 4096), Ok((75 * 4096 + 1499, 1)));
    assert_eq!(layer.locate(file.inner, 1500, 4096).map(|(_, len)| len), Ok(0));
    let device = layer.lookup(dir.inner, b"device").unwrap().unwrap();
    assert_eq!(device.attr.rdev, 0x801);
    assert_eq!(layer.lookup(dir.inner, &[b'x'; 256]).unwrap_err(), Errno::NAMETOOLONG);
    assert_eq!(layer.lookup(file.inner, b"x").unwrap_err(), Errno::NOTDIR);
    assert_eq!(layer.read_link(file.inner), Err(Errno::INVAL));
    assert_eq!(layer.attributes(u32::MAX).unwrap_err(), Errno::STALE);
    ask_everything(&layer);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_are_survived(
        changes in vec((any::<Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff)]), 1..60)
    ) {
        let mut image = SAMPLE.clone();
        for (at, value) in changes {
            let at = 1024 + at.index(image.len() - 1024);
            image[at] = value;
        }
        fix_checksum(&mut image);
        if let Ok(layer) = open(&image, DATA) {
            ask_everything(&layer);
        }
    }
}
