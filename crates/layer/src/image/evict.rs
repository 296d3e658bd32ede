//! Takes filled chunks out of the image file while others read and fill it.
//!
//! Four parties meet at one chunk, and these are the rules between them:
//!
//! - *Readers* take no lock. They load the number of punches, look at the bits, read, and load the number again: if it
//!   changed, what they read may have been a hole. A punch raises the number after the bits are cleared and before the
//!   first hole, so that a reader who saw the new number sees the cleared bits, and one who saw the old number and read a
//!   hole sees that it changed.
//! - *Fills* hold [`Filling`] from their first write until the bit is set. A punch waits for all of them and then leaves
//!   out the chunks whose bit is set again.
//! - *The flusher* and the evictor write the bits on disk one at a time, from what is true then.
//! - *The kernel* may read the image file by itself. A layer of which that was ever allowed is never punched: nobody
//!   would tell the kernel's page cache apart from a hole.
//!
//! The order of an eviction is that of the crash rule backwards: bits in memory, bits on disk, data.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::FallocateFlags;

use super::{ImageFiles, sync_dir};
use crate::error::{Error, Kind};

/// Exists if the kernel was ever given the image file alone.
pub(super) const ALONE_FILE: &str = "alone";
const BLOCK: u64 = erofs::BLOCK_SIZE as u64;
/// A reader that meets as many punches in a row asks the engine instead.
const TRIES: usize = 3;

/// What keeps the parties apart.
#[derive(Debug)]
pub(super) struct Apart {
    /// Punches begun.
    punches: AtomicU64,
    fills: RwLock<()>,
    /// Held by the evictor.
    evicting: Mutex<()>,
    /// Whether the kernel was ever given the image file alone. Held for moments only.
    alone: Mutex<bool>,
}

/// Chunks are being written: none is taken out until this is dropped.
#[derive(Debug)]
pub(crate) struct Filling<'a>(#[allow(dead_code)] RwLockReadGuard<'a, ()>);

impl Apart {
    pub(super) fn new(dir: &Path, complete: bool) -> Apart {
        // What is complete when it is opened may have been given away by an earlier process.
        let alone = complete || dir.join(ALONE_FILE).exists();
        Apart {
            punches: AtomicU64::new(0),
            fills: RwLock::default(),
            evicting: Mutex::default(),
            alone: Mutex::new(alone),
        }
    }

    fn alone(&self) -> MutexGuard<'_, bool> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageFiles {
    /// To be held from the first write of a chunk until its bit is set.
    pub(crate) fn filling(&self) -> Filling<'_> {
        Filling(self.apart.fills.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that a chunk's verified bytes are in the image file, and that somebody will want them soon.
    pub(crate) fn mark_filled(&self, chunk: usize, _filling: &Filling<'_>) {
        self.recent.touch(chunk..chunk + 1);
        self.filled.set(chunk);
    }

    /// Reads `buf.len()` bytes of the data area at `offset`, which these chunks cover, if all of them are filled.
    /// Takes no lock.
    ///
    /// # Errors
    /// The disk fails.
    pub fn read_filled(&self, chunks: Range<usize>, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.read_by(chunks, || self.image.read_exact_at(buf, self.meta.data_start + offset))
    }

    pub(super) fn read_by(
        &self,
        chunks: Range<usize>,
        mut read: impl FnMut() -> io::Result<()>,
    ) -> io::Result<bool> {
        for _ in 0..TRIES {
            let before = self.apart.punches.load(Ordering::Acquire);
            if !self.filled.complete() && !chunks.clone().all(|chunk| self.filled.get(chunk)) {
                return Ok(false);
            }
            read()?;
            fence(Ordering::SeqCst);
            if self.apart.punches.load(Ordering::Relaxed) == before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the kernel may be given the image file alone: if every chunk is filled. From then on, and for later
    /// processes, no chunk is taken out of it. Blocks on the disk.
    ///
    /// # Errors
    /// That could not be made durable.
    pub(crate) fn give_alone(&self) -> Result<bool, Error> {
        let mut alone = self.apart.alone();
        if !self.filled.complete() {
            return Ok(false);
        }
        if !*alone {
            let failed = |error| Error::disk("mark a layer that is mounted alone", error);
            // A crash must not make a layer incomplete that the kernel reads.
            self.filled.flush(&self.image).map_err(failed)?;
            File::create(self.dir.join(ALONE_FILE)).map_err(failed)?;
            sync_dir(&self.dir)?;
            *alone = true;
        }
        Ok(true)
    }

    /// Whether chunks may be taken out.
    pub(crate) fn may_evict(&self) -> bool {
        !*self.apart.alone()
    }

    /// Takes these chunks out of the image file, as far as they are in it. Returns how many bytes of the file became
    /// holes. Blocks on the disk.
    ///
    /// # Errors
    /// The disk fails, or has no holes (`fallocate(2)`, `FALLOC_FL_PUNCH_HOLE`).
    pub(crate) fn evict(&self, chunks: &[usize]) -> Result<u64, Error> {
        let _one = self.apart.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cleared = {
            let alone = self.apart.alone();
            if *alone {
                return Ok(0);
            }
            self.clear(chunks)
        };
        cleared.sort_unstable();
        self.clear_on_disk(&cleared)?;
        let _fills = self.apart.fills.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have wanted it again in the meantime.
        cleared.retain(|&chunk| !self.filled.get(chunk));
        self.apart.punches.fetch_add(1, Ordering::SeqCst);
        let mut punched = 0;
        for hole in self.holes(&cleared) {
            let (start, len) = (self.meta.data_start + hole.start, hole.end - hole.start);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.image, flags, start, len)
                .map_err(|errno| Error::disk("punch a hole into the image", errno.into()))?;
            punched += len;
        }
        Ok(punched)
    }

    /// Says that these chunks are not what they should be: they will be fetched again when they are read, or now by
    /// whoever knows how. Blocks on the disk.
    ///
    /// # Errors
    /// That could not be made durable.
    pub fn disown(&self, chunks: &[usize]) -> Result<(), Error> {
        let _one = self.apart.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let cleared = self.clear(chunks);
        self.filled
            .clear_durably()
            .map_err(|error| Error::disk(format!("forget {} filled chunks", cleared.len()), error))
    }

    fn clear(&self, chunks: &[usize]) -> Vec<usize> {
        chunks.iter().copied().filter(|&chunk| self.filled.clear(chunk)).collect()
    }

    fn clear_on_disk(&self, cleared: &[usize]) -> Result<(), Error> {
        self.filled.clear_durably().map_err(|error| {
            // Nothing was punched, so they are all still there.
            for &chunk in cleared {
                self.filled.set(chunk);
            }
            Error::disk("forget filled chunks", error)
        })
    }

    /// The whole blocks that only these chunks, ascending, have bytes in. What is behind the last byte of a content, up
    /// to the end of its block, belongs to it.
    fn holes(&self, chunks: &[usize]) -> Vec<Range<u64>> {
        let mut holes: Vec<Range<u64>> = Vec::new();
        for &number in chunks {
            let Some(chunk) = self.tables.chunk(number) else { continue };
            let next = self.tables.chunk(number + 1).map_or(self.meta.data_len, |next| next.data);
            match holes.last_mut() {
                Some(last) if last.end == chunk.data => last.end = next,
                _ => holes.push(chunk.data..next),
            }
        }
        holes.retain_mut(|hole| {
            *hole = hole.start.next_multiple_of(BLOCK)..hole.end / BLOCK * BLOCK;
            hole.start < hole.end
        });
        holes
    }

    /// Compares a chunk with its digest; `None` if it is not filled (any more). Blocks on the disk.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn check(&self, number: usize) -> Result<Option<bool>, Error> {
        let chunk = self.tables.chunk(number);
        let chunk = chunk.ok_or_else(|| Error::new(Kind::Format, format!("there is no chunk {number}")))?;
        let mut hasher = format::digest::Hasher::new(format::digest::Algorithm::Sha256);
        let mut piece = vec![0; chunk.size.min(1 << 20) as usize];
        let mut done = 0;
        while done < chunk.size {
            let take = (chunk.size - done).min(piece.len() as u64) as usize;
            let piece = piece.get_mut(..take).unwrap_or_default();
            match self.read_filled(number..number + 1, chunk.data + done, piece) {
                Ok(true) => hasher.update(piece),
                Ok(false) => return Ok(None),
                Err(error) => {
                    tracing::warn!(layer = %self.meta.digest, chunk = number, %error, "a filled chunk cannot be read");
                    return Ok(Some(false));
                }
            }
            done += take as u64;
        }
        Ok(Some(chunk.has(&hasher.finish())))
    }
}

#[cfg(test)]
mod tests;
