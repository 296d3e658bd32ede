//! What the snapshotter asks of a lazily mounting filesystem.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use crate::{IdMap, Usage};

/// Shows layers at directories before their content is here.
///
/// The snapshotter owns this trait and calls it from many tasks at once, for one mountpoint never twice at the
/// same time. Each call has a deadline, after which its future is dropped.
#[async_trait]
pub trait FileSystem: Send + Sync + fmt::Debug + 'static {
    /// Mounts the layer that `labels` describe at `mountpoint`, an existing empty directory.
    ///
    /// `labels` are all the labels that containerd gave to the snapshot. After an error nothing is left mounted.
    /// An implementation should end its attempt when the future is dropped; a mount that appears later all the
    /// same is taken down with the directory.
    ///
    /// # Errors
    /// Whatever keeps this layer from being mounted lazily, such as labels that name no image, a blob in another
    /// format or a registry that does not answer. The snapshotter then lets containerd unpack the layer.
    async fn mount(&self, mountpoint: &Path, labels: &HashMap<String, String>) -> Result<(), FsError>;

    /// Checks that the layer mounted at `mountpoint` can be read now.
    ///
    /// # Errors
    /// If reads would fail; no container is started on the layer then.
    async fn check(&self, mountpoint: &Path, labels: &HashMap<String, String>) -> Result<(), FsError>;

    /// Unmounts `mountpoint` and lets go of the layer.
    ///
    /// # Errors
    /// If nothing is mounted there, or if it stays mounted. The snapshotter then detaches what the kernel still
    /// shows there by itself.
    async fn unmount(&self, mountpoint: &Path) -> Result<(), FsError>;

    /// Whether what a former process left mounted at `mountpoint` is served by this one, and stays. Asked at the start of
    /// [`Snapshotter::restore`](crate::Snapshotter::restore), which calls [`mount`](FileSystem::mount) for it all the same.
    fn survives(&self, mountpoint: &Path) -> bool {
        let _ = mountpoint;
        false
    }

    /// What the layer mounted at `mountpoint` takes on the local disk now, `None` if nothing is known of it. Called on
    /// a thread that may block for a moment, but not for walking the layer: that would fetch it.
    fn usage(&self, mountpoint: &Path) -> Option<Usage> {
        let _ = mountpoint;
        None
    }

    /// A directory to be the lowest one in overlays of the layers mounted at `mountpoints`, the topmost first. It has to
    /// stay as long as the topmost of them, and adds what the filesystem wants containers to find. Called on a thread that
    /// may block for a moment.
    fn below(&self, mountpoints: &[PathBuf]) -> Option<PathBuf> {
        let _ = mountpoints;
        None
    }

    /// Shows the directory `source`, a layer of any kind or what [`below`](FileSystem::below) gave, at the existing empty
    /// directory `target` as well, with owners translated by `map`. The snapshotter unmounts it. Called on a thread that may
    /// block for a moment.
    ///
    /// # Errors
    /// If the kernel cannot do that.
    fn show_mapped(&self, source: &Path, target: &Path, map: &IdMap) -> Result<(), FsError> {
        let _ = (source, map);
        Err(FsError::new(format!("nothing can be shown with other owners at {}", target.display())))
    }
}

/// Why a [`FileSystem`] could not do what it was asked: a message and the reasons behind it.
///
/// Cloneable, since several callers may wait for one attempt.
#[derive(Debug, Clone)]
pub struct FsError {
    message: String,
    source: Option<Arc<FsError>>,
}

impl FsError {
    /// An error without a deeper reason.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Keeps the messages of `error` and of everything behind it.
    pub fn from_error(error: &(dyn StdError + 'static)) -> Self {
        let source = error.source().map(|source| Arc::new(Self::from_error(source)));
        Self { message: error.to_string(), source }
    }

    /// Puts `message`, what was being tried, in front of this error.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), source: Some(Arc::new(self)) }
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for FsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
