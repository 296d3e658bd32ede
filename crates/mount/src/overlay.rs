//! Several layers as one tree.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::error::Error;
use crate::fscontext::FsContext;
use crate::mounts::{UnmountMode, bind, unmount};

/// Mounts the directories `lowers`, the topmost first, as one read-only tree at `target`. A single one is bound, since
/// overlayfs wants two.
///
/// # Errors
/// When `lowers` is empty (`EINVAL`), when they are more than the kernel stacks (500), or when they do not fit its
/// option page on a kernel before 6.8.
pub fn mount_overlay_ro(lowers: &[PathBuf], target: &Path) -> Result<(), Error> {
    match lowers {
        [] => Err(failed(target, "stacking no layers at all", Errno::INVAL)),
        [only] => bind_read_only(only, target),
        _ => match stack_one_by_one(lowers, target) {
            Err(Error::Mount { step, source, .. })
                if step.starts_with("option lowerdir+")
                    && source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
            {
                stack_in_one_option(lowers, target)
            }
            result => result,
        },
    }
}

/// One `fsconfig` call for each layer, which knows no limit but the kernel's number of layers.
fn stack_one_by_one(lowers: &[PathBuf], target: &Path) -> Result<(), Error> {
    let mut context = FsContext::open("overlay", target)?;
    context.set("source", "overlay")?;
    for lower in lowers {
        context.set_path("lowerdir+", lower)?;
    }
    context.flag("ro")?;
    context.create()?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?.attach()
}

/// The form of older kernels: all in one option of `mount(2)`, which ends at one page. The same value through
/// `fsconfig(2)` would end at 256 bytes.
fn stack_in_one_option(lowers: &[PathBuf], target: &Path) -> Result<(), Error> {
    let option =
        CString::new(lowerdir_option(lowers)).map_err(|_| failed(target, "option lowerdir", Errno::INVAL))?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::RDONLY, option.as_c_str())
        .map_err(|errno| failed(target, "option lowerdir", errno))
}

/// `lowerdir=a:b`, where a backslash goes before what would end a name or an option.
fn lowerdir_option(lowers: &[PathBuf]) -> Vec<u8> {
    let mut option = b"lowerdir=".to_vec();
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            option.push(b':');
        }
        for &byte in lower.as_os_str().as_bytes() {
            if matches!(byte, b':' | b'\\' | b',') {
                option.push(b'\\');
            }
            option.push(byte);
        }
    }
    option
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
        assert_eq!(lowerdir_option(&lowers), br"lowerdir=/a:/b\:c:/d\,e:/f\\g");
    }
}
