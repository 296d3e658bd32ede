//! A filesystem being configured for mounting, by `fsopen(2)` and its family.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::error::Error;

/// `fsconfig(2)` copies at most this many bytes of a value, the terminating zero included.
const VALUE_MAX: usize = 256;

/// Whether SELinux runs: its filesystem is there then, and only then.
pub(crate) fn selinux_is_enforced() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The context; named after the call that made it. Keeps the target for error texts.
#[derive(Debug)]
pub(crate) struct FsContext {
    fd: OwnedFd,
    fs: &'static str,
    target: PathBuf,
    /// Descriptors that stand in for paths longer than [`VALUE_MAX`], needed until the filesystem is created.
    long_paths: Vec<OwnedFd>,
}

/// A mount that is not attached anywhere yet; dropping it unmounts.
#[derive(Debug)]
pub(crate) struct DetachedMount {
    fd: OwnedFd,
    fs: &'static str,
    target: PathBuf,
}

impl FsContext {
    /// Starts to configure a filesystem of type `fs` that is to appear at `target`.
    pub(crate) fn open(fs: &'static str, target: &Path) -> Result<Self, Error> {
        let fd = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| Error::Mount {
            fs,
            target: target.to_path_buf(),
            step: "fsopen".to_owned(),
            kernel_log: String::new(),
            source: errno.into(),
        })?;
        Ok(Self { fd, fs, target: target.to_path_buf(), long_paths: Vec::new() })
    }

    /// Sets an option that has a value.
    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        fsconfig_set_string(self.fd.as_fd(), key, value)
            .map_err(|e| self.failed(format!("option {key}={value}"), e))
    }

    /// Sets an option that has none.
    pub(crate) fn flag(&self, key: &str) -> Result<(), Error> {
        fsconfig_set_flag(self.fd.as_fd(), key).map_err(|errno| self.failed(format!("option {key}"), errno))
    }

    /// Sets the SELinux label of all files, where SELinux is there to be told; elsewhere the option does not exist.
    pub(crate) fn set_selinux_context(&self, context: Option<&str>) -> Result<(), Error> {
        match context {
            Some(context) if selinux_is_enforced() => self.set("context", context),
            _ => Ok(()),
        }
    }

    /// Sets an option whose value is a path, of any length.
    pub(crate) fn set_path(&mut self, key: &str, path: &Path) -> Result<(), Error> {
        let set = |value: &Path| fsconfig_set_string(self.fd.as_fd(), key, value);
        let result = if path.as_os_str().as_bytes().len() < VALUE_MAX {
            set(path)
        } else {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| Error::file("open", path, errno))?;
            let result = set(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())));
            self.long_paths.push(fd);
            result
        };
        result.map_err(|errno| self.failed(format!("option {key}={}", path.display()), errno))
    }

    /// Lets the kernel read the filesystem. May wait for whoever serves the files that it reads.
    pub(crate) fn create(&self) -> Result<(), Error> {
        fsconfig_create(self.fd.as_fd())
            .map_err(|errno| self.failed("creating the filesystem".to_owned(), errno))
    }

    /// The mount, of a filesystem that was created.
    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Result<DetachedMount, Error> {
        let fd = fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.failed("fsmount".to_owned(), errno))?;
        Ok(DetachedMount { fd, fs: self.fs, target: self.target })
    }

    fn failed(&self, step: String, errno: Errno) -> Error {
        let kernel_log = self.kernel_log();
        Error::Mount { fs: self.fs, target: self.target.clone(), step, kernel_log, source: errno.into() }
    }

    /// What the kernel has to say: each read of the descriptor returns one message, a letter for its level before it.
    fn kernel_log(&self) -> String {
        let mut log = String::new();
        let mut buf = [0_u8; 1024];
        // The kernel keeps at most 8 messages.
        for _ in 0..8 {
            let Ok(len) = rustix::io::read(&self.fd, &mut buf) else { break };
            let message = String::from_utf8_lossy(buf.get(..len).unwrap_or_default());
            let message = message.trim_end();
            let text = message.get(2..).filter(|_| message.get(1..2) == Some(" ")).unwrap_or(message);
            // Writing to a string cannot fail.
            let _ = write!(log, ": {text}");
        }
        log
    }
}

impl DetachedMount {
    /// Attaches the mount at its target, which must be a directory and no symlink.
    pub(crate) fn attach(self) -> Result<(), Error> {
        let attached =
            move_mount(self.fd.as_fd(), "", CWD, &self.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        attached.map_err(|errno| Error::Mount {
            fs: self.fs,
            step: "attaching the mount".to_owned(),
            kernel_log: String::new(),
            source: errno.into(),
            target: self.target,
        })
    }
}
