//! What can go wrong at the kernel boundary, in words a person can act on.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// A failed operation of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, a verb and its object.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer of the kernel.
        source: io::Error,
    },
    /// An image cannot be served.
    #[error("cannot serve the image {}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: erofs::reader::ReadError,
    },
    /// A mount was refused.
    #[error("cannot mount {fs} on {}: {step} failed{kernel_log}", target.display())]
    Mount {
        /// The filesystem type.
        fs: &'static str,
        /// Where it was to appear.
        target: PathBuf,
        /// The step that failed, with its argument.
        step: String,
        /// The kernel's own words, empty or starting with `: `. EROFS reports defects of an image to the kernel's
        /// ring buffer (`dmesg`) instead.
        kernel_log: String,
        /// The answer of the kernel.
        source: io::Error,
    },
    /// The kernel and we could not agree on a protocol.
    #[error("FUSE handshake for {} failed: {reason}", target.display())]
    Handshake {
        /// Where the session was to be mounted.
        target: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A descriptor that was to be taken over is no FUSE device.
    #[error("descriptor handed over for {} is not /dev/fuse", target.display())]
    NotFuse {
        /// Where the session is said to be mounted.
        target: PathBuf,
    },
    /// A session that was kept is not the one to go on with.
    #[error("cannot take over the FUSE session of {}: {reason}", target.display())]
    NotTaken {
        /// Where the session is said to be mounted.
        target: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The threads of a session could not be started.
    #[error("cannot start serving FUSE requests")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused to resend what is in flight (Linux before 6.9 cannot). Readers that waited during the
    /// take-over go on waiting; unmounting ends them.
    #[error("kernel cannot resend FUSE requests in flight")]
    Resend {
        /// The answer of the kernel.
        source: io::Error,
    },
    /// A node number or a name that cannot be added.
    #[error("cannot serve file {name:?} as node {node}: {reason}")]
    Rejected {
        /// The node asked for.
        node: u64,
        /// The name asked for.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

impl Error {
    /// The errno behind the error, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::File { source, .. }
            | Self::Mount { source, .. }
            | Self::Start { source }
            | Self::Resend { source } => source.raw_os_error(),
            Self::Image { .. }
            | Self::Handshake { .. }
            | Self::NotFuse { .. }
            | Self::NotTaken { .. }
            | Self::Rejected { .. } => None,
        }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self::File { action, path: path.into(), source: errno.into() }
    }
}
