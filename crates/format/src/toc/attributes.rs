//! Fields of an entry, checked against what Linux can represent.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::entry::{Entry, EntryKind, Text};
use super::{Node, NodeKind, Xattr};
use crate::error::{EntryError, excerpt};
use crate::timestamp::Timestamp;

/// Longest target of a symbolic link (PATH_MAX without the NUL).
const SYMLINK_MAX: usize = 4095;
/// Longest name of an extended attribute (XATTR_NAME_MAX).
const XATTR_NAME_MAX: usize = 255;
/// Largest value of an extended attribute (XATTR_SIZE_MAX).
const XATTR_VALUE_MAX: usize = 64 << 10;
/// Attributes by which overlayfs is told how layers stack.
const OVERLAY_XATTRS: &str = "trusted.overlay.";
/// Bits of a device number that Linux has for its two parts.
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;

/// The attributes that all kinds of files have.
pub(super) fn node(entry: &Entry, kind: NodeKind) -> Result<Node, EntryError> {
    let mtime = match &entry.mtime {
        Text::Absent => Timestamp::default(),
        Text::Parsed(time) => *time,
        Text::Wrong(text) => return Err(EntryError::BadTime(excerpt(text.as_bytes()))),
    };
    Ok(Node {
        kind,
        // Some writers put the file type here, too.
        mode: (unsigned("mode", entry.mode)? & 0o7777) as u16,
        uid: owner("uid", entry.uid)?,
        gid: owner("gid", entry.gid)?,
        mtime,
        nlink: 0,
        xattrs: xattrs(entry)?,
    })
}

/// What the entry is; a file is still without its chunks. `None` for entries that are no files of their own.
pub(super) fn kind(kind: EntryKind, entry: &mut Entry) -> Result<Option<NodeKind>, EntryError> {
    Ok(Some(match kind {
        EntryKind::Dir => NodeKind::Directory { opaque: false },
        EntryKind::Reg => NodeKind::File { size: unsigned("size", entry.size)?, chunks: 0..0 },
        EntryKind::Symlink => {
            NodeKind::Symlink { target: symlink_target(std::mem::take(&mut entry.link_name))? }
        }
        EntryKind::Char => {
            let (major, minor) = device(entry)?;
            NodeKind::CharDevice { major, minor }
        }
        EntryKind::Block => {
            let (major, minor) = device(entry)?;
            NodeKind::BlockDevice { major, minor }
        }
        EntryKind::Fifo => NodeKind::Fifo,
        EntryKind::Hardlink | EntryKind::Chunk => return Ok(None),
    }))
}

pub(super) fn unsigned(field: &'static str, value: i64) -> Result<u64, EntryError> {
    u64::try_from(value).map_err(|_| EntryError::OutOfRange { field, value })
}

/// The digest of a chunk, if it has one. A file of one chunk may have it as the digest of the whole file.
pub(super) fn chunk_digest(entry: &Entry, whole_file: bool) -> Result<Option<[u8; 32]>, EntryError> {
    let field = match &entry.chunk_digest {
        Text::Absent if whole_file => &entry.digest,
        field => field,
    };
    match field {
        Text::Absent => Ok(None),
        Text::Parsed(digest) => {
            digest.sha256().map(Some).ok_or_else(|| EntryError::BadDigest(digest.to_string()))
        }
        Text::Wrong(text) => Err(EntryError::BadDigest(excerpt(text.as_bytes()))),
    }
}

/// A user or group. The largest 32-bit number means "no change" to chown(2), so nobody has it.
fn owner(field: &'static str, value: i64) -> Result<u32, EntryError> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(EntryError::OutOfRange { field, value }),
    }
}

fn device(entry: &Entry) -> Result<(u32, u32), EntryError> {
    let part = |field, value: i64, bits| match u32::try_from(value) {
        Ok(part) if part < 1_u32 << bits => Ok(part),
        _ => Err(EntryError::OutOfRange { field, value }),
    };
    Ok((part("devMajor", entry.dev_major, MAJOR_BITS)?, part("devMinor", entry.dev_minor, MINOR_BITS)?))
}

fn symlink_target(target: String) -> Result<Vec<u8>, EntryError> {
    let target = target.into_bytes();
    if target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0) {
        return Err(EntryError::BadSymlinkTarget);
    }
    Ok(target)
}

/// In the order of the names, as the map they come from.
fn xattrs(entry: &Entry) -> Result<Vec<Xattr>, EntryError> {
    let Some(map) = &entry.xattrs else {
        return Ok(Vec::new());
    };
    let mut xattrs = Vec::new();
    for (name, text) in map.iter().filter(|(name, _)| !name.starts_with(OVERLAY_XATTRS)) {
        let error = |reason| EntryError::BadXattr { name: excerpt(name.as_bytes()), reason };
        if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains('\0') {
            return Err(error("its name is empty, longer than 255 bytes or contains a NUL byte"));
        }
        let text = text.as_deref().unwrap_or_default();
        let value = BASE64_STANDARD.decode(text).map_err(|_| error("its value is not base64"))?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(error("its value is longer than 64 KiB"));
        }
        xattrs.push((name.as_bytes().to_vec(), value));
    }
    Ok(xattrs)
}
