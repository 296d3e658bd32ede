//! A lazily filled layer: the sparse EROFS image of a layer, and the engine that fills it.
//!
//! This is the only crate in which bytes from outside become bytes that a container can see, so it is the only one
//! that verifies. It never hands out a byte that it did not check against the layer's table of contents (TOC), and
//! the TOC itself is checked against the digest that the image's manifest pins.
//!
//! The rooms, in the order in which a read passes them:
//!
//! - [`Layer`]: answers reads of the data area from the image file, or asks the engine to fill what is missing;
//! - [`fetch`]: the engine: what to ask the blob store for, when, and what becomes of the answers;
//! - [`image`]: the files on disk: image, chunk table, bitmap of filled chunks, description;
//! - [`Layers`]: from a layer digest to its [`Layer`], from disk where it is there, else from its blob's TOC;
//! - [`cache`]: how much of the disk layers may take, and what goes when that is too much;
//! - [`source`]: what the engine needs of a blob store.
//!
//! It knows nothing of FUSE, mounts, snapshots or configuration files.

mod background;
mod build;
pub mod cache;
mod error;
pub mod fetch;
mod flush;
pub mod image;
mod layer;
mod layers;
mod look;
mod resolve;
pub mod source;
pub mod tally;

pub use background::Background;
pub use cache::CacheBudget;
pub use error::{Error, Kind};
pub use layer::{BlobDigest, Filled, Layer, Progress};
pub use layers::{Layers, LayersOptions, Pin, Resolved};
