//! Several layers as one tree.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::error::Error;
use crate::fscontext::FsContext;
use crate::mounts::{UnmountMode, bind, unmount};

/// How an overlay is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayOptions {
    /// Where writes go. Without it the overlay is read-only.
    pub upper: Option<Upper>,
    /// Whether the overlay's own xattrs are `user.overlay.*`, which everyone may set, instead of `trusted.overlay.*`. For
    /// mounts in user namespaces (Linux 5.11); a session of trees has its option for that too.
    pub user_xattrs: bool,
}

/// The writable part of an overlay. Both directories are on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Holds what is written.
    pub dir: PathBuf,
    /// The kernel's workshop, empty at first.
    pub work: PathBuf,
}

/// Mounts the directories `lowers`, the topmost first, as one read-only tree at `target`. A single one is bound, since
/// overlayfs wants two.
///
/// # Errors
/// When `lowers` is empty (`EINVAL`), when they are more than the kernel stacks (500), or when they do not fit its
/// option page on a kernel before 6.8.
pub fn mount_overlay_ro(lowers: &[PathBuf], target: &Path) -> Result<(), Error> {
    mount_overlay(lowers, target, &OverlayOptions::default())
}

/// Mounts the directories `lowers`, the topmost first, as one tree at `target`. A single one without an upper is bound.
///
/// # Errors
/// As [`mount_overlay_ro`]; also when the upper's filesystem is not fit for it.
pub fn mount_overlay(lowers: &[PathBuf], target: &Path, options: &OverlayOptions) -> Result<(), Error> {
    match (lowers, &options.upper) {
        ([], _) => Err(failed(target, "stacking no layers at all", Errno::INVAL)),
        ([only], None) => bind_read_only(only, target),
        _ => match stack_one_by_one(lowers, target, options) {
            Err(Error::Mount { step, source, .. })
                if step.starts_with("option lowerdir+")
                    && source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
            {
                stack_in_one_option(lowers, target, options)
            }
            result => result,
        },
    }
}

/// One `fsconfig` call for each layer, which knows no limit but the kernel's number of layers.
fn stack_one_by_one(lowers: &[PathBuf], target: &Path, options: &OverlayOptions) -> Result<(), Error> {
    let mut context = FsContext::open("overlay", target)?;
    context.set("source", "overlay")?;
    for lower in lowers {
        context.set_path("lowerdir+", lower)?;
    }
    if let Some(Upper { dir, work }) = &options.upper {
        // Unlike `lowerdir+`, these two are unescaped by the kernel.
        context.set_path("upperdir", &escaped(dir, b"\\"))?;
        context.set_path("workdir", &escaped(work, b"\\"))?;
    }
    if options.user_xattrs {
        context.flag("userxattr")?;
    }
    if options.upper.is_none() {
        context.flag("ro")?;
    }
    context.create()?;
    let attributes = match options.upper {
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Some(_) => MountAttrFlags::empty(),
    };
    context.mount(attributes)?.attach()
}

/// The form of older kernels: all in one option of `mount(2)`, which ends at one page. The same value through
/// `fsconfig(2)` would end at 256 bytes.
fn stack_in_one_option(lowers: &[PathBuf], target: &Path, options: &OverlayOptions) -> Result<(), Error> {
    let option = CString::new(option_string(lowers, options))
        .map_err(|_| failed(target, "option lowerdir", Errno::INVAL))?;
    let flags = if options.upper.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
    rustix::mount::mount("overlay", target, "overlay", flags, option.as_c_str())
        .map_err(|errno| failed(target, "option lowerdir", errno))
}

/// `lowerdir=a:b` and so on.
fn option_string(lowers: &[PathBuf], options: &OverlayOptions) -> Vec<u8> {
    const SPECIAL: &[u8] = b":\\,";
    let lowers: Vec<_> =
        lowers.iter().map(|lower| escaped(lower, SPECIAL).into_os_string().into_vec()).collect();
    let mut option = [b"lowerdir=".to_vec(), lowers.join(&b':')].concat();
    if let Some(Upper { dir, work }) = &options.upper {
        for (key, path) in [(&b",upperdir="[..], dir), (b",workdir=", work)] {
            option.extend(key);
            option.extend(escaped(path, SPECIAL).as_os_str().as_bytes());
        }
    }
    if options.user_xattrs {
        option.extend(b",userxattr");
    }
    option
}

/// The path with a backslash before each of the bytes that would end a name or an option.
fn escaped(path: &Path, special: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if special.contains(&byte) {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn bind_read_only(source: &Path, target: &Path) -> Result<(), Error> {
    bind(source, target)?;
    rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "").map_err(|errno| {
        // It must not stay writable. The first error is the one to tell.
        if let Err(error) = unmount(target, UnmountMode::Lazy) {
            tracing::warn!(%error, "a bind mount that could not be made read-only stays");
        }
        failed(target, "making the bind mount read-only", errno)
    })
}

fn failed(target: &Path, step: &str, errno: Errno) -> Error {
    Error::Mount {
        fs: "overlay",
        target: target.to_path_buf(),
        step: step.to_owned(),
        kernel_log: String::new(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_old_option_are_escaped() {
        let lowers = ["/a", "/b:c", "/d,e", "/f\\g"].map(PathBuf::from);
        let mut options = OverlayOptions::default();
        assert_eq!(option_string(&lowers, &options), br"lowerdir=/a:/b\:c:/d\,e:/f\\g");
        options.upper = Some(Upper { dir: "/u,".into(), work: "/w".into() });
        options.user_xattrs = true;
        let expected = br"lowerdir=/a,upperdir=/u\,,workdir=/w,userxattr";
        assert_eq!(option_string(&lowers[..1], &options), expected);
    }
}
