//! Which chunks are in the image file: a bitmap in memory, and its durable copy on disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// One bit for each chunk. Bits only go from 0 to 1. Readers take no lock.
///
/// A bit is set after the chunk's verified bytes were written to the image file (`Release`), and read before they are
/// read from it (`Acquire`). The copy on disk trails behind, see [`Filled::flush`].
#[derive(Debug)]
pub struct Filled {
    bits: Box<[AtomicU64]>,
    count: usize,
    missing: AtomicU64,
    file: File,
}

impl Filled {
    /// The contents of the file while nothing is filled.
    pub(super) fn empty_file(count: usize) -> Vec<u8> {
        vec![0; count.div_ceil(64) * 8]
    }

    /// Loads the bits of `count` chunks. A file of another length is taken as empty: that costs a download.
    pub(super) fn open(path: &Path, count: usize) -> Result<Filled, Error> {
        let io = |error| Error::disk(format!("open {}", path.display()), error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let mut bytes = Filled::empty_file(count);
        if file.metadata().map_err(io)?.len() == bytes.len() as u64 {
            file.read_exact_at(&mut bytes, 0).map_err(io)?;
        }
        let bits: Box<[AtomicU64]> = bytes
            .chunks_exact(8)
            .enumerate()
            .map(|(index, word)| {
                let word = u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"));
                // Bits behind the last chunk mean nothing and must not be counted.
                let used = count - index * 64;
                AtomicU64::new(if used < 64 { word & ((1 << used) - 1) } else { word })
            })
            .collect();
        let set: u32 = bits.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        let missing = AtomicU64::new((count - set as usize) as u64);
        Ok(Filled { bits, count, missing, file })
    }

    /// Whether the chunk is in the image file. Chunks behind the last one are not.
    pub fn get(&self, chunk: usize) -> bool {
        self.bits.get(chunk / 64).is_some_and(|word| word.load(Ordering::Acquire) >> (chunk % 64) & 1 == 1)
    }

    /// Says that the chunk's verified bytes are in the image file. True if that is news.
    pub fn set(&self, chunk: usize) -> bool {
        debug_assert!(chunk < self.count);
        let Some(word) = self.bits.get(chunk / 64) else { return false };
        let news = word.fetch_or(1 << (chunk % 64), Ordering::Release) >> (chunk % 64) & 1 == 0;
        if news {
            self.missing.fetch_sub(1, Ordering::Relaxed);
        }
        news
    }

    /// How many chunks are not filled.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Whether every chunk is filled.
    pub fn complete(&self) -> bool {
        self.missing() == 0
    }

    /// Makes the bits of now durable: first the data they speak of (`image`), then the bits.
    pub fn flush(&self, image: &File) -> std::io::Result<()> {
        let bytes: Vec<u8> =
            self.bits.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
        image.sync_data()?;
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(count: usize) -> (tempfile::TempDir, std::path::PathBuf, Filled) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("filled");
        std::fs::write(&path, Filled::empty_file(count)).unwrap();
        let filled = Filled::open(&path, count).unwrap();
        (dir, path, filled)
    }

    #[test]
    fn bits_survive_a_flush_and_only_a_flush() {
        let (dir, path, filled) = bitmap(130);
        let image = File::create(dir.path().join("image")).unwrap();
        filled.set(0);
        filled.set(129);
        filled.flush(&image).unwrap();
        filled.set(64);
        let again = Filled::open(&path, 130).unwrap();
        assert!(again.get(0) && again.get(129) && !again.get(64));
        assert_eq!(again.missing(), 128);
    }

    #[test]
    fn setting_twice_counts_once() {
        let (_dir, _path, filled) = bitmap(2);
        assert!(filled.set(1));
        assert!(!filled.set(1));
        assert_eq!(filled.missing(), 1);
        filled.set(0);
        assert!(filled.complete());
    }

    #[test]
    fn junk_behind_the_last_chunk_and_other_lengths_are_not_believed() {
        let (_dir, path, _filled) = bitmap(3);
        std::fs::write(&path, [0xff; 8]).unwrap();
        let full = Filled::open(&path, 3).unwrap();
        assert!(full.complete() && !full.get(3));
        std::fs::write(&path, [0xff; 7]).unwrap();
        assert_eq!(Filled::open(&path, 3).unwrap().missing(), 3);
    }
}
