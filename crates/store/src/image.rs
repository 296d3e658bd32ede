//! What a manifest and a config say of an image's layers.

use bytes::Bytes;
use format::{ChunkedAnnotations, Digest};
use registry::Descriptor;
use serde::{Deserialize, Serialize};

use crate::engine::{Failure, Pin};

/// The annotation with the digest of the TOC of an eStargz layer.
const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation with the size of a layer's tar, in bytes.
const TAR_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its manifest.
    pub digest: Digest,
    /// The bytes of the manifest.
    pub manifest: Bytes,
    /// The bytes of the config.
    pub config: Bytes,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// A layer, as an image's manifest and config tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// What the manifest says.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed layer, which the config says and nobody has verified.
    pub diff_id: Option<Digest>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl Image {
    /// An image whose config is read for the digests of its uncompressed layers. A config that does not have one for each layer
    /// counts for none.
    pub fn new(digest: Digest, manifest: Bytes, config: Bytes, layers: Vec<Descriptor>) -> Image {
        let diff_ids =
            serde_json::from_slice::<Config>(&config).map_or(Vec::new(), |config| config.rootfs.diff_ids);
        let known = diff_ids.len() == layers.len();
        let diff_id = |index: usize| diff_ids.get(index).copied().filter(|_| known);
        let layers = layers
            .into_iter()
            .enumerate()
            .map(|(index, descriptor)| ImageLayer { descriptor, diff_id: diff_id(index) })
            .collect();
        Image { digest, manifest, config, layers }
    }

    /// The layer of this name and what its TOC must be; `None` if no layer has it.
    pub(crate) fn find(&self, name: &Digest) -> Option<Result<(&ImageLayer, Pin), Failure>> {
        let mut named = self.layers.iter().filter(|layer| layer.is_called(name));
        let layer = named.next()?;
        if named.next().is_some() {
            // A layer that is there twice would be stacked on itself, which overlayfs refuses.
            return Some(Err(Failure::NotLazy(format!("the image has layer {name} more than once"))));
        }
        Some(layer.pin(name).map(|pin| (layer, pin)))
    }
}

impl ImageLayer {
    fn toc_digest(&self) -> Option<Digest> {
        self.descriptor.annotations.get(TOC_DIGEST)?.parse().ok()
    }

    fn compressed_toc_digest(&self) -> Option<Digest> {
        let annotations = &self.descriptor.annotations;
        ChunkedAnnotations::read(|key| annotations.get(key).map(String::as_str)).ok()?.checksum
    }

    /// Whether the digest is one of those that clients have for the layer.
    fn is_called(&self, name: &Digest) -> bool {
        self.descriptor.digest == *name
            || self.toc_digest() == Some(*name)
            || self.compressed_toc_digest() == Some(*name)
    }

    /// What the TOC must be for whoever uses this name: the name itself if it is the TOC's, else what the manifest says.
    fn pin(&self, name: &Digest) -> Result<Pin, Failure> {
        let (toc, compressed) = (self.toc_digest(), self.compressed_toc_digest());
        if toc == Some(*name) {
            return Ok(Pin::Toc(*name));
        }
        if compressed == Some(*name) {
            return Ok(Pin::CompressedToc(*name));
        }
        if self.diff_id.is_none() {
            // Clients that use the blob's digest want to know the digest of its contents.
            return Err(Failure::NotLazy(format!("the image's config has no diff_id for layer {name}")));
        }
        toc.map(Pin::Toc).or(compressed.map(Pin::CompressedToc)).ok_or_else(|| {
            Failure::NotLazy(format!("layer {name} has no digest of a table of contents: an ordinary layer"))
        })
    }

    /// The size of the uncompressed layer, bytes, if whoever made the layer wrote it down.
    pub(crate) fn tar_size(&self) -> Option<u64> {
        self.descriptor.annotations.get(TAR_SIZE)?.parse().ok()
    }
}
