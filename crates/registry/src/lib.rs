//! Client of OCI registries, the pull side: references, hosts and mirrors, credentials, manifests, and
//! reading blobs by ranges.
//!
//! Follows the OCI distribution specification 1.1, the token protocol of the distribution project, and, where
//! registries in use differ from both, what those do. It knows HTTP and nothing of what layers hold; the
//! content of blobs is verified by who reads it, that of manifests and configs here.
//!
//! - A [`Reference`] names an image; a [`Client`] resolves it to an [`Image`] and gives [`Blob`]s to read
//!   from.
//! - Hosts are tried in order, mirrors first. What may succeed later is tried again within a budget of time.
//! - Who we are to a host is found out from its challenges and the [`Keychain`]s, and kept until it expires.
//! - Where a host redirects to is remembered for a blob until it stops to serve.
//!
//! Nothing here reads the environment or a configuration file, except the docker config that the caller names
//! and what the HTTP library honours by itself: proxy variables (never for loopback hosts) and the system's
//! certificates. Secrets and the queries of URLs, which may be signatures, appear in no error and no log
//! line.
#![forbid(unsafe_code)]

mod answer;
mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod credential;
mod descriptor;
mod docker_config;
mod document;
mod error;
mod hosts;
mod http;
mod manifest;
mod options;
mod range;
mod reference;
mod retry;
mod rounds;

pub use blob::{Blob, Tail};
pub use body::RangeBody;
pub use client::Client;
pub use credential::{Credential, Keychain, KeychainError};
pub use descriptor::{Descriptor, Platform};
pub use docker_config::DockerConfig;
pub use error::{Error, Kind, Result};
pub use manifest::Image;
pub use options::{HostOptions, Mirror, Options, Retry};
pub use reference::Reference;
