//! A layer in a registry as a [`BlobSource`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use format::Digest;

use crate::error::{Error, Kind};
use crate::source::{BlobBody, BlobSource, Piece, Tail};

fn of_registry(error: ::registry::Error) -> Error {
    let kind = match error.kind() {
        ::registry::Kind::Timeout => Kind::Timeout,
        ::registry::Kind::Unauthorized
        | ::registry::Kind::Forbidden
        | ::registry::Kind::NotFound
        | ::registry::Kind::RangeNotSatisfiable
        | ::registry::Kind::Protocol => Kind::Refused,
        _ => Kind::Source,
    };
    // Its text is whole: method, address, cause, attempts.
    Error::new(kind, error.to_string())
}

/// A layer of an image in a registry.
#[derive(Clone, Debug)]
pub struct RegistryLayer {
    client: ::registry::Client,
    reference: ::registry::Reference,
    manifest: Option<Digest>,
    digest: Digest,
    blob: ::registry::Blob,
}

impl RegistryLayer {
    /// The layer `digest` of the image `reference`. The digest of the image's manifest, where it is known, pins what
    /// the manifest says of the layer.
    pub fn new(
        client: &::registry::Client,
        reference: &::registry::Reference,
        manifest: Option<Digest>,
        digest: Digest,
    ) -> RegistryLayer {
        let blob = client.blob(reference, &digest);
        RegistryLayer { client: client.clone(), reference: reference.clone(), manifest, digest, blob }
    }
}

#[async_trait]
impl BlobSource for RegistryLayer {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        self.blob.tail(len).await.map_err(of_registry).map(of_tail)
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        BlobSource::read(&self.blob, range).await
    }

    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Option<Box<dyn BlobBody>>, Error> {
        BlobSource::read_many(&self.blob, ranges).await
    }

    async fn annotations(&self) -> Result<BTreeMap<String, String>, Error> {
        let found =
            self.client.layer_annotations(&self.reference, self.manifest.as_ref(), &self.digest).await;
        Ok(found.map_err(of_registry)?.unwrap_or_default())
    }

    async fn external_toc(&self) -> Result<Option<Arc<dyn BlobSource>>, Error> {
        let found = self.client.external_toc(&self.reference, &self.digest).await.map_err(of_registry)?;
        Ok(found.map(|blob| Arc::new(blob) as Arc<dyn BlobSource>))
    }

    async fn check(&self) -> Result<(), Error> {
        self.blob.check().await.map_err(of_registry)
    }

    fn place(&self) -> String {
        self.blob.place()
    }
}

pub(super) fn of_tail(tail: ::registry::Tail) -> Tail {
    Tail { blob_size: tail.blob_size, bytes: tail.bytes }
}

#[async_trait]
impl BlobSource for ::registry::Blob {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        ::registry::Blob::tail(self, len).await.map_err(of_registry).map(of_tail)
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        ::registry::Blob::read(self, range).await.map_err(of_registry).map(Body::boxed)
    }

    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Option<Box<dyn BlobBody>>, Error> {
        match ::registry::Blob::read_many(self, ranges).await.map_err(of_registry)? {
            ::registry::MultiRange::Pieces(pieces) => Ok(Some(Box::new(Parts(pieces)))),
            ::registry::MultiRange::Unsupported => Ok(None),
        }
    }

    fn place(&self) -> String {
        ::registry::Blob::place(self)
    }
}

/// An answer to one range.
#[derive(Debug)]
pub(super) struct Body {
    body: ::registry::RangeBody,
    position: u64,
}

impl Body {
    pub(super) fn boxed(body: ::registry::RangeBody) -> Box<dyn BlobBody> {
        let position = body.offset;
        Box::new(Body { body, position })
    }
}

#[async_trait]
impl BlobBody for Body {
    fn whole(&self) -> bool {
        self.body.whole
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let Some(bytes) = self.body.next().await.map_err(of_registry)? else { return Ok(None) };
        let offset = self.position;
        self.position += bytes.len() as u64;
        Ok(Some(Piece { offset, bytes }))
    }
}

/// An answer to several ranges.
#[derive(Debug)]
struct Parts(::registry::Pieces);

#[async_trait]
impl BlobBody for Parts {
    fn whole(&self) -> bool {
        self.0.whole()
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let piece = self.0.next().await.map_err(of_registry)?;
        Ok(piece.map(|piece| Piece { offset: piece.offset, bytes: piece.bytes }))
    }
}
