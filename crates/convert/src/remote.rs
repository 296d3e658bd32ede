//! Images in registries, as a [`Source`] and as a [`Target`].
//!
//! What is here is blocking like the rest of the crate, and runs the registry's client on a runtime of the caller. It may not
//! be called from that runtime's own threads.

mod pull;
mod target;

use std::io::Read;
use std::ops::Range;

use registry::{Client, Kind, Reference};
use tokio::runtime::Handle;

use crate::descriptor::Descriptor;
use crate::media;
use crate::source::{BlobError, Source};

pub use target::RemoteTarget;

/// More bytes than a blob with a TOC has; hosts take larger ends of ranges for nonsense.
const TOC_BLOB_MAX: u64 = 1 << 40;

/// An image in a registry, to be read.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    client: Client,
    reference: Reference,
    runtime: Handle,
}

impl RemoteImage {
    /// The repository of `reference`. Makes no request.
    pub fn new(client: Client, reference: Reference, runtime: Handle) -> RemoteImage {
        RemoteImage { client, reference, runtime }
    }

    /// The reference that was given.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Finds the manifest or index that the reference names.
    ///
    /// # Errors
    /// Those of [`Client::manifest`].
    pub fn resolve(&self) -> Result<Descriptor, registry::Error> {
        let (found, _) = self.runtime.block_on(self.client.manifest(&self.reference))?;
        Ok(Descriptor::new(found.media_type, found.digest, found.size))
    }

    /// Finds the external TOC of a layer, in the image that is called as this one with
    /// [`TOC_NAME_SUFFIX`](crate::image::TOC_NAME_SUFFIX). None if there is none.
    ///
    /// # Errors
    /// Those of [`Client::external_toc`].
    pub fn external_toc(
        &self,
        layer: &format::Digest,
    ) -> Result<Option<Box<dyn Read + Send>>, registry::Error> {
        let blob = self.runtime.block_on(self.client.external_toc(&self.reference, layer))?;
        Ok(blob.map(|blob| {
            let pull = pull::Pull::start(&self.runtime, blob, 0..TOC_BLOB_MAX);
            Box::new(pull) as Box<dyn Read + Send>
        }))
    }

    fn failed(&self, descriptor: &Descriptor, error: registry::Error) -> BlobError {
        let digest = Box::new(descriptor.digest);
        match error.kind() {
            Kind::NotFound => BlobError::Missing { digest, place: self.reference.to_string() },
            _ => BlobError::Open { digest, source: error.into() },
        }
    }
}

impl Source for RemoteImage {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        if media::is_manifest(&descriptor.media_type) {
            let reference = self.reference.with_digest(descriptor.digest);
            let found = self.runtime.block_on(self.client.manifest(&reference));
            let (_, bytes) = found.map_err(|error| self.failed(descriptor, error))?;
            return Ok(Box::new(std::io::Cursor::new(bytes)));
        }
        // One byte more, so that a blob that is too long is found out.
        self.open_range(descriptor, 0..descriptor.size.saturating_add(1))
    }

    fn open_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let blob = self.client.blob(&self.reference, &descriptor.digest);
        if descriptor.size == 0 || range.is_empty() {
            return Ok(Box::new(std::io::empty()));
        }
        let mut pull = pull::Pull::start(&self.runtime, blob, range);
        pull.first().map_err(|error| self.failed(descriptor, error))?;
        Ok(Box::new(pull))
    }
}
