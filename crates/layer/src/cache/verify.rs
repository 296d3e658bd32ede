//! Compares what is on disk with the digests that pin it.

use std::sync::Arc;

use format::Digest;

use crate::error::Error;
use crate::image::ImageFiles;
use crate::layers::{Layers, blocking};

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Chunks that were compared.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that do not have their digest, or cannot be read.
    pub bad: Vec<usize>,
}

/// A chunk that looks bad may have been given up, and fetched again, while it was read; so often it is looked at again.
const LOOKS: usize = 3;

/// Reads every filled chunk and compares it with its digest. Works beside the process that owns the layer, whose
/// changes it takes into account. Blocks on the disk.
///
/// # Errors
/// The bits on disk cannot be read.
pub fn verify(files: &ImageFiles) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    for number in 0..files.tables.chunk_count() {
        let Some(right) = look(files, number)? else { continue };
        verified.chunks += 1;
        verified.bytes += files.tables.chunk(number).map_or(0, |chunk| chunk.size);
        if !right {
            verified.bad.push(number);
        }
    }
    Ok(verified)
}

impl Layers {
    /// Looks at chunks that are said to be bad, and sees to it that those that are will be fetched again: at once, if the
    /// layer is in use, since the kernel may read it without asking. Returns how many were bad.
    ///
    /// # Errors
    /// There is no such layer or chunk, or the disk fails.
    pub async fn repair(self: &Arc<Self>, digest: &Digest, chunks: Vec<usize>) -> Result<usize, Error> {
        let (layers, digest) = (self.clone(), *digest);
        let live = self.all().into_iter().find(|layer| layer.digest() == digest);
        let files = live.as_ref().map(|layer| layer.files().clone());
        let bad = blocking(move || layers.disown_bad(&digest, files, &chunks)).await?;
        if let Some(layer) = live {
            for &number in &bad {
                let Some(chunk) = layer.files().tables.chunk(number) else { continue };
                // Whoever reads it later tries again.
                if let Err(error) = layer.fill(chunk.data, chunk.size as usize).await {
                    tracing::warn!(%error, "a chunk that was bad on disk could not be fetched again yet");
                    break;
                }
            }
        }
        Ok(bad.len())
    }

    fn disown_bad(
        &self,
        digest: &Digest,
        live: Option<Arc<ImageFiles>>,
        chunks: &[usize],
    ) -> Result<Vec<usize>, Error> {
        let dir = self.dir_of(digest);
        let looked_at = match &live {
            Some(files) => files.clone(),
            None => Arc::new(ImageFiles::open_to_read(&dir)?),
        };
        let mut bad = Vec::new();
        for &number in chunks {
            if looked_at.check(number)? == Some(false) {
                bad.push(number);
            }
        }
        if bad.is_empty() {
            return Ok(bad);
        }
        tracing::warn!(layer = %digest, chunks = bad.len(), "chunks on disk do not have their digest any more");
        match live {
            Some(files) => files.disown(&bad)?,
            // Nobody begins to use the layer meanwhile.
            None => self.while_not_live(digest, || ImageFiles::open(&dir)?.disown(&bad))?,
        }
        Ok(bad)
    }
}

/// `None` if the chunk is not filled, or not any more.
fn look(files: &ImageFiles, number: usize) -> Result<Option<bool>, Error> {
    for _ in 0..LOOKS {
        match files.check(number)? {
            Some(false) => {}
            other => return Ok(other),
        }
        // The bit goes before the bytes do.
        let there = files.filled.on_disk(number);
        if !there.map_err(|error| Error::disk("read which chunks are filled", error))? {
            return Ok(None);
        }
    }
    Ok(Some(false))
}
