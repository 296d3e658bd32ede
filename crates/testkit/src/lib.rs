//! Test doubles and generators for the other crates. A dev-dependency only, so it panics where a test would.
//!
//! - [`tree`]: the model of a file tree, the simpler truth that everything else is compared with, and random trees.
//! - [`tarball`]: a tree as a tar archive and back (the naive untar).
//! - [`compare`]: a directory on disk as a tree, and what differs between two trees.
//! - [`estargz`]: a tar archive as an eStargz blob, honest or lying.
//! - [`zstdchunked`]: the same as a zstd:chunked blob, as `ctr-remote` or Podman write it.
//! - [`image`]: layers as an OCI image in memory.
//! - [`content`]: bytes that are served, from memory or computed.
//! - [`synthetic`]: layers of 20 GiB or 200,000 files, computed where they are read.
//! - [`registry`]: an OCI registry on the loopback interface that follows a script of faults.
//! - [`wan`]: a TCP proxy that is as slow as a long line.

pub mod compare;
pub mod content;
pub mod estargz;
pub mod image;
mod pace;
pub mod registry;
pub mod synthetic;
pub mod tarball;
pub mod tree;
pub mod wan;
mod worker;
pub mod zstdchunked;

pub use registry::Registry;
pub use wan::wan_proxy;
