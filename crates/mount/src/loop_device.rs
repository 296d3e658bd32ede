//! Loop devices: a file as a block device, read-only, gone with its last user.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

use crate::error::Error;

/// A loop device that we hold open. The kernel frees it when the last user is gone, which is us or, once it is
/// mounted, the mount: also if this process is killed at any moment.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    _held: OwnedFd,
    number: u32,
}

impl LoopDevice {
    /// Makes the file at `path` a block device, read past the page cache of the file where its filesystem can: otherwise
    /// every byte would be in memory twice.
    pub(crate) fn attach(path: &Path) -> Result<Self, Error> {
        /// How often another process may take the device that we were told is free.
        const ATTEMPTS: usize = 32;
        let file = File::open(path).map_err(|source| Error::File {
            action: "open",
            path: path.to_path_buf(),
            source,
        })?;
        let control = open(Path::new("/dev/loop-control"))?;
        for _ in 0..ATTEMPTS {
            #[allow(unsafe_code)]
            // SAFETY: `GetFree` describes this operation of `/dev/loop-control` truly; other files refuse it.
            let free = unsafe { ioctl(&control, GetFree) };
            let number =
                free.map_err(|errno| Error::file("ask for a free loop device", "/dev/loop-control", errno))?;
            let device = PathBuf::from(format!("/dev/loop{number}"));
            let held = open(&device)?;
            match configure(&held, &file) {
                Ok(()) => return Ok(Self { _held: held, number }),
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(Error::file("set up the loop device", device, errno)),
            }
        }
        let source = io::Error::from(Errno::BUSY);
        Err(Error::File { action: "find a free loop device for", path: path.to_path_buf(), source })
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// The file that holds the device's readahead.
    pub(crate) fn read_ahead_file(&self) -> PathBuf {
        PathBuf::from(format!("/sys/block/loop{}/queue/read_ahead_kb", self.number))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::file("open", path, errno))
}

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;

fn configure(device: &OwnedFd, file: &File) -> Result<(), Errno> {
    let config = LoopConfig {
        // A descriptor is not negative.
        fd: file.as_raw_fd().cast_unsigned(),
        // The kernel's choice.
        block_size: 0,
        info: LoopInfo { flags: READ_ONLY | AUTOCLEAR | DIRECT_IO, ..LoopInfo::default() },
        reserved: [0; 8],
    };
    #[allow(unsafe_code)]
    // SAFETY: LOOP_CONFIGURE takes a pointer to a `struct loop_config`, whose layout `LoopConfig` has (asserted below),
    // reads it and keeps no pointer. Files that are no loop device do not know the operation.
    unsafe {
        ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config))
    }
}

/// `struct loop_config` of `include/uapi/linux/loop.h`.
#[repr(C)]
#[derive(Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `struct loop_info64`; what we leave at zero has no other name here.
#[repr(C)]
#[derive(Debug, Default)]
struct LoopInfo {
    device: [u64; 3],
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    file_name: [u64; 8],
    crypt_name: [u64; 8],
    key: [u64; 4],
    init: [u64; 2],
}

const _: () = {
    assert!(size_of::<LoopInfo>() == 232);
    assert!(std::mem::offset_of!(LoopInfo, flags) == 52);
    assert!(size_of::<LoopConfig>() == 304);
};

/// Asks for the number of a free device, which the call returns.
struct GetFree;

#[allow(unsafe_code)]
// SAFETY: the operation takes no argument, so the pointer is null and not mutated, and its result is a number.
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<u32> {
        u32::try_from(out).map_err(|_| Errno::RANGE)
    }
}
