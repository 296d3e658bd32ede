//! What is mounted where, and taking it away.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};

use crate::error::Error;

/// One line of `/proc/self/mountinfo` (see `proc(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among the mounts that exist now.
    pub id: u64,
    /// The mount that this one sits on.
    pub parent: u64,
    /// `major:minor` of the filesystem, as `st_dev` of its files has it.
    pub device: (u32, u32),
    /// The directory of the filesystem that is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub mount_point: PathBuf,
    /// Options of the mount, separated by commas.
    pub options: String,
    /// Type of the filesystem, with its subtype after a dot.
    pub fs_type: String,
    /// What the filesystem names as its source.
    pub source: OsString,
    /// Options of the filesystem, separated by commas.
    pub fs_options: String,
}

/// How hard to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmountMode {
    /// Fails with `EBUSY` when something is in use.
    Normal,
    /// Takes the mount out of sight at once; it ends when the last user is gone.
    Lazy,
}

/// Unmounts the topmost mount at `target`. That nothing is mounted there, or that the path does not exist, is success.
///
/// # Errors
/// When the mount is in use (`EBUSY`, with [`UnmountMode::Normal`]) or we may not.
pub fn unmount(target: &Path, mode: UnmountMode) -> Result<(), Error> {
    let flags = match mode {
        UnmountMode::Normal => UnmountFlags::NOFOLLOW,
        UnmountMode::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(target, flags) {
        // EINVAL: not a mount point.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::file("unmount", target, errno)),
    }
}

/// Shows the tree at `source` at the directory `target` as well, with the same mount options and without what is
/// mounted below it.
///
/// # Errors
/// When one of the two does not exist, or we may not.
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    let failed = |step: String, errno: Errno| Error::Mount {
        fs: "bind",
        target: target.to_path_buf(),
        step,
        kernel_log: String::new(),
        source: errno.into(),
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)
        .map_err(|errno| failed(format!("cloning {}", source.display()), errno))?;
    move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("attaching the mount".to_owned(), errno))
}

/// The mounts at `prefix` and below it, in the order of the kernel: later ones lie on earlier ones, so to unmount all
/// go from the end to the start. `prefix` must be absolute and free of symlinks to match.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn mounts_below(prefix: &Path) -> Result<Vec<MountInfo>, Error> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).map_err(|source| Error::File {
        action: "read",
        path: PathBuf::from(TABLE),
        source,
    })?;
    let mounts = table.split(|&byte| byte == b'\n').filter_map(MountInfo::parse);
    Ok(mounts.filter(|mount| mount.mount_point.starts_with(prefix)).collect())
}

impl MountInfo {
    /// Reads one line; `None` when it is none.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let mut next = || fields.next();
        let id = number(next()?)?;
        let parent = number(next()?)?;
        let mut device = next()?.split(|&byte| byte == b':');
        let device = (number(device.next()?)?, number(device.next()?)?);
        let root = PathBuf::from(unescape(next()?));
        let mount_point = PathBuf::from(unescape(next()?));
        let options = text(next()?);
        // Any number of optional fields, then a hyphen.
        while next()? != b"-" {}
        let fs_type = text(next()?);
        let source = unescape(next()?);
        let fs_options = text(next()?);
        Some(Self { id, parent, device, root, mount_point, options, fs_type, source, fs_options })
    }
}

fn number<N: std::str::FromStr>(field: &[u8]) -> Option<N> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    unescape(field).to_string_lossy().into_owned()
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\').then(|| tail.first_chunk::<3>().and_then(octal)).flatten();
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    digits.iter().all(u8::is_ascii_digit).then_some(())?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests;
