//! Reads of a [`Source`], for the servers of both kinds.
//!
//! The way of a read: the thread that got the request asks the source for the bytes; if they are present, the same
//! thread answers and that is all. If not, the duty to answer moves into a task on the runtime, which waits for the
//! fetch under a deadline, reads, and answers. No thread that reads requests ever waits for a fetch, so that a stalled
//! layer does not hold up the others.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::warn;

use crate::reply::Reply;
use crate::session::SessionOptions;
use crate::source::{Fetched, Source};

/// The part of a source that a reader wants: `len` bytes, at least one, that lie within the source.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) source: Arc<dyn Source>,
    /// In bytes of the source.
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// What the source is called in logs.
    pub(crate) name: Arc<str>,
}

/// Reads that wait for their bytes, and their bounds.
#[derive(Debug)]
pub(crate) struct Reads {
    runtime: Handle,
    /// One permit for each read that waits for a fetch; closed at shutdown.
    waiting: Arc<Semaphore>,
    /// One permit for each buffer of such a read.
    buffers: Arc<Semaphore>,
    deadline: Duration,
    /// The reads that wait. At most `max_waiting` that run, and as many that ended since the last one was added.
    tasks: Mutex<JoinSet<()>>,
}

impl Reads {
    pub(crate) fn new(runtime: Handle, options: &SessionOptions) -> Self {
        Self {
            runtime,
            waiting: Arc::new(Semaphore::new(usize::from(options.max_waiting.max(1)))),
            buffers: Arc::new(Semaphore::new(options.max_buffers.max(1))),
            deadline: options.read_deadline,
            tasks: Mutex::default(),
        }
    }

    /// Answers a read, now or later. `scratch` belongs to the calling thread and must hold the piece.
    pub(crate) fn answer(&self, piece: Piece, scratch: &mut [u8], reply: Reply) {
        let Some(buf) = scratch.get_mut(..piece.len) else { return reply.error(Errno::INVAL) };
        match piece.source.read_local(piece.offset, buf) {
            Ok(true) => reply.data(buf),
            Ok(false) => self.answer_later(piece, reply),
            Err(error) => {
                piece.warn(&error);
                reply.error(errno_of(&error));
            }
        }
    }

    /// Hands a read over to a task. Waits here only when as many reads wait as the kernel was told it may send.
    fn answer_later(&self, piece: Piece, reply: Reply) {
        let permit = match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(_) => self.runtime.block_on(Arc::clone(&self.waiting).acquire_owned()),
        };
        // Closed: we are shutting down, and the dropped reply does what the ending says.
        let Ok(permit) = permit else { return };
        let task = piece.answer(reply, self.deadline, Arc::clone(&self.buffers), permit);
        // The set is whole after every statement, so a poisoned lock guards valid data.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Lets no thread wait here any more. Before threads are joined: one of them may be waiting for a permit.
    pub(crate) fn close(&self) {
        self.waiting.close();
    }
}

/// Bytes to answer with; the permit counts the buffer until it is sent.
enum Bytes {
    Read(Vec<u8>, OwnedSemaphorePermit),
    Given(bytes::Bytes),
}

impl Piece {
    /// Answers, for better or worse, within the deadline.
    async fn answer(
        self,
        reply: Reply,
        deadline: Duration,
        buffers: Arc<Semaphore>,
        permit: OwnedSemaphorePermit,
    ) {
        match tokio::time::timeout(deadline, self.bytes(buffers)).await {
            Ok(Ok(Bytes::Read(bytes, _permit))) => reply.data(&bytes),
            Ok(Ok(Bytes::Given(bytes))) => reply.data(&bytes),
            Ok(Err(error)) => {
                self.warn(&error);
                reply.error(errno_of(&error));
            }
            Err(_elapsed) => {
                self.warn(&format!("no answer within {deadline:?}"));
                reply.error(Errno::IO);
            }
        }
        drop(permit);
    }

    /// Fetches and reads. What was fetched can be evicted before it is read; that it happens twice in a row is not
    /// bad luck any more.
    async fn bytes(&self, buffers: Arc<Semaphore>) -> io::Result<Bytes> {
        for _ in 0..2 {
            match self.source.fetch(self.offset, self.len).await? {
                Fetched::Unkept(bytes) if bytes.len() == self.len => return Ok(Bytes::Given(bytes)),
                Fetched::Unkept(_) => {
                    return Err(io::Error::other("fetched bytes have another length than asked for"));
                }
                Fetched::Stored => {}
            }
            let permit = Arc::clone(&buffers).acquire_owned().await.map_err(io::Error::other)?;
            let mut buf = vec![0; self.len];
            // Reads what was just written, which is in the page cache: not worth a trip to a blocking thread.
            if self.source.read_local(self.offset, &mut buf)? {
                return Ok(Bytes::Read(buf, permit));
            }
        }
        Err(io::Error::other("fetched bytes were gone before they could be read"))
    }

    fn warn(&self, error: &dyn std::fmt::Display) {
        warn!(file = &*self.name, offset = self.offset, len = self.len, %error, "read failed");
    }
}

/// The errno that a reader sees.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().filter(|code| *code > 0).map_or(Errno::IO, Errno::from_raw_os_error)
}
