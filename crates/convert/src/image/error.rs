//! Why an image cannot be converted.

use builder::BuildError;
use format::Digest;

use crate::source::BlobError;
use crate::target::TargetError;

/// Why an image cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The options ask for something that does not exist.
    #[error("{0}")]
    Options(&'static str),
    /// A blob of the image cannot be had, or is damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The new image cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A document of the image does not make sense.
    #[error("the {what} {digest} is not valid: {problem}")]
    Document {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Box<Digest>,
        /// What is wrong with it.
        problem: String,
    },
    /// The image is of a kind that has no layers, or one that is long out of use.
    #[error("{digest} is not an image that can be converted: {reason}")]
    NotAnImage {
        /// Its digest.
        digest: Box<Digest>,
        /// Why not.
        reason: String,
    },
    /// There is no image for a platform that was asked for.
    #[error("there is no image for {wanted}; there is: {there}")]
    NoSuchPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// A layer cannot be converted.
    #[error("converting the layer {digest}")]
    Layer {
        /// Its digest.
        digest: Box<Digest>,
        /// Why not.
        #[source]
        source: BuildError,
    },
    /// The config does not belong to the layers.
    #[error("the layer {layer} decompresses to {found}, but the config says {expected}")]
    DiffId {
        /// The layer.
        layer: Box<Digest>,
        /// What the config says.
        expected: Box<Digest>,
        /// What it is.
        found: Box<Digest>,
    },
    /// Files that were asked to be put first are in no image.
    #[error("not in the image, although they are to be put first: {}", .0.join(", "))]
    PrioritizedMissing(Vec<String>),
    /// The caller set the cancellation flag.
    #[error("cancelled")]
    Cancelled,
}
