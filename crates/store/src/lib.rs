//! The additional layer store: a tree of paths in which container tools that use containers/storage (Podman, CRI-O,
//! Buildah, skopeo) find layers that they need not download.
//!
//! ```text
//! <mount point>/
//!   pool -> <root>/pool
//!   .layers/<layer>/               a layer, mounted
//!   <base64(image reference)>/
//!     <digest>/
//!       diff -> ../../.layers/<layer>
//!       info                       what the tool writes down of the layer, JSON
//!       blob                       the layer as the registry has it
//!       use                        never there: to create it says that the layer is used once more
//! ```
//!
//! The digest names a layer by what its manifest says of it: the digest of its table of contents or of the compressed table (Podman
//! 5, CRI-O 1.31 and later), or that of its blob (before). To remove the directory `<digest>` says that the layer is
//! used once less. Both end in `ENOENT`, which tells the tool that it was understood.
//!
//! Nothing is known of an image until somebody looks for one of its layers. What cannot be had, for whatever reason, is not
//! there (`ENOENT`), and the tool pulls it in its own way; a layer that is in use already and cannot be shown is an I/O
//! error. Failures are remembered for seconds.
//!
//! `diff` is a link and no mount point, since a layer has to be mounted before the question for it is answered, and nothing can
//! be mounted on a name whose question is not answered.
//!
//! Nothing here knows how layers are fetched, verified or mounted: that is the [`Engine`]'s.

mod engine;
mod image;
mod info;
mod names;
mod pool;
mod state;
mod store;

pub use engine::{Engine, Failure, Pin, Shown, Wanted};
pub use image::{Image, ImageLayer};
pub use store::{Options, Store};

#[cfg(test)]
mod tests;
