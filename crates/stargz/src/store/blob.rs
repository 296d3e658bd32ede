//! The blob of a layer as a file: for clients that copy or export an image, and read each layer once from start to end.
//!
//! It is fetched in windows of 4 MiB, of which a few are kept for a moment; while one is read, the next is under way. Its
//! bytes are the registry's; who reads all of them can verify them, and containers/storage does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use format::Digest;
use layer::source::BlobSource;
use mount::{BoxFuture, Fetched, Source};
use tokio::runtime::Handle;

/// Bytes that are fetched at a time.
const WINDOW: u64 = 4 << 20;
/// Windows of all blobs that are kept.
const KEPT: usize = 8;
/// For how long a window is kept that nobody reads.
const IDLE: Duration = Duration::from_secs(10);

/// A window of a blob: which one of which.
type Window = (Digest, u64);

/// The windows that are in memory, of all blobs.
#[derive(Debug)]
pub struct Windows {
    kept: Mutex<BTreeMap<Window, Kept>>,
    /// Held by whoever fetches a window.
    gates: Mutex<HashMap<Window, Weak<tokio::sync::Mutex<()>>>>,
    runtime: Handle,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    used: Instant,
}

impl Windows {
    /// No windows yet. Must be called within a tokio runtime, on which they are fetched.
    pub fn new() -> Windows {
        Windows { kept: Mutex::default(), gates: Mutex::default(), runtime: Handle::current() }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Window, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: Window) -> Option<Bytes> {
        let mut kept = self.kept();
        let window = kept.get_mut(&key)?;
        window.used = Instant::now();
        Some(window.bytes.clone())
    }

    fn put(self: &Arc<Self>, key: Window, bytes: Bytes) {
        let mut kept = self.kept();
        while kept.len() >= KEPT {
            let oldest = kept.iter().min_by_key(|(_, window)| window.used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            kept.remove(&oldest);
        }
        kept.insert(key, Kept { bytes, used: Instant::now() });
        let windows = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let Some(windows) = windows.upgrade() else { return };
                let mut kept = windows.kept();
                match kept.get(&key) {
                    Some(window) if window.used.elapsed() < IDLE => {}
                    _ => return drop(kept.remove(&key)),
                }
            }
        });
    }

    fn gate(&self, key: Window) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        gates.insert(key, Arc::downgrade(&gate));
        gate
    }
}

/// A blob as a file.
#[derive(Clone, Debug)]
pub struct BlobFile {
    source: Arc<dyn BlobSource>,
    digest: Digest,
    size: u64,
    windows: Arc<Windows>,
}

impl BlobFile {
    /// The blob `digest` of `size` bytes.
    pub fn new(source: Arc<dyn BlobSource>, digest: Digest, size: u64, windows: Arc<Windows>) -> BlobFile {
        BlobFile { source, digest, size, windows }
    }

    /// The numbers of the windows that have bytes of a range.
    fn windows_of(range: &Range<u64>) -> Range<u64> {
        range.start / WINDOW..range.end.div_ceil(WINDOW)
    }

    /// The part of a window that lies in `range`.
    fn part(window: &Bytes, number: u64, range: &Range<u64>) -> Bytes {
        let start = number * WINDOW;
        let from = range.start.saturating_sub(start) as usize;
        let to = (range.end - start).min(window.len() as u64) as usize;
        window.slice(from.min(to)..to)
    }

    async fn window(&self, number: u64) -> io::Result<Bytes> {
        let key = (self.digest, number);
        let gate = self.windows.gate(key);
        let _gate = gate.lock().await;
        if let Some(bytes) = self.windows.get(key) {
            return Ok(bytes);
        }
        let range = number * WINDOW..((number + 1) * WINDOW).min(self.size);
        let bytes = read(&*self.source, range).await?;
        self.windows.put(key, bytes.clone());
        Ok(bytes)
    }

    /// Whoever reads one window after the other wants the next one soon.
    fn read_ahead(&self, number: u64) {
        let next = number + 1;
        let goes_on = number == 0 || self.windows.kept().contains_key(&(self.digest, number - 1));
        if goes_on && next * WINDOW < self.size && self.windows.get((self.digest, next)).is_none() {
            let blob = self.clone();
            self.windows.runtime.spawn(async move {
                if let Err(error) = blob.window(next).await {
                    tracing::debug!(layer = %blob.digest, %error, "reading ahead in a blob failed");
                }
            });
        }
    }
}

/// Reads a range to its end.
async fn read(source: &dyn BlobSource, range: Range<u64>) -> io::Result<Bytes> {
    let len = (range.end - range.start) as usize;
    let mut bytes = BytesMut::with_capacity(len);
    let mut body = source.read(range.clone()).await.map_err(io::Error::other)?;
    while bytes.len() < len {
        let Some(mut piece) = body.next().await.map_err(io::Error::other)? else {
            return Err(io::Error::other(format!("the registry sent {} of {len} bytes", bytes.len())));
        };
        let next = range.start + bytes.len() as u64;
        if piece.offset > next {
            return Err(io::Error::other("the registry answered with a later range than it was asked for"));
        }
        // What comes before belongs to a store that sends everything.
        let _ = piece.bytes.split_to(piece.bytes.len().min((next - piece.offset) as usize));
        piece.bytes.truncate(len - bytes.len());
        bytes.extend_from_slice(&piece.bytes);
    }
    Ok(bytes.freeze())
}

impl Source for BlobFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let range = offset..offset + buf.len() as u64;
        let mut filled = 0;
        for number in BlobFile::windows_of(&range) {
            let Some(window) = self.windows.get((self.digest, number)) else { return Ok(false) };
            let part = BlobFile::part(&window, number, &range);
            let Some(room) = buf.get_mut(filled..filled + part.len()) else { return Ok(false) };
            room.copy_from_slice(&part);
            filled += part.len();
            if offset == number * WINDOW {
                self.read_ahead(number);
            }
        }
        Ok(filled == buf.len())
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async move {
            let range = offset..offset + len as u64;
            let mut bytes = BytesMut::with_capacity(len);
            for number in BlobFile::windows_of(&range) {
                self.read_ahead(number);
                let window = self.window(number).await?;
                bytes.extend_from_slice(&BlobFile::part(&window, number, &range));
            }
            Ok(Fetched::Unkept(bytes.freeze()))
        })
    }
}

#[cfg(test)]
mod tests;
