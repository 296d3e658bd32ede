//! FUSE mounts made by `fusermount3`, for users who may not mount.
//!
//! The program is given one end of a socket, by an environment variable that has its number. It opens `/dev/fuse`,
//! mounts, sends the descriptor back and exits. The socket is its standard input, the one descriptor that can be handed to
//! one child and to no other that is started at the same moment.

use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use super::Recipe;
use crate::error::Error;
use crate::fscontext::selinux_is_enforced;

const PROGRAM: &str = "fusermount3";

/// Whether the program is on the search path.
pub(super) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file())
}

/// Mounts at `target` and returns the open `/dev/fuse`.
pub(super) fn mount(target: &Path, fs_name: &str, recipe: &Recipe<'_>) -> Result<OwnedFd, Error> {
    let socket_failed = |errno| Error::file("make a socket for", PROGRAM, errno);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(socket_failed)?;
    let mut command = Command::new(PROGRAM);
    command.args(["-o", &options(fs_name, recipe), "--"]).arg(target);
    command.env("_FUSE_COMMFD", "0").stdin(Stdio::from(theirs));
    let output = run(&mut command);
    // Our copy of their end, so that the socket ends with them.
    drop(command);
    let output = output?;
    if !output.status.success() {
        return Err(refused(target, "mounting", &output));
    }
    let fd = receive(&ours).map_err(|errno| failed(target, "receiving the session", String::new(), errno))?;
    let fd = fd.ok_or_else(|| refused(target, "receiving the session", &output))?;
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(socket_failed)?;
    Ok(fd)
}

/// Takes a mount away that [`mount`] made, lazily.
pub(super) fn unmount(target: &Path) -> Result<(), Error> {
    let output = run(Command::new(PROGRAM).args(["-u", "-z", "-q", "--"]).arg(target).stdin(Stdio::null()))?;
    if output.status.success() { Ok(()) } else { Err(refused(target, "unmounting", &output)) }
}

/// The options of the mount. A comma ends an option unless a backslash is before it.
fn options(fs_name: &str, recipe: &Recipe<'_>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
    let access = if recipe.writable { "rw" } else { "ro" };
    let mut options = format!("{access},nosuid,nodev,default_permissions,fsname={}", escaped(fs_name));
    if recipe.allow_other {
        options.push_str(",allow_other");
    }
    if recipe.inert {
        options.push_str(",noexec");
    }
    if let Some(context) = recipe.selinux_context.filter(|_| selinux_is_enforced()) {
        options.push_str(&format!(",context={}", escaped(context)));
    }
    options
}

fn run(command: &mut Command) -> Result<Output, Error> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    output.map_err(|source| Error::File { action: "run", path: PathBuf::from(PROGRAM), source })
}

/// The descriptor that was sent; the program has ended by now, so whatever it sent is there.
fn receive(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

fn refused(target: &Path, step: &str, output: &Output) -> Error {
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim().trim_start_matches(PROGRAM).trim_start_matches(':').trim();
    let said = if words.is_empty() { format!(" ({})", output.status) } else { format!(": {words}") };
    failed(target, step, said, Errno::PERM)
}

fn failed(target: &Path, step: impl AsRef<OsStr>, kernel_log: String, errno: Errno) -> Error {
    Error::Mount {
        fs: "fuse",
        target: target.to_path_buf(),
        step: format!("{PROGRAM}: {}", step.as_ref().to_string_lossy()),
        kernel_log,
        source: errno.into(),
    }
}
