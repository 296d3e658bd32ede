//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// A recording cannot begin, or was broken off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel gives no fanotify group. Needs CAP_SYS_ADMIN in the initial user namespace and CONFIG_FANOTIFY.
    #[error(
        "record file accesses by fanotify: {0}; this needs root outside of a user namespace, and a kernel with \
         CONFIG_FANOTIFY"
    )]
    Init(#[source] io::Error),
    /// The file system cannot be watched.
    #[error("watch the file system at {}: {source}", path.display())]
    Mark {
        /// The mount.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The directory cannot be read.
    #[error("look for large files at {}: {source}", path.display())]
    Walk {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Events cannot be had any more.
    #[error("read file accesses from fanotify: {0}")]
    Read(#[source] io::Error),
    /// No thread for the recording.
    #[error("start a thread for the recording: {0}")]
    Thread(#[source] io::Error),
}
