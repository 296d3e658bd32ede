//! Contents that another layer of this node has already.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::image::{Chunk, ImageFiles};

/// The layers whose contents may be copied. A read lock for lookups, a write lock when a layer comes.
#[derive(Debug, Default)]
pub struct Siblings {
    all: RwLock<Vec<Weak<ImageFiles>>>,
    /// The file system has said that files cannot share blocks.
    apart: AtomicBool,
}

/// A filled chunk of another layer.
#[derive(Debug)]
pub struct Found {
    files: Arc<ImageFiles>,
    number: usize,
    chunk: Chunk,
}

/// Larger ones are not held in memory to be verified.
const COPY_MAX: u64 = 16 << 20;
/// For smaller ones a reference costs more than a copy.
const SHARE_MIN: u64 = 64 << 10;

impl Siblings {
    /// Makes the contents of a layer known, for as long as somebody holds its files.
    pub fn join(&self, files: &Arc<ImageFiles>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(files));
    }

    /// A filled chunk with these bytes in any layer but `own`: a binary search in each.
    pub fn find(&self, own: &ImageFiles, wanted: &Chunk) -> Option<Found> {
        let digest = wanted.digest?;
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).find_map(|files| {
            if std::ptr::eq(&*files, own) {
                return None;
            }
            let number = files.tables.find(&digest).filter(|&number| files.filled.get(number))?;
            let chunk = files.tables.chunk(number)?;
            (chunk.size == wanted.size && chunk.size <= COPY_MAX).then_some(Found { files, number, chunk })
        })
    }
}

impl Siblings {
    /// Takes the blocks of what was found over for chunk `number` of `own`, which is being filled. False if they have to
    /// be written. Blocks on the disk.
    pub fn share(&self, found: &Found, own: &ImageFiles, number: usize) -> bool {
        if found.chunk.size < SHARE_MIN || self.apart.load(Ordering::Relaxed) {
            return false;
        }
        own.share(number, &found.files, found.number).unwrap_or_else(|error| {
            // All layers are on one file system, so what it cannot do once it never can.
            tracing::debug!(%error, "layers do not share blocks here");
            self.apart.store(true, Ordering::Relaxed);
            false
        })
    }
}

impl Found {
    /// The chunk's bytes, if they still have their digest: the other layer may lose the chunk at any moment. Blocks on
    /// the disk.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; self.chunk.size as usize];
        self.files.image.read_exact_at(&mut bytes, self.files.meta.data_start + self.chunk.data)?;
        Ok(self.chunk.holds(&bytes).then_some(bytes))
    }
}
