//! A directory on disk as a tree.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::io::Errno;

use crate::tree::{Device, Entry, Kind, Time, Tree, join, show};

/// How many bytes an attribute's value or the list of names can have at most (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// Reads the directory `root` with everything in it, contents included, the way a container would see it: character
/// device 0:0 is a whiteout, and `trusted.overlay.opaque` (or `user.`) with the value `y` makes a directory opaque.
///
/// # Errors
/// When something cannot be read, or contradicts itself: sizes that differ from what can be read, types that differ
/// between the directory and the inode. The error names the path.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut walk = Walk { tree: Tree::new(), inodes: HashMap::new() };
    walk.add(root, Vec::new())?;
    Ok(walk.tree)
}

struct Walk {
    tree: Tree,
    /// First path seen of inodes with several.
    inodes: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    fn add(&mut self, at: &Path, path: Vec<u8>) -> io::Result<()> {
        let name_it = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", show(&path)));
        let meta = fs::symlink_metadata(at).map_err(name_it)?;
        if !meta.is_dir() && meta.nlink() > 1 {
            let inode = (meta.dev(), meta.ino());
            if let Some(first) = self.inodes.get(&inode) {
                self.tree.link(&path, first);
                return Ok(());
            }
            self.inodes.insert(inode, path.clone());
        }
        let entry = entry(at, &meta).map_err(name_it)?;
        let is_dir = entry.is_dir();
        self.tree.insert(&path, entry);
        if !is_dir {
            return Ok(());
        }
        for child in fs::read_dir(at).map_err(name_it)? {
            let child = child.map_err(name_it)?;
            let child_path = join(&path, child.file_name().as_bytes());
            // From the directory, not from the inode, when the file system gives it there.
            let listed = child.file_type()?;
            if listed != fs::symlink_metadata(child.path())?.file_type() {
                return Err(contradiction(
                    &child_path,
                    "the directory lists another file type than the inode has",
                ));
            }
            self.add(&child.path(), child_path)?;
        }
        Ok(())
    }
}

fn entry(at: &Path, meta: &Metadata) -> io::Result<Entry> {
    let device = Device { major: rustix::fs::major(meta.rdev()), minor: rustix::fs::minor(meta.rdev()) };
    let file_type = meta.file_type();
    let mut xattrs = xattrs(at)?;
    let kind = if file_type.is_dir() {
        let markers =
            [b"trusted.overlay.opaque".as_slice(), b"user.overlay.opaque"].map(|name| xattrs.remove(name));
        Kind::Dir { opaque: markers.contains(&Some(b"y".to_vec())) }
    } else if file_type.is_symlink() {
        let target = fs::read_link(at)?.into_os_string().into_vec();
        check_size(meta, target.len())?;
        Kind::Symlink(target)
    } else if file_type.is_char_device() && device == Device::default() {
        Kind::Whiteout
    } else if file_type.is_char_device() {
        Kind::Char(device)
    } else if file_type.is_block_device() {
        Kind::Block(device)
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_file() {
        let content = fs::read(at)?;
        check_size(meta, content.len())?;
        Kind::File(content.into())
    } else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "a socket: layers have none"));
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Time { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 },
        xattrs,
        nlink: Some(meta.nlink()),
    })
}

fn check_size(meta: &Metadata, read: usize) -> io::Result<()> {
    if meta.len() == read as u64 {
        return Ok(());
    }
    let what = format!("the inode says {} bytes, but {read} can be read", meta.len());
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn contradiction(path: &[u8], what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", show(path)))
}

fn xattrs(at: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; XATTR_MAX];
    let len = match rustix::fs::llistxattr(at, &mut list) {
        Err(Errno::NOTSUP) => 0,
        len => len?,
    };
    let mut value = vec![0; XATTR_MAX];
    let mut xattrs = BTreeMap::new();
    for name in list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(at, name, &mut value)?;
        xattrs.insert(name.to_vec(), value[..len].to_vec());
    }
    Ok(xattrs)
}
