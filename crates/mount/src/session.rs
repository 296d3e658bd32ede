//! One FUSE filesystem: mounted and shaken hands with, or taken over from a process that is gone.
//!
//! The state of a session in the kernel belongs to the open `/dev/fuse`. As long as somebody holds a copy of that
//! descriptor, the process that serves it may die: requests wait. A successor needs the descriptor, what was
//! negotiated ([`Negotiated`]; INIT happens once in the life of a session), and the same node numbers.

mod fusermount;
mod handshake;
mod keep;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::MountAttrFlags;

use crate::device::Device;
use crate::error::Error;
use crate::fscontext::FsContext;
use crate::mounts::{UnmountMode, unmount};
use crate::wire::{self, flag};
use handshake::shake_hands;

pub use keep::ToKeep;

/// How a session is served.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What `mount` and `df` show as the source of the filesystem.
    pub fs_name: String,
    /// Threads that read requests and answer those whose bytes are present. Each owns a buffer of the size of the
    /// largest request (1 MiB), touched as far as it is used. At least one.
    pub threads: usize,
    /// Reads that may wait for [`fetch`](crate::Source::fetch) at a time. The kernel is told the same number as the
    /// limit of its own, since reads beyond it hold up all files of the session. A waiting read costs about 1 KiB.
    pub max_waiting: u16,
    /// Waited reads that may hold a buffer (up to 1 MiB) at a time, after their fetch. At least one.
    pub max_buffers: usize,
    /// A read that waits longer than this is answered with `EIO`.
    pub read_deadline: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            fs_name: "stargz".to_owned(),
            threads: 2,
            max_waiting: 4096,
            max_buffers: 8,
            read_deadline: Duration::from_secs(60),
        }
    }
}

/// Who makes a FUSE mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// This process if it may, else `fusermount3`.
    #[default]
    Auto,
    /// This process. It takes `CAP_SYS_ADMIN` in the user namespace that owns the mount namespace, and a `/dev/fuse`
    /// that this user may open.
    Direct,
    /// The set-user-ID program `fusermount3`, which mounts for every user on directories that belong to them. Such mounts
    /// ignore set-user-ID bits and device nodes. Open to other users only where `/etc/fuse.conf` allows it.
    Fusermount,
}

/// How a session of a server is mounted.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) route: Route,
    /// Whether other users than the one that mounts may look.
    pub(crate) allow_other: bool,
    /// Whether set-user-ID bits, device nodes and programs in the mount mean nothing.
    pub(crate) inert: bool,
    pub(crate) selinux_context: Option<&'a str>,
    /// Whether operations that would change something are asked for, instead of being refused by the kernel.
    pub(crate) writable: bool,
    /// Flags of INIT that the server wants.
    pub(crate) wanted: u64,
}

/// Takes the mount of a session away, lazily: by ourselves if we may, else by the program that may.
pub(crate) fn unmount_session(target: &Path) -> Result<(), Error> {
    match unmount(target, UnmountMode::Lazy) {
        Err(error) if may_not(&error) && fusermount::is_installed() => fusermount::unmount(target),
        result => result,
    }
}

/// What the kernel and we agreed on at the handshake. Plain numbers, to be stored beside the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Major version of the protocol.
    pub major: u32,
    /// Minor version of the protocol, as the kernel offered it.
    pub minor: u32,
    /// The flags that both sides know, both words of INIT joined.
    pub flags: u64,
    /// The largest read in pages.
    pub max_pages: u16,
    /// The kernel's readahead of files of this session, in bytes.
    pub max_readahead: u32,
}

impl Negotiated {
    /// The largest read, in bytes.
    pub(crate) fn max_read(&self) -> usize {
        usize::from(self.max_pages) * rustix::param::page_size()
    }

    /// Whether both sides know a flag.
    pub(crate) fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// A mounted session that nobody serves yet. Dropping it leaves the mount in place; it is dead when this was the last
/// copy of its descriptor.
#[derive(Debug)]
pub struct Session {
    pub(crate) device: Arc<Device>,
    pub(crate) target: PathBuf,
    pub(crate) negotiated: Negotiated,
    pub(crate) options: SessionOptions,
    /// Whether requests may be in flight that the predecessor has read and not answered.
    pub(crate) taken_over: bool,
}

impl Session {
    /// Mounts a new session at the existing directory `target` (no symlink), read-only and closed to other users.
    /// Needs `CAP_SYS_ADMIN` in the initial user namespace.
    ///
    /// # Errors
    /// When there is no FUSE, when the mount is refused, or when the kernel speaks a protocol older than 7.31.
    pub fn mount(target: &Path, options: SessionOptions) -> Result<Self, Error> {
        let recipe = Recipe {
            route: Route::Direct,
            allow_other: false,
            inert: true,
            selinux_context: None,
            writable: false,
            wanted: flag::ASYNC_READ | flag::ASYNC_DIO | flag::PARALLEL_DIROPS,
        };
        Self::mount_by(&recipe, target, options)
    }

    /// Mounts a new session as a server wants it.
    pub(crate) fn mount_by(
        recipe: &Recipe<'_>,
        target: &Path,
        options: SessionOptions,
    ) -> Result<Self, Error> {
        let direct = match recipe.route {
            Route::Fusermount => None,
            Route::Direct => Some(mount_directly(recipe, target, &options)?),
            Route::Auto => match mount_directly(recipe, target, &options) {
                Ok(mounted) => Some(mounted),
                Err(error) if may_not(&error) && fusermount::is_installed() => None,
                Err(error) => return Err(error),
            },
        };
        let (device, negotiated) = match direct {
            Some(mounted) => mounted,
            None => mount_by_fusermount(recipe, target, &options)?,
        };
        let target = target.to_path_buf();
        Ok(Self { device: Arc::new(device), target, negotiated, options, taken_over: false })
    }

    /// Goes on with a session that another process mounted at `target`. Serving it resends what is in flight.
    ///
    /// The options may differ from the predecessor's, except that the kernel keeps the limit of `max_waiting` that it
    /// was told at the handshake.
    ///
    /// # Errors
    /// When `fd` is not an open `/dev/fuse`.
    pub fn take_over(
        target: &Path,
        fd: OwnedFd,
        negotiated: Negotiated,
        options: SessionOptions,
    ) -> Result<Self, Error> {
        let cannot = |errno| Error::file("take over the FUSE session of", target, errno);
        let stat = rustix::fs::fstat(&fd).map_err(cannot)?;
        // Misc character device 229, `FUSE_MINOR` of the kernel.
        let is_fuse = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (10, 229);
        if !is_fuse {
            return Err(Error::NotFuse { target: target.to_path_buf() });
        }
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(cannot)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(cannot)?;
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(cannot)?;
        let target = target.to_path_buf();
        Ok(Self { device: Arc::new(Device::new(fd)), target, negotiated, options, taken_over: true })
    }

    /// The descriptor, for a copy to be kept where it survives this process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.fd()
    }

    /// What was agreed on with the kernel, to be kept beside the descriptor.
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// Asks the kernel to send once more every request that was read and not answered.
    pub(crate) fn resend(&self) -> Result<(), Error> {
        self.device.notify(wire::notify::RESEND, &[]).map_err(|errno| Error::Resend { source: errno.into() })
    }
}

fn mount_directly(
    recipe: &Recipe<'_>,
    target: &Path,
    options: &SessionOptions,
) -> Result<(Device, Negotiated), Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|errno| Error::file("open", "/dev/fuse", errno))?;
    let context = FsContext::open("fuse", target)?;
    context.set("source", &options.fs_name)?;
    context.set("fd", &fd.as_raw_fd().to_string())?;
    context.set("rootmode", "40000")?;
    context.set("user_id", &rustix::process::geteuid().as_raw().to_string())?;
    context.set("group_id", &rustix::process::getegid().as_raw().to_string())?;
    context.flag("default_permissions")?;
    if recipe.allow_other {
        context.flag("allow_other")?;
    }
    context.set_selinux_context(recipe.selinux_context)?;
    if !recipe.writable {
        context.flag("ro")?;
    }
    context.create()?;
    // Before the mount is attached, so that nobody finds a filesystem that does not answer yet.
    let device = Device::new(fd);
    let negotiated = agree(&device, recipe, target, options)?;
    let mut attributes = MountAttrFlags::empty();
    if !recipe.writable {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if recipe.inert {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    context.mount(attributes)?.attach()?;
    Ok((device, negotiated))
}

/// Whoever looks at the mount before we shook hands waits until we did.
fn mount_by_fusermount(
    recipe: &Recipe<'_>,
    target: &Path,
    options: &SessionOptions,
) -> Result<(Device, Negotiated), Error> {
    let fd = fusermount::mount(target, &options.fs_name, recipe)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|errno| Error::file("use", "/dev/fuse", errno))?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
        .map_err(|errno| Error::file("use", "/dev/fuse", errno))?;
    let device = Device::new(fd);
    let negotiated = agree(&device, recipe, target, options).inspect_err(|_| {
        if let Err(error) = fusermount::unmount(target) {
            tracing::warn!(%error, "a FUSE mount that nobody serves stays");
        }
    })?;
    Ok((device, negotiated))
}

fn agree(
    device: &Device,
    recipe: &Recipe<'_>,
    target: &Path,
    options: &SessionOptions,
) -> Result<Negotiated, Error> {
    shake_hands(device, recipe.wanted, options)
        .map_err(|reason| Error::Handshake { target: target.to_path_buf(), reason })
}

/// Whether the reason is a lack of rights, which another program may have.
fn may_not(error: &Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS))
}
