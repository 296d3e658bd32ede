//! A layer's data area as the kernel reads it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use layer::{Filled, Layer};
use mount::{BoxFuture, Fetched, Source};

/// A layer, and how its last fetch for a reader went.
#[derive(Debug)]
pub struct Served {
    /// The layer.
    pub layer: Arc<Layer>,
    /// Why the last fetch failed; `None` if it did not.
    failed: Mutex<Option<String>>,
}

impl Served {
    /// A layer of which nothing was read yet.
    pub fn new(layer: Arc<Layer>) -> Served {
        Served { layer, failed: Mutex::default() }
    }

    /// Why the last read that had to fetch something failed, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, failure: Option<String>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

impl Source for Served {
    fn size(&self) -> u64 {
        self.layer.data_len()
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.layer.read_local(offset, buf)
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async move {
            let filled = self.layer.fill(offset, len).await;
            self.note(filled.as_ref().err().map(ToString::to_string));
            match filled.map_err(io::Error::other)? {
                Filled::Stored => Ok(Fetched::Stored),
                Filled::Unkept(bytes) => Ok(Fetched::Unkept(bytes)),
            }
        })
    }
}
