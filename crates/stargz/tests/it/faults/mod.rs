//! Every class of fault of a network and a registry, and a reader of the whole tree that verifies every byte.
//!
//! - [`passing`]: faults that pass, or that another request gets around: the reader never sees them;
//! - [`lasting`]: faults that last longer than a read may take: EIO in time, for what is affected and nothing else, and
//!   all is right once the fault is gone;
//! - [`killed`]: the process dies in the middle of all that, and the next one goes on;
//! - [`background`]: nobody reads, and the layers become complete all the same;
//! - [`distribution`]: the same with the distribution project's registry.
//!
//! A case has a registry, a line to it, a mount and a process of its own. The cases of a table play side by side.

mod background;
mod distribution;
mod killed;
mod lasting;
mod passing;
mod stage;
