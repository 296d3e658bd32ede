//! Answers the requests of a session of trees.

use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;
use tokio::runtime::Handle;
use tracing::{debug, warn};
use zerocopy::IntoBytes;

use super::node::Node;
use super::roots::{self, Planted, Roots};
use super::xattrs::{self, XattrForm, Xattrs};
use super::{Caching, Entries, Found, Lifetime, Tree, TreeOptions};
use crate::device::Device;
use crate::dirents::{Dirents, Form};
use crate::files::FOREVER;
use crate::reads::{Piece, Reads};
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request, Span};
use crate::session::{Negotiated, Session};
use crate::wire::{self, EntryOut, OpenOut, StatfsOut, flag};

/// What the threads and the server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: Arc<Device>,
    /// Written when a tree comes or goes. Held for a lookup, never while a tree is asked or the kernel is told.
    roots: RwLock<Roots>,
    pub(super) reads: Reads,
    negotiated: Negotiated,
    caching: Caching,
    xattr_form: XattrForm,
}

/// The bytes of an answer that has to be sent from where they are.
type Answered<'b> = Result<&'b [u8], Errno>;

impl Shared {
    pub(super) fn new(session: &Session, options: &TreeOptions, runtime: Handle) -> Self {
        Self {
            device: Arc::clone(&session.device),
            roots: RwLock::default(),
            reads: Reads::new(runtime, &session.options),
            negotiated: session.negotiated,
            caching: options.caching,
            xattr_form: XattrForm {
                user_opaque: options.user_xattrs,
                list_trusted: !options.user_xattrs && rustix::process::geteuid().is_root(),
            },
        }
    }

    // The maps behind the lock are whole after every statement, so a poisoned lock guards valid data.
    pub(super) fn roots(&self) -> impl std::ops::Deref<Target = Roots> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn roots_mut(&self) -> impl std::ops::DerefMut<Target = Roots> {
        self.roots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree of a node and the node's number in it; `None` is the directory of trees.
    fn place(&self, node: u64) -> Result<Option<(Arc<Planted>, u32)>, Errno> {
        match Node::from_number(node).ok_or(Errno::STALE)? {
            Node::Root => Ok(None),
            Node::In { tree, inner } => {
                let planted = self.roots().get(tree).ok_or(Errno::STALE)?;
                Ok(Some((planted, inner)))
            }
        }
    }

    /// Answers one message of the kernel.
    pub(super) fn answer(&self, message: &[u8], scratch: &mut [u8]) {
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
                let entry = self.lookup(node, name);
                reply.outcome(entry.as_ref().map(IntoBytes::as_bytes).map_err(|errno| *errno));
            }
            Operation::GetAttr => {
                let found = self.found(node).map(|(node, found)| found.attributes(node, self.caching));
                reply.outcome(found.as_ref().map(IntoBytes::as_bytes).map_err(|errno| *errno));
            }
            Operation::Read(span) => self.read(node, span, scratch, reply),
            Operation::ReadDir(span) => reply.outcome(self.list(node, span, Form::Plain, scratch)),
            Operation::ReadDirPlus(span) => reply.outcome(self.list(node, span, Form::Plus, scratch)),
            Operation::ReadLink => self.read_link(node, reply),
            Operation::GetXattr { name, room } => match self.place(node) {
                Ok(place) => xattrs::get(self.layer_of(&place), name, room, reply),
                Err(errno) => reply.error(errno),
            },
            Operation::ListXattr { room } => match self.place(node) {
                Ok(place) => xattrs::list(self.layer_of(&place), room, scratch, reply),
                Err(errno) => reply.error(errno),
            },
            Operation::StatFs => {
                let numbers = self.statfs(node);
                reply.outcome(numbers.as_ref().map(IntoBytes::as_bytes).map_err(|errno| *errno));
            }
            Operation::Open => self.open(flag::NO_OPEN_SUPPORT, wire::FOPEN_KEEP_CACHE, reply),
            Operation::OpenDir => {
                let keep = wire::FOPEN_KEEP_CACHE | wire::FOPEN_CACHE_DIR;
                self.open(flag::NO_OPENDIR_SUPPORT, keep, reply);
            }
            Operation::Release | Operation::ReleaseDir | Operation::Access | Operation::Destroy => {
                reply.done();
            }
            Operation::Forget => reply.none(),
            // ENOSYS to FLUSH and to INTERRUPT means: do not send any more of these. A read is not worth interrupting.
            Operation::Flush | Operation::Interrupt => reply.error(Errno::NOSYS),
            Operation::RemoveDir { .. } | Operation::Create { .. } => reply.error(Errno::ROFS),
            Operation::Other(opcode) => {
                debug!(opcode, "answered an operation that is not offered");
                reply.error(Errno::NOSYS);
            }
            Operation::Init { .. } => reply.error(Errno::IO),
        }
    }

    fn found(&self, node: u64) -> Result<(Node, Found), Errno> {
        match self.place(node)? {
            None => Ok((Node::Root, root_found())),
            Some((planted, inner)) => {
                Ok((Node::In { tree: planted.number, inner }, planted.tree.found(inner)?))
            }
        }
    }

    fn lookup(&self, node: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        let (node, found) = match self.place(node)? {
            None if matches!(name, b"." | b"..") => (Node::Root, root_found()),
            None => {
                // An error and not an empty answer: the name may come.
                let planted = self.roots().lookup(name).ok_or(Errno::NOENT)?;
                (planted.root(), roots::found(&planted).ok_or(Errno::IO)?)
            }
            Some((planted, inner)) if name == b".." && inner == planted.tree.root() => {
                (Node::Root, root_found())
            }
            Some((planted, inner)) => match planted.tree.lookup(inner, name)? {
                Some(found) => (Node::In { tree: planted.number, inner: found.inner }, found),
                None if self.caching == Caching::Off => return Err(Errno::NOENT),
                // No node: the name is missing, and will be.
                None => return Ok(EntryOut { entry_valid: FOREVER, ..EntryOut::default() }),
            },
        };
        Ok(found.entry(node, self.caching))
    }

    fn list<'b>(&self, node: u64, span: Span, form: Form, scratch: &'b mut [u8]) -> Answered<'b> {
        let size = scratch.len().min(usize::try_from(span.size).unwrap_or(usize::MAX));
        let buf = scratch.get_mut(..size).unwrap_or_default();
        let out = Dirents::new(&mut *buf, form);
        let mut entries = Entries { out, tree: 0, caching: self.caching };
        match self.place(node)? {
            None => self.roots().list(span.offset, &mut entries),
            Some((planted, inner)) => {
                entries.tree = planted.number;
                planted.tree.list(inner, span.offset, &mut entries)?;
            }
        }
        let used = entries.out.used();
        Ok(buf.get(..used).unwrap_or_default())
    }

    fn read(&self, node: u64, span: Span, scratch: &mut [u8], reply: Reply) {
        let (planted, inner) = match self.place(node) {
            Ok(Some(place)) => place,
            Ok(None) => return reply.error(Errno::ISDIR),
            Err(errno) => return reply.error(errno),
        };
        match &planted.tree {
            Tree::Layer(layer) => match layer.locate(inner, span.offset, span.size) {
                Ok((_, 0)) => reply.done(),
                Ok((offset, len)) => {
                    let (source, name) = (Arc::clone(&layer.source), Arc::clone(&planted.name));
                    self.reads.answer(Piece { source, offset, len, name }, scratch, reply);
                }
                Err(errno) => reply.error(errno),
            },
            Tree::State(state) => match state.read(inner) {
                Ok(bytes) => {
                    let start = usize::try_from(span.offset).unwrap_or(usize::MAX).min(bytes.len());
                    let rest = bytes.get(start..).unwrap_or_default();
                    reply.data(rest.get(..span.size as usize).unwrap_or(rest));
                }
                Err(errno) => reply.error(errno),
            },
        }
    }

    fn read_link(&self, node: u64, reply: Reply) {
        match self.place(node) {
            Ok(Some((planted, inner))) => match &planted.tree {
                Tree::Layer(layer) => reply.outcome(layer.read_link(inner)),
                Tree::State(_) => reply.error(Errno::INVAL),
            },
            Ok(None) => reply.error(Errno::INVAL),
            Err(errno) => reply.error(errno),
        }
    }

    /// Goes without handles where the kernel can; else gives one that stands for nothing.
    fn open(&self, without: u64, keep: u32, reply: Reply) {
        if self.caching == Caching::Full && self.negotiated.has(without) {
            return reply.error(Errno::NOSYS);
        }
        let keep = if self.caching == Caching::Full { keep } else { 0 };
        reply.data(OpenOut { open_flags: keep | wire::FOPEN_NOFLUSH, ..OpenOut::default() }.as_bytes());
    }

    /// Nothing is free, and a tree without data still has a size: there are programs that stumble over none.
    fn statfs(&self, node: u64) -> Result<StatfsOut, Errno> {
        let StatfsOut { blocks, files, .. } = match self.place(node)? {
            None => self.roots().statfs(),
            Some((planted, _)) => planted.tree.statfs(),
        };
        let (blocks, files) = (blocks.max(1), files.max(1));
        Ok(StatfsOut { blocks, files, bsize: 4096, frsize: 4096, namelen: 255, ..StatfsOut::default() })
    }

    fn layer_of<'p>(&self, place: &'p Option<(Arc<Planted>, u32)>) -> Option<Xattrs<'p>> {
        let (planted, inner) = place.as_ref()?;
        match &planted.tree {
            Tree::Layer(layer) => Some(Xattrs { layer, inner: *inner, form: self.xattr_form }),
            Tree::State(_) => None,
        }
    }
}

fn root_found() -> Found {
    Found { inner: 0, attr: roots::root_attributes(), lifetime: Lifetime::Forever }
}
