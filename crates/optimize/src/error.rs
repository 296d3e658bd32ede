//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::spec::SpecError;

/// A workload was not recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// containerd refuses something, or is gone.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The workload cannot be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// File accesses cannot be recorded.
    #[error(transparent)]
    Record(#[from] recorder::Error),
    /// The root file system cannot be mounted.
    #[error("mount the image's files at {}: {reason}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Temporary files cannot be made.
    #[error("make the workload's temporary files: {0}")]
    Temporary(#[source] io::Error),
    /// The image is not what it says.
    #[error(
        "unpack the image: layer {digest} has the diff ID {found}, the image's configuration says {expected}"
    )]
    DiffId {
        /// The layer.
        digest: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// The image has no layers, or another number of them than its configuration says.
    #[error("the image has {layers} layers, and its configuration has {diff_ids} diff IDs")]
    Layers {
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the configuration.
        diff_ids: usize,
    },
    /// It was told to stop.
    #[error("interrupted: nothing was recorded")]
    Interrupted,
    /// The workload does not end.
    #[error("the workload does not end although it was killed; see `ctr tasks ls` for {0}")]
    Immortal(String),
}
