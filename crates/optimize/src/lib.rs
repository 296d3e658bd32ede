//! What an image's author wants of it: a workload that is watched, or a list of files.
//!
//! [`files`] tells the files of an image, for a list to select from. [`Workload`] becomes an OCI runtime specification, from the image's
//! configuration and what a person said. [`watch`] runs it under containerd: the image is unpacked with an ordinary
//! snapshotter, its files are mounted where a [`recorder::Recorder`] watches them, and the container gets that mount as its
//! root, so that hooks before its start are seen as well.
#![forbid(unsafe_code)]

mod error;
mod files;
mod output;
mod rootfs;
mod run;
mod spec;
mod unpack;
mod users;

pub use error::Error;
pub use files::Names;
pub use run::{Image, Options, Until, Watched, files, watch};
pub use spec::{Mount, SpecError, Workload};
