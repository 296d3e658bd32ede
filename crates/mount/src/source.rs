//! What a FUSE file shows: the seam between the kernel boundary and whoever owns the bytes of a layer.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How [`Source::fetch`] left the bytes it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// They are present: [`Source::read_local`] answers for the range now.
    Stored,
    /// They could not be kept (the disk is full, say) and are handed over instead: exactly the bytes of the range,
    /// from its first to its last. Any other length is answered with `EIO`.
    Unkept(Bytes),
}

/// The content of one read-only file of constant size, some of which may have to be fetched first.
///
/// Offsets and lengths are in bytes. The server asks only for ranges that lie inside `[0, size())`, up to 1 MiB each.
/// An [`io::Error`] that carries an errno reaches the reader as that errno, any other as `EIO`.
/// A panic in any method is answered with `EIO`.
pub trait Source: Debug + Send + Sync + 'static {
    /// The size of the file; asked once, when the file is added.
    fn size(&self) -> u64;

    /// Fills the whole of `buf` from `offset` if all these bytes are present, and says whether it did.
    ///
    /// Runs on a thread that serves other files as well: it may wait for a local disk, never for the network.
    /// What `buf` holds after `Ok(false)` or an error does not matter.
    ///
    /// # Errors
    /// When bytes that are present cannot be read.
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;

    /// Makes `[offset, offset + len)` present. Runs on the runtime given to the server; the server drops the future
    /// when the deadline of the read has passed or when it shuts down.
    ///
    /// # Errors
    /// When the bytes cannot be had, or fail verification.
    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>>;
}
