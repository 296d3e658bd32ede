//! Finds out whether this machine can mount EROFS from files, by doing it.
//!
//! Version numbers say little: distributions leave drivers out, backport them, and containers take capabilities away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::erofs::{ErofsOptions, mount_erofs};
use crate::error::Error;
use crate::mounts::{UnmountMode, unmount};

/// Why layers cannot be mounted as EROFS here.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// There is no EROFS in this kernel.
    #[error("the kernel has no EROFS filesystem (CONFIG_EROFS_FS, or its module cannot be loaded)")]
    NoErofs(#[source] Error),
    /// EROFS is there, but wants block devices.
    #[error(
        "the kernel cannot mount EROFS from a file (Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE)"
    )]
    NoFileBacked(#[source] Error),
    /// The directory is on a filesystem whose files the kernel does not take.
    #[error("{} is on {fs}, and the kernel does not mount EROFS from files there", dir.display())]
    Unsuitable {
        /// The directory that was tried.
        dir: PathBuf,
        /// The kind of filesystem.
        fs: &'static str,
        /// What failed.
        source: Box<Error>,
    },
    /// We may not mount.
    #[error("mounting is not permitted (it takes CAP_SYS_ADMIN in the initial user namespace)")]
    NotPermitted(#[source] Error),
    /// The kernel has no `fsopen(2)`, or a filter hides it.
    #[error("the mount calls of Linux 5.2 are missing or filtered")]
    NoMountCalls(#[source] Error),
    /// The mount worked, but a file in it does not hold what it should.
    #[error("a file in a test mount does not hold what was written: data of an extra device is not shown")]
    WrongContent,
    /// Something else.
    #[error("a test mount failed")]
    Other(#[from] Error),
}

/// Mounts a small EROFS image with an extra device, both files in the existing directory `dir`, and reads a file of it.
/// `dir` should be where images will lie, as the filesystem below matters. Nothing stays behind.
///
/// # Errors
/// The reason why it does not work.
pub fn probe_erofs(dir: &Path) -> Result<(), Reason> {
    let scratch = Scratch::new(dir)?;
    let (image, device, target) =
        (scratch.path.join("image"), scratch.path.join("device"), scratch.path.join("mount"));
    write(&image, &image_bytes())?;
    write(&device, &[PATTERN; BLOCK])?;
    fs::create_dir(&target).map_err(|source| Error::File {
        action: "create",
        path: target.clone(),
        source,
    })?;
    let options = ErofsOptions { device: Some(device), direct_io: true, read_ahead_kb: None };
    mount_erofs(&image, &target, &options).map_err(|error| reason(error, dir))?;
    let content = fs::read(target.join("data"));
    unmount(&target, UnmountMode::Lazy)?;
    match content {
        Ok(content) if content == [PATTERN; BLOCK] => Ok(()),
        _ => Err(Reason::WrongContent),
    }
}

fn reason(error: Error, dir: &Path) -> Reason {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV) => Reason::NoErofs(error),
        Some(Errno::NOSYS) => Reason::NoMountCalls(error),
        Some(Errno::PERM | Errno::ACCESS) => Reason::NotPermitted(error),
        Some(Errno::NOTBLK) => match unsuitable(dir) {
            Some(fs) => Reason::Unsuitable { dir: dir.to_path_buf(), fs, source: Box::new(error) },
            None => Reason::NoFileBacked(error),
        },
        _ => Reason::Other(error),
    }
}

/// The name of the filesystem below, if it is one that is refused: overlayfs because an overlay of ours goes on top and
/// the kernel stacks no more than two, tmpfs because its files cannot be read the way that EROFS reads them.
fn unsuitable(dir: &Path) -> Option<&'static str> {
    match rustix::fs::statfs(dir).ok()?.f_type {
        // The magic numbers of `statfs(2)`.
        0x794c_7630 => Some("overlayfs"),
        0x0102_1994 => Some("tmpfs"),
        _ => None,
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::File { action: "write", path: path.to_path_buf(), source })
}

/// A directory that goes when the probe ends.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(format!(".erofs-probe-{}", std::process::id()));
        let created = fs::create_dir(&path).or_else(|error| match error.kind() {
            // From a process of the same number that was killed in the middle.
            io::ErrorKind::AlreadyExists => {
                remove(&path);
                fs::create_dir(&path)
            }
            _ => Err(error),
        });
        created.map_err(|source| Error::File { action: "create", path: path.clone(), source })?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let gone = unmount(&path.join("mount"), UnmountMode::Lazy).map_err(io::Error::other);
    if let Err(error) = gone.and_then(|()| fs::remove_dir_all(path)) {
        tracing::warn!(path = %path.display(), %error, "cannot remove the files of an EROFS probe");
    }
}

const BLOCK: usize = 4096;
const PATTERN: u8 = 0x5a;

/// The smallest image that has what ours have: a superblock, a table of one extra device that covers block 1 of the
/// address space, and a root directory with one file `data` in that block. Everything is in block 0.
fn image_bytes() -> Vec<u8> {
    const SUPERBLOCK: usize = 1024;
    const DEVICE_SLOT: usize = SUPERBLOCK + 128;
    const ROOT: usize = DEVICE_SLOT + 128;
    const FILE: usize = ROOT + 128;
    /// Inodes are numbered by their place, in units of 32 bytes.
    const UNIT: usize = 32;
    /// Inode format: compact, data right behind the inode.
    const INLINE: u16 = 2 << 1;

    let mut image = Bytes(vec![0; BLOCK]);
    image.put(SUPERBLOCK, &0xE0F5_E1E2_u32.to_le_bytes());
    image.put(SUPERBLOCK + 12, &[12]); // 4096-byte blocks, as a power of two
    image.put(SUPERBLOCK + 14, &((ROOT / UNIT) as u16).to_le_bytes());
    image.put(SUPERBLOCK + 16, &2_u64.to_le_bytes()); // inodes
    image.put(SUPERBLOCK + 36, &1_u32.to_le_bytes()); // blocks of the image itself
    image.put(SUPERBLOCK + 80, &0x8_u32.to_le_bytes()); // incompatible feature: device table
    image.put(SUPERBLOCK + 86, &1_u16.to_le_bytes()); // extra devices
    image.put(SUPERBLOCK + 88, &((DEVICE_SLOT / 128) as u16).to_le_bytes());

    image.put(DEVICE_SLOT + 64, &1_u32.to_le_bytes()); // its blocks
    image.put(DEVICE_SLOT + 68, &1_u32.to_le_bytes()); // the first of them in the address space

    let entries: [(usize, &str, u8); 3] = [(ROOT, ".", 2), (ROOT, "..", 2), (FILE, "data", 1)];
    let mut names = entries.len() * 12;
    for (index, (inode, name, kind)) in entries.iter().enumerate() {
        let entry = ROOT + UNIT + index * 12;
        image.put(entry, &((inode / UNIT) as u64).to_le_bytes());
        image.put(entry + 8, &(names as u16).to_le_bytes());
        image.put(entry + 10, &[*kind]);
        image.put(ROOT + UNIT + names, name.as_bytes());
        names += name.len();
    }
    image.inode(
        ROOT,
        Inode { format: INLINE, mode: 0o040_755, links: 2, size: names as u32, block: 0, number: 1 },
    );
    image
        .inode(FILE, Inode { format: 0, mode: 0o100_444, links: 1, size: BLOCK as u32, block: 1, number: 2 });
    image.0
}

struct Bytes(Vec<u8>);

struct Inode {
    format: u16,
    mode: u16,
    links: u16,
    size: u32,
    block: u32,
    number: u32,
}

impl Bytes {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(slot) = self.0.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            slot.copy_from_slice(bytes);
        }
    }

    /// A compact inode: 32 bytes.
    fn inode(&mut self, at: usize, inode: Inode) {
        self.put(at, &inode.format.to_le_bytes());
        self.put(at + 4, &inode.mode.to_le_bytes());
        self.put(at + 6, &inode.links.to_le_bytes());
        self.put(at + 8, &inode.size.to_le_bytes());
        self.put(at + 16, &inode.block.to_le_bytes());
        self.put(at + 20, &inode.number.to_le_bytes());
    }
}
