//! Finds out how this machine can show trees, by doing it.
//!
//! Version numbers say little: distributions leave drivers out, backport them, and containers take capabilities away.

mod choice;
mod scratch;

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::erofs::{ErofsOptions, mount_erofs, mount_erofs_loop};
use crate::error::Error;
use crate::images::Ending;
use crate::mounts::{UnmountMode, unmount};
use crate::overlay::{OverlayOptions, mount_overlay};
use crate::session::Session;
use crate::source::{BoxFuture, Fetched, Source};
use crate::tree::{LayerTree, Root, Tree, TreeOptions, TreeServer};
use scratch::{FILE, PATTERN, Scratch};

pub use choice::{Backend, Choice, NoBackend, UnknownBackend, choose_backend};

/// Why layers cannot be shown in some way here.
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
    /// There are no loop devices, or none that we may use.
    #[error("there is no loop device to be had")]
    NoLoopDevice(#[source] Error),
    /// There is no FUSE, or none that we may use.
    #[error("there is no /dev/fuse to be had")]
    NoFuse(#[source] Error),
    /// We may not mount.
    #[error("mounting is not permitted (it takes CAP_SYS_ADMIN in the initial user namespace)")]
    NotPermitted(#[source] Error),
    /// The kernel has no `fsopen(2)`, or a filter hides it.
    #[error("the mount calls of Linux 5.2 are missing or filtered")]
    NoMountCalls(#[source] Error),
    /// The mount worked, but a file in it does not hold what it should.
    #[error("a file in a test mount does not hold what was written: data of an extra device is not shown")]
    WrongContent,
    /// The mount worked, but no overlay goes on top of it, which is where containers want it.
    #[error(
        "no overlay can be mounted on a test mount (the kernel stacks at most two filesystems on each other)"
    )]
    NotStackable(#[source] Error),
    /// Something else.
    #[error("a test mount failed")]
    Other(#[from] Error),
}

/// Mounts a small EROFS image with an extra device, both files in the existing directory `dir`, reads a file of it, and
/// mounts an overlay on top. `dir` should be where images will lie, as the filesystem below matters. Nothing stays behind.
///
/// # Errors
/// The reason why it does not work.
pub fn probe_erofs(dir: &Path) -> Result<(), Reason> {
    let scratch = Scratch::new(dir)?;
    let device = Some(scratch.device());
    let options = ErofsOptions { device, direct_io: true, ..ErofsOptions::default() };
    mount_erofs(&scratch.image(), &scratch.mount(), &options).map_err(|error| reason(error, dir))?;
    check(&scratch, &scratch.mount(), false)
}

/// The same through loop devices.
///
/// # Errors
/// The reason why it does not work.
pub fn probe_erofs_loop(dir: &Path) -> Result<(), Reason> {
    let scratch = Scratch::new(dir)?;
    let options = ErofsOptions { device: Some(scratch.device()), ..ErofsOptions::default() };
    mount_erofs_loop(&scratch.image(), &scratch.mount(), &options).map_err(|error| match error {
        Error::File { .. } => Reason::NoLoopDevice(error),
        error => reason(error, dir),
    })?;
    check(&scratch, &scratch.mount(), false)
}

/// Serves the same small image as a tree of a FUSE session, reads a file of it, and mounts an overlay on top if overlays
/// can be mounted at all: where they cannot, somebody else will do it. Blocks, so call it outside the threads of `runtime`.
///
/// # Errors
/// The reason why it does not work.
pub fn probe_fuse(dir: &Path, options: &TreeOptions, runtime: &Handle) -> Result<(), Reason> {
    let scratch = Scratch::new(dir)?;
    let session = Session::mount_trees(&scratch.mount(), options).map_err(|error| match error {
        Error::File { .. } => Reason::NoFuse(error),
        error => reason(error, dir),
    })?;
    // Whoever looks at the mount from here on waits for us, so the server starts before anything can fail.
    let server = TreeServer::start(session, options, runtime.clone(), Vec::new())?;
    let checked = serve(&scratch, &server).and_then(|at| check(&scratch, &at, options.user_xattrs));
    server.shutdown(Ending::Unmount)?;
    checked
}

/// Adds the tree of the scratch image to a session and says where it is.
fn serve(scratch: &Scratch, server: &TreeServer) -> Result<PathBuf, Reason> {
    const NAME: &str = "probe";
    let device = fs::File::open(scratch.device()).map_err(|source| Error::File {
        action: "open",
        path: scratch.device(),
        source,
    })?;
    let layer = LayerTree::open(&scratch.image(), Arc::new(Local(device)))?;
    server.add(Root { number: 1, name: NAME.to_owned(), tree: Tree::Layer(layer) })?;
    Ok(scratch.mount().join(NAME))
}

/// A file that is all there.
#[derive(Debug)]
struct Local(fs::File);

impl Source for Local {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.0.read_exact_at(buf, offset).map(|()| true)
    }

    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Ok(Fetched::Stored) })
    }
}

/// Whether the tree at `at` is that of the scratch image, and carries an overlay.
fn check(scratch: &Scratch, at: &Path, user_xattrs: bool) -> Result<(), Reason> {
    let sound = |dir: &Path| fs::read(dir.join(FILE)).is_ok_and(|content| content == PATTERN);
    if !sound(at) {
        return Err(Reason::WrongContent);
    }
    let lowers = [at.to_path_buf(), scratch.empty()];
    match mount_overlay(&lowers, &scratch.merged(), &OverlayOptions { upper: None, user_xattrs }) {
        Ok(()) => {}
        Err(error) => {
            return match error.raw_os_error().map(Errno::from_raw_os_error) {
                // We may mount no overlays, or the kernel has none.
                Some(Errno::PERM | Errno::ACCESS | Errno::NODEV | Errno::NOSYS) => Ok(()),
                _ => Err(Reason::NotStackable(error)),
            };
        }
    }
    let stacked = sound(&scratch.merged());
    unmount(&scratch.merged(), UnmountMode::Lazy)?;
    if stacked { Ok(()) } else { Err(Reason::WrongContent) }
}

/// Whether directories of the filesystem that `dir` is on say what type of file an entry is. An overlay needs it of the
/// filesystem of its upper directory; old XFS can be without.
///
/// # Errors
/// When nothing can be made in `dir`.
pub fn lists_file_types(dir: &Path) -> Result<bool, Error> {
    let scratch = Scratch::new(dir)?;
    let failed = |errno| Error::file("list", scratch.path(), errno);
    let opened = rustix::fs::open(scratch.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let entries = rustix::fs::Dir::new(opened.map_err(failed)?).map_err(failed)?;
    for entry in entries {
        if entry.map_err(failed)?.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
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

#[cfg(test)]
mod tests;
