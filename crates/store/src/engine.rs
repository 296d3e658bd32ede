//! What the store needs of whoever fetches and mounts layers.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use format::{Compression, Digest};
use mount::Source;
use registry::Reference;
use serde::{Deserialize, Serialize};

use crate::image::{Image, ImageLayer};

/// What a layer's table of contents (TOC) must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// Its digest.
    Toc(Digest),
    /// The digest of its compressed bytes.
    CompressedToc(Digest),
}

/// A layer that somebody asks for. Enough to show it again after a restart, without asking any registry for manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image that it belongs to.
    pub reference: Reference,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// The layer.
    pub layer: ImageLayer,
    /// What its TOC must be.
    pub pin: Pin,
}

/// A layer that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// How the blob is compressed.
    pub compression: Compression,
    /// Digest of the TOC.
    pub toc: Digest,
    /// Digest of the compressed TOC, where it is known.
    pub compressed_toc: Option<Digest>,
    /// About how large the contents are, bytes.
    pub size: u64,
}

impl Shown {
    /// Whether the TOC is the one that is meant.
    pub(crate) fn is(&self, pin: &Pin) -> bool {
        match pin {
            Pin::Toc(digest) => self.toc == *digest,
            Pin::CompressedToc(digest) => self.compressed_toc == Some(*digest),
        }
    }
}

/// Why a layer cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is there, and cannot be pulled lazily.
    #[error("{0}")]
    NotLazy(String),
    /// This layer cannot be had now.
    #[error("{0}")]
    Layer(String),
    /// Nothing of the image can be had now.
    #[error("{0}")]
    Image(String),
}

/// Resolves, fetches, verifies and mounts.
///
/// Every call ends within a time of its own. A call whose future is dropped has no effect that stays, except on caches.
#[async_trait]
pub trait Engine: Debug + Send + Sync + 'static {
    /// The image that a registry has now, for this machine.
    ///
    /// # Errors
    /// There is no such image, or it cannot be had.
    async fn image(&self, reference: &Reference) -> Result<Image, Failure>;

    /// Mounts a layer at a directory on which nothing is mounted, once its TOC is known to be the right one.
    ///
    /// # Errors
    /// It cannot be pulled lazily, or not now. Nothing is left mounted.
    async fn show(&self, wanted: &Wanted, at: &Path) -> Result<Shown, Failure>;

    /// Unmounts what is shown at a directory.
    ///
    /// # Errors
    /// The kernel refuses; it is still shown.
    async fn hide(&self, at: &Path) -> Result<(), Failure>;

    /// After a start, all layers that clients use are shown: what else a former process left may go.
    async fn settled(&self) {}

    /// The blob of a layer, as the registry has it.
    fn blob(&self, wanted: &Wanted) -> Arc<dyn Source>;
}
