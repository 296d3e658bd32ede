//! The tree that becomes an image: nodes, and the named entries that make them reachable.
//!
//! Names lie in one buffer and entries in one list, so that a node costs about a hundred bytes besides its names.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::error::{Error, InvalidName, InvalidTarget};
use crate::layout::{BLOCK_SIZE, MAX_IMAGE_LEN, MAX_NAME_LEN, MAX_SYMLINK_LEN, device, mode};
use crate::xattr;

/// A node of the tree of one [`ImageWriter`](crate::ImageWriter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What every kind of node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission, set-id and sticky bits (`0o7777`), without the file type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since the epoch; the format has no other timestamp.
    pub mtime: i64,
    /// Nanoseconds on top of `mtime`, below 1,000,000,000.
    pub mtime_nanos: u32,
    /// Full names (`user.x`, `trusted.x`, `security.x`, `system.posix_acl_access`, `system.posix_acl_default`) and
    /// values, in any order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What kind of node it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory, empty until entries are added.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Where the content starts, in bytes from the start of the data area: a multiple of [`BLOCK_SIZE`]. Files
        /// may share contents. Without meaning if `size` is 0.
        data_offset: u64,
    },
    /// A symlink and its target: 1 to [`MAX_SYMLINK_LEN`] bytes, none of them NUL.
    Symlink(Vec<u8>),
    /// A character device; overlayfs takes 0:0 as a whiteout.
    CharDevice {
        /// Major number, below 4096.
        major: u32,
        /// Minor number, below 1,048,576.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number, below 4096.
        major: u32,
        /// Minor number, below 1,048,576.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

impl Content {
    /// The file type bits of the mode.
    pub(crate) fn mode(&self) -> u16 {
        match self {
            Content::Directory => mode::DIRECTORY,
            Content::File { .. } => mode::FILE,
            Content::Symlink(_) => mode::SYMLINK,
            Content::CharDevice { .. } => mode::CHAR_DEVICE,
            Content::BlockDevice { .. } => mode::BLOCK_DEVICE,
            Content::Fifo => mode::FIFO,
            Content::Socket => mode::SOCKET,
        }
    }

    fn validate(&self) -> Result<(), Error> {
        match *self {
            Content::File { size: 0, .. } | Content::Directory | Content::Fifo | Content::Socket => Ok(()),
            Content::File { size, data_offset } => {
                if !data_offset.is_multiple_of(u64::from(BLOCK_SIZE)) {
                    return Err(Error::UnalignedData { data_offset });
                }
                match data_offset.checked_add(size) {
                    Some(end) if end <= MAX_IMAGE_LEN => Ok(()),
                    end => Err(Error::ImageTooLarge { len: end.unwrap_or(u64::MAX) }),
                }
            }
            Content::Symlink(ref target) => {
                validate_target(target).map_err(|reason| Error::InvalidTarget { len: target.len(), reason })
            }
            Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
                if major > device::MAX_MAJOR || minor > device::MAX_MINOR {
                    return Err(Error::InvalidDevice { major, minor });
                }
                Ok(())
            }
        }
    }
}

/// One inode to be.
#[derive(Debug)]
pub(crate) struct Node {
    pub content: Content,
    /// Encoded, empty if the node has none.
    pub xattrs: Box<[u8]>,
    pub mtime: i64,
    pub mtime_nanos: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub permissions: u16,
}

impl Node {
    fn new(attributes: Attributes, content: Content) -> Result<Node, Error> {
        let Attributes { mode, uid, gid, mtime, mtime_nanos, xattrs } = attributes;
        if mode & !0o7777 != 0 {
            return Err(Error::InvalidMode { mode });
        }
        if mtime_nanos >= 1_000_000_000 {
            return Err(Error::InvalidNanoseconds { nanos: mtime_nanos });
        }
        content.validate()?;
        let xattrs = xattr::encode(xattrs)?;
        // The entry that it is added with; a directory also has one for itself.
        let links = if content == Content::Directory { 2 } else { 1 };
        Ok(Node { content, xattrs, mtime, mtime_nanos, uid, gid, links, permissions: mode })
    }

    pub fn mode(&self) -> u16 {
        self.content.mode() | self.permissions
    }

    pub fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }
}

/// `name` in directory `parent` is `node`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub parent: NodeId,
    pub node: NodeId,
    name_start: u32,
    name_len: u8,
}

/// All names, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<u8>);

impl Names {
    pub fn get(&self, entry: &Entry) -> &[u8] {
        let start = entry.name_start as usize;
        &self.0[start..start + usize::from(entry.name_len)]
    }

    /// An entry with a name that is stored from here on. The name must have been validated.
    fn entry(&mut self, parent: NodeId, node: NodeId, name: &[u8]) -> Result<Entry, Error> {
        let too_large = |_| Error::TreeTooLarge { what: "bytes of names" };
        let name_start = u32::try_from(self.0.len()).map_err(too_large)?;
        let name_len = u8::try_from(name.len()).map_err(too_large)?;
        self.0.extend(name);
        Ok(Entry { parent, node, name_start, name_len })
    }
}

/// Nodes and entries while they are being added.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    names: Names,
    /// Indices into `entries` by parent and name. Only ever looked up: its order, which differs from run to run,
    /// does not reach the image.
    index: HashTable<u32>,
    hasher: RandomState,
    /// Bytes of data area that the files need.
    data_end: u64,
}

/// A tree to which nothing is added any more.
#[derive(Debug)]
pub(crate) struct Complete {
    pub nodes: Vec<Node>,
    /// Sorted by parent, then by name; with `.` and `..`.
    pub entries: Vec<Entry>,
    pub names: Names,
    pub data_end: u64,
}

impl Tree {
    pub fn new() -> Tree {
        let root = Node {
            content: Content::Directory,
            xattrs: Box::default(),
            mtime: 0,
            mtime_nanos: 0,
            uid: 0,
            gid: 0,
            links: 2,
            permissions: 0o755,
        };
        Tree {
            nodes: vec![root],
            entries: Vec::new(),
            names: Names::default(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            data_end: 0,
        }
    }

    pub fn set_root(&mut self, attributes: Attributes) -> Result<(), Error> {
        let root = &mut self.nodes[NodeId::ROOT.index()];
        let links = root.links;
        *root = Node { links, ..Node::new(attributes, Content::Directory)? };
        Ok(())
    }

    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId, Error> {
        let id = u32::try_from(self.nodes.len())
            .map(NodeId)
            .map_err(|_| Error::TreeTooLarge { what: "inodes" })?;
        let node = Node::new(attributes, content)?;
        self.add_entry(parent, name, id)?;
        match node.content {
            // By the `..` of the new directory.
            Content::Directory => self.nodes[parent.index()].links += 1,
            Content::File { size, data_offset } if size > 0 => {
                self.data_end = self.data_end.max(data_offset + size);
            }
            _ => {}
        }
        self.nodes.push(node);
        Ok(id)
    }

    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        match self.nodes.get(target.index()) {
            None => return Err(Error::UnknownNode { name: name.to_vec() }),
            Some(node) if node.is_directory() => return Err(Error::LinkToDirectory { name: name.to_vec() }),
            Some(_) => {}
        }
        self.add_entry(parent, name, target)?;
        self.nodes[target.index()].links += 1;
        Ok(())
    }

    fn add_entry(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Error> {
        validate_name(name).map_err(|reason| Error::InvalidName { name: name.to_vec(), reason })?;
        match self.nodes.get(parent.index()) {
            None => return Err(Error::UnknownNode { name: name.to_vec() }),
            Some(node) if !node.is_directory() => return Err(Error::NotADirectory { name: name.to_vec() }),
            Some(_) => {}
        }
        let position =
            u32::try_from(self.entries.len()).map_err(|_| Error::TreeTooLarge { what: "entries" })?;
        let Tree { entries, names, index, hasher, .. } = self;
        let hash = hasher.hash_one((parent, name));
        let same = |&i: &u32| {
            let entry = &entries[i as usize];
            entry.parent == parent && names.get(entry) == name
        };
        if index.find(hash, same).is_some() {
            return Err(Error::DuplicateName { name: name.to_vec() });
        }
        entries.push(names.entry(parent, node, name)?);
        index.insert_unique(hash, position, |&i| {
            let entry = &entries[i as usize];
            hasher.hash_one((entry.parent, names.get(entry)))
        });
        Ok(())
    }

    /// Adds `.` and `..` to each directory and sorts.
    pub fn complete(self) -> Result<Complete, Error> {
        let Tree { nodes, mut entries, mut names, index, data_end, .. } = self;
        // Its memory is better spent on the plan that is made next.
        drop(index);
        let here = names.entry(NodeId::ROOT, NodeId::ROOT, b".")?;
        let above = names.entry(NodeId::ROOT, NodeId::ROOT, b"..")?;
        for position in 0..entries.len() {
            let Entry { parent, node, .. } = entries[position];
            if nodes[node.index()].is_directory() {
                entries.push(Entry { parent: node, node, ..here });
                entries.push(Entry { parent: node, node: parent, ..above });
            }
        }
        entries.extend([here, above]);
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::TreeTooLarge { what: "entries" });
        }
        entries.sort_unstable_by(|a, b| (a.parent.0, names.get(a)).cmp(&(b.parent.0, names.get(b))));
        Ok(Complete { nodes, entries, names, data_end })
    }
}

fn validate_name(name: &[u8]) -> Result<(), InvalidName> {
    match name {
        b"" => Err(InvalidName::Empty),
        b"." | b".." => Err(InvalidName::Reserved),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(InvalidName::Byte),
        _ if name.len() > MAX_NAME_LEN => Err(InvalidName::TooLong),
        _ => Ok(()),
    }
}

fn validate_target(target: &[u8]) -> Result<(), InvalidTarget> {
    match target {
        b"" => Err(InvalidTarget::Empty),
        _ if target.contains(&0) => Err(InvalidTarget::Byte),
        _ if target.len() > MAX_SYMLINK_LEN => Err(InvalidTarget::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
