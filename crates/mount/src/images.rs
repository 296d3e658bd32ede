//! Serves one session: a flat directory with one read-only file for each layer.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;
use tokio::runtime::Handle;
use tracing::{debug, info, warn};
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::error::Error;
use crate::files::{File, Files};
use crate::reads::{Piece, Reads};
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request, Span};
use crate::session::{Session, unmount_session};
use crate::source::Source;
use crate::wire::{self, InvalEntryOut, InvalInodeOut, OpenOut, ROOT_NODE, StatfsOut};
use crate::workers::{Answer, Workers};

/// One file of the directory.
#[derive(Debug)]
pub struct Image {
    /// Its node number, above 1. Must be a function of the layer alone: a successor process has to give the same
    /// number to the same layer, since the kernel goes on using it.
    pub node: u64,
    /// Its name in the directory.
    pub name: String,
    /// Its bytes.
    pub source: Arc<dyn Source>,
}

/// What becomes of the mount when serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is unmounted; reads in flight fail with `EIO`. Files that an EROFS mount still uses fail from now on.
    Unmount,
    /// It stays, for another process that holds the descriptor; reads in flight wait for it.
    HandOver,
}

/// A session being served.
#[derive(Debug)]
pub struct ImageServer {
    workers: Workers,
    shared: Arc<Shared>,
    target: PathBuf,
}

impl ImageServer {
    /// Starts to serve `session` with the files of `images`; more can be added later.
    ///
    /// For a session taken over, `images` must hold every file of the predecessor: what is in flight is resent, and
    /// a read of an unknown node fails with `ESTALE`. Fetches run on `runtime`, which needs its time driver.
    ///
    /// # Errors
    /// When an image cannot be added, a thread cannot be started, or the kernel cannot resend.
    pub fn start(session: Session, runtime: Handle, images: Vec<Image>) -> Result<Self, Error> {
        let options = &session.options;
        let shared = Arc::new(Shared {
            device: Arc::clone(&session.device),
            files: RwLock::default(),
            reads: Reads::new(runtime, options),
        });
        for image in images {
            shared.insert(image)?;
        }
        let answer: Answer = {
            let shared = Arc::clone(&shared);
            Arc::new(move |message, scratch| shared.answer(message, scratch))
        };
        let workers =
            Workers::start(&session.device, options.threads, session.negotiated.max_read(), &answer)
                .map_err(|source| Error::Start { source })?;
        let server = Self { workers, shared, target: session.target.clone() };
        if session.taken_over {
            session.resend()?;
        }
        Ok(server)
    }

    /// Adds a file; it can be opened at once.
    ///
    /// # Errors
    /// When the node or the name is reserved, invalid or in use.
    pub fn add(&self, image: Image) -> Result<(), Error> {
        self.shared.insert(image)
    }

    /// Takes a file away and says whether it was there. Reads through handles that are still open fail with `ESTALE`,
    /// those in flight are answered.
    ///
    /// Must not be called from a [`Source`]: the kernel is told, and may wait for one of our answers before it listens.
    pub fn remove(&self, node: u64) -> bool {
        let Some(file) = self.shared.files_mut().remove(node) else { return false };
        self.shared.forget(&file);
        true
    }

    /// Stops serving. Waits for the threads, which finish the answer they are at, and drops fetches that are under way.
    /// Blocks, so call it outside the runtime's own threads.
    ///
    /// # Errors
    /// When the mount cannot be taken away; serving has ended all the same.
    pub fn shutdown(self, ending: Ending) -> Result<(), Error> {
        info!(target = %self.target.display(), ?ending, files = self.shared.files().len(), "stopping FUSE session");
        match ending {
            Ending::Unmount => unmount_session(&self.target),
            Ending::HandOver => {
                self.shared.device.hand_over();
                Ok(())
            }
        }
    }
}

/// Ends the threads; the tasks end with the last reference to what they share, which is ours.
impl Drop for ImageServer {
    fn drop(&mut self) {
        self.shared.reads.close();
        self.workers.stop();
    }
}

/// What the threads, the tasks and the server share.
#[derive(Debug)]
struct Shared {
    device: Arc<Device>,
    /// Written when a layer comes or goes. Held for a lookup, never while a source is asked or the kernel is told.
    files: RwLock<Files>,
    reads: Reads,
}

impl Shared {
    // The maps behind these locks are whole after every statement, so a poisoned lock guards valid data.
    fn files(&self) -> impl std::ops::Deref<Target = Files> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> impl std::ops::DerefMut<Target = Files> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, Image { node, name, source }: Image) -> Result<(), Error> {
        let file = File { node, name: name.into(), size: source.size(), source };
        self.files_mut().insert(file)
    }

    /// Answers one message of the kernel.
    fn answer(&self, message: &[u8], scratch: &mut [u8]) {
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(malformed @ Malformed::Header { .. }) => return warn!(%malformed, "ignored a FUSE message"),
            Err(malformed @ Malformed::Body { unique, .. }) => {
                warn!(%malformed, "refused a FUSE request");
                return Reply::new(Arc::clone(&self.device), unique).error(Errno::IO);
            }
        };
        let reply = Reply::new(Arc::clone(&self.device), request.unique);
        match request.operation {
            Operation::Read(span) => self.read(request.node, span, scratch, reply),
            Operation::Lookup { name } if request.node == ROOT_NODE => {
                // An error and not an empty answer, so that the kernel does not remember that the name is missing.
                let entry = self.files().lookup(name).map(|file| file.entry());
                reply.outcome(entry.as_ref().map(IntoBytes::as_bytes).ok_or(Errno::NOENT));
            }
            Operation::Lookup { .. } => reply.error(Errno::NOTDIR),
            Operation::GetAttr => {
                let attributes = self.files().attributes(request.node);
                reply.outcome(attributes.as_ref().map(IntoBytes::as_bytes).ok_or(Errno::STALE));
            }
            Operation::Open => {
                let known = self.files().get(request.node).is_some();
                // No state is kept for a handle, so that a successor process has nothing to restore.
                let open_flags = wire::FOPEN_DIRECT_IO | wire::FOPEN_NOFLUSH;
                let opened = OpenOut { open_flags, ..OpenOut::default() };
                reply.outcome(if known { Ok(opened.as_bytes()) } else { Err(Errno::STALE) });
            }
            Operation::OpenDir => reply.data(OpenOut::default().as_bytes()),
            Operation::ReadDir(Span { offset, size }) => {
                let size = scratch.len().min(usize::try_from(size).unwrap_or(usize::MAX));
                let buf = scratch.get_mut(..size).unwrap_or_default();
                let used = self.files().list(offset, buf);
                reply.data(buf.get(..used).unwrap_or_default());
            }
            Operation::StatFs => {
                let files = self.files().len() as u64;
                reply.data(
                    StatfsOut { files, bsize: 4096, frsize: 4096, namelen: 255, ..StatfsOut::default() }
                        .as_bytes(),
                );
            }
            Operation::Release | Operation::ReleaseDir | Operation::Access | Operation::Destroy => {
                reply.done();
            }
            Operation::Forget => reply.none(),
            // To FLUSH, ENOSYS means what FOPEN_NOFLUSH means, to kernels that do not know that flag (before 5.16).
            // To INTERRUPT it means: do not send any more of these. A read is not worth interrupting, as its bytes are
            // wanted again soon and its wait has a deadline; and page cache reads must not fail with EINTR.
            Operation::Flush | Operation::Interrupt => reply.error(Errno::NOSYS),
            Operation::Other(opcode) => {
                debug!(opcode, "answered an operation that is not offered");
                reply.error(Errno::NOSYS);
            }
            Operation::RemoveDir { .. } | Operation::Create { .. } => reply.error(Errno::ROFS),
            Operation::ReadLink
            | Operation::ReadDirPlus(_)
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. } => reply.error(Errno::NOSYS),
            Operation::Init { .. } => reply.error(Errno::IO),
        }
    }

    fn read(&self, node: u64, span: Span, scratch: &mut [u8], reply: Reply) {
        let Some(file) = self.files().get(node).map(Arc::clone) else { return reply.error(Errno::STALE) };
        let wanted = u64::from(span.size).min(file.size.saturating_sub(span.offset));
        match usize::try_from(wanted) {
            Ok(0) => reply.done(),
            Ok(len) => {
                let (source, name) = (Arc::clone(&file.source), Arc::clone(&file.name));
                self.reads.answer(Piece { source, offset: span.offset, len, name }, scratch, reply);
            }
            Err(_) => reply.error(Errno::INVAL),
        }
    }

    /// Tells the kernel that a file is gone. It may not know the file, or be unmounted.
    fn forget(&self, file: &File) {
        let name = file.name.as_bytes();
        let entry = InvalEntryOut { parent: ROOT_NODE, namelen: name.len() as u32, flags: 0 };
        let inode = InvalInodeOut { node: file.node, offset: 0, len: 0 };
        let told = [
            self.device.notify(wire::notify::INVAL_ENTRY, &[entry.as_bytes(), name, &[0]]),
            self.device.notify(wire::notify::INVAL_INODE, &[inode.as_bytes()]),
        ];
        for errno in told.into_iter().filter_map(Result::err) {
            debug!(file = &*file.name, %errno, "kernel did not know the removed file");
        }
    }
}
