//! Which chunks go first.

use std::sync::Arc;

use crate::image::ImageFiles;

/// Chunks taken out at a time: each time waits for the disk, and holds up the fills of the layer.
const BATCH: usize = 1024;

/// Takes chunks out of these layers until about `bytes` are free. Returns how many are. Blocks on the disk.
pub(super) fn run(mut layers: Vec<Arc<ImageFiles>>, bytes: u64) -> u64 {
    layers.retain(|files| files.may_evict());
    layers.sort_by_key(|files| files.recent.last());
    let mut freed = 0;
    for files in &layers {
        if freed >= bytes {
            break;
        }
        freed += from(files, bytes - freed);
    }
    if freed < bytes {
        // What is used again before the next attempt stays.
        for files in &layers {
            files.recent.age();
        }
    }
    freed
}

/// Takes chunks out of one layer, from its end, that were not used a short time ago.
fn from(files: &ImageFiles, bytes: u64) -> u64 {
    let mut freed = 0;
    let mut end = files.tables.chunk_count();
    while freed < bytes {
        let batch = batch(files, &mut end, bytes - freed);
        if batch.is_empty() {
            break;
        }
        match files.evict(&batch) {
            Ok(punched) => freed += punched,
            Err(error) => {
                tracing::warn!(layer = %files.meta.digest, %error, "contents cannot be given up");
                break;
            }
        }
    }
    freed
}

/// The next chunks before `end` that can go, and about as many bytes as are wanted.
fn batch(files: &ImageFiles, end: &mut usize, bytes: u64) -> Vec<usize> {
    let (mut batch, mut gained) = (Vec::new(), 0);
    while batch.len() < BATCH && gained < bytes {
        let Some(chunk) = files.filled.last_before(*end) else { break };
        *end = chunk;
        if !files.recent.get(chunk) {
            gained += files.tables.chunk(chunk).map_or(0, |chunk| chunk.size);
            batch.push(chunk);
        }
    }
    batch
}
