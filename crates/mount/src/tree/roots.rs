//! The trees of a session, findable by number and by name, and the directory that lists them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::node::{MAX_TREE, Node};
use super::{Entries, Found, Root, Tree};
use crate::dirents::{Listed, kind};
use crate::error::Error;
use crate::files::is_name;
use crate::wire::{Attr, ROOT_NODE, StatfsOut};

/// One tree in its place.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) number: u32,
    pub(super) name: Arc<str>,
    pub(super) tree: Tree,
}

impl Planted {
    /// The root directory of the tree.
    pub(super) fn root(&self) -> Node {
        Node::In { tree: self.number, inner: self.tree.root() }
    }
}

/// All trees.
#[derive(Debug, Default)]
pub(super) struct Roots {
    by_number: BTreeMap<u32, Arc<Planted>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Roots {
    pub(super) fn insert(&mut self, Root { number, name, tree }: Root) -> Result<(), Error> {
        if let Some(reason) = self.refusal(number, &name) {
            return Err(Error::Rejected { node: number.into(), name, reason });
        }
        let name: Arc<str> = name.into();
        self.numbers.insert(Arc::clone(&name), number);
        self.by_number.insert(number, Arc::new(Planted { number, name, tree }));
        Ok(())
    }

    fn refusal(&self, number: u32, name: &str) -> Option<&'static str> {
        if number == 0 || number > MAX_TREE {
            Some("trees have numbers from 1 to 16777215")
        } else if !is_name(name) {
            Some("not a valid file name")
        } else if self.by_number.contains_key(&number) {
            Some("the number is in use")
        } else if self.numbers.contains_key(name) {
            Some("the name is in use")
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Arc<Planted>> {
        let planted = self.by_number.remove(&number)?;
        self.numbers.remove(&planted.name);
        Some(planted)
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<Planted>> {
        self.by_number.get(&number).map(Arc::clone)
    }

    pub(super) fn lookup(&self, name: &[u8]) -> Option<Arc<Planted>> {
        self.get(*self.numbers.get(std::str::from_utf8(name).ok()?)?)
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Lists the trees from the one on whose position this is: 1 and 2 lie behind the dots, then come the numbers.
    pub(super) fn list(&self, position: u64, entries: &mut Entries<'_>) {
        let dots = [(1, "."), (2, "..")].into_iter().map(|(next, name)| (ROOT_NODE, next, name, None));
        let trees = self.by_number.values().map(|planted| {
            (planted.root().number(), u64::from(planted.number) + 2, &*planted.name, Some(planted))
        });
        for (ino, next, name, planted) in dots.chain(trees).filter(|(_, next, ..)| *next > position) {
            let listed = Listed { ino, next, kind: kind::DIRECTORY, name: name.as_bytes() };
            let found = || planted.and_then(|planted| planted.tree.found(planted.tree.root()).ok());
            if !entries.push_node(planted.map(|planted| planted.root()), listed, found) {
                break;
            }
        }
    }

    /// The sum of all trees.
    pub(super) fn statfs(&self) -> StatfsOut {
        let sum = StatfsOut { files: 1, ..StatfsOut::default() };
        self.by_number.values().map(|planted| planted.tree.statfs()).fold(sum, |sum, one| StatfsOut {
            blocks: sum.blocks.saturating_add(one.blocks),
            files: sum.files.saturating_add(one.files),
            ..sum
        })
    }
}

/// The directory of all trees belongs to whoever mounts, and is closed to everyone else: trees are shown to others by
/// binding them or by an overlay.
pub(super) fn root_attributes() -> Attr {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Attr {
        ino: ROOT_NODE,
        mode: 0o040_700,
        nlink: 2,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        blksize: 4096,
        times: [now.as_secs(); 3],
        times_nsec: [now.subsec_nanos(); 3],
        ..Attr::default()
    }
}

/// What a lookup of a tree's name finds.
pub(super) fn found(planted: &Planted) -> Option<Found> {
    planted.tree.found(planted.tree.root()).ok()
}
