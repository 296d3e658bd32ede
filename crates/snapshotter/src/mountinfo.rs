//! What the kernel has mounted below a directory, and how to get rid of it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

use crate::Error;

/// The list of this process's mount namespace, described in proc_pid_mountinfo(5).
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Detaches everything mounted at `dir` or below it, innermost and latest first, and tells how many mounts that
/// were, or the first failure after trying all. Whoever uses such a mount keeps it until the last reference goes.
pub(crate) fn detach_below(dir: &Path) -> Result<usize, Error> {
    detach_below_except(dir, |_| false)
}

/// As [`detach_below`], leaving the mount points alone for which `stays` says so.
pub(crate) fn detach_below_except(dir: &Path, stays: impl Fn(&Path) -> bool) -> Result<usize, Error> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        // The directory itself is the mountpoint of a filesystem that does not answer: its name is as good.
        Err(_) => dir.to_owned(),
    };
    let list = Path::new(MOUNTINFO);
    let mountinfo = fs::read(list).map_err(Error::io("read", list))?;
    let mut mountpoints: Vec<_> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(mountpoint)
        .filter(|path| path.starts_with(&dir) && !stays(path))
        .collect();
    mountpoints.reverse();
    let mut result = Ok(mountpoints.len());
    for mountpoint in &mountpoints {
        if let Err(errno) = unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            result = result.and(Err(Error::io("unmount", mountpoint)(errno.into())));
        }
    }
    result
}

/// The fifth field of a line, with its octal escapes (space, tab, line end, backslash) resolved.
fn mountpoint(line: &[u8]) -> Option<PathBuf> {
    let mut escaped = line.split(|byte| *byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(escaped.len());
    while let [first, rest @ ..] = escaped {
        match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                escaped = after;
            }
            _ => {
                path.push(*first);
                escaped = rest;
            }
        }
    }
    Some(OsString::from_vec(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_is_the_fifth_field_without_its_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mountpoint(line), Some(PathBuf::from(r"/mnt/a b\c")));
        assert_eq!(mountpoint(br"1 2 3:4 / /x\09 rw"), Some(PathBuf::from(r"/x\09")));
        assert_eq!(mountpoint(b""), None);
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_mounts() {
        assert_eq!(detach_below(Path::new("/nonexistent/anywhere")).unwrap(), 0);
    }
}
