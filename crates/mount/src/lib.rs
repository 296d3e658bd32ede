//! The kernel boundary: everything that is said to the kernel about files and mounts is said here.
//!
//! A layer reaches a container in steps, one module each:
//!
//! 1. [`Session`] is one mounted FUSE filesystem, [`ImageServer`] answers its requests: a flat directory with
//!    one read-only file for each layer, whose bytes come from a [`Source`].
//! 2. [`mount_erofs`] shows the tree of a layer: the local image file holds the metadata, the FUSE file is the
//!    extra device that holds the data. The kernel walks directories by itself and asks us for data only.
//!    [`mount_erofs_loop`] does the same through loop devices, for kernels that mount EROFS from block devices only.
//! 3. [`mount_overlay`] joins several layers, and [`mount_idmapped`] shows one with other owners.
//!
//! Where the kernel mounts no EROFS at all, or not for us, [`TreeServer`] takes the place of the first two: one session
//! that shows the tree of each layer, read from the same image file. It also holds the files that report on layers
//! ([`StateDir`]), whatever shows the layers themselves.
//!
//! [`NameServer`] serves a tree whose entries are made up by the owner of the names ([`Names`]) when they are asked for, which
//! may take a while: an interface for programs that talk in paths.
//!
//! [`choose_backend`] finds out by trying what works, and [`mounts_below`] and [`unmount`]
//! serve restart and cleanup. `README.md` of this crate holds the measurements behind the defaults.
//!
//! Nothing here knows what a layer *is*, where its bytes come from, or how they are verified: a [`Source`] hands
//! out verified bytes or an error. Invariant of the crate: a read is answered with all bytes asked for (up to the
//! end of the file) or with an errno, never with fewer. The kernel would take a short answer for the end of the file and
//! show zeros.

mod device;
mod dirents;
mod erofs;
mod error;
mod files;
mod fscontext;
mod idmap;
mod images;
mod loop_device;
mod mounts;
mod names;
mod overlay;
mod probe;
mod reads;
mod reply;
mod request;
mod session;
mod source;
mod tree;
mod wire;
mod workers;

pub use erofs::{ErofsOptions, mount_erofs, mount_erofs_loop};
pub use error::Error;
pub use idmap::{IdMaps, IdRange, mount_idmapped};
pub use images::{Ending, Image, ImageServer};
pub use mounts::{MountInfo, UnmountMode, bind, mounts_below, unmount};
pub use names::{Content, Entry, NameOptions, NameServer, Names};
pub use overlay::{OverlayOptions, Upper, mount_overlay, mount_overlay_ro};
pub use probe::{
    Backend, Choice, NoBackend, Reason, UnknownBackend, choose_backend, lists_file_types, probe_erofs,
    probe_erofs_loop, probe_fuse,
};
pub use session::{Negotiated, Route, Session, SessionOptions, ToKeep};
pub use source::{BoxFuture, Fetched, Source};
pub use tree::{Caching, LayerTree, Root, StateContent, StateDir, Tree, TreeOptions, TreeServer};
