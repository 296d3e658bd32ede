//! One layer: answers reads of its data area, and says how far it is filled.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use format::Digest;

use crate::error::{Error, Kind};
use crate::fetch::{Engine, EngineOptions};
use crate::image::{IMAGE_FILE, ImageFiles};
use crate::source::BlobSource;

/// A layer whose image is on disk, filled or not.
///
/// Cheap to share. [`read_local`](Layer::read_local) takes no lock and allocates nothing; whatever may wait for the
/// network is in [`fill`](Layer::fill).
#[derive(Debug)]
pub struct Layer {
    files: Arc<ImageFiles>,
    engine: Arc<Engine>,
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
    /// Chunks of the layer.
    pub chunks: u64,
    /// Chunks that are not filled.
    pub missing: u64,
}

impl Layer {
    pub(crate) fn new(files: ImageFiles, source: Arc<dyn BlobSource>, options: EngineOptions) -> Layer {
        let files = Arc::new(files);
        let engine = Arc::new(Engine::new(files.clone(), source, options));
        Layer { files, engine }
    }

    /// Digest of the layer's blob.
    pub fn digest(&self) -> Digest {
        self.files.meta.digest
    }

    /// Digest of the TOC that the image was made from.
    pub fn toc_digest(&self) -> Digest {
        self.files.meta.toc_digest
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

    /// How far the layer is filled.
    pub fn progress(&self) -> Progress {
        let (fetched, requests) = self.engine.traffic();
        Progress {
            blob_size: self.files.meta.blob_size,
            fetched,
            requests,
            chunks: self.files.tables.chunk_count() as u64,
            missing: self.files.filled.missing(),
        }
    }

    /// Reads `buf.len()` bytes of the data area at `offset` if all of them are filled; `Ok(false)` if some are not.
    /// Never touches the network. The bytes behind a content, up to the end of its block, are zero.
    ///
    /// # Errors
    /// The range ends behind the data area, or the disk fails.
    pub fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let end = self.end_of(offset, buf.len())?;
        let tables = &self.files.tables;
        if !self.complete() && !tables.chunks_in(offset..end).all(|chunk| self.files.filled.get(chunk)) {
            return Ok(false);
        }
        self.files.image.read_exact_at(buf, self.files.meta.data_start + offset)?;
        Ok(true)
    }

    /// Fetches and verifies what is missing in `len` bytes of the data area at `offset`.
    ///
    /// # Errors
    /// What is missing could not be had; the error names the layer. The next call tries again.
    pub async fn fill(&self, offset: u64, len: usize) -> Result<(), Error> {
        let end = self.end_of(offset, len).map_err(|error| Error::disk("read", error))?;
        let chunks = self.files.tables.chunks_in(offset..end);
        self.engine.fill(chunks).await.map_err(|error| error.of_layer(&self.digest()))
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
        self.engine.fill_until(blob_end).await.map_err(|error| error.of_layer(&self.digest()))
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

    pub(crate) fn check_toc(&self, expected: &Digest) -> Result<(), Error> {
        if self.toc_digest() == *expected {
            return Ok(());
        }
        let what = format!("its TOC has the digest {}, the manifest says {expected}", self.toc_digest());
        Err(Error::new(Kind::Integrity, what).of_layer(&self.digest()))
    }
}
