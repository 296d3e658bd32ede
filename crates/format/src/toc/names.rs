//! Names: which ones may exist in a layer, and which node has which.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::NodeId;
use crate::error::EntryError;

/// Longest name of a file, as on every Linux filesystem (NAME_MAX).
const COMPONENT_MAX: usize = 255;
/// Longest name in the TOC (PATH_MAX).
const PATH_MAX: usize = 4096;

/// A name relative to the root of the layer that does not leave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelativePath<'a>(&'a [u8]);

/// What to do with a name that starts with `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rooted {
    /// eStargz has its names cleaned.
    Refused,
    /// Podman has them as the archive does, and for those who unpack an archive the root is that of the layer.
    Accepted,
}

impl<'a> RelativePath<'a> {
    /// Accepts what tar writers produce (`a/b`, `./a/b`, `a/b/`) and nothing that points elsewhere.
    pub fn new(name: &'a [u8], rooted: Rooted) -> Result<RelativePath<'a>, EntryError> {
        if name.starts_with(b"/") && rooted == Rooted::Refused {
            return Err(EntryError::AbsoluteName);
        }
        if name.len() > PATH_MAX {
            return Err(EntryError::PathTooLong);
        }
        if name.contains(&0) {
            return Err(EntryError::NulInName);
        }
        let path = RelativePath(name);
        for component in path.components() {
            if component == b".." {
                return Err(EntryError::ParentComponent);
            }
            if component.len() > COMPONENT_MAX {
                return Err(EntryError::ComponentTooLong);
            }
        }
        Ok(path)
    }

    /// The names on the way from the root, none for the root itself.
    pub fn components(self) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !matches!(*component, b"" | b"."))
    }
}

/// Index of a name in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(u32);

/// What a name stands for while the TOC is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Node(NodeId),
    /// A hard link, by its position among the hard links.
    Link(u32),
}

/// One name in one directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub parent: NodeId,
    pub target: Target,
    pub start: u32,
    pub len: u8,
    /// An entry of its own said so; otherwise it is only implied by names below it.
    pub explicit: bool,
}

/// All names of the TOC, in the order of their appearance, with an index by directory and name.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    names: Vec<Name>,
    /// Positions in `names`. Keyed hashing, since the names come from outside.
    index: HashTable<u32>,
    hasher: RandomState,
}

impl Names {
    pub fn find(&self, parent: NodeId, name: &[u8]) -> Option<NameId> {
        let hash = self.hasher.hash_one((parent, name));
        let found = self.index.find(hash, |position| {
            let candidate = &self.names[*position as usize];
            candidate.parent == parent && bytes_of(&self.bytes, candidate) == name
        });
        found.map(|position| NameId(*position))
    }

    /// Adds a name that [`Names::find`] does not find, a component of a [`RelativePath`].
    pub fn add(&mut self, parent: NodeId, name: &[u8], target: Target, explicit: bool) -> NameId {
        let start =
            u32::try_from(self.bytes.len()).expect("names are shorter than the JSON, which is below 4 GiB");
        let len = u8::try_from(name.len()).expect("a component has at most 255 bytes");
        let position = self.names.len() as u32;
        let hash = self.hasher.hash_one((parent, name));
        self.bytes.extend_from_slice(name);
        self.names.push(Name { parent, target, start, len, explicit });
        let Names { bytes, names, index, hasher } = self;
        index.insert_unique(hash, position, |other| {
            let name = &names[*other as usize];
            hasher.hash_one((name.parent, bytes_of(bytes, name)))
        });
        NameId(position)
    }

    pub fn get(&self, id: NameId) -> &Name {
        &self.names[id.0 as usize]
    }

    pub fn get_mut(&mut self, id: NameId) -> &mut Name {
        &mut self.names[id.0 as usize]
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = NameId> + use<> {
        (0..self.names.len() as u32).map(NameId)
    }

    pub fn bytes(&self, id: NameId) -> &[u8] {
        bytes_of(&self.bytes, self.get(id))
    }

    /// Follows a path as far as names stand for nodes. `None` when a name on the way is missing or a hard link.
    pub fn lookup(&self, path: RelativePath<'_>) -> Option<Target> {
        path.components().try_fold(Target::Node(NodeId::ROOT), |at, component| match at {
            Target::Node(parent) => Some(self.get(self.find(parent, component)?).target),
            Target::Link(_) => None,
        })
    }

    /// The path of a name, for messages.
    pub fn path(&self, id: NameId) -> Vec<u8> {
        let mut components = vec![self.bytes(id)];
        let mut at = self.get(id).parent;
        // A directory got its name before anything in it did.
        for name in self.names[..id.0 as usize].iter().rev() {
            if name.target == Target::Node(at) {
                components.push(bytes_of(&self.bytes, name));
                at = name.parent;
            }
        }
        components.reverse();
        components.join(&b'/')
    }

    /// Gives up the index and keeps the bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn bytes_of<'a>(bytes: &'a [u8], name: &Name) -> &'a [u8] {
    &bytes[name.start as usize..][..usize::from(name.len)]
}
