//! One FUSE filesystem: mounted and shaken hands with, or taken over from a process that is gone.
//!
//! The state of a session in the kernel belongs to the open `/dev/fuse`. As long as somebody holds a copy of that
//! descriptor, the process that serves it may die: requests wait. A successor needs the descriptor, what was
//! negotiated ([`Negotiated`]; INIT happens once in the life of a session), and the same node numbers.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::MountAttrFlags;
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::error::Error;
use crate::fscontext::FsContext;
use crate::request::{Operation, Request};
use crate::wire::{self, InitOut, flag};

/// The kernel sends INIT when the filesystem is created, before anything else. It has it ready at once.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

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
        context.flag("ro")?;
        context.create()?;
        // Before the mount is attached, so that nobody finds a filesystem that does not answer yet.
        let device = Device::new(fd);
        let negotiated = shake_hands(&device, &options)
            .map_err(|reason| Error::Handshake { target: target.to_path_buf(), reason })?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        context.mount(attributes)?.attach()?;
        Ok(Self {
            device: Arc::new(device),
            target: target.to_path_buf(),
            negotiated,
            options,
            taken_over: false,
        })
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
        let device = Arc::new(Device::new(fd));
        Ok(Self { device, target: target.to_path_buf(), negotiated, options, taken_over: true })
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

/// Answers INIT, which must be the first request.
fn shake_hands(device: &Device, options: &SessionOptions) -> Result<Negotiated, String> {
    let mut buf = [0; wire::REQUEST_BUFFER];
    let message = first_message(device, &mut buf)?;
    let request = Request::parse(message).map_err(|malformed| malformed.to_string())?;
    let Operation::Init { hello, flags } = request.operation else {
        return Err("the first request is not INIT, the session was in use already".to_owned());
    };
    if hello.major != wire::MAJOR || hello.minor < wire::MINOR_OLDEST {
        return Err(format!(
            "the kernel speaks FUSE {}.{}, at least {}.{} (Linux 5.4) is needed",
            hello.major,
            hello.minor,
            wire::MAJOR,
            wire::MINOR_OLDEST
        ));
    }
    let (answer, negotiated) = agree(hello, flags, options);
    device
        .answer(request.unique, 0, answer.as_bytes())
        .map_err(|errno| format!("the kernel refused our answer to INIT: {errno}"))?;
    Ok(negotiated)
}

/// Our half of the handshake.
fn agree(hello: wire::InitIn, offered: u64, options: &SessionOptions) -> (InitOut, Negotiated) {
    // With pages of 4 KiB that is the limit that `fs.fuse.max_pages_limit` has out of the box.
    const MAX_READ: usize = 1 << 20;
    let wanted = flag::ASYNC_READ
        | flag::ASYNC_DIO
        | flag::PARALLEL_DIROPS
        | flag::MAX_PAGES
        | flag::INIT_EXT
        | flag::HAS_RESEND;
    let flags = offered & wanted;
    // Without the flag the kernel ignores our number and stays at 32.
    let max_pages = match flags & flag::MAX_PAGES {
        0 => 32,
        _ => u16::try_from(MAX_READ / rustix::param::page_size()).unwrap_or(u16::MAX).max(1),
    };
    let max_background = options.max_waiting.max(1);
    let answer = InitOut {
        major: wire::MAJOR,
        minor: wire::MINOR,
        max_readahead: hello.max_readahead,
        flags: flags as u32,
        max_background,
        congestion_threshold: max_background - max_background / 4,
        max_write: 4096,
        time_gran: 1,
        max_pages,
        flags2: (flags >> 32) as u32,
        ..InitOut::default()
    };
    let negotiated = Negotiated {
        major: wire::MAJOR,
        minor: hello.minor,
        flags,
        max_pages,
        max_readahead: hello.max_readahead,
    };
    (answer, negotiated)
}

fn first_message<'b>(device: &Device, buf: &'b mut [u8]) -> Result<&'b [u8], String> {
    let give_up = Instant::now() + HANDSHAKE_DEADLINE;
    let len = loop {
        match device.read(buf).map(<[u8]>::len) {
            Ok(len) => break len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot read INIT: {errno}")),
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("the kernel sent no INIT within {} s", HANDSHAKE_DEADLINE.as_secs()));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let fd = device.fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot wait for INIT: {errno}")),
        }
    };
    Ok(buf.get(..len).unwrap_or_default())
}
