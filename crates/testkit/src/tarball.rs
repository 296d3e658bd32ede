//! A [`Tree`] as a layer's tar archive, and the naive reading of such an archive as a tree.
//!
//! The archive is ustar with PAX extended headers (POSIX.1-2024, `pax`) where ustar has no room: long names, large
//! numbers, fractions of a second, times before the epoch, extended attributes as `SCHILY.xattr.NAME`. Whiteouts are
//! the `.wh.` files of the OCI layer specification.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::tree::{Device, Entry, Kind, Time, Tree, opaque_path, parent, whiteout_path};

pub use read::{Parsed, parse};
pub use write::archive;
pub(crate) use write::{header, header_of_size, padding};

/// The type flag of a tar header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `0`.
    File,
    /// `1`.
    Hardlink,
    /// `2`.
    Symlink,
    /// `3`.
    Char,
    /// `4`.
    Block,
    /// `5`.
    Dir,
    /// `6`.
    Fifo,
}

/// One member of an archive, exactly as stored: names may be absolute, repeated or climb out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Type flag.
    pub kind: Type,
    /// Name as stored.
    pub name: Vec<u8>,
    /// Target of hard and symbolic links.
    pub link: Vec<u8>,
    /// Mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, often empty.
    pub user: String,
    /// Group's name, often empty.
    pub group: String,
    /// Time of last modification.
    pub mtime: Time,
    /// Device number.
    pub device: Device,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Content of a regular file.
    pub content: Bytes,
}

/// How names are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// `etc/passwd`, as docker does.
    #[default]
    Plain,
    /// `./etc/passwd`, as `tar -C dir .` does.
    DotSlash,
}

impl Member {
    /// A member with all attributes zero.
    pub fn new(kind: Type, name: impl Into<Vec<u8>>) -> Member {
        Member {
            kind,
            name: name.into(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            mtime: Time::default(),
            device: Device::default(),
            xattrs: BTreeMap::new(),
            content: Bytes::new(),
        }
    }
}

/// The tree as an archive with plain names.
pub fn write(tree: &Tree) -> Vec<u8> {
    archive(&members(tree, Names::Plain))
}

/// The members of the archive of `tree`: the root (`./`) first, parents before children, link targets before links.
pub fn members(tree: &Tree, names: Names) -> Vec<Member> {
    let stored = |path: &[u8]| match names {
        Names::Plain => path.to_vec(),
        Names::DotSlash => [b"./", path].concat(),
    };
    let mut members = Vec::new();
    for path in tree.paths() {
        if let Some(primary) = tree.links.get(path) {
            // A hard link repeats the attributes of its inode, as archivers do.
            let member = with_attributes(Type::Hardlink, stored(path), &tree.entries[primary]);
            members.push(Member { link: stored(primary), xattrs: BTreeMap::new(), ..member });
            continue;
        }
        let entry = &tree.entries[path];
        let (kind, name) = match &entry.kind {
            Kind::Dir { .. } if path.is_empty() => (Type::Dir, b"./".to_vec()),
            Kind::Dir { .. } => (Type::Dir, [&stored(path)[..], b"/"].concat()),
            Kind::File(_) => (Type::File, stored(path)),
            Kind::Symlink(_) => (Type::Symlink, stored(path)),
            Kind::Char(_) => (Type::Char, stored(path)),
            Kind::Block(_) => (Type::Block, stored(path)),
            Kind::Fifo => (Type::Fifo, stored(path)),
            Kind::Whiteout => (Type::File, stored(&whiteout_path(path))),
        };
        members.push(with_attributes(kind, name, entry));
        if entry.kind == (Kind::Dir { opaque: true }) {
            let marker = Entry::new(Kind::Whiteout);
            members.push(with_attributes(Type::File, stored(&opaque_path(path)), &marker));
        }
    }
    members
}

fn with_attributes(kind: Type, name: Vec<u8>, entry: &Entry) -> Member {
    let mut member = Member {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        ..Member::new(kind, name)
    };
    match &entry.kind {
        Kind::File(content) if kind == Type::File => member.content = content.clone(),
        Kind::Symlink(target) if kind == Type::Symlink => member.link = target.clone(),
        Kind::Char(device) | Kind::Block(device) if kind != Type::Hardlink => member.device = *device,
        _ => {}
    }
    member
}

/// The tree that a layer archive describes: later members replace earlier ones, missing parents are made, whiteouts and
/// opaque markers are read.
///
/// # Panics
/// When `tar` is not an archive, or links to something that it does not hold.
pub fn tree(tar: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for Parsed { member, .. } in parse(tar) {
        let path = clean(&member.name);
        let dir = parent(&path).unwrap_or_default();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name == b".wh..wh..opq" {
            let mut entry = tree.get(dir).cloned().unwrap_or_else(Entry::dir);
            entry.kind = Kind::Dir { opaque: true };
            tree.insert(dir, entry);
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            let entry = Entry { mtime: member.mtime, ..Entry::new(Kind::Whiteout) };
            tree.insert(&crate::tree::join(dir, hidden), entry);
        } else if member.kind == Type::Hardlink {
            tree.link(&path, &clean(&member.link));
        } else {
            let opaque = tree.get(&path).is_some_and(|old| old.kind == Kind::Dir { opaque: true });
            tree.insert(&path, entry(member, opaque));
        }
    }
    tree
}

fn entry(member: Member, opaque: bool) -> Entry {
    let kind = match member.kind {
        Type::Dir => Kind::Dir { opaque },
        Type::Symlink => Kind::Symlink(member.link),
        Type::Char => Kind::Char(member.device),
        Type::Block => Kind::Block(member.device),
        Type::Fifo => Kind::Fifo,
        Type::File | Type::Hardlink => Kind::File(member.content),
    };
    let Member { mode, uid, gid, mtime, xattrs, .. } = member;
    Entry { kind, mode: mode & 0o7777, uid, gid, mtime, xattrs, nlink: None }
}

/// A stored name as a path of a [`Tree`]: `.`, empty and (like `/..`) climbing components are dropped.
pub fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
