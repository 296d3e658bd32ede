//! The system calls that no safe wrapper has: fanotify and mincore.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is told: a file is opened, executed, read.
const TOUCHED: u64 = libc::FAN_OPEN | libc::FAN_OPEN_EXEC | libc::FAN_ACCESS;
/// Bytes of one event without further information.
const EVENT: usize = size_of::<libc::fanotify_event_metadata>();
const _: () = assert!(EVENT == 24);

/// A fanotify group.
#[derive(Debug)]
pub(crate) struct Group(File);

/// Something that was told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process did something with this file, which is open for reading without being told itself.
    Touched {
        /// The file.
        file: File,
        /// The process, in our PID namespace; 0 for one outside of it.
        pid: i32,
    },
    /// There were too many to be kept.
    Overflow,
}

impl Group {
    pub fn new() -> io::Result<Group> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        let file_flags = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as libc::c_uint;
        #[allow(unsafe_code)]
        // SAFETY: takes numbers and returns one.
        let fd = unsafe { libc::fanotify_init(flags, file_flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        #[allow(unsafe_code)]
        // SAFETY: the kernel just gave this descriptor to us, and nobody else knows it.
        Ok(Group(unsafe { File::from_raw_fd(fd) }))
    }

    /// Tells about all files of the file system instance that is mounted here.
    pub fn watch(&self, mount: &Path) -> io::Result<()> {
        let path = CString::new(mount.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM | libc::FAN_MARK_ONLYDIR;
        self.mark(flags, libc::AT_FDCWD, Some(&path))
    }

    /// Does not tell of this file again.
    pub fn ignore(&self, file: &File) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;
        self.mark(flags, file.as_raw_fd(), None)
    }

    fn mark(&self, flags: libc::c_uint, directory: RawFd, path: Option<&CString>) -> io::Result<()> {
        let path = path.map_or(std::ptr::null(), |path| path.as_ptr());
        #[allow(unsafe_code)]
        // SAFETY: the path is null or ends in a NUL and outlives the call; the kernel only reads it.
        let result = unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flags, TOUCHED, directory, path) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next events; none when there are none now.
    pub fn events(&self, buffer: &mut [u8]) -> io::Result<Vec<Event>> {
        let got = match io::Read::read(&mut &self.0, buffer) {
            Ok(got) => got,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        let (mut rest, mut events) = (buffer.get(..got).unwrap_or_default(), Vec::new());
        while let Some((length, event)) = parse(rest) {
            events.extend(event);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(events)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The first event of what the kernel wrote, and its length. `struct fanotify_event_metadata`: length, version, reserved,
/// length of this part, mask, descriptor, process.
fn parse(bytes: &[u8]) -> Option<(usize, Option<Event>)> {
    let event: &[u8; EVENT] = bytes.first_chunk()?;
    let [a, b, c, d, _, _, _, _, mask @ .., f0, f1, f2, f3, p0, p1, p2, p3] = *event;
    let length = u32::from_ne_bytes([a, b, c, d]) as usize;
    let mask = u64::from_ne_bytes(mask);
    let fd = i32::from_ne_bytes([f0, f1, f2, f3]);
    let pid = i32::from_ne_bytes([p0, p1, p2, p3]);
    let event = if mask & libc::FAN_Q_OVERFLOW != 0 {
        Some(Event::Overflow)
    } else if fd >= 0 {
        #[allow(unsafe_code)]
        // SAFETY: the kernel opened this descriptor for this event, and each event is parsed once.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        Some(Event::Touched { file: file.into(), pid })
    } else {
        None
    };
    (length >= EVENT).then_some((length, event))
}

/// Which pages of `length` bytes at `offset` of a file are in the page cache: a byte each, its lowest bit. `offset` is a
/// multiple of the page size, `length` not 0.
pub(crate) fn resident(file: &File, offset: u64, length: usize, pages: &mut Vec<u8>) -> io::Result<()> {
    let map = Map::new(file, offset, length)?;
    pages.clear();
    pages.resize(length.div_ceil(page_size() as usize), 0);
    #[allow(unsafe_code)]
    // SAFETY: the mapping has `length` bytes, and the kernel writes a byte for each page of them, which there is room for.
    let result = unsafe { libc::mincore(map.address, length, pages.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes in a page.
pub(crate) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// A mapping whose bytes nobody reads.
struct Map {
    address: *mut libc::c_void,
    length: usize,
}

impl Map {
    fn new(file: &File, offset: u64, length: usize) -> io::Result<Map> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        #[allow(unsafe_code)]
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map { address, length })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: the mapping is ours, has this length, and nothing refers to it any more.
        let result = unsafe { libc::munmap(self.address, self.length) };
        debug_assert_eq!(result, 0);
    }
}
