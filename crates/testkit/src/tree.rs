//! A file tree in memory: what a layer says, without any format or file system in the way.
//!
//! Paths are bytes relative to the root, without leading or trailing slash; the root itself is the empty path and is
//! always there. Every other path has a directory as its parent. Names that share an inode are a *group*: the smallest
//! path of the group carries the entry, the others point at it, so two equal trees compare equal with `==`.

mod strategy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use format::Digest;

pub use strategy::{Options, content, trees};

/// Seconds and nanoseconds since the epoch; before it, `secs` is negative and `nanos` still counts forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// 12 bits on Linux.
    pub major: u32,
    /// 20 bits on Linux.
    pub minor: u32,
}

/// What an entry is, with the data only that kind has.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; `opaque` hides what lower layers have in it.
    Dir {
        /// Whether the directory carries an opaque marker.
        opaque: bool,
    },
    /// A regular file and its content.
    File(Bytes),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device, never 0:0 (that is a [`Kind::Whiteout`]).
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// Hides the name in lower layers. Its other attributes have no meaning.
    Whiteout,
}

/// One inode.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and data.
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits: 12 bits, no file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Extended attributes by full name (`user.x`), without the overlay's own.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The link count a file system reported; `None` when the tree does not come from one (see [`Tree::nlink`]).
    pub nlink: Option<u64>,
}

/// A file tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    /// Every inode under the smallest of its paths.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// The other paths of hard linked inodes, each with the path in `entries`.
    pub links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry of this kind with mode 0755 (directories), 0777 (symbolic links), 0 (whiteouts) or 0644 (all else),
    /// owned by root and last modified at 2001-09-09T01:46:40Z.
    pub fn new(kind: Kind) -> Entry {
        let mode = match kind {
            Kind::Dir { .. } => 0o755,
            Kind::Symlink(_) => 0o777,
            Kind::Whiteout => 0,
            _ => 0o644,
        };
        let mtime = Time { secs: 1_000_000_000, nanos: 0 };
        Entry { kind, mode, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new(), nlink: None }
    }

    /// An ordinary directory.
    pub fn dir() -> Entry {
        Entry::new(Kind::Dir { opaque: false })
    }

    /// A regular file.
    pub fn file(content: impl Into<Bytes>) -> Entry {
        Entry::new(Kind::File(content.into()))
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<Vec<u8>>) -> Entry {
        Entry::new(Kind::Symlink(target.into()))
    }

    /// The same entry with another mode.
    pub fn mode(mut self, mode: u32) -> Entry {
        self.mode = mode;
        self
    }

    /// The same entry with another owner and group.
    pub fn owner(mut self, uid: u32, gid: u32) -> Entry {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// The same entry with another modification time.
    pub fn mtime(mut self, secs: i64, nanos: u32) -> Entry {
        self.mtime = Time { secs, nanos };
        self
    }

    /// The same entry with one more extended attribute.
    pub fn xattr(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Entry {
        self.xattrs.insert(name.into(), value.into());
        self
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    /// The content, for regular files.
    pub fn content(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// A tree that has only a root directory.
    pub fn new() -> Tree {
        Tree { entries: BTreeMap::from([(Vec::new(), Entry::dir())]), links: BTreeMap::new() }
    }

    /// The same tree with one more entry. Parents that are missing are made (0755, root:root).
    ///
    /// # Panics
    /// When a parent is not a directory.
    pub fn with(mut self, path: impl AsRef<[u8]>, entry: Entry) -> Tree {
        self.insert(path.as_ref(), entry);
        self
    }

    /// The same tree with one more name for the inode at `target`; see [`Tree::link`].
    pub fn with_link(mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tree {
        self.link(path.as_ref(), target.as_ref());
        self
    }

    /// Puts an entry at `path`, in place of what is there. A directory that replaces a directory keeps its children.
    ///
    /// # Panics
    /// When a parent is not a directory.
    pub fn insert(&mut self, path: &[u8], entry: Entry) {
        self.make_parents(path);
        let keep_children = entry.is_dir() && self.entries.get(path).is_some_and(Entry::is_dir);
        if !keep_children {
            self.remove(path);
        }
        self.entries.insert(path.to_vec(), entry);
    }

    /// Adds `path` as another name of the inode at `target`, in place of what is at `path`.
    ///
    /// # Panics
    /// When `target` is missing or a directory, or a parent of `path` is not a directory.
    pub fn link(&mut self, path: &[u8], target: &[u8]) {
        let primary = self.primary(target).to_vec();
        if path == primary || self.links.get(path) == Some(&primary) {
            return;
        }
        self.make_parents(path);
        self.remove(path);
        let entry = self.entries.get(&primary).unwrap_or_else(|| panic!("no link target {}", show(target)));
        assert!(!entry.is_dir(), "hard link to the directory {}", show(target));
        self.links.insert(path.to_vec(), primary.clone());
        if path < primary.as_slice() {
            self.make_primary(path, &primary);
        }
    }

    /// Removes a name, with everything below it. An inode lives on under its other names.
    pub fn remove(&mut self, path: &[u8]) {
        if self.get(path).is_none() {
            return;
        }
        let mut prefix = path.to_vec();
        prefix.push(b'/');
        let below = |name: &Vec<u8>| name == path || name.starts_with(&prefix);
        self.links.retain(|name, _| !below(name));
        let doomed: Vec<_> = self.entries.keys().filter(|name| below(name)).cloned().collect();
        for name in doomed {
            let heir = self.links.iter().find(|(_, primary)| **primary == name).map(|(link, _)| link.clone());
            match heir {
                Some(heir) => {
                    self.make_primary(&heir, &name);
                    self.links.remove(&name);
                }
                None => {
                    self.entries.remove(&name);
                }
            }
        }
    }

    /// The path that carries the entry of `path`.
    pub fn primary<'a>(&'a self, path: &'a [u8]) -> &'a [u8] {
        self.links.get(path).map_or(path, Vec::as_slice)
    }

    /// The entry at `path`, through hard links.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(self.primary(path))
    }

    /// Every path, hard links too, in byte order: parents come before their children.
    pub fn paths(&self) -> Vec<&[u8]> {
        let mut paths: Vec<_> = self.entries.keys().chain(self.links.keys()).map(Vec::as_slice).collect();
        paths.sort_unstable();
        paths
    }

    /// Every name of the inode at `path`, in byte order.
    pub fn group<'a>(&'a self, path: &'a [u8]) -> Vec<&'a [u8]> {
        let primary = self.primary(path);
        let links = self.links.iter().filter(|(_, target)| target.as_slice() == primary);
        std::iter::once(primary).chain(links.map(|(link, _)| link.as_slice())).collect()
    }

    /// The link count that the inode at `path` should have: its names, or for a directory 2 and one per directory in it.
    pub fn nlink(&self, path: &[u8]) -> u64 {
        if !self.get(path).is_some_and(Entry::is_dir) {
            return self.group(path).len() as u64;
        }
        let dirs = self.entries.iter().filter(|(name, entry)| entry.is_dir() && parent(name) == Some(path));
        2 + dirs.count() as u64
    }

    /// What plain `tar -x` makes of this layer: a whiteout is an empty regular file `.wh.NAME`, an opaque directory holds
    /// one called `.wh..wh..opq`.
    pub fn with_markers_as_files(&self) -> Tree {
        let mut tree = Tree { entries: BTreeMap::new(), links: self.links.clone() };
        for (path, entry) in &self.entries {
            let mut entry = entry.clone();
            let mut path = path.clone();
            match &mut entry.kind {
                Kind::Whiteout => {
                    path = whiteout_path(&path);
                    entry.kind = Kind::File(Bytes::new());
                }
                Kind::Dir { opaque } if *opaque => {
                    *opaque = false;
                    let marker = Entry { kind: Kind::File(Bytes::new()), ..Entry::new(Kind::Whiteout) };
                    tree.entries.insert(opaque_path(&path), marker);
                }
                _ => {}
            }
            tree.entries.insert(path, entry);
        }
        tree
    }

    fn make_parents(&mut self, path: &[u8]) {
        let Some(parent) = parent(path) else { return };
        match self.get(parent) {
            Some(entry) => assert!(entry.is_dir(), "the parent of {} is not a directory", show(path)),
            None => self.insert(parent, Entry::dir()),
        }
    }

    /// Moves the entry of a group from `old` to `new`, a link of it.
    fn make_primary(&mut self, new: &[u8], old: &[u8]) {
        let entry = self.entries.remove(old).expect("the old primary path has an entry");
        self.entries.insert(new.to_vec(), entry);
        self.links.remove(new);
        self.links.values_mut().filter(|primary| *primary == old).for_each(|primary| *primary = new.to_vec());
        self.links.insert(old.to_vec(), new.to_vec());
    }
}

/// The directory that holds `path`; `None` for the root.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &path[..slash]))
}

/// `name` in the directory `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Where a tar layer says that `path` is deleted: `.wh.` before its last name.
pub(crate) fn whiteout_path(path: &[u8]) -> Vec<u8> {
    let dir = parent(path).expect("the root cannot be a whiteout");
    let name = &path[if dir.is_empty() { 0 } else { dir.len() + 1 }..];
    join(dir, &[b".wh.", name].concat())
}

/// Where a tar layer says that the directory `path` is opaque.
pub(crate) fn opaque_path(path: &[u8]) -> Vec<u8> {
    join(path, b".wh..wh..opq")
}

/// A path for people: lossy, quoted, at most 100 characters.
pub(crate) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(100) {
        Some((cut, _)) => format!("{:?}… ({} bytes)", &text[..cut], path.len()),
        None => format!("{:?}", if path.is_empty() { "/" } else { &text }),
    }
}

impl fmt::Debug for Kind {
    /// Contents as length and digest: a failing property test prints whole trees.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Dir { opaque: false } => write!(f, "dir"),
            Kind::Dir { opaque: true } => write!(f, "dir (opaque)"),
            Kind::File(content) => write!(f, "file {} {:.8}", content.len(), Digest::of(content).hex()),
            Kind::Symlink(target) => write!(f, "symlink -> {}", show(target)),
            Kind::Char(device) => write!(f, "char {}:{}", device.major, device.minor),
            Kind::Block(device) => write!(f, "block {}:{}", device.major, device.minor),
            Kind::Fifo => write!(f, "fifo"),
            Kind::Whiteout => write!(f, "whiteout"),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Time { secs, nanos } = self.mtime;
        write!(f, "{:04o} {}:{} {secs}.{nanos:09} {:?}", self.mode, self.uid, self.gid, self.kind)?;
        for (name, value) in &self.xattrs {
            write!(f, " {}={}b", String::from_utf8_lossy(name), value.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in self.paths() {
            match self.links.get(path) {
                Some(primary) => writeln!(f, "{} = {}", show(path), show(primary))?,
                None => writeln!(f, "{} {:?}", show(path), self.entries[path])?,
            }
        }
        Ok(())
    }
}
