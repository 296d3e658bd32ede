//! Keeps file descriptors over the death of the process that uses them.
//!
//! The state of a FUSE session lives in the kernel and belongs to the open `/dev/fuse`. While somebody holds a copy of that
//! descriptor, its server may be killed or replaced, and readers wait instead of failing. Two parties hold copies:
//!
//! - the *keeper*, a process of one thread and no runtime ([`run`]) that does nothing else. It knows who serves a
//!   descriptor by the open connection of that process, and **gives up** what nobody serves for longer than a deadline: the
//!   FUSE connection is aborted, so that its readers get an error. Without this end they would wait where no signal reaches
//!   them, and everything that looks at them in `/proc` with them.
//! - the *service manager*, if there is one with a descriptor store (`sd_notify(3)`, `FDSTORE=1`). It survives what
//!   kills the keeper, but never gives up by itself; so it gets only what the keeper has as well.
//!
//! [`Keeping`] is the side of the process that serves:
//!
//! ```no_run
//! # fn main() -> Result<(), keeper::Error> {
//! # use std::os::fd::AsFd;
//! let inherited = keeper::inherited();
//! let keeping = keeper::Keeping::open(keeper::Options::new("/run/example/keeper.sock"), inherited.kept)?;
//! let (fd, meta) = match keeping.take("session")? {
//!     // A former process was killed, or has left the session to us.
//!     Some(kept) => (kept.fd, kept.meta),
//!     None => (std::fs::File::open("/dev/fuse").expect("as an example").into(), b"what was agreed on".to_vec()),
//! };
//! // From now on the deadline does not run, until this process ends.
//! keeping.store("session", fd.as_fd(), &meta, None)?;
//! # Ok(()) }
//! ```
//!
//! The keeper is not told what a descriptor is. `meta` is opaque, and small.

mod abort;
mod client;
mod keeping;
mod manager;
mod server;
mod spawn;
mod table;
mod wire;

pub use keeping::{Keeping, Kept, Options};
pub use manager::{Inherited, Stored, inherited, let_go};
pub use server::{ServeOptions, run};
pub use wire::{META_MAX, NAME_MAX};

/// What can go wrong with keeping.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper cannot be reached or started, or the connection to it broke.
    #[error("cannot {action} the keeper at {}", address.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket of the keeper.
        address: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A descriptor is served by another process that lives.
    #[error("{name} is served by another process")]
    Busy {
        /// The name of the descriptor.
        name: String,
    },
    /// The keeper cannot do it.
    #[error("the keeper cannot {action} {name}: {why}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The name of the descriptor.
        name: String,
        /// Why.
        why: &'static str,
    },
}
