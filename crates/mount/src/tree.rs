//! Whole trees served through FUSE, for kernels and namespaces that do not mount EROFS.
//!
//! One session has a directory for each tree: a [`LayerTree`] answers from the mapped metadata of a layer's image and reads
//! contents from a [`Source`], a [`StateDir`] holds files that are made when they are read. A tree reaches a container by
//! [`bind`](crate::bind) of its directory, or as a lower directory of an overlay.
//!
//! Nothing in a tree ever changes, so the kernel may keep what it has learned: entries (also that a name is missing),
//! attributes, listings, targets of symlinks and pages. Files and directories are not opened where the kernel offers to go
//! without. What is left are the first look at something, xattrs, and pages that were never read or were dropped. An answer
//! takes a shared lock of the table of trees for a moment, a reference of the tree, and no heap.
//!
//! No state is kept for nodes: their numbers say where they are in an image, FORGET means nothing, and a successor
//! process continues with nothing but the same trees under the same numbers.

mod layer;
mod node;
mod roots;
mod serve;
mod state;
mod xattrs;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tracing::{debug, info};
use zerocopy::IntoBytes;

use crate::dirents::{Dirents, Listed};
use crate::error::Error;
use crate::files::FOREVER;
use crate::images::Ending;
use crate::mounts::mounts_below;
use crate::session::{Recipe, Route, Session, SessionOptions, unmount_session};
use crate::wire::{self, Attr, AttrOut, EntryOut, InvalEntryOut, InvalInodeOut, ROOT_NODE, StatfsOut, flag};
use crate::workers::{Answer, Workers};
use node::Node;
use serve::Shared;

pub use layer::LayerTree;
pub use state::{StateContent, StateDir};

/// How a session of trees is mounted and served.
#[derive(Clone, Debug)]
pub struct TreeOptions {
    /// What sessions of all kinds have.
    pub session: SessionOptions,
    /// Who makes the mount.
    pub route: Route,
    /// Whether other users than the one that mounts may look, as containers must that see a tree without an overlay.
    /// With [`Route::Fusermount`], `/etc/fuse.conf` has to allow it. The directory of all trees stays closed to them.
    pub allow_other: bool,
    /// Shows `trusted.overlay.opaque` as `user.overlay.opaque`, and lists nothing in `trusted.`, which nobody in a user
    /// namespace may read: for overlays that are mounted with `userxattr`.
    pub user_xattrs: bool,
    /// The SELinux label of all files. Without meaning where SELinux does not run.
    pub selinux_context: Option<String>,
    /// How far the kernel reads ahead in files, in KiB; its own default is 128. Also what one fault of a mapped file reads.
    /// A request ends at 1 MiB. Best effort, as it takes a writable sysfs.
    pub read_ahead_kb: Option<u32>,
    /// What the kernel may keep.
    pub caching: Caching,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            route: Route::default(),
            allow_other: true,
            user_xattrs: false,
            selinux_context: None,
            read_ahead_kb: None,
            caching: Caching::default(),
        }
    }
}

/// What the kernel may keep of what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// All, for ever.
    #[default]
    Full,
    /// Nothing: each operation is a request. To measure what caching is worth, and to see every access.
    Off,
}

/// A tree, and its place in the session.
#[derive(Debug)]
pub struct Root {
    /// 1 to 16777215. Inode numbers are made of it, so a successor process has to give the same number to the same tree;
    /// and the kernel remembers nodes, so one session must not give it to another tree later.
    pub number: u32,
    /// The name of its directory.
    pub name: String,
    /// What is in it.
    pub tree: Tree,
}

/// What a session can show.
#[derive(Debug)]
pub enum Tree {
    /// The tree of a layer.
    Layer(LayerTree),
    /// A hidden directory with generated files.
    State(StateDir),
}

impl Session {
    /// Mounts a new session for a [`TreeServer`] at the existing directory `target` (no symlink), read-only.
    ///
    /// # Errors
    /// When there is no FUSE, when the mount is refused, or when the kernel speaks a protocol older than 7.31.
    pub fn mount_trees(target: &Path, options: &TreeOptions) -> Result<Self, Error> {
        let always = flag::ASYNC_READ
            | flag::PARALLEL_DIROPS
            | flag::POSIX_ACL
            | flag::EXPORT_SUPPORT
            | flag::AUTO_INVAL_DATA
            | flag::ALLOW_IDMAP;
        let cached = flag::DO_READDIRPLUS
            | flag::READDIRPLUS_AUTO
            | flag::NO_OPEN_SUPPORT
            | flag::NO_OPENDIR_SUPPORT
            | flag::CACHE_SYMLINKS;
        let recipe = Recipe {
            route: options.route,
            allow_other: options.allow_other,
            inert: false,
            selinux_context: options.selinux_context.as_deref(),
            writable: false,
            wanted: match options.caching {
                Caching::Full => always | cached,
                Caching::Off => always,
            },
        };
        Self::mount_by(&recipe, target, options.session.clone())
    }
}

/// A session of trees being served.
#[derive(Debug)]
pub struct TreeServer {
    workers: Workers,
    shared: Arc<Shared>,
    target: PathBuf,
}

impl TreeServer {
    /// Starts to serve `session` with these trees; more can be added later.
    ///
    /// For a session taken over, `roots` must hold every tree of the predecessor under its number: operations on
    /// unknown nodes fail with `ESTALE`. Fetches run on `runtime`, which needs its time driver.
    ///
    /// # Errors
    /// When a tree cannot be added, a thread cannot be started, or the kernel cannot resend.
    pub fn start(
        session: Session,
        options: &TreeOptions,
        runtime: Handle,
        roots: Vec<Root>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(&session, options, runtime));
        for root in roots {
            shared.roots_mut().insert(root)?;
        }
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
        if let Some(kib) = options.read_ahead_kb {
            set_read_ahead(&server.target, kib);
        }
        Ok(server)
    }

    /// Where the session is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Adds a tree; its directory is there at once.
    ///
    /// # Errors
    /// When the number or the name is invalid or in use.
    pub fn add(&self, root: Root) -> Result<(), Error> {
        self.shared.roots_mut().insert(root)?;
        self.shared.tell(None);
        Ok(())
    }

    /// Takes a tree away and says whether it was there. What the kernel has cached of it goes on to be seen by whoever has
    /// it mounted or open; everything else fails with `ESTALE`. Reads in flight are answered.
    ///
    /// Must not be called from a [`Source`](crate::Source) or for a state file: the kernel is told, and may wait for one of
    /// our answers before it listens.
    pub fn remove(&self, number: u32) -> bool {
        let Some(planted) = self.shared.roots_mut().remove(number) else { return false };
        self.shared.tell(Some(&planted.name));
        true
    }

    /// Stops serving. Waits for the threads, which finish the answer they are at, and drops fetches that are under way.
    /// Blocks, so call it outside the runtime's own threads.
    ///
    /// # Errors
    /// When the mount cannot be taken away; serving has ended all the same.
    pub fn shutdown(self, ending: Ending) -> Result<(), Error> {
        info!(target = %self.target.display(), ?ending, trees = self.shared.roots().len(), "stopping FUSE session");
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
impl Drop for TreeServer {
    fn drop(&mut self) {
        self.shared.reads.close();
        self.workers.stop();
    }
}

impl Shared {
    /// Tells the kernel that the directory of trees has changed, and which name is gone from it. It may not know either.
    fn tell(&self, gone: Option<&str>) {
        if let Some(name) = gone {
            let entry = InvalEntryOut { parent: ROOT_NODE, namelen: name.len() as u32, flags: 0 };
            let told =
                self.device.notify(wire::notify::INVAL_ENTRY, &[entry.as_bytes(), name.as_bytes(), &[0]]);
            if let Err(errno) = told {
                debug!(name, %errno, "kernel did not know the removed tree");
            }
        }
        let inode = InvalInodeOut { node: ROOT_NODE, offset: 0, len: 0 };
        if let Err(errno) = self.device.notify(wire::notify::INVAL_INODE, &[inode.as_bytes()]) {
            debug!(%errno, "kernel did not know the directory of trees");
        }
    }
}

/// The readahead of a FUSE filesystem is that of its backing device, which is named by its device number.
fn set_read_ahead(target: &Path, kib: u32) {
    let mounts = mounts_below(target).unwrap_or_default();
    let Some(mount) = mounts.iter().rev().find(|mount| mount.mount_point == target) else { return };
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", mount.device.0, mount.device.1);
    if let Err(error) = fs::write(&path, kib.to_string()) {
        debug!(path, kib, %error, "readahead of a FUSE session stays");
    }
}

/// How long what is said of a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    Forever,
    /// Its attributes are those of this moment.
    Now,
}

/// What is said of a node.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Its number within its tree.
    inner: u32,
    /// All but the inode number.
    attr: Attr,
    lifetime: Lifetime,
}

impl Found {
    /// As the answer to GETATTR.
    fn attributes(self, node: Node, caching: Caching) -> AttrOut {
        AttrOut {
            attr_valid: match (caching, self.lifetime) {
                (Caching::Full, Lifetime::Forever) => FOREVER,
                _ => 0,
            },
            attr_valid_nsec: 0,
            padding: 0,
            attr: Attr { ino: node.number(), ..self.attr },
        }
    }

    /// As the answer to LOOKUP.
    fn entry(self, node: Node, caching: Caching) -> EntryOut {
        let AttrOut { attr_valid, attr, .. } = self.attributes(node, caching);
        let entry_valid = if caching == Caching::Full { FOREVER } else { 0 };
        EntryOut { node: node.number(), entry_valid, attr_valid, attr, ..EntryOut::default() }
    }
}

/// The entries of one directory, as they are listed.
struct Entries<'b> {
    out: Dirents<'b>,
    /// The tree that the directory is in; 0 for the directory of trees.
    tree: u32,
    caching: Caching,
}

impl Entries<'_> {
    /// Adds an entry of a tree, whose `ino` is its number within the tree, and says whether there was room.
    fn push(&mut self, listed: Listed<'_>, found: impl FnOnce() -> Option<Found>) -> bool {
        let node = Node::In { tree: self.tree, inner: listed.ino as u32 };
        let dots = matches!(listed.name, b"." | b"..");
        let listed = Listed { ino: node.number(), ..listed };
        // The kernel takes no attributes of the dots.
        self.push_node((!dots).then_some(node), listed, found)
    }

    /// Adds an entry, with attributes if `node` is given, and says whether there was room.
    fn push_node(
        &mut self,
        node: Option<Node>,
        listed: Listed<'_>,
        found: impl FnOnce() -> Option<Found>,
    ) -> bool {
        let caching = self.caching;
        self.out.push(listed, || match node.and_then(|node| Some((node, found()?))) {
            Some((node, found)) => found.entry(node, caching),
            None => EntryOut::default(),
        })
    }
}

impl Tree {
    fn root(&self) -> u32 {
        match self {
            Tree::Layer(layer) => layer.root(),
            Tree::State(state) => state.root(),
        }
    }

    fn found(&self, inner: u32) -> Result<Found, Errno> {
        match self {
            Tree::Layer(layer) => {
                Ok(Found { inner, attr: layer.attributes(inner)?, lifetime: Lifetime::Forever })
            }
            Tree::State(state) => state.found(inner),
        }
    }

    fn lookup(&self, directory: u32, name: &[u8]) -> Result<Option<Found>, Errno> {
        match self {
            // Any node is `.` of itself, by which the kernel opens file handles.
            _ if name == b"." => self.found(directory).map(Some),
            Tree::Layer(layer) => layer.lookup(directory, name),
            Tree::State(state) => state.lookup(directory, name),
        }
    }

    fn list(&self, directory: u32, position: u64, entries: &mut Entries<'_>) -> Result<(), Errno> {
        match self {
            Tree::Layer(layer) => layer.list(directory, position, entries),
            Tree::State(state) => state.list(directory, position, entries),
        }
    }

    fn statfs(&self) -> StatfsOut {
        match self {
            Tree::Layer(layer) => layer.statfs(),
            Tree::State(_) => StatfsOut::default(),
        }
    }
}
