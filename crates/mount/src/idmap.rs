//! Mounts that show other owners than their files have, for containers in user namespaces.
//!
//! Nothing is copied or changed: the kernel translates owners at the mount.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::error::Error;

/// One range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id, as files have it and as the container sees it.
    pub inside: u32,
    /// The id that the first one is shown as outside of the container.
    pub outside: u32,
    /// How many ids, at least 1.
    pub len: u32,
}

/// Which ids are shown as which. Ids in no range are shown as the overflow id (65534).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

/// Shows the mount at `source` at the directory `target` as well, without what is mounted below it and with owners
/// translated by `maps`. The directory `source` must be in a filesystem that allows it: EROFS (Linux 5.19), a session of
/// trees (6.12), ext4 and the like, not an overlay. An overlay may have the result as a lower directory.
///
/// # Errors
/// When the filesystem does not allow it (`EINVAL`), the maps are not valid, or we may not.
pub fn mount_idmapped(source: &Path, target: &Path, maps: &IdMaps) -> Result<(), Error> {
    let failed = |step: String, errno: Errno| Error::Mount {
        fs: "idmapped",
        target: target.to_path_buf(),
        step,
        kernel_log: String::new(),
        source: errno.into(),
    };
    let users = user_namespace(maps).map_err(|source| Error::Mount {
        fs: "idmapped",
        target: target.to_path_buf(),
        step: "making a user namespace of the id maps".to_owned(),
        kernel_log: String::new(),
        source,
    })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)
        .map_err(|errno| failed(format!("cloning {}", source.display()), errno))?;
    map_ids(&tree, &users)
        .map_err(|errno| failed(format!("translating the owners of {}", source.display()), errno))?;
    move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("attaching the mount".to_owned(), errno))
}

fn map_ids(tree: &OwnedFd, users: &File) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        // A descriptor is not negative.
        userns_fd: users.as_raw_fd().cast_unsigned().into(),
    };
    #[allow(unsafe_code)]
    // SAFETY: mount_setattr(2) reads a path that ends with a zero and a `struct mount_attr` of the size given, both of
    // which live until it returns, and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// A user namespace with these maps. Namespaces are made by living in them, so a child does for a moment.
fn user_namespace(maps: &IdMaps) -> io::Result<File> {
    let child = Resident::start()?;
    let proc = Path::new("/proc").join(child.pid.as_raw_nonzero().to_string());
    fs::write(proc.join("uid_map"), map_file(&maps.uids))?;
    fs::write(proc.join("gid_map"), map_file(&maps.gids))?;
    File::open(proc.join("ns/user"))
}

fn map_file(ranges: &[IdRange]) -> String {
    ranges.iter().map(|IdRange { inside, outside, len }| format!("{inside} {outside} {len}\n")).collect()
}

/// A child that lives in a new user namespace until it is dropped, or until this process dies.
struct Resident {
    pid: Pid,
    /// The child reads the other end, and ends with it.
    alive: Option<OwnedFd>,
}

impl Resident {
    fn start() -> io::Result<Self> {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        let (read_end, write_end) = (theirs.as_raw_fd(), ours.as_raw_fd());
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        #[allow(unsafe_code)]
        // SAFETY: without CLONE_VM and with no stack given this is fork(2): the child has a copy of the address space
        // and goes on on its copy of the stack. As other threads may hold locks that will never open in the copy, it
        // makes nothing but plain system calls, without the libc's state, heap or destructors, and never returns.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if pid == 0 {
                let mut byte = 0_u8;
                libc::syscall(libc::SYS_close, write_end);
                // Also returns when a signal comes; then the parent sees a namespace without an inhabitant.
                libc::syscall(libc::SYS_read, read_end, &raw mut byte, 1);
                libc::syscall(libc::SYS_exit_group, 0);
            }
            pid
        };
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        match pid {
            Some(pid) => Ok(Self { pid, alive: Some(ours) }),
            None => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.alive = None;
        if let Err(errno) = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty())) {
            tracing::warn!(%errno, "cannot wait for the child that made a user namespace");
        }
    }
}

fn last_errno() -> Errno {
    io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
