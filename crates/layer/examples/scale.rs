//! Measures what a layer of very many files costs: `cargo run --release -p layer --example scale -- [FILES]`.
//!
//! Prints the time from the first request to a mounted tree with the blob at hand, how much of it is reading the table of
//! contents, the peak of the heap meanwhile, and what is left of it afterwards. Mounting needs root.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use layer::source::{BlobBody, BlobSource, Piece, Tail};
use layer::{Error, Layers, LayersOptions};
use mount::{ErofsOptions, UnmountMode};
use testkit::content::Content;
use testkit::synthetic::ManyFiles;

/// Counts what is allocated.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: everything is left to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A blob that is computed where it is read.
#[derive(Debug)]
struct Computed(Content);

#[async_trait]
impl BlobSource for Computed {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        let size = self.0.len();
        let start = size.saturating_sub(len);
        Ok(Tail { blob_size: size, bytes: self.0.read(start, (size - start) as usize) })
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        Ok(Box::new(Whole(Some(Piece {
            offset: range.start,
            bytes: self.0.read(range.start, (range.end - range.start) as usize),
        }))))
    }
}

#[derive(Debug)]
struct Whole(Option<Piece>);

#[async_trait]
impl BlobBody for Whole {
    fn whole(&self) -> bool {
        false
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        Ok(self.0.take())
    }
}

fn main() {
    let count = std::env::args().nth(1).map_or(200_000, |text| text.parse().unwrap());
    let synthetic = ManyFiles::new(count, 100).layer();
    let tail = synthetic.content.len() - synthetic.toc_offset;
    let footer = {
        let start = synthetic.content.len().saturating_sub(1 << 16);
        let end = synthetic.content.read(start, (synthetic.content.len() - start) as usize);
        format::Footer::find(&end, synthetic.content.len()).unwrap()
    };
    let toc = synthetic.content.read(synthetic.toc_offset, tail as usize);

    let (begun, before) = (Instant::now(), reset());
    let parsed = format::read_toc(&footer, std::io::Cursor::new(&toc), &format::Limits::default()).unwrap();
    let parsed = parsed.verify(&synthetic.toc_digest).unwrap();
    let (reading, peak) = (begun.elapsed(), PEAK.load(Ordering::Relaxed) - before);
    println!("{count} files: reading the TOC: {reading:?}, heap at most {} MiB", peak >> 20);
    drop(parsed);
    drop(toc);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (root, at) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layers = Layers::open(LayersOptions::new(root.path())).unwrap();
        let before = reset();
        let begun = Instant::now();
        let source = Arc::new(Computed(synthetic.content.clone()));
        let layer =
            layers.resolve(synthetic.digest, Some(synthetic.toc_digest.into()), source).await.unwrap();
        let layer = layer.verify(&synthetic.toc_digest.into()).unwrap();
        let built = begun.elapsed();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let left = NOW.load(Ordering::Relaxed).saturating_sub(before);
        println!("laid out on disk: {built:?}, heap at most {} MiB", peak >> 20);
        println!("heap afterwards: {left} bytes, {} for each thousand files", left as u64 * 1000 / count);
        println!("on disk: {} KiB", layer.usage().unwrap().bytes >> 10);
        mount(&layer, at.path(), begun);
        drop(layer);
        layers.close().await;
        drop(layers);
        let begun = Instant::now();
        let layers = Layers::open(LayersOptions::new(root.path())).unwrap();
        let source = Arc::new(Computed(synthetic.content.clone()));
        layers.resolve(synthetic.digest, None, source).await.unwrap();
        println!("again, from disk: {:?}", begun.elapsed());
    });
}

fn mount(layer: &layer::Layer, at: &std::path::Path, begun: Instant) {
    // Its contents are never read here, so the image alone will do.
    match mount::mount_erofs(&layer.image_path(), at, &ErofsOptions::default()) {
        Ok(()) => {
            println!("mounted after {:?}", begun.elapsed());
            mount::unmount(at, UnmountMode::Normal).unwrap();
        }
        Err(error) => println!("not mounted: {error}"),
    }
}

/// Forgets the peak. Returns what is allocated now.
fn reset() -> usize {
    let now = NOW.load(Ordering::Relaxed);
    PEAK.store(now, Ordering::Relaxed);
    now
}
