//! Client of OCI registries: references, hosts and mirrors, credentials, manifests, reading blobs by ranges, and
//! pushing.
//!
//! Follows the OCI distribution specification 1.1, the token protocol of the distribution project, and, where
//! registries in use differ from both, what those do. It knows HTTP and nothing of what layers hold; the
//! content of blobs is verified by who reads it, that of manifests and configs here.
//!
//! - A [`Reference`] names an image; a [`Client`] resolves it to an [`Image`] and gives [`Blob`]s to read
//!   from, one range or several at a time.
//! - Hosts are tried in order: mirrors, what containerd's `hosts.toml` or CRI settings say, the host itself. One
//!   that failed is asked last for a while. What may succeed later is tried again within a budget of time.
//! - Who we are to a host is found out from its challenges and the [`Keychain`]s, all of whose credentials are
//!   tried, and kept until it expires. A credential that was refused is not sent again for a while.
//! - Where a host redirects to is remembered for a blob until it stops to serve. Redirects never lose
//!   encryption, never carry credentials to another host, and never lead to link-local addresses.
//! - A [`Pusher`] writes: blobs that are asked for, mounted, or sent and resumed; manifests; artifacts that refer
//!   to an image.
//! - An [`IpfsBlob`] is read from a node of IPFS instead of a registry.
//!
//! Nothing here reads the environment or a configuration file, except the docker config and the directories
//! that the caller names, and what the HTTP library honours by itself: proxy variables (never for loopback
//! hosts) and the system's certificates. Secrets and the queries of URLs, which may be signatures, appear in no
//! error and no log line, and the memory of secrets that are kept is overwritten when they are dropped.
#![forbid(unsafe_code)]

mod answer;
mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod credential;
mod cri;
mod descriptor;
mod dns;
mod docker_config;
mod document;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod hosts;
mod http;
mod ipfs;
mod kept;
mod layers;
mod manifest;
mod multi;
mod multipart;
mod options;
mod payload;
mod push;
mod quirks;
mod range;
mod reference;
mod retry;
mod rounds;
mod secret;
mod transport;

pub use blob::{Blob, Tail};
pub use body::RangeBody;
pub use client::Client;
pub use credential::{Credential, Keychain, KeychainError};
pub use cri::{CriAuth, CriConfigKeychain, CriHost, CriRegistry, CriTls};
pub use descriptor::{Descriptor, Platform};
pub use docker_config::DockerConfig;
pub use error::{Error, Kind, Result};
pub use ipfs::IpfsBlob;
pub use manifest::Image;
pub use multi::{MultiRange, Piece, Pieces};
pub use options::{HostOptions, Mirror, Options, Retry};
pub use push::{Artifact, Pushed, Pusher, Referrer, Upload};
pub use reference::Reference;
pub use secret::Secret;
