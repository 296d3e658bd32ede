//! One layer: answers reads of its data area, and says how far it is filled.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use format::Digest;

use crate::error::{Error, Kind};
use crate::fetch::{Engine, EngineOptions};
use crate::image::{IMAGE_FILE, ImageFiles};
use crate::layers::Pin;
use crate::source::BlobSource;

/// A layer whose image is on disk, filled or not.
///
/// Cheap to share. [`read_local`](Layer::read_local) takes no lock and allocates nothing; whatever may wait for the
/// network is in [`fill`](Layer::fill).
#[derive(Debug)]
pub struct Layer {
    files: Arc<ImageFiles>,
    engine: Arc<Engine>,
    /// Somebody sees to it that the layer becomes complete.
    in_background: AtomicBool,
}

/// How far a layer is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Size of the blob, bytes.
    pub blob_size: u64,
    /// Bytes of the blob that were fetched by this process, read-ahead and repeated ones included.
    pub fetched: u64,
    /// Requests made for them.
    pub requests: u64,
    /// Bytes of contents that somebody read.
    pub touched: u64,
    /// Chunks of the layer.
    pub chunks: u64,
    /// Chunks that are not filled.
    pub missing: u64,
}

/// Where the bytes are that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filled {
    /// In the image file.
    Stored,
    /// Here: the disk has no room for them.
    Unkept(Bytes),
}

/// What is known of the digest of the whole blob, whose parts are verified one by one in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobDigest {
    /// The blob did not come in one piece.
    Unseen,
    /// It is what the manifest says.
    Right,
    /// It is not.
    Wrong,
}

impl Layer {
    pub(crate) fn new(files: ImageFiles, source: Arc<dyn BlobSource>, options: EngineOptions) -> Layer {
        let files = Arc::new(files);
        let engine = Arc::new(Engine::new(files.clone(), source, options));
        Layer { files, engine, in_background: AtomicBool::new(false) }
    }

    /// Digest of the layer's blob.
    pub fn digest(&self) -> Digest {
        self.files.meta.digest
    }

    /// Digest of the TOC that the image was made from.
    pub fn toc_digest(&self) -> Digest {
        self.files.meta.toc_digest
    }

    /// Digest of the compressed bytes of that TOC, for formats whose writers pin those.
    pub fn compressed_toc_digest(&self) -> Option<Digest> {
        self.files.meta.compressed_toc_digest
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> format::Compression {
        self.files.meta.compression.into()
    }

    /// The image file: metadata area at its start, then the data area.
    pub fn image_path(&self) -> PathBuf {
        self.files.dir.join(IMAGE_FILE)
    }

    /// Length of the data area, bytes, a multiple of the block size.
    pub fn data_len(&self) -> u64 {
        self.files.meta.data_len
    }

    /// Whether every chunk is filled: the image file is then an ordinary EROFS image.
    pub fn complete(&self) -> bool {
        self.files.filled.complete()
    }

    /// Makes sure that what is missing can still be had. Asks nobody if nothing is missing.
    ///
    /// # Errors
    /// The store does not answer, or has the blob no longer, or not for us.
    pub async fn check(&self) -> Result<(), Error> {
        if self.complete() {
            return Ok(());
        }
        self.engine.source().check().await.map_err(|error| error.of_layer(&self.digest()))
    }

    /// Whether the kernel may be given the image file alone, without anybody who fills it: if every chunk is there.
    /// None is taken out from then on; such a layer is removed as a whole or not at all. Blocks on the disk.
    ///
    /// # Errors
    /// That could not be made durable.
    pub fn give_alone(&self) -> Result<bool, Error> {
        self.files.give_alone().map_err(|error| error.of_layer(&self.digest()))
    }

    /// What fills it.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The layer's files, to look after them.
    pub(crate) fn files(&self) -> &Arc<ImageFiles> {
        &self.files
    }

    /// How far the layer is filled.
    pub fn progress(&self) -> Progress {
        let (fetched, requests) = self.engine.traffic();
        Progress {
            blob_size: self.files.meta.blob_size,
            fetched,
            requests,
            touched: self.engine.touched(),
            chunks: self.files.tables.chunk_count() as u64,
            missing: self.files.filled.missing(),
        }
    }

    /// Whether the whole blob has its digest.
    pub fn blob_digest(&self) -> BlobDigest {
        match self.engine.blob_digest.load(Ordering::Relaxed) {
            0 => BlobDigest::Unseen,
            1 => BlobDigest::Right,
            _ => BlobDigest::Wrong,
        }
    }

    /// Reads `buf.len()` bytes of the data area at `offset` if all of them are filled; `Ok(false)` if some are not.
    /// Never touches the network. The bytes behind a content, up to the end of its block, are zero.
    ///
    /// # Errors
    /// The range ends behind the data area, or the disk fails.
    pub fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let started = Instant::now();
        let end = self.end_of(offset, buf.len())?;
        let chunks = self.files.tables.chunks_in(offset..end);
        // What came along with something else and made the layer complete is still to be noted.
        if !self.complete() || self.engine.trace().recording() {
            self.engine.touch(chunks.clone());
        }
        self.files.recent.touch(chunks.clone());
        let filled = self.files.read_filled(chunks, offset, buf)?;
        if filled {
            self.engine.tally().answered(started.elapsed(), buf.len());
        }
        Ok(filled)
    }

    /// Fetches and verifies what is missing in `len` bytes of the data area at `offset`.
    ///
    /// # Errors
    /// What is missing could not be had; the error names the layer. The next call tries again.
    pub async fn fill(&self, offset: u64, len: usize) -> Result<Filled, Error> {
        let started = Instant::now();
        let filled = self.fill_now(offset, len).await;
        let tally = self.engine.tally();
        tally.waited(started.elapsed(), filled.as_ref().err());
        if let Ok(Filled::Unkept(bytes)) = &filled {
            tally.served.add(bytes.len() as u64);
        }
        filled
    }

    async fn fill_now(&self, offset: u64, len: usize) -> Result<Filled, Error> {
        let end = self.end_of(offset, len).map_err(|error| Error::disk("read", error))?;
        // What the disk had no room for a moment ago is not fetched again.
        if let (true, Some(bytes)) = (self.engine.disk_full(), self.engine.unkept(offset..end)) {
            return Ok(Filled::Unkept(bytes));
        }
        let chunks = self.files.tables.chunks_in(offset..end);
        match self.engine.fill(chunks).await {
            Ok(()) => Ok(Filled::Stored),
            Err(error) if error.kind() == Kind::DiskFull => match self.engine.unkept(offset..end) {
                Some(bytes) => Ok(Filled::Unkept(bytes)),
                None => Err(error.of_layer(&self.digest())),
            },
            Err(error) => Err(error.of_layer(&self.digest())),
        }
    }

    /// Fetches everything that is missing, giving way to whatever anybody waits for.
    ///
    /// # Errors
    /// As [`fill`](Layer::fill), at the first thing that fails.
    pub async fn fill_all(&self) -> Result<(), Error> {
        self.engine.complete().await.map_err(|error| error.of_layer(&self.digest()))
    }

    /// Up to where in the blob to prefetch, bytes: to the landmark of the image's author, or what `default` says.
    pub fn prefetch_end(&self, default: u64) -> u64 {
        self.files.meta.prefetch_end.unwrap_or(default)
    }

    /// Fetches every content that begins before this byte of the blob.
    ///
    /// # Errors
    /// As [`fill`](Layer::fill).
    pub async fn prefetch(&self, blob_end: u64) -> Result<(), Error> {
        self.engine.prefetch(blob_end).await.map_err(|error| error.of_layer(&self.digest()))
    }

    fn end_of(&self, offset: u64, len: usize) -> io::Result<u64> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.data_len());
        end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "read behind the end of the data area"))
    }

    /// Reads from here from now on: the same blob under another reference, or with newer credentials.
    pub fn set_source(&self, source: Arc<dyn BlobSource>) {
        self.engine.set_source(source);
    }

    /// Makes what was filled until now durable, if there is anything new. Blocks on the disk.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        if !self.engine.take_dirty() {
            return Ok(());
        }
        self.files.filled.flush(&self.files.image).map_err(|error| {
            self.engine.mark_dirty();
            Error::disk("flush filled chunks", error).of_layer(&self.digest())
        })
    }

    /// Ends every fetch; reads that wait for one fail with [`Kind::Closed`].
    pub(crate) fn close(&self) {
        self.engine.close();
    }

    /// The right to complete the layer in the background, which is given once: a layer that is mounted twice is not
    /// filled twice.
    pub(crate) fn claim_background(&self) -> bool {
        !self.in_background.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn check_toc(&self, expected: &Pin) -> Result<(), Error> {
        let meta = &self.files.meta;
        let (found, wanted) = match expected {
            Pin::Toc(digest) => (Some(meta.toc_digest), digest),
            Pin::CompressedToc(digest) => (meta.compressed_toc_digest, digest),
        };
        if found == Some(*wanted) && meta.undigested {
            let what = "some contents have no digest in its TOC, so they could not be verified";
            return Err(Error::new(Kind::Format, what).of_layer(&self.digest()));
        }
        if found == Some(*wanted) {
            return Ok(());
        }
        let found = found.map_or("no compressed form".to_owned(), |digest| format!("the digest {digest}"));
        let what = format!("its TOC has {found}, the manifest says {wanted}");
        Err(Error::new(Kind::Integrity, what).of_layer(&self.digest()))
    }
}
