//! The duty to answer one request.

use std::sync::Arc;

use rustix::io::Errno;
use tracing::{debug, warn};

use crate::device::Device;

/// One request that waits for its answer. Answering consumes it; one that is dropped answers `EIO`, so that no
/// reader waits for ever because a task panicked or was cancelled. May move to another thread.
#[derive(Debug)]
pub(crate) struct Reply {
    /// `None` once answered.
    device: Option<Arc<Device>>,
    unique: u64,
}

impl Reply {
    pub(crate) fn new(device: Arc<Device>, unique: u64) -> Self {
        Self { device: Some(device), unique }
    }

    /// Success, with the body that the operation asks for.
    pub(crate) fn data(mut self, body: &[u8]) {
        self.send(0, body);
    }

    /// Success without a body.
    pub(crate) fn done(self) {
        self.data(&[]);
    }

    /// Failure.
    pub(crate) fn error(mut self, errno: Errno) {
        self.send(-errno.raw_os_error(), &[]);
    }

    /// Success or failure.
    pub(crate) fn outcome(self, body: Result<&[u8], Errno>) {
        match body {
            Ok(body) => self.data(body),
            Err(errno) => self.error(errno),
        }
    }

    /// No answer is expected (FORGET).
    pub(crate) fn none(mut self) {
        self.device = None;
    }

    fn send(&mut self, error: i32, body: &[u8]) {
        let Some(device) = self.device.take() else { return };
        match device.answer(self.unique, error, body) {
            Ok(()) => {}
            // The reader was killed, or the filesystem is unmounted: nobody waits for this answer.
            Err(errno @ (Errno::NOENT | Errno::NODEV | Errno::CONNABORTED | Errno::NOTCONN)) => {
                debug!(unique = self.unique, %errno, "answer came too late");
            }
            Err(errno) => {
                warn!(unique = self.unique, %errno, len = body.len(), "kernel refused an answer, answering EIO");
                // The request is still pending, and whoever waits for it has no deadline of its own.
                if let Err(errno) = device.answer(self.unique, -Errno::IO.raw_os_error(), &[]) {
                    debug!(unique = self.unique, %errno, "kernel refused EIO as well");
                }
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match &self.device {
            None => {}
            Some(device) if device.is_handed_over() => {}
            Some(_) => {
                warn!(unique = self.unique, "request was dropped without an answer, answering EIO");
                self.send(-Errno::IO.raw_os_error(), &[]);
            }
        }
    }
}
