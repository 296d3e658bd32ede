//! A tree whose entries are made up when somebody asks for them: an interface for programs that talk in paths.
//!
//! Each lookup is a question to the owner of the names ([`Names`]), who may take time to answer. It is asked in a task of the
//! runtime: no thread that reads requests waits for an answer, and questions about one name do not hold up others.
//! To make a file or to remove a directory are questions as well; they can say something to the owner, and always
//! end in an error, as nothing here can be changed.
//!
//! No state is kept for nodes or handles: a node's number is the owner's and has to be a function of what it names. FORGET
//! means nothing, and a number that the owner does not know (any more) is `ESTALE`, upon which the kernel looks the names up again.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::dirents::{Dirents, Form, Listed, kind};
use crate::error::Error;
use crate::images::Ending;
use crate::reads::{Piece, Reads, errno_of};
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request, Span};
use crate::session::{Recipe, Route, Session, SessionOptions, unmount_session};
use crate::source::{BoxFuture, Source};
use crate::wire::{self, Attr, AttrOut, EntryOut, OpenOut, ROOT_NODE, StatfsOut, flag};
use crate::workers::{Answer, Workers};

/// How a session of names is mounted and served.
#[derive(Clone, Debug)]
pub struct NameOptions {
    /// What sessions of all kinds have.
    pub session: SessionOptions,
    /// Who makes the mount.
    pub route: Route,
    /// Whether other users than the one that mounts may look. With [`Route::Fusermount`], `/etc/fuse.conf` has to allow it.
    pub allow_other: bool,
    /// The SELinux label of all files. Without meaning where SELinux does not run.
    pub selinux_context: Option<String>,
    /// A question that is not answered after this long is answered with `ETIMEDOUT`. Whoever asks cannot be interrupted: signals
    /// that end nothing, as Go's runtime sends itself all the time, would break questions off.
    pub deadline: Duration,
    /// Questions that may wait for an answer at a time; more are answered with `EAGAIN`.
    pub max_questions: usize,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            route: Route::default(),
            allow_other: true,
            selinux_context: None,
            deadline: Duration::from_secs(30),
            max_questions: 1024,
        }
    }
}

/// Something that a name stands for.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number, a function of what it is. 1 is the root directory.
    pub node: u64,
    /// What it is.
    pub content: Content,
    /// Its permission bits.
    pub mode: u16,
    /// How long the kernel may take it for what the name stands for without asking again.
    pub valid: Duration,
}

/// What something is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(PathBuf),
    /// A file of constant content.
    File(Arc<dyn Source>),
}

/// The owner of names. Errors that carry an errno reach whoever asks as that errno, others as `EIO`.
///
/// [`get`](Names::get) and [`list`](Names::list) answer from memory, on a thread that serves others as well.
pub trait Names: Debug + Send + Sync + 'static {
    /// What a node is, if it is known. The root directory always is.
    fn get(&self, node: u64) -> Option<Entry>;

    /// What is known to be in a directory, in a constant order.
    ///
    /// # Errors
    /// It cannot be told.
    fn list(&self, directory: u64) -> io::Result<Vec<(String, Entry)>>;

    /// What a name in a directory stands for. The future is dropped after the deadline, and at the end.
    fn lookup(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Result<Entry>>;

    /// Somebody wants to make a file. What the error is, is up to the owner.
    fn create(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Error>;

    /// Somebody wants to remove a directory. What the error is, is up to the owner.
    fn remove_dir(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Error>;
}

impl Session {
    /// Mounts a new session for a [`NameServer`] at the existing directory `target` (no symlink). It is writable, so that
    /// what would change something is asked for, and means nothing by set-user-ID bits, device nodes and programs.
    ///
    /// # Errors
    /// When there is no FUSE, when the mount is refused, or when the kernel speaks a protocol older than 7.31.
    pub fn mount_names(target: &Path, options: &NameOptions) -> Result<Self, Error> {
        let recipe = Recipe {
            route: options.route,
            allow_other: options.allow_other,
            inert: true,
            selinux_context: options.selinux_context.as_deref(),
            writable: true,
            wanted: flag::ASYNC_READ | flag::PARALLEL_DIROPS,
        };
        Self::mount_by(&recipe, target, options.session.clone())
    }
}

/// A session of names being served.
#[derive(Debug)]
pub struct NameServer {
    workers: Workers,
    shared: Arc<Shared>,
    target: PathBuf,
}

impl NameServer {
    /// Starts to serve `session`. Questions and reads run on `runtime`, which needs its time driver.
    ///
    /// For a session taken over, `names` should know the nodes that its predecessor gave out: operations on others fail with
    /// `ESTALE`.
    ///
    /// # Errors
    /// When a thread cannot be started, or the kernel cannot resend.
    pub fn start(
        session: Session,
        options: &NameOptions,
        runtime: Handle,
        names: Arc<dyn Names>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            device: Arc::clone(&session.device),
            reads: Reads::new(runtime.clone(), &session.options),
            names,
            runtime,
            permits: Arc::new(Semaphore::new(options.max_questions.max(1))),
            deadline: options.deadline,
            questions: Mutex::default(),
        });
        let answer: Answer = {
            let shared = Arc::clone(&shared);
            Arc::new(move |message, scratch| shared.answer(message, scratch))
        };
        let workers =
            Workers::start(&session.device, session.options.threads, session.negotiated.max_read(), &answer)
                .map_err(|source| Error::Start { source })?;
        let server = Self { workers, shared, target: session.target.clone() };
        if session.taken_over {
            session.resend()?;
        }
        Ok(server)
    }

    /// Where the session is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Stops serving. Waits for the threads, which finish the answer they are at, and drops questions and fetches that are
    /// under way. Blocks, so call it outside the runtime's own threads.
    ///
    /// # Errors
    /// When the mount cannot be taken away; serving has ended all the same.
    pub fn shutdown(self, ending: Ending) -> Result<(), Error> {
        info!(target = %self.target.display(), ?ending, "stopping FUSE session");
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
impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.reads.close();
        self.workers.stop();
    }
}

/// What the threads, the tasks and the server share.
#[derive(Debug)]
struct Shared {
    device: Arc<Device>,
    names: Arc<dyn Names>,
    reads: Reads,
    runtime: Handle,
    permits: Arc<Semaphore>,
    deadline: Duration,
    /// The questions that wait for an answer: as many as there are permits, and as many that ended since the last one.
    questions: Mutex<JoinSet<()>>,
}

impl Shared {
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
        let node = request.node;
        match request.operation {
            Operation::Lookup { name } => {
                let question = Arc::clone(&self.names).lookup(node, name_of(name));
                self.ask(question, reply, |reply, found| match found {
                    Ok(entry) => reply.data(entry.out().as_bytes()),
                    Err(error) => reply.error(errno_of(&error)),
                });
            }
            Operation::Create { name } => {
                let question = Arc::clone(&self.names).create(node, name_of(name));
                self.ask(question, reply, |reply, error| reply.error(errno_of(&error)));
            }
            Operation::RemoveDir { name } => {
                let question = Arc::clone(&self.names).remove_dir(node, name_of(name));
                self.ask(question, reply, |reply, error| reply.error(errno_of(&error)));
            }
            Operation::GetAttr => match self.names.get(node) {
                Some(entry) => reply.data(entry.attributes().as_bytes()),
                None => reply.error(Errno::STALE),
            },
            Operation::ReadLink => match self.names.get(node).map(|entry| entry.content) {
                Some(Content::Link(target)) => reply.data(target.as_os_str().as_bytes()),
                Some(_) => reply.error(Errno::INVAL),
                None => reply.error(Errno::STALE),
            },
            Operation::Read(span) => self.read(node, span, scratch, reply),
            Operation::ReadDir(span) => reply.outcome(self.list(node, span, scratch)),
            Operation::Open => match self.names.get(node).map(|entry| entry.content) {
                Some(Content::File(_)) => {
                    let opened = OpenOut { open_flags: wire::FOPEN_NOFLUSH, ..OpenOut::default() };
                    reply.data(opened.as_bytes());
                }
                Some(_) => reply.error(Errno::INVAL),
                None => reply.error(Errno::STALE),
            },
            Operation::OpenDir => reply.data(OpenOut::default().as_bytes()),
            Operation::StatFs => {
                let numbers = StatfsOut {
                    blocks: 1,
                    files: 1,
                    bsize: 4096,
                    frsize: 4096,
                    namelen: 255,
                    ..StatfsOut::default()
                };
                reply.data(numbers.as_bytes());
            }
            Operation::Release | Operation::ReleaseDir | Operation::Access | Operation::Destroy => {
                reply.done();
            }
            Operation::Forget => reply.none(),
            // ENOSYS to FLUSH and to INTERRUPT means: do not send any more of these.
            Operation::Flush | Operation::Interrupt => reply.error(Errno::NOSYS),
            Operation::GetXattr { .. } | Operation::ListXattr { .. } | Operation::ReadDirPlus(_) => {
                reply.error(Errno::NOSYS);
            }
            Operation::Other(opcode) => {
                debug!(opcode, "answered an operation that is not offered");
                reply.error(Errno::NOSYS);
            }
            Operation::Init { .. } => reply.error(Errno::IO),
        }
    }

    /// Waits for the answer to a question in a task, and sends it.
    fn ask<T: Send + 'static>(
        &self,
        question: BoxFuture<'static, T>,
        reply: Reply,
        send: impl FnOnce(Reply, T) + Send + 'static,
    ) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return reply.error(Errno::AGAIN);
        };
        let deadline = self.deadline;
        let task = async move {
            match tokio::time::timeout(deadline, question).await {
                Ok(answer) => send(reply, answer),
                Err(_elapsed) => reply.error(Errno::TIMEDOUT),
            }
            drop(permit);
        };
        // The set is whole after every statement, so a poisoned lock guards valid data.
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        while questions.try_join_next().is_some() {}
        questions.spawn_on(task, &self.runtime);
    }

    fn read(&self, node: u64, span: Span, scratch: &mut [u8], reply: Reply) {
        let source = match self.names.get(node).map(|entry| entry.content) {
            Some(Content::File(source)) => source,
            Some(_) => return reply.error(Errno::INVAL),
            None => return reply.error(Errno::STALE),
        };
        let wanted = u64::from(span.size).min(source.size().saturating_sub(span.offset));
        match usize::try_from(wanted) {
            Ok(0) => reply.done(),
            Ok(len) => {
                let name = format!("node {node}").into();
                self.reads.answer(Piece { source, offset: span.offset, len, name }, scratch, reply);
            }
            Err(_) => reply.error(Errno::INVAL),
        }
    }

    fn list<'b>(&self, node: u64, span: Span, scratch: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        if !matches!(self.names.get(node).ok_or(Errno::STALE)?.content, Content::Directory) {
            return Err(Errno::NOTDIR);
        }
        let size = scratch.len().min(usize::try_from(span.size).unwrap_or(usize::MAX));
        let buf = scratch.get_mut(..size).unwrap_or_default();
        let mut out = Dirents::new(&mut *buf, Form::Plain);
        let dots = [".", ".."].map(|dot| (dot.to_owned(), node, kind::DIRECTORY));
        let names = self.names.list(node).map_err(|error| errno_of(&error))?;
        let names = names.into_iter().map(|(name, entry)| (name, entry.node, entry.kind()));
        let all = (1_u64..).zip(dots.into_iter().chain(names));
        for (next, (name, ino, kind)) in all.skip(usize::try_from(span.offset).unwrap_or(usize::MAX)) {
            if !out.push(Listed { ino, next, kind, name: name.as_bytes() }, EntryOut::default) {
                break;
            }
        }
        let used = out.used();
        Ok(buf.get(..used).unwrap_or_default())
    }
}

fn name_of(name: &[u8]) -> OsString {
    OsString::from_vec(name.to_vec())
}

impl Entry {
    /// The root directory, as it is unless its owner wants it otherwise.
    pub fn root() -> Entry {
        Entry { node: ROOT_NODE, content: Content::Directory, mode: 0o700, valid: Duration::ZERO }
    }

    fn kind(&self) -> u32 {
        match self.content {
            Content::Directory => kind::DIRECTORY,
            Content::Link(_) => kind::SYMLINK,
            Content::File(_) => kind::REGULAR,
        }
    }

    /// Everything belongs to whoever serves it.
    fn attr(&self) -> Attr {
        let (format, nlink, size) = match &self.content {
            Content::Directory => (0o040_000, 2, 0),
            Content::Link(target) => (0o120_000, 1, target.as_os_str().len() as u64),
            Content::File(source) => (0o100_000, 1, source.size()),
        };
        Attr {
            ino: self.node,
            size,
            blocks: size.div_ceil(512),
            mode: format | u32::from(self.mode & 0o777),
            nlink,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            blksize: 4096,
            ..Attr::default()
        }
    }

    fn attributes(&self) -> AttrOut {
        AttrOut {
            attr_valid: self.valid.as_secs(),
            attr_valid_nsec: self.valid.subsec_nanos(),
            padding: 0,
            attr: self.attr(),
        }
    }

    fn out(&self) -> EntryOut {
        EntryOut {
            node: self.node,
            generation: 0,
            entry_valid: self.valid.as_secs(),
            attr_valid: self.valid.as_secs(),
            entry_valid_nsec: self.valid.subsec_nanos(),
            attr_valid_nsec: self.valid.subsec_nanos(),
            attr: self.attr(),
        }
    }
}
