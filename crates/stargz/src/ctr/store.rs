//! containerd's content store as a place where images come from, and where they go to.

use std::io::{self, Read, Write};
use std::ops::Range;

use ::convert::{BlobError, Descriptor, NewBlob, Source, Target, TargetError};
use bytes::{Bytes, BytesMut};
use containerd::{CHUNK, Client, Error, Ingest, Labels, Reading};
use format::Digest;
use tokio::runtime::Handle;

use super::labels;
use super::lease::unique;

/// Label of a layer: the digest of its tar archive.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The content store, for threads that may block. What is written belongs to the client's lease.
#[derive(Debug)]
pub struct Store {
    client: Client,
    lease: String,
    runtime: Handle,
}

impl Store {
    /// Must be called within a runtime.
    pub fn new(client: Client) -> Store {
        let lease = client.lease().unwrap_or_default().to_owned();
        Store { client, lease, runtime: Handle::current() }
    }

    /// A blob that is there becomes one of the lease's.
    fn have(&self, digest: &str, labels: &Labels) -> Result<(), Error> {
        self.runtime.block_on(async {
            self.client.leases().add(&self.lease, "content", digest).await?;
            if !labels.is_empty() {
                self.client.content().set_labels(digest, labels).await?;
            }
            Ok(())
        })
    }
}

impl Source for Store {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        self.open_range(descriptor, 0..descriptor.size)
    }

    fn open_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let digest = descriptor.digest.to_string();
        let opened = self.runtime.block_on(async {
            let info = self.client.content().info(&digest).await?;
            let size = info.size.cast_unsigned().min(range.end).saturating_sub(range.start);
            // containerd takes 0 for everything.
            if size == 0 {
                return Ok(None);
            }
            self.client.content().read(&digest, range.start, size).await.map(Some)
        });
        match opened {
            Ok(Some(reading)) => Ok(Box::new(Reader { runtime: &self.runtime, reading, rest: Bytes::new() })),
            Ok(None) => Ok(Box::new(io::empty())),
            Err(error) if error.is_not_found() => Err(BlobError::Missing {
                digest: Box::new(descriptor.digest),
                place: format!("containerd's namespace {:?}", self.client.namespace()),
            }),
            Err(error) => {
                Err(BlobError::Open { digest: Box::new(descriptor.digest), source: Box::new(error) })
            }
        }
    }
}

struct Reader<'a> {
    runtime: &'a Handle,
    reading: Reading,
    rest: Bytes,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.reading.next()).map_err(io::Error::other)? {
                Some(part) => self.rest = part,
                None => return Ok(0),
            }
        }
        let part = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl Target for Store {
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError> {
        let reference = unique("ctr-remote-blob");
        let ingest = self.runtime.block_on(self.client.content().write(&reference, None, None));
        let ingest = ingest.map_err(TargetError::store)?;
        Ok(Box::new(Writing { store: self, reference, ingest: Some(ingest), buffer: BytesMut::new() }))
    }

    fn adopt(&self, blob: &Descriptor) -> Result<bool, TargetError> {
        let digest = blob.digest.to_string();
        match self.runtime.block_on(self.client.content().info(&digest)) {
            Ok(_) => self.have(&digest, &Labels::new()).map(|()| true).map_err(TargetError::store),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(TargetError::store(error)),
        }
    }

    fn put(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError> {
        let labels = labels::of_children(media_type, bytes);
        let mut blob = self.begin_writing(&digest.to_string()).map_err(TargetError::store)?;
        match &mut blob {
            None => return self.have(&digest.to_string(), &labels).map_err(TargetError::store),
            Some(blob) => blob.write_all(bytes).map_err(TargetError::store)?,
        }
        match blob {
            Some(blob) => blob.commit(digest, &labels).map_err(TargetError::store),
            None => Ok(()),
        }
    }
}

impl Store {
    /// `None` if it is there.
    fn begin_writing(&self, digest: &str) -> Result<Option<Writing<'_>>, Error> {
        let reference = unique("ctr-remote-blob");
        match self.runtime.block_on(self.client.content().write(&reference, None, Some(digest))) {
            Ok(mut ingest) => {
                // Another namespace has it: containerd knows all of it already.
                ingest.restart();
                Ok(Some(Writing { store: self, reference, ingest: Some(ingest), buffer: BytesMut::new() }))
            }
            Err(error) if error.is_already_exists() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

struct Writing<'a> {
    store: &'a Store,
    reference: String,
    /// `None` once it is committed.
    ingest: Option<Ingest>,
    buffer: BytesMut,
}

impl Writing<'_> {
    fn send(&mut self) -> io::Result<()> {
        let data = self.buffer.split().freeze();
        match &mut self.ingest {
            Some(ingest) => self.store.runtime.block_on(ingest.write(data)).map_err(io::Error::other),
            None => Err(io::Error::other("the blob is committed already")),
        }
    }

    fn commit(
        mut self,
        digest: &Digest,
        labels: &Labels,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.send()?;
        let digest = digest.to_string();
        let Some(ingest) = self.ingest.take() else { return Ok(()) };
        match self.store.runtime.block_on(ingest.commit(Some(&digest), labels)) {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => Ok(self.store.have(&digest, labels)?),
            Err(error) => {
                self.abort();
                Err(error.into())
            }
        }
    }

    /// Of what is left the lease's end takes care.
    fn abort(&self) {
        let aborted = self.store.runtime.block_on(self.store.client.content().abort(&self.reference));
        if let Err(error) = aborted {
            tracing::debug!(%error, "a write is left");
        }
    }
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewBlob for Writing<'_> {
    fn keep(self: Box<Self>, blob: &Descriptor, diff_id: Option<&Digest>) -> Result<(), TargetError> {
        let labels = diff_id.map(|id| (UNCOMPRESSED.to_owned(), id.to_string())).into_iter().collect();
        self.commit(&blob.digest, &labels).map_err(TargetError::store)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if self.ingest.take().is_some() {
            self.abort();
        }
    }
}
