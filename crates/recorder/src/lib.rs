//! Records which files are touched below a mount, in order, and which parts of the large ones.
//!
//! That a file is touched is told by fanotify, through a mark on the whole file system instance: an overlay is one for
//! each container, and a mark on it sees what every process does through whichever copy of the mount, the container's own
//! and those of hooks before it starts alike. Directories are not told.
//!
//! Which *part* of a large file is touched, fanotify cannot tell: most large files are libraries, which are mapped, and
//! the events that carry ranges (`FAN_PRE_ACCESS`, Linux 6.14) are made for `read` and for `mmap` as a whole, not for
//! faults, and not on overlayfs (seen on 6.18: EOPNOTSUPP there; below it, one event for a mapping, with the range
//! 0 to the end). The page cache can: large files are dropped from it first, and what `mincore(2)` finds in it
//! later was touched, give or take the kernel's read-ahead (128 KiB by default). `cachestat(2)` would be shorter but
//! answers nothing for files of an overlay, whose pages belong to the file below.
//!
//! Nothing here knows images, layers or containers.

mod error;
mod kernel;
mod large;
mod record;
mod watch;

pub use error::Error;
pub use record::{Options, Recorder, Recording, Touched};
