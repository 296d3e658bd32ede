//! What the engine needs of a blob store, and the stores there are: a registry's blob, content in IPFS, and a local file.

mod ipfs;
mod registry;

pub use ipfs::IpfsLayer;
pub use registry::RegistryLayer;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, Kind};

/// The end of a blob.
#[derive(Clone, Debug)]
pub struct Tail {
    /// Size of the whole blob, in bytes.
    pub blob_size: u64,
    /// Its last bytes.
    pub bytes: Bytes,
}

/// A blob that can be read in ranges. Nothing it returns is trusted.
#[async_trait]
pub trait BlobSource: Send + Sync + Debug {
    /// The last `min(len, size)` bytes.
    async fn tail(&self, len: u64) -> Result<Tail, Error>;

    /// Starts to read a half-open range.
    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error>;

    /// Starts to read several ranges, which ascend and do not touch, in one request. `None` if the store can't do
    /// that.
    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Option<Box<dyn BlobBody>>, Error> {
        let _ = ranges;
        Ok(None)
    }

    /// What the image's manifest says of the layer, by annotation; empty if there is no such manifest.
    async fn annotations(&self) -> Result<BTreeMap<String, String>, Error> {
        Ok(BTreeMap::new())
    }

    /// The blob that holds the TOC of a layer that has none in itself.
    async fn external_toc(&self) -> Result<Option<Arc<dyn BlobSource>>, Error> {
        Ok(None)
    }

    /// Makes sure that the store still has the blob and gives it to us.
    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Names the store: what is learned of the way to one blob holds for all blobs of the same place.
    fn place(&self) -> String {
        String::new()
    }
}

/// Some bytes of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the blob they are.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// The bytes of one answer, as they arrive.
#[async_trait]
pub trait BlobBody: Send + Debug {
    /// Whether the store sends the whole blob, whatever was asked for.
    fn whole(&self) -> bool;

    /// The next piece, `None` after the last one. Pieces ascend; some may be of bytes that nobody asked for.
    async fn next(&mut self) -> Result<Option<Piece>, Error>;
}

/// The error of a store that cannot be reached, for implementations of [`BlobSource`].
pub fn unreachable(why: &str) -> Error {
    Error::new(Kind::Source, format!("read blob: {why}"))
}

/// A blob in a local file.
#[derive(Debug)]
pub struct FileSource {
    file: Arc<File>,
    size: u64,
}

impl FileSource {
    /// Reads the blob from `file`.
    ///
    /// # Errors
    /// The size of the file cannot be told.
    pub fn new(file: File) -> io::Result<FileSource> {
        let size = file.metadata()?.len();
        Ok(FileSource { file: file.into(), size })
    }
}

#[async_trait]
impl BlobSource for FileSource {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        let start = self.size.saturating_sub(len);
        let mut body = FileBody { file: self.file.clone(), next: start, end: self.size };
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            bytes.extend_from_slice(&piece.bytes);
        }
        Ok(Tail { blob_size: self.size, bytes: bytes.into() })
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        let end = range.end.min(self.size);
        Ok(Box::new(FileBody { file: self.file.clone(), next: range.start, end }))
    }
}

#[derive(Debug)]
struct FileBody {
    file: Arc<File>,
    next: u64,
    end: u64,
}

#[async_trait]
impl BlobBody for FileBody {
    fn whole(&self) -> bool {
        false
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let len = self.end.saturating_sub(self.next).min(1 << 20);
        if len == 0 {
            return Ok(None);
        }
        let (file, offset) = (self.file.clone(), self.next);
        let piece = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; len as usize];
            file.read_exact_at(&mut piece, offset).map(|()| piece)
        })
        .await
        .map_err(|error| Error::with_source(Kind::Closed, "read blob file", error))?
        .map_err(|error| Error::disk("read blob file", error))?;
        self.next += len;
        Ok(Some(Piece { offset, bytes: piece.into() }))
    }
}
