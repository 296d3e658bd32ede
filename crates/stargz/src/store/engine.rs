//! The daemon's way to layers, for the layer store.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use layer::source::{BlobSource, RegistryLayer};
use mount::Source;
use registry::{Descriptor, Platform, Reference};
use store::{Engine, Failure, Image, Pin, Shown, Wanted};

use super::blob::{BlobFile, Windows};
use crate::labels::{LayerSource, Neighbour};
use crate::lazyfs::LazyFs;
use crate::pins;

/// Shows layers as the daemon does, and reads their blobs.
#[derive(Debug)]
pub struct LazyEngine {
    fs: Arc<LazyFs>,
    ipfs: bool,
    windows: Arc<Windows>,
}

impl LazyEngine {
    /// Shows layers by `fs`.
    pub fn new(fs: Arc<LazyFs>, ipfs: bool) -> LazyEngine {
        LazyEngine { fs, ipfs, windows: Arc::new(Windows::new()) }
    }

    fn source_of(&self, wanted: &Wanted) -> LayerSource {
        let descriptor = &wanted.layer.descriptor;
        let (toc_digest, compressed_toc_digest) = match wanted.pin {
            Pin::Toc(digest) => (Some(digest), None),
            Pin::CompressedToc(digest) => (None, Some(digest)),
        };
        LayerSource {
            reference: wanted.reference.clone(),
            digest: descriptor.digest,
            manifest: Some(wanted.manifest),
            toc_digest,
            compressed_toc_digest,
            skip_verify: false,
            prefetch_size: None,
            ipfs: self.ipfs_of(descriptor),
            neighbours: Vec::new(),
        }
    }

    fn ipfs_of(&self, descriptor: &Descriptor) -> Option<String> {
        descriptor.urls.iter().find(|url| self.ipfs && url.starts_with("ipfs://")).cloned()
    }

    /// Begins to resolve all layers of an image that can be pulled lazily: clients ask for one after the other.
    fn begin(&self, reference: &Reference, image: &registry::Image) {
        let lazy =
            |layer: &&Descriptor| pins::of_annotations(&layer.annotations).is_ok_and(|pin| pin.is_some());
        let neighbours = image
            .layers
            .iter()
            .filter(lazy)
            .map(|layer| Neighbour { digest: layer.digest, ipfs: self.ipfs_of(layer) });
        self.fs.resolve_image_ahead(reference, image.manifest.digest, &neighbours.collect::<Vec<_>>());
    }
}

#[async_trait]
impl Engine for LazyEngine {
    async fn image(&self, reference: &Reference) -> Result<Image, Failure> {
        let found = self.fs.client().image(reference, &Platform::host()).await;
        let image = found.map_err(|error| Failure::Image(error.to_string()))?;
        self.begin(reference, &image);
        let registry::Image { manifest, manifest_bytes, config_bytes, layers, .. } = image;
        Ok(Image::new(manifest.digest, manifest_bytes, config_bytes, layers))
    }

    async fn show(&self, wanted: &Wanted, at: &Path) -> Result<Shown, Failure> {
        let shown = self.fs.show(&self.source_of(wanted), at).await;
        let layer = shown.map_err(|error| Failure::Layer(error.to_string()))?;
        Ok(Shown {
            compression: layer.compression(),
            toc: layer.toc_digest(),
            compressed_toc: layer.compressed_toc_digest(),
            size: layer.data_len(),
        })
    }

    async fn hide(&self, at: &Path) -> Result<(), Failure> {
        self.fs.hide(at).await.map_err(|error| Failure::Layer(error.to_string()))
    }

    async fn settled(&self) {
        self.fs.remove_orphans().await;
    }

    fn blob(&self, wanted: &Wanted) -> Arc<dyn Source> {
        let descriptor = &wanted.layer.descriptor;
        let source = RegistryLayer::new(
            &self.fs.client(),
            &wanted.reference,
            Some(wanted.manifest),
            descriptor.digest,
        );
        let source: Arc<dyn BlobSource> = Arc::new(source);
        Arc::new(BlobFile::new(source, descriptor.digest, descriptor.size, self.windows.clone()))
    }
}
