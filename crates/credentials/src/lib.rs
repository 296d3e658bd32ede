//! Where registry credentials come from on a node of a cluster: kubelet credential-provider plugins, secrets of
//! the Kubernetes API, and what the container runtime interface was told.
//!
//! - [`KubeletPlugins`] runs the programs that the kubelet's own `CredentialProviderConfig` names, so that short
//!   lived tokens of cloud registries are renewed by who knows how.
//! - [`KubernetesSecrets`] follows the image pull secrets of all namespaces.
//! - [`CriKeychain`] remembers the credentials of the `PullImage` calls that a [`CriProxy`] passes on to the
//!   container runtime, over a restart too if it is told where.
//! - [`HandedKeychain`] has what Podman, CRI-O and Buildah hand over before they pull, by a program of theirs that
//!   talks to [`serve_handed`] through [`hand_over`].
//!
//! Each is a [`registry::Keychain`], to be given to a [`registry::Client`], which asks all of them at once and hides
//! none behind one that is broken or slow. No secret is part of an error, a log line or a `Debug` text, and what is
//! held as a [`registry::Secret`] is wiped when it is dropped. Buffers of the HTTP and gRPC libraries through which
//! secrets arrive are not ours to wipe.
#![forbid(unsafe_code)]

mod credential;
mod cri;
mod docker_auth;
mod error;
mod files;
mod go_duration;
mod handed;
mod kubelet;
mod kubernetes;
mod pattern;
mod program;
mod seal;
mod yaml;

pub use cri::{Beside, CriKeychain, CriOptions, CriProxy, PersistOptions};
pub use error::{Error, ProgramError};
pub use handed::{HandOverError, HandedKeychain, hand_over, serve_handed};
pub use kubelet::{KubeletOptions, KubeletPlugins};
pub use kubernetes::{InCluster, KubernetesOptions, KubernetesSecrets};
