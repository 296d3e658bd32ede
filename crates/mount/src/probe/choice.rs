//! Which way of showing trees to use.

use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tokio::runtime::Handle;

use super::{Reason, probe_erofs, probe_erofs_loop, probe_fuse};
use crate::tree::TreeOptions;

/// A way of showing the tree of a layer. All of them read the same files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The kernel mounts the image file: [`mount_erofs`](crate::mount_erofs).
    Erofs,
    /// The kernel mounts it through a loop device: [`mount_erofs_loop`](crate::mount_erofs_loop).
    ErofsLoop,
    /// We serve it: [`TreeServer`](crate::TreeServer).
    Fuse,
}

impl Backend {
    /// The best first.
    pub const ALL: [Backend; 3] = [Backend::Erofs, Backend::ErofsLoop, Backend::Fuse];

    fn probe(self, dir: &Path, options: &TreeOptions, runtime: &Handle) -> Result<(), Reason> {
        match self {
            Backend::Erofs => probe_erofs(dir),
            Backend::ErofsLoop => probe_erofs_loop(dir),
            Backend::Fuse => probe_fuse(dir, options, runtime),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Erofs => "erofs",
            Backend::ErofsLoop => "erofs-loop",
            Backend::Fuse => "fuse",
        })
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        let known = Backend::ALL.into_iter().find(|backend| backend.to_string() == name);
        known.ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

/// A name that no backend has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no backend {0:?}, only \"erofs\", \"erofs-loop\" and \"fuse\"")]
pub struct UnknownBackend(pub String);

/// What was chosen, and why. Shown as one line.
#[derive(Debug)]
pub struct Choice {
    /// What works, and is the best that does.
    pub backend: Backend,
    /// Whether nothing else was tried.
    pub forced: bool,
    /// The better ones that do not, and why.
    pub passed_over: Vec<(Backend, Reason)>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.forced, self.passed_over.as_slice()) {
            (true, _) => write!(f, "{} (forced)", self.backend),
            (false, []) => write!(f, "{}", self.backend),
            (false, passed_over) => write!(f, "{} ({})", self.backend, Passed(passed_over)),
        }
    }
}

/// Nothing works.
#[derive(Debug, thiserror::Error)]
#[error("layers cannot be shown here: {}", Passed(passed_over))]
pub struct NoBackend {
    /// What was tried, and why it does not work.
    pub passed_over: Vec<(Backend, Reason)>,
}

/// Chooses a backend for images in the existing directory `dir` by trying: one after the other, or `forced` alone.
/// `options` are those of the session of trees that [`Backend::Fuse`] would have. Nothing stays behind. Blocks, so call
/// it outside the threads of `runtime`.
///
/// # Errors
/// Why none of them works, or not the one that is forced.
pub fn choose_backend(
    dir: &Path,
    forced: Option<Backend>,
    options: &TreeOptions,
    runtime: &Handle,
) -> Result<Choice, NoBackend> {
    let mut passed_over = Vec::new();
    for backend in Backend::ALL {
        if forced.is_some_and(|forced| forced != backend) {
            continue;
        }
        match backend.probe(dir, options, runtime) {
            Ok(()) => return Ok(Choice { backend, forced: forced.is_some(), passed_over }),
            Err(reason) => passed_over.push((backend, reason)),
        }
    }
    Err(NoBackend { passed_over })
}

/// Reasons with what is behind them.
struct Passed<'a>(&'a [(Backend, Reason)]);

impl fmt::Display for Passed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (backend, reason)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}not {backend}: {reason}")?;
            let mut source = reason.source();
            while let Some(error) = source {
                write!(f, ": {error}")?;
                source = error.source();
            }
        }
        Ok(())
    }
}
