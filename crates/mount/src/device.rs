//! One open `/dev/fuse`: messages in, messages out. Knows nothing of what they mean.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::wire::OutHeader;

/// The device, shared by the threads that read requests and by everyone who still owes an answer.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
    /// Set when another process goes on with the session: what is not answered yet is left for it.
    handed_over: AtomicBool,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, handed_over: AtomicBool::new(false) }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// From now on unanswered requests stay unanswered.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Reads one request; `EAGAIN` when there is none.
    pub(crate) fn read<'b>(&self, buf: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let len = rustix::io::read(&self.fd, &mut *buf)?;
        Ok(buf.get(..len).unwrap_or_default())
    }

    /// Answers the request `unique`: with `error` (0 or a negated errno), then `body`.
    pub(crate) fn answer(&self, unique: u64, error: i32, body: &[u8]) -> Result<(), Errno> {
        self.send(unique, error, &[body])
    }

    /// Sends a message that answers nothing.
    pub(crate) fn notify(&self, code: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        self.send(0, code, parts)
    }

    /// A message is one `writev`: the kernel takes it whole or not at all.
    fn send(&self, unique: u64, error: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(size_of::<OutHeader>() + body).map_err(|_| Errno::TOOBIG)?;
        let header = OutHeader { len, error, unique };
        let mut slices = [IoSlice::new(&[]); 4];
        let (first, rest) = slices.split_first_mut().ok_or(Errno::INVAL)?;
        *first = IoSlice::new(header.as_bytes());
        for (slot, part) in rest.iter_mut().zip(parts) {
            *slot = IoSlice::new(part);
        }
        let used = slices.get(..=parts.len()).ok_or(Errno::TOOBIG)?;
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, used)).map(drop)
    }
}
