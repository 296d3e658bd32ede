//! One flag that ends all the work: set by the caller, or when a part of it fails.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether to go on. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    asked: Option<Arc<AtomicBool>>,
    stopped: Arc<AtomicBool>,
}

impl Stop {
    /// Is set when `asked` is, too.
    pub fn on(asked: Option<Arc<AtomicBool>>) -> Stop {
        Stop { asked, stopped: Arc::default() }
    }

    /// Ends the work.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to end. Passes on what the caller asks to the holders of [`Stop::flag`].
    pub fn is_set(&self) -> bool {
        if self.is_set_by_caller() {
            self.stop();
        }
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whether it is the caller who wants that.
    pub fn is_set_by_caller(&self) -> bool {
        self.asked.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// The flag alone, for those who know no more than a flag.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    /// An error when the work is to end.
    pub fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other(Stopped)) } else { Ok(()) }
    }
}

/// The work was ended.
#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled")
    }
}

impl std::error::Error for Stopped {}
