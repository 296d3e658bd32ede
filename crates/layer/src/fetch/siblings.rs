//! Contents that another layer of this node has already.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::image::{Chunk, ImageFiles};

/// The layers whose contents may be copied. A read lock for lookups, a write lock when a layer comes.
#[derive(Debug, Default)]
pub struct Siblings(RwLock<Vec<Weak<ImageFiles>>>);

/// A filled chunk of another layer.
#[derive(Debug)]
pub struct Found {
    files: Arc<ImageFiles>,
    chunk: Chunk,
}

/// Larger ones are not held in memory to be verified.
const COPY_MAX: u64 = 16 << 20;

impl Siblings {
    /// Makes the contents of a layer known, for as long as somebody holds its files.
    pub fn join(&self, files: &Arc<ImageFiles>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(files));
    }

    /// A filled chunk with these bytes in any layer but `own`: a binary search in each.
    pub fn find(&self, own: &ImageFiles, wanted: &Chunk) -> Option<Found> {
        let digest = wanted.digest?;
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).find_map(|files| {
            if std::ptr::eq(&*files, own) {
                return None;
            }
            let number = files.tables.find(&digest).filter(|&number| files.filled.get(number))?;
            let chunk = files.tables.chunk(number)?;
            (chunk.size == wanted.size && chunk.size <= COPY_MAX).then_some(Found { files, chunk })
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
