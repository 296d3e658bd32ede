//! Images to lazily pullable images, without a daemon.
//!
//! [`layout`] reads and writes images on disk: OCI image layouts, and archives of them and of `docker save`; [`remote`]
//! those in registries. [`image`] converts an image from any [`Source`] to any [`Target`]: every layer becomes a blob of the `builder` crate, and the config,
//! the manifests and the index follow, with all that is not known here kept as it was.
//!
//! [`List`] selects files by names and patterns.
//!
//! [`examine`] tells what an image is made of, checks it, and compares it with another one.
//!
//! Blobs are read as streams, and nothing that was made of one is kept before its size and digest were found right.
//! Everything is blocking; layers are converted side by side on threads of their own.
#![forbid(unsafe_code)]

pub mod examine;
pub mod image;
pub mod layout;
pub mod record;
pub mod remote;

mod descriptor;
mod list;
mod media;
mod source;
mod stop;
mod target;

pub use descriptor::{Descriptor, ParsePlatformError, Platform};
pub use list::{List, ListError};
pub use source::{BlobError, Source};
pub use target::{NewBlob, Target, TargetError};
