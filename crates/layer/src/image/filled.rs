//! Which chunks are in the image file: a bitmap in memory, and its durable copy on disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// One bit for each chunk. Readers take no lock.
///
/// A bit is set after the chunk's verified bytes were written to the image file (`Release`), and read before they are
/// read from it (`Acquire`). The copy on disk is a subset of what is true: a bit is set there after the data it speaks
/// of ([`Filled::flush`]) and cleared there before that data goes ([`Filled::clear_durably`]).
#[derive(Debug)]
pub struct Filled {
    bits: Box<[AtomicU64]>,
    count: usize,
    missing: AtomicU64,
    file: File,
    /// Held by whoever writes to the file: what it was made from must not be older than what the last one wrote.
    writing: Mutex<()>,
}

impl Filled {
    /// The contents of the file while nothing is filled.
    pub(super) fn empty_file(count: usize) -> Vec<u8> {
        vec![0; count.div_ceil(64) * 8]
    }

    /// Loads the bits of `count` chunks. A file of another length is taken as empty: that costs a download.
    pub(super) fn open(path: &Path, count: usize, write: bool) -> Result<Filled, Error> {
        let io = |error| Error::disk(format!("open {}", path.display()), error);
        let file = OpenOptions::new().read(true).write(write).open(path).map_err(io)?;
        let bytes = read_bits(&file, count).map_err(io)?;
        let bits: Box<[AtomicU64]> = words(&bytes, count).map(AtomicU64::new).collect();
        let set: u32 = bits.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        let missing = AtomicU64::new((count - set as usize) as u64);
        Ok(Filled { bits, count, missing, file, writing: Mutex::default() })
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
            self.missing.fetch_sub(1, Ordering::AcqRel);
        }
        news
    }

    /// Says, in memory only, that the chunk is not in the image file. True if that is news.
    pub(super) fn clear(&self, chunk: usize) -> bool {
        let Some(word) = self.bits.get(chunk / 64) else { return false };
        // Counted first: whoever sets the bit at the same moment must not count below zero.
        self.missing.fetch_add(1, Ordering::AcqRel);
        let news = word.fetch_and(!(1 << (chunk % 64)), Ordering::AcqRel) >> (chunk % 64) & 1 == 1;
        if !news {
            self.missing.fetch_sub(1, Ordering::AcqRel);
        }
        news
    }

    /// Number of the last filled chunk before this one.
    pub(crate) fn last_before(&self, chunk: usize) -> Option<usize> {
        let end = chunk.min(self.count);
        let (mut index, used) = (end / 64, end % 64);
        let mut mask = (1_u64 << used) - 1;
        loop {
            let word = self.bits.get(index).map_or(0, |word| word.load(Ordering::Acquire)) & mask;
            if word != 0 {
                return Some(index * 64 + 63 - word.leading_zeros() as usize);
            }
            index = index.checked_sub(1)?;
            mask = u64::MAX;
        }
    }

    /// How many chunks are not filled.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Acquire)
    }

    /// Whether every chunk is filled.
    pub fn complete(&self) -> bool {
        self.missing() == 0
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        // Guards no data.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the bits of now durable: first the data they speak of (`image`), then the bits.
    pub fn flush(&self, image: &File) -> io::Result<()> {
        let _writing = self.writing();
        let bytes: Vec<u8> =
            self.bits.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
        image.sync_data()?;
        self.write(&bytes)
    }

    /// Makes durable that chunks which were cleared are not in the image file. Sets nothing on disk, so it need not
    /// wait for any data, and it needs no room.
    pub(super) fn clear_durably(&self) -> io::Result<()> {
        let _writing = self.writing();
        let before = read_bits(&self.file, self.count)?;
        let bytes: Vec<u8> = words(&before, self.count)
            .zip(&self.bits)
            .flat_map(|(word, now)| (word & now.load(Ordering::Acquire)).to_le_bytes())
            .collect();
        self.write(&bytes)
    }

    /// Whether the chunk is filled by what is on disk now, which another process may own.
    pub(crate) fn on_disk(&self, chunk: usize) -> io::Result<bool> {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, (chunk / 64 * 8) as u64)?;
        Ok(u64::from_le_bytes(word) >> (chunk % 64) & 1 == 1)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_data()
    }
}

fn read_bits(file: &File, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Filled::empty_file(count);
    if file.metadata()?.len() == bytes.len() as u64 {
        file.read_exact_at(&mut bytes, 0)?;
    }
    Ok(bytes)
}

/// The words of a file. Bits behind the last chunk mean nothing and must not be counted.
fn words(bytes: &[u8], count: usize) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).enumerate().map(move |(index, word)| {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"));
        let used = count - index * 64;
        if used < 64 { word & ((1 << used) - 1) } else { word }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(count: usize) -> (tempfile::TempDir, std::path::PathBuf, Filled) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("filled");
        std::fs::write(&path, Filled::empty_file(count)).unwrap();
        let filled = Filled::open(&path, count, true).unwrap();
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
        let again = Filled::open(&path, 130, true).unwrap();
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
        let full = Filled::open(&path, 3, true).unwrap();
        assert!(full.complete() && !full.get(3));
        std::fs::write(&path, [0xff; 7]).unwrap();
        assert_eq!(Filled::open(&path, 3, true).unwrap().missing(), 3);
    }

    #[test]
    fn a_cleared_bit_is_gone_on_disk_and_no_other_bit_gets_there_with_it() {
        let (dir, path, filled) = bitmap(130);
        let image = File::create(dir.path().join("image")).unwrap();
        filled.set(3);
        filled.set(129);
        filled.flush(&image).unwrap();
        filled.set(70);
        assert!(filled.clear(129) && !filled.clear(128));
        assert_eq!(filled.missing(), 128);
        filled.clear_durably().unwrap();
        assert!(!filled.on_disk(129).unwrap() && filled.on_disk(3).unwrap());
        let again = Filled::open(&path, 130, false).unwrap();
        assert!(again.get(3) && !again.get(70) && !again.get(129));
    }

    #[test]
    fn filled_chunks_are_found_from_the_end() {
        let (_dir, _path, filled) = bitmap(200);
        for chunk in [0, 63, 64, 199] {
            filled.set(chunk);
        }
        let mut found = Vec::new();
        let mut end = 1000;
        while let Some(chunk) = filled.last_before(end) {
            found.push(chunk);
            end = chunk;
        }
        assert_eq!(found, [199, 64, 63, 0]);
    }
}
