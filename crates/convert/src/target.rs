//! Where the blobs of a new image go.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use format::Digest;

use crate::descriptor::Descriptor;
use crate::layout::LayoutError;

/// A place where an image comes to be, blob by blob; each of them before the documents that name it.
///
/// Called from several threads. Giving the image a name is not a part of this: each kind of place has its own way, after
/// everything else.
pub trait Target: Sync {
    /// Begins a blob whose digest will be known when it is whole.
    ///
    /// # Errors
    /// When there is no place for it.
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError>;

    /// Makes a blob of the source a part of the target without its bytes, if it is there already, or the target can get it
    /// by itself. What is there under a digest is believed to have it.
    ///
    /// # Errors
    /// When that cannot be found out. Where it could be copied instead, the answer is `false`.
    fn adopt(&self, blob: &Descriptor) -> Result<bool, TargetError> {
        let _ = blob;
        Ok(false)
    }

    /// Writes a document (a config, a manifest, an index) or another small blob that was found to have this digest.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError>;
}

/// A blob that is being written. Dropped, it is gone.
pub trait NewBlob: Write + Send {
    /// Makes it a part of the target. Whoever calls this has found that it has the digest and the size of `blob`, and
    /// decompresses to `diff_id` if that is given.
    ///
    /// # Errors
    /// When it does not get there.
    fn keep(self: Box<Self>, blob: &Descriptor, diff_id: Option<&Digest>) -> Result<(), TargetError>;
}

/// Why something cannot be written to a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// To images on disk.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The system refuses.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// To a registry or another store, whose own words these are.
    #[error(transparent)]
    Store(Box<dyn Error + Send + Sync>),
}

impl TargetError {
    /// An error of a store that is not known here.
    pub fn store(error: impl Into<Box<dyn Error + Send + Sync>>) -> TargetError {
        TargetError::Store(error.into())
    }
}
