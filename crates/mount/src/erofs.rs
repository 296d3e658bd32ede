//! EROFS mounts: straight from files, or through loop devices for kernels that cannot. No helper program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use tracing::{debug, warn};

use crate::error::Error;
use crate::fscontext::FsContext;
use crate::loop_device::LoopDevice;

/// How an image is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErofsOptions {
    /// The file behind the first entry of the image's device table. Without it, the image holds its data itself.
    pub device: Option<PathBuf>,
    /// Whether the kernel reads the files of the image past their own page cache. Right for a device that is a FUSE
    /// file, whose reads it makes parallel; wrong for local files, which would be read from the disk each time.
    /// Kernels before 6.15 do not know it and go without.
    pub direct_io: bool,
    /// How far the kernel reads ahead in files of the mount, in KiB; its own default is 128. Also what one fault of a
    /// mapped file reads. Best effort: that it could not be set is logged and no error.
    pub read_ahead_kb: Option<u32>,
    /// The SELinux label of all files. Without meaning where SELinux does not run.
    pub selinux_context: Option<String>,
}

/// Mounts the image file `image` read-only at the directory `target` (no symlink).
///
/// Blocks until the superblock and the root directory are read. The mount takes no part in what device nodes and
/// set-user-ID bits mean: it carries neither `nodev` nor `nosuid`, the mount that a container sees decides.
///
/// # Errors
/// When this kernel cannot do it ([`probe_erofs`](crate::probe_erofs) tells why) or the image is not valid.
pub fn mount_erofs(image: &Path, target: &Path, options: &ErofsOptions) -> Result<(), Error> {
    let mut context = FsContext::open("erofs", target)?;
    context.set_path("source", image)?;
    if let Some(device) = &options.device {
        context.set_path("device", device)?;
    }
    if options.direct_io {
        match context.flag("directio") {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                debug!(%error, "mounting without");
            }
            result => result?,
        }
    }
    context.set_selinux_context(options.selinux_context.as_deref())?;
    context.flag("ro")?;
    match options.read_ahead_kb {
        None => context.create()?,
        Some(kib) => create_with_read_ahead(&context, kib)?,
    }
    attach(context)
}

/// Mounts the image file `image` as [`mount_erofs`] does, with a loop device for it and one for the file behind its
/// device table. For kernels that mount EROFS from block devices only.
///
/// The devices are read-only and go with the mount. [`ErofsOptions::direct_io`] has no meaning: a loop device reads past
/// the page cache of its file wherever it can. Programs that look at new block devices (udev) read their first and
/// last blocks, of a FUSE file too.
///
/// # Errors
/// When there are no loop devices (`/dev/loop-control`), when the kernel has no EROFS, or when the image is not valid.
pub fn mount_erofs_loop(image: &Path, target: &Path, options: &ErofsOptions) -> Result<(), Error> {
    /// What the kernel has for new devices. Others keep what their last user left.
    const READ_AHEAD_KB: u32 = 128;
    // Ours until the mount holds them too.
    let primary = LoopDevice::attach(image)?;
    let device = options.device.as_deref().map(LoopDevice::attach).transpose()?;
    let mut context = FsContext::open("erofs", target)?;
    context.set_path("source", &primary.path())?;
    if let Some(device) = &device {
        context.set_path("device", &device.path())?;
    }
    context.set_selinux_context(options.selinux_context.as_deref())?;
    context.flag("ro")?;
    context.create()?;
    let (path, kib) = (primary.read_ahead_file(), options.read_ahead_kb.unwrap_or(READ_AHEAD_KB));
    if let Err(error) = fs::write(&path, kib.to_string()) {
        debug!(path = %path.display(), kib, %error, "readahead of a loop device stays");
    }
    attach(context)
}

fn attach(context: FsContext) -> Result<(), Error> {
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME)?.attach()
}

/// The readahead of a mount is an attribute of its backing device in sysfs. A file-backed EROFS has one of its own
/// (`erofs-` and a running number), and nothing tells which: it is the one that appears with the mount. When another
/// process mounts at the same moment there are two, and neither is touched.
fn create_with_read_ahead(context: &FsContext, kib: u32) -> Result<(), Error> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = backing_devices();
    context.create()?;
    let after = backing_devices();
    let mut new = after.difference(&before);
    match (new.next(), new.next()) {
        (Some(name), None) => {
            let path = Path::new(BACKING_DEVICES).join(name).join("read_ahead_kb");
            if let Err(error) = fs::write(&path, kib.to_string()) {
                warn!(path = %path.display(), kib, %error, "cannot set the readahead of an EROFS mount");
            }
        }
        (first, _) => {
            warn!(kib, found = first.is_some(), "readahead of an EROFS mount stays: backing device not clear")
        }
    }
    Ok(())
}

const BACKING_DEVICES: &str = "/sys/class/bdi";

fn backing_devices() -> BTreeSet<OsString> {
    let names = fs::read_dir(BACKING_DEVICES).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(b"erofs-")).collect()
}
