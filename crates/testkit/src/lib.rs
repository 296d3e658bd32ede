//! Test doubles and generators for the other crates. A dev-dependency only, so it panics where a test would.
//!
//! - [`tree`]: the model of a file tree, the simpler truth that everything else is compared with, and random trees.
//! - [`tarball`]: a tree as a tar archive and back (the naive untar).
//! - [`compare`]: a directory on disk as a tree, and what differs between two trees.
//! - [`estargz`]: a tar archive as an eStargz blob, honest or lying.
//! - [`image`]: layers as an OCI image in memory.
//! - [`registry`]: an OCI registry on the loopback interface that follows a script of faults.
//! - [`wan`]: a TCP proxy that is as slow as a long line.

pub mod compare;
pub mod estargz;
pub mod image;
mod pace;
pub mod registry;
pub mod tarball;
pub mod tree;
pub mod wan;
mod worker;

pub use registry::Registry;
pub use wan::wan_proxy;
