//! Threads: one reads the archive, some compress, one hashes, and the caller's writes what they made, in order.
//!
//! Batches that are under way are bounded in number and in bytes; so is memory.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use format::digest::{Algorithm, Hasher};
use sha2::{Digest as _, Sha256};

use crate::budget::{Budget, Taken};
use crate::compress::Compressor;
use crate::error::BuildError;
use crate::options::Format;
use crate::pack::{Batch, Item};

/// How many batches are under way at most; they are of 1 MiB or so unless chunks are larger.
const BATCHES_MAX: usize = 64;
/// Bytes under way besides a chunk for each thread that compresses.
const AHEAD: usize = 4 << 20;

/// A batch, compressed.
pub(crate) struct Packed {
    pub batch: Batch,
    /// Its pieces, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    pub ends: Vec<usize>,
    /// SHA-256 of each chunk, in the order of the items.
    pub digests: Vec<[u8; 32]>,
    /// Given back when this is dropped.
    pub taken: Taken,
}

struct Job {
    batch: Batch,
    taken: Taken,
    done: SyncSender<Result<Packed, BuildError>>,
}

/// What the whole archive is.
pub(crate) struct Stream {
    pub hasher: Hasher,
    pub size: u64,
}

/// How the work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub format: Format,
    pub threads: usize,
    pub chunk_size: u32,
    pub min_chunk_size: u64,
}

/// Runs `produce` and gives what it packs to `write`, compressed and in order. Stops at the first failure.
pub(crate) fn run<P>(
    settings: Settings,
    produce: P,
    mut write: impl FnMut(Packed) -> Result<(), BuildError>,
) -> Result<Stream, BuildError>
where
    P: FnOnce(&mut dyn FnMut(Batch) -> Result<(), BuildError>) -> Result<(), BuildError> + Send,
{
    let (jobs, queue) = sync_channel::<Job>(BATCHES_MAX);
    let (order, results) = sync_channel(BATCHES_MAX);
    let (hashing, hashed) = sync_channel::<Arc<Vec<u8>>>(1);
    let queue = Mutex::new(queue);
    let budget =
        Budget::new(settings.threads.saturating_mul(settings.chunk_size as usize).saturating_add(AHEAD));
    let closing = Arc::clone(&budget);
    thread::scope(|scope| {
        for _ in 0..settings.threads {
            scope.spawn(|| compress(settings.format, &queue));
        }
        let stream = scope.spawn(move || hash(&hashed));
        let producer = scope.spawn(move || {
            // A receiver that hung up has a failure to tell about, and this one is not looked at.
            let gone = || BuildError::Cancelled;
            produce(&mut |batch| {
                let taken = budget.take(batch.data.len()).ok_or_else(gone)?;
                let (done, result) = sync_channel(1);
                order.send(result).map_err(|_| gone())?;
                hashing.send(Arc::clone(&batch.data)).map_err(|_| gone())?;
                jobs.send(Job { batch, taken, done }).map_err(|_| gone())
            })
        });
        let written = write_all(results, &mut write);
        closing.close();
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let stream = stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(produced).map(|()| stream)
    })
}

/// Ends with the last result or the first failure; dropping the receiver then stops the producer, unless it waits for
/// the budget.
fn write_all(
    results: Receiver<Receiver<Result<Packed, BuildError>>>,
    write: &mut impl FnMut(Packed) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    for result in results {
        match result.recv() {
            Ok(packed) => write(packed?)?,
            // The producer failed between the two queues, and has the reason.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn hash(pieces: &Receiver<Arc<Vec<u8>>>) -> Stream {
    let mut stream = Stream { hasher: Hasher::new(Algorithm::Sha256), size: 0 };
    for piece in pieces {
        stream.hasher.update(&piece);
        stream.size += piece.len() as u64;
    }
    stream
}

fn compress(format: Format, queue: &Mutex<Receiver<Job>>) {
    let mut compressor = None;
    loop {
        // Nobody panics while holding the lock, and a receiver has no state that could be half changed.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { batch, taken, done }) = job else { return };
        let packed = match &mut compressor {
            Some(compressor) => pack(compressor, batch, taken),
            none => Compressor::new(format)
                .map_err(BuildError::Compress)
                .and_then(|compressor| pack(none.insert(compressor), batch, taken)),
        };
        // A writer that went away has failed for a reason of its own.
        let _ = done.send(packed);
    }
}

fn pack(compressor: &mut Compressor, batch: Batch, taken: Taken) -> Result<Packed, BuildError> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(batch.pieces.len()));
    let mut start = 0;
    for end in &batch.pieces {
        compressor.append(&batch.data[start..*end], &mut bytes).map_err(BuildError::Compress)?;
        ends.push(bytes.len());
        start = *end;
    }
    let digest = |item: &Item| match item {
        Item::Chunk { range, .. } => Some(Sha256::digest(&batch.data[range.clone()]).into()),
        Item::Plain(_) | Item::File(..) => None,
    };
    let digests = batch.items.iter().filter_map(digest).collect();
    bytes.shrink_to_fit();
    Ok(Packed { batch, bytes, ends, digests, taken })
}
