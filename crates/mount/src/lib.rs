//! The kernel boundary: everything that is said to the kernel about files and mounts is said here.
//!
//! A layer reaches a container in three steps, one module each:
//!
//! 1. [`Session`] is one mounted FUSE filesystem, [`ImageServer`] answers its requests: a flat directory with
//!    one read-only file for each layer, whose bytes come from a [`Source`].
//! 2. [`mount_erofs`] shows the tree of a layer: the local image file holds the metadata, the FUSE file is the
//!    extra device that holds the data. The kernel walks directories by itself and asks us for data only.
//! 3. [`mount_overlay_ro`] joins several layers.
//!
//! [`probe_erofs`] finds out by trying whether this kernel can do step 2, and [`mounts_below`] and [`unmount`]
//! serve restart and cleanup. `README.md` of this crate holds the measurements behind the defaults.
//!
//! Nothing here knows what a layer *is*, where its bytes come from, or how they are verified: a [`Source`] hands
//! out verified bytes or an error. Invariant of the crate: a read is answered with all bytes asked for (up to the
//! end of the file) or with an errno, never with fewer. The kernel would take a short answer for the end of the file and
//! show zeros.

mod device;
mod erofs;
mod error;
mod files;
mod fscontext;
mod images;
mod mounts;
mod overlay;
mod probe;
mod reply;
mod request;
mod session;
mod source;
mod wire;
mod workers;

pub use erofs::{ErofsOptions, mount_erofs};
pub use error::Error;
pub use images::{Ending, Image, ImageServer};
pub use mounts::{MountInfo, UnmountMode, bind, mounts_below, unmount};
pub use overlay::mount_overlay_ro;
pub use probe::{Reason, probe_erofs};
pub use session::{Negotiated, Session, SessionOptions};
pub use source::{BoxFuture, Fetched, Source};
