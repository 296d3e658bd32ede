//! containerd's snapshots service, version 1, over a filesystem that mounts layers lazily.
//!
//! A [`Snapshotter`] keeps ordinary overlay snapshots as containerd's own snapshotter does, so any image works.
//! Where containerd names, on Prepare, the layer that it is about to unpack, a [`FileSystem`] is asked to mount that
//! layer instead; if it can, the layer is committed at once and never downloaded.
//!
//! Knows snapshots, directories, mounts by path and containerd's protobufs. Does not know images, registries or how
//! a layer gets mounted.

mod dirs;
mod error;
mod filter;
mod fs;
mod idmap;
mod labels;
mod layers;
mod mountinfo;
mod mounts;
pub mod proto;
mod service;
mod snapshotter;
mod store;
mod usage;
mod userxattr;

pub use error::{Error, FailedLayer};
pub use fs::{FileSystem, FsError};
pub use idmap::{IdMap, IdRange};
pub use service::{serve, service};
pub use snapshotter::{CloseReport, Options, RestoreReport, Snapshotter};
pub use store::Usage;
pub use userxattr::needed as needs_user_xattrs;
