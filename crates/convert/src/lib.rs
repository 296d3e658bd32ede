//! Images to lazily pullable images, without a daemon and without a network.
//!
//! [`layout`] reads and writes images on disk: OCI image layouts, and archives of them and of `docker save`. [`image`]
//! converts an image from any [`Source`] into a layout: every layer becomes a blob of the `builder` crate, and the config,
//! the manifests and the index follow, with all that is not known here kept as it was.
//!
//! Blobs are read as streams, and nothing that was made of one is kept before its size and digest were found right.
//! Everything is blocking; layers are converted side by side on threads of their own.
#![forbid(unsafe_code)]

pub mod image;
pub mod layout;
pub mod record;

mod descriptor;
mod media;
mod source;
mod stop;
mod target;

pub use descriptor::{Descriptor, ParsePlatformError, Platform};
pub use source::{BlobError, Source};
pub use target::{NewBlob, Target, TargetError};
