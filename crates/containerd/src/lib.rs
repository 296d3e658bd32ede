//! A client of containerd's API: what is needed to read, make and run images. For containerd 1.6 to 2.x.
//!
//! [`Client::connect`] gives a [`Client`]; it is a handle that is cloned freely, and speaks for one namespace and, after
//! [`Client::under`], for one lease. Each service is a method that gives the calls: `client.content().info(…)`.
//!
//! Calls end with an [`Error`] that says what was tried on what; [`Error::kind`] is for decisions. All have a deadline but
//! those whose documentation says otherwise. Dropping a future gives up the call.
#![forbid(unsafe_code)]

mod client;
mod content;
mod diff;
mod error;
mod images;
mod ingest;
mod leases;
mod proto;
mod runtime;
mod snapshots;
mod system;

pub use client::{Client, ConnectOptions, DEFAULT_ADDRESS, DEFAULT_NAMESPACE};
pub use content::{Content, Reading};
pub use diff::Diff;
pub use error::{Error, ErrorKind};
pub use images::Images;
pub use ingest::{CHUNK, Ingest};
pub use leases::Leases;
pub use runtime::{Containers, OCI_SPEC_TYPE, Tasks};
pub use snapshots::Snapshots;
pub use system::System;

/// containerd's own messages, as they are on the wire.
pub use proto::containers::{Container, container::Runtime};
pub use proto::content::{Info as Blob, Status as Ingesting};
pub use proto::images::Image;
pub use proto::introspection::Plugin;
pub use proto::leases::{Lease, Resource};
pub use proto::namespaces::Namespace;
pub use proto::process::{Process, ProcessInfo, Status as ProcessStatus};
pub use proto::snapshots::{Info as Snapshot, Kind as SnapshotKind};
pub use proto::tasks::{CreateTaskRequest as NewTask, DeleteResponse as Exit, WaitResponse as Waited};
pub use proto::version::VersionResponse as Version;

/// Free key-value pairs of a resource.
pub type Labels = std::collections::HashMap<String, String>;

/// What points at a blob.
pub use proto::types::Descriptor;
/// The arguments of one mount(2).
pub use proto::types::Mount;
