//! A repository as a place for a new image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use format::Digest;
use registry::{Client, Error, Kind, Pusher, Reference, Upload};
use tokio::runtime::Handle;

use crate::descriptor::Descriptor;
use crate::image::TOC_NAME_SUFFIX;
use crate::media;
use crate::target::{NewBlob, Target, TargetError};

/// A repository of a registry, to be written. A blob is a file without a name until it is whole, and is sent then; a tag
/// is written last, so that it names all or nothing. Blobs that were sent when a conversion fails stay with the registry,
/// are found there by the next attempt, and go when the registry collects garbage.
#[derive(Debug)]
pub struct RemoteTarget {
    pusher: Pusher,
    runtime: Handle,
    temporary: PathBuf,
    /// What a tag may be given to.
    manifests: Mutex<HashMap<Digest, (String, Bytes)>>,
}

impl RemoteTarget {
    /// The repository of `reference`. Blobs are mounted from the repository of `source` if that is on the same host.
    /// Files that are to be sent are made in `temporary`.
    ///
    /// # Errors
    /// [`Kind::InvalidReference`] if the reference has a digest or no tag: what its image will be is not known before it
    /// is made.
    pub fn new(
        client: &Client,
        reference: &Reference,
        source: Option<&Reference>,
        temporary: &Path,
        runtime: Handle,
    ) -> Result<RemoteTarget, Error> {
        reference.check_tagged()?;
        let mut pusher = client.pusher(reference);
        if let Some(source) = source {
            pusher = pusher.mounting_from(source);
        }
        Ok(RemoteTarget { pusher, runtime, temporary: temporary.to_owned(), manifests: Mutex::default() })
    }

    /// Gives the image the tag of the reference, and its TOC image, if there is one, that with
    /// [`TOC_NAME_SUFFIX`](crate::image::TOC_NAME_SUFFIX), which is first.
    ///
    /// # Errors
    /// What all requests can fail with.
    pub fn publish(&self, image: &Descriptor, toc_image: Option<&Descriptor>) -> Result<(), TargetError> {
        let reference = self.pusher.reference();
        if let Some(toc_image) = toc_image {
            let name = reference.with_tag_suffix(TOC_NAME_SUFFIX);
            let tag = name.as_ref().and_then(Reference::tag).ok_or_else(|| {
                let text = format!("{reference}: the tag is too long for {TOC_NAME_SUFFIX} to follow it");
                TargetError::store(text)
            })?;
            self.tag(toc_image, tag)?;
        }
        self.tag(image, reference.tag().unwrap_or("latest"))
    }

    fn tag(&self, image: &Descriptor, tag: &str) -> Result<(), TargetError> {
        let manifest = self.lock().get(&image.digest).cloned();
        let Some((media_type, bytes)) = manifest else {
            return Err(TargetError::store(format!("the manifest {} was not written here", image.digest)));
        };
        let pushing = self.pusher.push_manifest(&media_type, &bytes, Some(tag));
        self.runtime.block_on(pushing).map_err(TargetError::store)?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (String, Bytes)>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for RemoteTarget {
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError> {
        let file = tempfile::tempfile_in(&self.temporary).map_err(|source| TargetError::Io {
            action: "making a temporary file in",
            path: self.temporary.clone(),
            source,
        })?;
        Ok(Box::new(Spooled { target: self, file }))
    }

    fn adopt(&self, blob: &Descriptor) -> Result<bool, TargetError> {
        let adopted = self.runtime.block_on(self.pusher.adopt_blob(&blob.digest));
        adopted.map(|how| how.is_some()).map_err(TargetError::store)
    }

    fn put(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError> {
        let bytes = Bytes::copy_from_slice(bytes);
        if !media::is_manifest(media_type) {
            let pushing = self.runtime.block_on(self.pusher.push_blob(digest, &Upload::bytes(bytes)));
            return pushing.map(drop).map_err(TargetError::store);
        }
        let pushing = self.pusher.push_manifest(media_type, &bytes, None);
        self.runtime.block_on(pushing).map_err(TargetError::store)?;
        self.lock().insert(*digest, (media_type.to_owned(), bytes));
        Ok(())
    }
}

/// A blob in a file that has no name, so that nothing is left however this ends.
struct Spooled<'a> {
    target: &'a RemoteTarget,
    file: File,
}

impl Write for Spooled<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewBlob for Spooled<'_> {
    fn keep(self: Box<Self>, blob: &Descriptor, _: Option<&Digest>) -> Result<(), TargetError> {
        let upload = Upload::file(self.file, blob.size);
        let pushed = self.target.runtime.block_on(self.target.pusher.push_blob(&blob.digest, &upload));
        pushed.map(drop).map_err(|error| match error.kind() {
            Kind::NotFound => {
                TargetError::store(format!("{error}; the registry does not know the repository"))
            }
            _ => TargetError::store(error),
        })
    }
}
